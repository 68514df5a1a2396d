"""Do analyses give the same numbers? Segmenters on the untouched scan against the same on a method's result."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae import canonical
from cpmae.errors import BrainMaskError, CpmaeError
from cpmae.evaluation.agreement import (
    MAP_STEP_MM,
    compare,
    flip_figures,
    map_shape,
    method_table,
    projections,
    structure_table,
)
from cpmae.evaluation.baselines import Method
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.population import Scan, compute_missing
from cpmae.evaluation.registration import labels_like, rigid
from cpmae.evaluation.results import Results
from cpmae.evaluation.segmenters import NothingFoundError, Segmenter
from cpmae.evaluation.work import Cache, Failure, plain, run_all
from cpmae.io.output import write_pieces
from cpmae.volume import Volume

RESCAN = "RESCAN"  # the second scan of one person, as the yardstick
VERSION = 1


@dataclass(frozen=True)
class AgreementTask:
    """Everything that is done with one scan: it is read, and segmented untouched, once."""

    scan: Scan
    rescan: Scan | None
    methods: tuple[Method, ...]
    segmenters: tuple[Segmenter, ...]
    seed: int
    cache: Cache


def downstream(
    pairs: Sequence[tuple[Scan, Scan | None]],
    methods: Sequence[Method],
    segmenters: Sequence[Segmenter],
    cache: Cache,
    seed: int,
    workers: int,
    results: Results,
    out: Path,
    tell: Callable[[str], None],
) -> None:
    """Fill `results` with a row for each method, segmenter, structure and scan, and write maps of flipped labels.

    Args:
        pairs: each scan that is tested, with a second one of the same person or None.
        out: folder of the maps `flips_METHOD_SEGMENTER.nii.gz`: share of scans with another label, canonical frame.
    """
    tasks = [AgreementTask(scan, rescan, tuple(methods), tuple(segmenters), seed, cache) for scan, rescan in pairs]
    for _, failures in run_all(compare_scan, tasks, workers, tell, "scans"):
        results.failures += failures
    flips: dict[tuple[str, str], list[NDArray[np.bool_]]] = defaultdict(list)
    sizes: list[int] = []  # voxels of each row's structure
    for task in tasks:
        for name, segmenter in _comparisons(task):
            kept = cache.load(task.scan.name, **_key(task, name, segmenter))
            if kept is None:
                continue
            if "nothing_found" in kept:
                results.failures.append(
                    Failure(task.scan.name, f"{segmenter.name} after {name}", str(kept["nothing_found"]))
                )
            for number, label in enumerate(kept["labels"]):
                results.rows.append(
                    {
                        "method": name,
                        "segmenter": segmenter.name,
                        "structure": segmenter.names.get(int(label), str(int(label))),
                        "dice": float(kept["dice"][number]),
                        "hd95_mm": float(kept["hd95"][number]),
                        "volume_diff": float(kept["volume_diff"][number]),
                        "scan": task.scan.name,
                    }
                )
                sizes.append(int(kept["voxels"][number]))
            if name != RESCAN:
                flips[name, segmenter.name].append(np.unpackbits(kept["flips"]).reshape(map_shape()).astype(bool))
    asked = list(dict.fromkeys((name, segmenter.name) for task in tasks for name, segmenter in _comparisons(task)))
    results.tables["methods"] = method_table(results.rows, sizes, results.failures, asked)
    results.tables["structures"] = structure_table(results.rows)
    results.extra["flips"] = {}
    for (method, segmenter_name), maps in flips.items():
        share = np.asarray(np.mean(maps, axis=0, dtype=np.float32))
        _write_map(share, out / f"flips_{plain(method, '-')}_{plain(segmenter_name, '-')}.nii.gz")
        results.extra["flips"][f"{method}, {segmenter_name}"] = flip_figures(maps)
        if share.any():
            results.maps[f"Where labels flip: {method}, {segmenter_name} (share of scans, largest along each line)"] = (
                projections(share)
            )


def compare_scan(task: AgreementTask) -> list[Failure]:
    """Fill the cache for one scan; what failed and is not kept."""
    return compute_missing(
        task.scan, task.cache, _comparisons(task), lambda pair: _key(task, *pair), partial(_compare_missing, task)
    )


def _compare_missing(
    task: AgreementTask, head: HeadScan, pose: canonical.Pose, missing: list[tuple[str, Segmenter]]
) -> list[Failure]:
    failures: list[Failure] = []
    before: dict[str, NDArray] = {}
    for segmenter in dict.fromkeys(s.name for _, s in missing):
        one = next(s for s in task.segmenters if s.name == segmenter)
        try:
            before[segmenter] = one(head.volume)
        except CpmaeError as error:
            failures.append(Failure(task.scan.name, f"{segmenter} on the untouched scan", str(error)))
    for name in dict.fromkeys(n for n, _ in missing):
        wanted = [s for n, s in missing if n == name and s.name in before]
        try:
            after = _after(task, name, head)
        except CpmaeError as error:
            failures.append(Failure(task.scan.name, name, str(error)))
            continue
        for one in wanted:
            nothing: dict[str, NDArray] = {}
            try:
                labels = after(one)
            except CpmaeError as error:
                # what a method hides from a segmenter is its cost; a rescan that fails is a yardstick less
                if name == RESCAN or not isinstance(error, NothingFoundError | BrainMaskError):
                    failures.append(Failure(task.scan.name, f"{one.name} after {name}", str(error)))
                    continue
                labels = np.zeros_like(before[one.name])
                nothing = {"nothing_found": np.array(str(error))}  # kept, as it is a failure of later runs too
            found = compare(before[one.name], labels, head, pose)
            task.cache.save(found | nothing, task.scan.name, **_key(task, name, one))
    return failures


def _after(task: AgreementTask, name: str, head: HeadScan) -> Callable[[Segmenter], NDArray]:
    """A function from a segmenter to its labels after a method, or of the rescan on the first scan's grid."""
    if name == RESCAN:
        assert task.rescan is not None
        other = task.rescan.load()
        matrix = rigid(head, other)
        return lambda s: labels_like(Volume(s(other.volume), other.volume.affine), head.volume, matrix)
    result = next(m for m in task.methods if m.name == name)(head, task.seed)
    return lambda s: s(result)


def _comparisons(task: AgreementTask) -> list[tuple[str, Segmenter]]:
    names = [m.name for m in task.methods] + ([RESCAN] if task.rescan else [])
    return [(name, segmenter) for name in names for segmenter in task.segmenters]


def _key(task: AgreementTask, name: str, segmenter: Segmenter) -> dict[str, Any]:
    method = next((m.key for m in task.methods if m.name == name), None)
    other = task.rescan.key if name == RESCAN and task.rescan else None
    key = {"version": VERSION, "scan": task.scan.key, "method": method, "rescan": other}
    return key | {"segmenter": segmenter.key, "seed": task.seed}


def _write_map(share: NDArray[np.float32], path: Path) -> None:
    affine = canonical.GRID_AFFINE @ np.diag([*[MAP_STEP_MM] * 3, 1.0])
    write_pieces(path, [nib.Nifti1Image(share, affine).to_bytes()])
