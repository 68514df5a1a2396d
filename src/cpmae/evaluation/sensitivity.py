"""How wrong may the brain mask be, and how unlike a T1w the scan? CP-MAE under conditions, each as one row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae import __version__, canonical
from cpmae.batch.records import digest
from cpmae.errors import BrainMaskError, CpmaeError, MethodError, MissingExtraError, ScanError
from cpmae.evaluation import attack_face, attack_network, attackers
from cpmae.evaluation.attack_network import SimilarityNetwork
from cpmae.evaluation.attackers import Training
from cpmae.evaluation.features import VERSION, features
from cpmae.evaluation.identities import Head
from cpmae.evaluation.metrics import recognise
from cpmae.evaluation.overlap import mean_dice
from cpmae.evaluation.perturb import Condition
from cpmae.evaluation.population import Scan
from cpmae.evaluation.results import Results
from cpmae.evaluation.segmenters import Segmenter
from cpmae.evaluation.work import Arrays, Cache, Failure, run_all
from cpmae.models.checkpoint import load_model
from cpmae.options import DRAWING
from cpmae.volume import Volume, voxel_volume_ml

REFUSED = "refused"


@dataclass(frozen=True)
class ConditionTask:
    """All conditions on one scan."""

    scan: Scan
    conditions: tuple[Condition, ...]
    segmenters: tuple[Segmenter, ...]
    weights: Path | None
    weights_sha256: str
    seed: int
    cache: Cache


def sensitivity(
    scans: Sequence[Scan],
    conditions: Sequence[Condition],
    segmenters: Sequence[Segmenter],
    attacker_names: Sequence[str],
    weights: Path | None,
    training: Training,
    results: Results,
    tell: Callable[[str], None],
) -> None:
    """Fill `results` with a row a condition.

    A refusal of the pipeline is an outcome and is counted as `refused`; a scan that cannot be read is a failure.
    """
    sha256 = load_model(weights, "cpu").sha256
    tasks = [
        ConditionTask(scan, tuple(conditions), tuple(segmenters), weights, sha256, training.seed, training.cache)
        for scan in scans
    ]
    for _, failures in run_all(compute_conditions, tasks, training.workers, tell, "scans"):
        results.failures += failures
    network = attackers.similarity_network(training, tell) if "SQN" in attacker_names else None
    for condition in conditions:
        kept = [training.cache.load(t.scan.name, **_key(t, condition)) for t in tasks]
        found = [k for k in kept if k is not None]
        if found:
            gallery = [{k[9:]: v for k, v in f.items() if k.startswith("original_")} for f in found]
            probes = [f if not f[REFUSED] else None for f in found]
            row = _row(condition, found, segmenters)
            results.rows.append(row | _attacked(probes, gallery, network, attacker_names, results))


def compute_conditions(task: ConditionTask) -> list[Failure]:
    """Fill the cache for one scan; what failed other than by refusal."""
    missing = [c for c in task.conditions if not task.cache.path(task.scan.name, **_key(task, c)).exists()]
    if not missing:
        return []
    try:
        head = task.scan.load()
        pose = canonical.align(head.brain, head.volume.affine)
    except CpmaeError as error:
        return [Failure(task.scan.name, "reading the scan", str(error))]
    untouched = {f"original_{k}": v for k, v in features(head.volume, head, pose).items()}
    failures = []
    for condition in missing:
        rng = np.random.default_rng([task.seed, int(digest([condition.factor, condition.level])[:8], 16)])
        try:
            changed, mask = condition.apply(head, rng)
        except CpmaeError as error:
            failures.append(Failure(task.scan.name, f"{condition.factor} {condition.level}", str(error)))
            continue
        try:
            found = measure(changed, mask, task)
        except (ScanError, BrainMaskError) as error:
            found = {REFUSED: np.array(True), "reason": np.array(str(error))}
        except CpmaeError as error:  # of this machine, not of the scan: nothing to keep
            failures.append(Failure(task.scan.name, f"{condition.factor} {condition.level}", str(error)))
            continue
        task.cache.save(found | untouched, task.scan.name, **_key(task, condition))
    return failures


def measure(head: Head, mask: NDArray[np.bool_], task: ConditionTask) -> Arrays:
    """De-identify with a mask, and see what came of the promises and of the segmenters.

    Args:
        head: the scan, with its true brain.
        mask: the brain mask that is given, on its grid.

    Returns:
        `exact`: the result has the scan's numbers in the mask (promise 1); `unleaking`: another outside changes
        nothing (promise 2); `brain_kept`: share of the true brain's voxels that are kept; `outside_kept_ml`: what
        the mask keeps besides; a Dice for each segmenter; and what attackers see.

    Raises:
        CpmaeError: the pipeline refuses.
    """
    from cpmae import pipeline

    def run(volume: Volume) -> NDArray:
        model = load_model(task.weights, "cpu")
        return pipeline.deidentify(volume, brain_mask=mask, seed=task.seed, weights=model).image.stored

    volume = head.volume
    result = run(volume)
    noise = np.random.default_rng(0).integers(0, 1000, volume.shape).astype(volume.data.dtype)
    other = run(Volume(np.where(mask, volume.data, noise), volume.affine))
    found: Arrays = {
        REFUSED: np.array(False),
        "exact": np.array(result[mask].tobytes() == volume.data[mask].tobytes()),
        "unleaking": np.array(result.tobytes() == other.tobytes()),
        "brain_kept": np.array((result == volume.data)[head.brain].mean()),
        "outside_kept_ml": np.array((mask & ~head.brain).sum() * voxel_volume_ml(volume.affine)),
    }
    after = Volume(result, volume.affine)
    for segmenter in task.segmenters:
        try:
            value = mean_dice(segmenter(volume), segmenter(after))
        except (MethodError, ScanError, BrainMaskError):  # a segmenter that finds nothing any more agrees with nothing
            value = 0.0
        found[f"dice {segmenter.name}"] = np.array(value)
    pose = canonical.align(head.brain, volume.affine)
    return found | features(after, head, pose)


def _row(condition: Condition, found: list[Arrays], segmenters: Sequence[Segmenter]) -> dict[str, Any]:
    done = [f for f in found if not f[REFUSED]]

    def mean(name: str) -> float | None:
        return float(np.mean([f[name] for f in done])) if done else None

    row = {"factor": condition.factor, "level": condition.level, "n": len(found)}
    row[REFUSED] = float(np.mean([bool(f[REFUSED]) for f in found]))
    measures = {name: mean(name) for name in ("exact", "unleaking", "brain_kept", "outside_kept_ml")}
    return row | measures | {f"dice {s.name}": mean(f"dice {s.name}") for s in segmenters}


def _attacked(
    probes: list[Arrays | None],
    gallery: list[Arrays],
    network: SimilarityNetwork | None,
    names: Sequence[str],
    results: Results,
) -> dict[str, Any]:
    """Rank-1 and area of each attacker; the gallery are the untouched scans themselves, those of refused ones too."""
    order = sorted(range(len(probes)), key=lambda i: probes[i] is None)
    seen = [p for p in probes if p is not None]
    others = [gallery[i] for i in order]
    figures: dict[str, Any] = {}
    for name in names:
        figures |= {f"{name} rank1": None, f"{name} auc": None}
        if not seen or len(others) < 2:
            continue
        try:
            if name == "SQN" and network is not None:
                scores = attack_network.similarities(network, seen, others)
            elif name == "dlib":
                scores, figures["dlib detected"] = attack_face.face_scores(seen, others)
            else:
                scores = attackers.simple_scores(name, seen, others)
        except MissingExtraError as error:
            if (name, str(error)) not in results.skipped:
                results.skipped.append((name, str(error)))
            continue
        recognised = recognise(scores, resamples=100)
        figures |= {f"{name} rank1": recognised.rank1, f"{name} auc": recognised.auc}
    return figures


def _key(task: ConditionTask, condition: Condition) -> dict[str, Any]:
    return {
        "version": VERSION,
        "cpmae": __version__,
        "drawing": DRAWING,
        "scan": task.scan.key,
        "factor": condition.factor,
        "level": condition.level,
        "segmenters": [s.key for s in task.segmenters],
        "weights": task.weights_sha256,
        "seed": task.seed,
    }
