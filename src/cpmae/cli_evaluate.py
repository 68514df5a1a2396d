"""`cpmae evaluate`: one command a question."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpmae.cli_status import status

if TYPE_CHECKING:
    from cpmae.evaluation.results import Results

evaluate = typer.Typer(
    no_args_is_help=True, help="Measure what de-identification hides and what it costs, against other methods."
)

Out = Annotated[Path, typer.Option(help="Folder for results.json, tables, report.html and what is done so far.")]
Methods = Annotated[
    str | None,
    typer.Option(
        help="Which methods, separated by commas: ORIGINAL, BLACK, QUICKSHEAR, DEFACE, FACE MASK, AFNI REFACE, CP-MAE."
    ),
]
Method = Annotated[
    list[str] | None, typer.Option(metavar="NAME=COMMAND", help="A further method, 'name=command {in} {out}'.")
]
Synthetic = Annotated[int | None, typer.Option(min=2, help="So many synthetic identities instead of scans.")]
Scans = Annotated[list[Path] | None, typer.Argument(help="Scans, or folders with scans.", show_default=False)]
Meshnets = Annotated[Path | None, typer.Option(help="brainchop's folder of MeshNets, a folder with model.json each.")]
LabelMaps = Annotated[
    Path | None, typer.Option(help="Folder of SynthSeg's whole-head label maps that identities are warped from.")
]
Shells = Annotated[Path | None, typer.Option(help="Folder with AFNI's average shell, for AFNI REFACE.")]
Weights = Annotated[Path | None, typer.Option(help="A .safetensors file with its .json beside it.")]
BrainExtractor = Annotated[str, typer.Option(metavar="NAME", help="What finds the brain of scans in files.")]
Pattern = Annotated[str, typer.Option(help="Which files of a folder are scans.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")]
Seed = Annotated[int, typer.Option(min=0, help="Of identities, heads and attackers.")]
TrainingIdentities = Annotated[
    int | None, typer.Option(min=4, help="Identities that SQN learns from, in no test: 400, quick 32.")
]
AdaptiveIdentities = Annotated[
    int | None, typer.Option(min=4, help="Identities that the adaptive SQN learns from: 60, quick 8.")
]
TrainingSteps = Annotated[int | None, typer.Option(min=1, help="Steps that SQN learns for: 1200, quick 150.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few identities and small attackers: minutes, not hours.")]


@evaluate.command()
def reidentify(
    out: Out,
    scans: Annotated[
        Path | None, typer.Argument(help="Folder or BIDS data set with several scans a person.", show_default=False)
    ] = None,
    synthetic: Synthetic = None,
    methods: Methods = None,
    attackers: Annotated[
        str | None,
        typer.Option(
            help="Which attackers, separated by commas: SQN, SQN adaptive, dlib, volume, surface, face, brain, "
            "brain to head."
        ),
    ] = None,
    method: Method = None,
    label_maps: LabelMaps = None,
    shells: Shells = None,
    weights: Weights = None,
    brain_extractor: BrainExtractor = "deepbet",
    pattern: Pattern = "*.nii*",
    workers: Workers = None,
    seed: Seed = 0,
    training_identities: TrainingIdentities = None,
    adaptive_identities: AdaptiveIdentities = None,
    training_steps: TrainingSteps = None,
    quick: Quick = False,
) -> None:
    """Can people be recognised after de-identification? Attackers against methods, with intervals and chance level."""
    from cpmae.evaluation.runs import EvaluationOptions, run_reidentify

    _one_population(scans, synthetic)
    options = EvaluationOptions(
        out,
        methods=_names(methods),
        commands=method or (),
        label_maps=label_maps,
        shells=shells,
        weights=weights,
        brain_extractor=brain_extractor,
        workers=workers,
        seed=seed,
        quick=quick,
        training_identities=training_identities,
        adaptive_identities=adaptive_identities,
        training_steps=training_steps,
    )
    with status(_every_tenth()) as tell:
        results = run_reidentify(
            options, scans, synthetic=synthetic, attacker_names=_names(attackers), pattern=pattern, tell=tell
        )
    _say(results, out)


@evaluate.command()
def downstream(
    out: Out,
    scans: Scans = None,
    synthetic: Synthetic = None,
    methods: Methods = None,
    segmenters: Annotated[
        str | None,
        typer.Option(
            help="Which segmenters, separated by commas: deepbet, ROBEX, HD-BET, MeshNet-3, MeshNet-18, MeshNet-50, "
            "MeshNet-104, HMRF."
        ),
    ] = None,
    method: Method = None,
    segmenter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COMMAND", help="A further segmenter, 'name=command {in} {out}', writing labels."),
    ] = None,
    meshnets: Meshnets = None,
    label_maps: LabelMaps = None,
    shells: Shells = None,
    weights: Weights = None,
    brain_extractor: BrainExtractor = "deepbet",
    pattern: Pattern = "*.nii*",
    workers: Workers = None,
    seed: Seed = 0,
    quick: Quick = False,
) -> None:
    """Do analyses give the same numbers? Segmenters before and after each method, and between two scans of a person."""
    from cpmae.evaluation.runs import EvaluationOptions, run_downstream

    _one_population(scans, synthetic)
    options = EvaluationOptions(
        out,
        methods=_names(methods),
        commands=method or (),
        label_maps=label_maps,
        shells=shells,
        weights=weights,
        brain_extractor=brain_extractor,
        workers=workers,
        seed=seed,
        quick=quick,
    )
    with status(_every_tenth()) as tell:
        results = run_downstream(
            options,
            scans or (),
            synthetic=synthetic,
            segmenter_names=_names(segmenters),
            segmenter_commands=segmenter or (),
            meshnets=meshnets,
            pattern=pattern,
            tell=tell,
        )
    _say(results, out)


@evaluate.command()
def sensitivity(
    out: Out,
    scans: Scans = None,
    synthetic: Synthetic = None,
    factors: Annotated[
        str | None,
        typer.Option(help="Which factors, parts of their names separated by commas: mask, voxel, noise, ..."),
    ] = None,
    attackers: Annotated[str | None, typer.Option(help="Which attackers, separated by commas: SQN and dlib.")] = None,
    segmenters: Annotated[str | None, typer.Option(help="Which segmenters, separated by commas: deepbet.")] = None,
    meshnets: Meshnets = None,
    label_maps: LabelMaps = None,
    weights: Weights = None,
    brain_extractor: BrainExtractor = "deepbet",
    pattern: Pattern = "*.nii*",
    workers: Workers = None,
    seed: Seed = 0,
    training_identities: TrainingIdentities = None,
    training_steps: TrainingSteps = None,
    quick: Quick = False,
) -> None:
    """How wrong may the brain mask be, and how unusual the scan? Promises, attackers and segmenters as curves."""
    from cpmae.evaluation.runs import EvaluationOptions, run_sensitivity

    _one_population(scans, synthetic)
    options = EvaluationOptions(
        out,
        label_maps=label_maps,
        weights=weights,
        brain_extractor=brain_extractor,
        workers=workers,
        seed=seed,
        quick=quick,
        training_identities=training_identities,
        training_steps=training_steps,
    )
    with status(_every_tenth()) as tell:
        results = run_sensitivity(
            options,
            scans or (),
            synthetic=synthetic,
            factors=_names(factors),
            attacker_names=_names(attackers),
            segmenter_names=_names(segmenters),
            meshnets=meshnets,
            pattern=pattern,
            tell=tell,
        )
    _say(results, out)


def _one_population(scans: object, synthetic: int | None) -> None:
    if scans and synthetic is not None:
        raise typer.BadParameter("give SCANS or --synthetic, not both")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _say(results: "Results", out: Path) -> None:
    for what, reason in results.skipped:
        typer.echo(f"cpmae: left out: {what}: {reason}", err=True)
    for failure in results.failures:
        typer.echo(f"cpmae: failed: {failure.step} on {failure.scan}: {failure.reason}", err=True)
    typer.echo(f"{out / 'report.html'}: {len(results.rows)} rows, {len(results.failures)} failures")


def _every_tenth() -> Callable[[str], None]:
    """Where nobody looks: a line whenever it is about something else, or every tenth."""
    count = 0
    last = ""

    def tell(text: str) -> None:
        nonlocal count, last
        about = text.split(":")[0]
        count = count + 1 if about == last else 0
        last = about
        if count % 10 == 0:
            typer.echo(text, err=True)

    return tell
