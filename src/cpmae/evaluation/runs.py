"""A whole run of each command: who is tested, with what, and where the results go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpmae.batch import cores
from cpmae.errors import ScanError, SettingsError
from cpmae.evaluation import attackers, baselines, identities, population, report
from cpmae.evaluation.attack_network import NetworkSettings
from cpmae.evaluation.attackers import Training
from cpmae.evaluation.baselines import Method
from cpmae.evaluation.identities import Recipe
from cpmae.evaluation.names import known
from cpmae.evaluation.population import Scan
from cpmae.evaluation.results import Results
from cpmae.evaluation.work import Cache
from cpmae.files import check_private
from cpmae.io.output import make_folder
from cpmae.io.source import scans_below
from cpmae.models.checkpoint import load_model

Tell = Callable[[str], None]
QUICK_IDENTITIES = 8
QUICK_SCANS = 2
SENSITIVITY_ATTACKERS = ("SQN", "dlib")
QUICK_SEGMENTERS = ("deepbet",)
QUICK_METHODS = ("ORIGINAL", "BLACK", "CP-MAE")


@dataclass(frozen=True)
class EvaluationOptions:
    """What the three commands share.

    Attributes:
        out: folder for results and for what a killed run has done.
        methods: names of `baselines.METHODS`; None for all.
        commands: further methods, 'name=command {in} {out}'.
        label_maps: folder of SynthSeg's label maps, for synthetic identities; the packaged example head if None.
        shells: folder with AFNI's average shell.
        weights: of CP-MAE; the package's own if None.
        brain_extractor: for scans in files.
        workers: processes; one a core if None.
        seed: of everything.
        quick: few identities and small networks.
        training_identities, adaptive_identities, training_steps: of attackers 1 and 2; by default 400, 60 and 1200, for
            quick runs 32, 8 and 150.
    """

    out: Path
    methods: Sequence[str] | None = None
    commands: Sequence[str] = ()
    label_maps: Path | None = None
    shells: Path | None = None
    weights: Path | None = None
    brain_extractor: str = "deepbet"
    workers: int | None = None
    seed: int = 0
    quick: bool = False
    training_identities: int | None = None
    adaptive_identities: int | None = None
    training_steps: int | None = None

    @property
    def cache(self) -> Cache:
        return Cache(self.out / "cache")

    @property
    def processes(self) -> int:
        return self.workers or cores.cores()


def run_reidentify(
    options: EvaluationOptions,
    scans: Path | None,
    synthetic: int | None,
    attacker_names: Sequence[str] | None,
    pattern: str,
    tell: Tell,
) -> Results:
    """`cpmae evaluate reidentify`.

    Args:
        scans: folder with several scans a person; None for a synthetic population.
        synthetic: how many identities, 8 for quick runs and else 200 if None.
        attacker_names: of `attackers.ATTACKERS`; None for all.
        pattern: which files of the folder are scans.

    Raises:
        CpmaeError: the population, a name or the folder is not usable.
    """
    from cpmae.evaluation.reidentify import reidentify

    names = known("attacker", attacker_names, tuple(attackers.ATTACKERS))
    methods, skipped = chosen_methods(options)
    _make_private(options.out)
    learns = any(name.startswith("SQN") for name in names)
    recipe = recipe_of(options, needed=scans is None or learns or options.label_maps is not None)
    if scans is not None:
        people, left_out = population.pairs_in_folder(scans, pattern, options.brain_extractor)
        skipped = skipped + left_out
        who = f"{len(people)} persons with two scans each, in {scans}."
    else:
        count = synthetic or (QUICK_IDENTITIES if options.quick else 200)
        people = population.synthetic(recipe, range(count))
        who = f"{count} synthetic identities, {sentence(recipe)}"
    training = training_of(options, recipe)
    settings = settings_of(options, methods) | {
        "identities": len(people),
        "attackers": names,
        "training_identities": training.identities,
        "adaptive_identities": training.adaptive_identities,
        "network": vars(training.network),
    }
    tested = [scan for person in people for scan in (person.probe, person.gallery)]
    results = Results("reidentify", settings, dict(recipe.sources) | hashes(tested), who, skipped=skipped)
    results.extra["attackers"] = {name: attackers.ATTACKERS[name] for name in names}
    reidentify(people, methods, names, training, results, tell)
    report.write(results, options.out)
    return results


def _make_private(folder: Path) -> None:
    """The folder for results, whose cache holds renders and voxels of the originals.

    Raises:
        OutputError: it lies in a result that may be shared, or cannot be made.
    """
    check_private(folder)
    make_folder(folder)


def run_downstream(
    options: EvaluationOptions,
    scans: Sequence[Path],
    synthetic: int | None,
    segmenter_names: Sequence[str] | None,
    segmenter_commands: Sequence[str],
    meshnets: Path | None,
    pattern: str,
    tell: Tell,
) -> Results:
    """`cpmae evaluate downstream`.

    Args:
        scans: files and folders; where a person has two scans of one kind, the second is the yardstick.
        synthetic: how many identities instead, each with a rescan.
        segmenter_names: of `segmenters.SEGMENTERS`; None for all.
        segmenter_commands: further ones, 'name=command {in} {out}'.
        meshnets: brainchop's folder of MeshNets.
        pattern: which files of folders are scans.

    Raises:
        CpmaeError: a scan's path, a name or the folder is not usable.
    """
    from cpmae.evaluation import segmenters
    from cpmae.evaluation.downstream import downstream

    names = QUICK_SEGMENTERS if segmenter_names is None and options.quick else segmenter_names
    chosen, left_out = segmenters.resolve(names, segmenter_commands, meshnets)
    methods, skipped = chosen_methods(options)
    _make_private(options.out)
    further: list[tuple[str, str]] = []
    if scans:
        pairs, further = population.with_rescans(files_of(scans, pattern), options.brain_extractor)
        who, sources = f"{len(pairs)} scans, {sum(r is not None for _, r in pairs)} with a rescan.", {}
    else:
        recipe = identities.prepare(options.label_maps, options.out / "cache", options.seed)
        count = synthetic or (QUICK_SCANS if options.quick else 20)
        pairs = [(p.probe, p.gallery) for p in population.synthetic(recipe, range(count))]
        who, sources = f"{count} synthetic identities, {sentence(recipe)}", dict(recipe.sources)
    settings = settings_of(options, methods) | {"scans": len(pairs), "segmenters": [s.name for s in chosen]}
    data = sources | hashes([s for pair in pairs for s in pair if s is not None])
    results = Results("downstream", settings, data, who, skipped=skipped + left_out + further)
    downstream(pairs, methods, chosen, options.cache, options.seed, options.processes, results, options.out, tell)
    report.write(results, options.out)
    return results


def run_sensitivity(
    options: EvaluationOptions,
    scans: Sequence[Path],
    synthetic: int | None,
    factors: Sequence[str] | None,
    attacker_names: Sequence[str] | None,
    segmenter_names: Sequence[str] | None,
    meshnets: Path | None,
    pattern: str,
    tell: Tell,
) -> Results:
    """`cpmae evaluate sensitivity`.

    Args:
        scans, synthetic, segmenter_names, meshnets, pattern: as for `run_downstream`; deepbet alone by default.
        factors: parts of the names in `perturb.FACTORS`; None for all.
        attacker_names: SQN and dlib by default.

    Raises:
        CpmaeError: a scan's path, a name or the folder is not usable.
    """
    from cpmae.evaluation import perturb, segmenters
    from cpmae.evaluation.sensitivity import sensitivity

    asked = SENSITIVITY_ATTACKERS if attacker_names is None else attacker_names
    names = known("attacker", asked, tuple(attackers.ATTACKERS))
    if "SQN adaptive" in names:
        raise SettingsError("SQN adaptive learns from one method's results, not from conditions; leave it out")
    segmenter_names = QUICK_SEGMENTERS if segmenter_names is None else segmenter_names
    chosen, skipped = segmenters.resolve(segmenter_names, (), meshnets)
    wanted = [f for f in perturb.FACTORS if factors is None or any(part.lower() in f.lower() for part in factors)]
    if not wanted:
        raise SettingsError(f"no factor is named {factors}, choose among {', '.join(perturb.FACTORS)}")
    conditions = perturb.conditions(wanted, quick=options.quick)
    for condition in [c for c in conditions if c.factor == "extractor"]:
        name = next(n for n, extractor in segmenters.EXTRACTORS.items() if extractor == condition.level)
        _, reasons = segmenters.resolve([name], (), None)
        if reasons:
            skipped += reasons
            conditions.remove(condition)
    _make_private(options.out)
    recipe = recipe_of(options, needed=not scans or "SQN" in names)
    if scans:
        tested = [population.file_scan(f, options.brain_extractor) for f in files_of(scans, pattern)]
        who = f"{len(tested)} scans."
    else:
        count = synthetic or (QUICK_SCANS if options.quick else 20)
        tested = [p.probe for p in population.synthetic(recipe, range(count))]
        who = f"{count} synthetic identities, {sentence(recipe)}"
    settings = settings_of(options, []) | {
        "scans": len(tested),
        "factors": wanted,
        "attackers": names,
        "segmenters": [s.name for s in chosen],
        "weights": load_model(options.weights, "cpu").sha256,
    }
    results = Results("sensitivity", settings, dict(recipe.sources) | hashes(tested), who, skipped=skipped)
    training = training_of(options, recipe)
    sensitivity(tested, conditions, chosen, names, options.weights, training, results, tell)
    report.write(results, options.out)
    return results


def recipe_of(options: EvaluationOptions, needed: bool) -> Recipe:
    """What identities are made from; nothing where none is needed."""
    if not needed:
        return Recipe("nothing", (), options.seed, ())
    return identities.prepare(options.label_maps, options.out / "cache", options.seed)


def training_of(options: EvaluationOptions, recipe: Recipe) -> Training:
    """How much attackers 1 and 2 learn from."""
    quick = NetworkSettings(steps=150, batch=16, width=16, pixels=64, seed=options.seed)
    network = quick if options.quick else NetworkSettings(seed=options.seed)
    network = replace(network, steps=options.training_steps or network.steps)
    many = options.training_identities or (32 if options.quick else 400)
    adaptive = options.adaptive_identities or (8 if options.quick else 60)
    return Training(recipe, many, adaptive, network, options.cache, options.processes, options.seed)


def chosen_methods(options: EvaluationOptions) -> tuple[list[Method], list[tuple[str, str]]]:
    """Methods by the options, three for quick runs."""
    names = options.methods
    if names is None and options.quick:
        names = QUICK_METHODS
    return baselines.resolve(names, options.commands, options.shells, options.weights)


def settings_of(options: EvaluationOptions, methods: Sequence[Method]) -> dict[str, Any]:
    """What a run was asked for, as plain values."""
    return {
        "seed": options.seed,
        "quick": options.quick,
        "methods": [m.name for m in methods],
        "method_keys": [m.key for m in methods],
        "brain_extractor": options.brain_extractor,
        "label_maps": str(options.label_maps) if options.label_maps else None,
    }


def sentence(recipe: Recipe) -> str:
    """On what the population is."""
    if recipe.source == "label maps":
        return f"each a warp of one of {len(recipe.heads)} label maps of real heads, drawn twice as T1w scans."
    return (
        "each a warp of the packaged example head, scanned twice: all have one head's brain and contrast in common, "
        "so that these figures are a check of the command and no measure of privacy."
    )


def hashes(scans: Sequence[Scan]) -> dict[str, str]:
    """Name to SHA-256 of the files that scans were read from."""
    return {s.name: s.key["sha256"] for s in scans if "sha256" in s.key}


def files_of(paths: Sequence[Path], pattern: str) -> list[Path]:
    """Files, and of folders the scans that match a pattern; masks and what lies in `derivatives` are left out there.

    Raises:
        ScanError: there are none.
    """
    files = [f for p in paths for f in (scans_below(p, pattern) if p.is_dir() else [p])]
    if missing := [f for f in files if not f.is_file()]:
        raise ScanError(f"{missing[0]} does not exist, check the path")
    if not files:
        raise ScanError(f"there is no scan that matches {pattern!r} in {', '.join(map(str, paths))}; give others")
    return files
