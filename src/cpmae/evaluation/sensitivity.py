"""How wrong may the brain mask be, and how unlike a T1w the scan? CP-MAE under conditions, each as one row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae import __version__, canonical
from cpmae.batch.records import digest
from cpmae.canonical import Pose
from cpmae.errors import BrainMaskError, CpmaeError, MethodError, MissingExtraError, ScanError
from cpmae.evaluation import attackers
from cpmae.evaluation.attack_network import SimilarityNetwork
from cpmae.evaluation.attackers import Training
from cpmae.evaluation.features import VERSION, features
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.metrics import recognise
from cpmae.evaluation.overlap import mean_dice
from cpmae.evaluation.perturb import Condition
from cpmae.evaluation.population import Scan, compute_missing
from cpmae.evaluation.results import Results
from cpmae.evaluation.segmenters import Segmenter
from cpmae.evaluation.work import Arrays, Cache, Failure, run_all
from cpmae.models.checkpoint import load_model
from cpmae.options import DRAWING
from cpmae.volume import Volume, voxel_volume_ml

REFUSED = "refused"
Labels = dict[str, NDArray | str]  # by a segmenter's name, or the reason why it made none


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
        kept = [(t.scan.name, training.cache.load(t.scan.name, **_key(t, condition))) for t in tasks]
        found = [k for _, k in kept if k is not None]
        failed = [
            Failure(scan, f"{s.name} before de-identification", str(k[_failed(s)]))
            for scan, k in kept
            for s in segmenters
            if k is not None and _failed(s) in k
        ]
        results.failures += [f for f in failed if f not in results.failures]  # many conditions share a scan
        if found:
            gallery = [{k[9:]: v for k, v in f.items() if k.startswith("original_")} for f in found]
            probes = [f if not f[REFUSED] else None for f in found]
            row = _row(condition, found, segmenters)
            results.rows.append(row | _attacked(probes, gallery, network, attacker_names, results))


def compute_conditions(task: ConditionTask) -> list[Failure]:
    """Fill the cache for one scan; what failed other than by refusal."""
    return compute_missing(task.scan, task.cache, task.conditions, partial(_key, task), partial(_compute_missing, task))


def _compute_missing(task: ConditionTask, head: HeadScan, pose: Pose, missing: list[Condition]) -> list[Failure]:
    untouched = {f"original_{k}": v for k, v in features(head.volume, head, pose).items()}
    failures = []
    labels: Labels = {}
    for condition in missing:
        rng = np.random.default_rng([task.seed, int(digest([condition.factor, condition.level])[:8], 16)])
        try:
            changed, mask = condition.apply(head, rng)
        except CpmaeError as error:
            failures.append(Failure(task.scan.name, f"{condition.factor} {condition.level}", str(error)))
            continue
        try:
            found = measure(changed, mask, task, labels if changed is head else {})
        except (ScanError, BrainMaskError) as error:
            found = {REFUSED: np.array(True), "reason": np.array(str(error))}
        except CpmaeError as error:  # of this machine, not of the scan: nothing to keep
            failures.append(Failure(task.scan.name, f"{condition.factor} {condition.level}", str(error)))
            continue
        task.cache.save(found | untouched, task.scan.name, **_key(task, condition))
    return failures


def measure(head: HeadScan, mask: NDArray[np.bool_], task: ConditionTask, before: Labels) -> Arrays:
    """De-identify with a mask, and see what came of the promises and of the segmenters.

    Args:
        head: the scan, with its true brain.
        mask: the brain mask that is given, on its grid.
        before: what segmenters made of this scan so far; filled in.

    Returns:
        `exact`: the result has the scan's numbers in the mask (promise 1); `unleaking`: another outside changes
        nothing (promise 2); `brain_kept`: share of the true brain's voxels that are kept; `outside_kept_ml`: what
        the mask keeps besides; a Dice for each segmenter, NaN and the reason where it fails on the scan before; and
        what attackers see.

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
        if segmenter.name not in before:
            before[segmenter.name] = _segmented(segmenter, volume)
        one = before[segmenter.name]
        if isinstance(one, str):  # which says nothing of de-identification
            found |= {_dice(segmenter): np.array(np.nan), _failed(segmenter): np.array(one)}
            continue
        then = _segmented(segmenter, after)
        # a segmenter that finds nothing any more agrees with nothing
        found[_dice(segmenter)] = np.array(0.0 if isinstance(then, str) else mean_dice(one, then))
    pose = canonical.align(head.brain, volume.affine)
    return found | features(after, head, pose)


def _segmented(segmenter: Segmenter, volume: Volume) -> NDArray | str:
    """Labels, or the reason why there are none."""
    try:
        return segmenter(volume)
    except (MethodError, ScanError, BrainMaskError) as error:
        return str(error)


def _dice(segmenter: Segmenter) -> str:
    return f"dice {segmenter.name}"


def _failed(segmenter: Segmenter) -> str:
    return f"failed {segmenter.name}"


def _row(condition: Condition, found: list[Arrays], segmenters: Sequence[Segmenter]) -> dict[str, Any]:
    done = [f for f in found if not f[REFUSED]]

    def mean(name: str) -> float | None:
        values = [float(f[name]) for f in done if not np.isnan(f[name])]
        return float(np.mean(values)) if values else None

    row = {"factor": condition.factor, "level": condition.level, "n": len(found)}
    row[REFUSED] = float(np.mean([bool(f[REFUSED]) for f in found]))
    measures = {name: mean(name) for name in ("exact", "unleaking", "brain_kept", "outside_kept_ml")}
    return row | measures | {_dice(s): mean(_dice(s)) for s in segmenters}


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
            scores, extra = attackers.scores(name, seen, others, network)
        except MissingExtraError as error:
            if (name, str(error)) not in results.skipped:
                results.skipped.append((name, str(error)))
            continue
        recognised = recognise(scores, resamples=100)
        figures |= {f"{name} rank1": recognised.rank1, f"{name} auc": recognised.auc}
        if "detection_rate" in extra:
            figures[f"{name} detected"] = extra["detection_rate"]
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
