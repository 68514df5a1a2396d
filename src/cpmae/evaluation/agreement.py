"""How two segmentations of one scan agree, and what many such comparisons say: tables, and where labels flip."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import canonical
from cpmae.compare import dice
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.overlap import hd95
from cpmae.evaluation.work import Failure

MAP_STEP_MM = 2
SMALL_VOXELS = 100  # structures up to this size are left out of the worst


def compare(before: NDArray, after: NDArray, head: HeadScan, pose: canonical.Pose) -> dict[str, NDArray]:
    """Agreement of two label maps, structure by structure.

    Returns:
        `labels`, `dice`, `hd95` (mm), `volume_diff` (share of the volume before) and `voxels` (before) by structure;
        and `flips`: bits of the canonical grid at `MAP_STEP_MM` where the label is another inside the brain.
    """
    affine = head.volume.affine
    labels = np.array(sorted({int(v) for v in np.unique(before)} | {int(v) for v in np.unique(after)}) or [0])
    labels = labels[labels > 0]
    figures = []
    for label in labels:
        box = _box_of((before == label) | (after == label))
        one, other = before[box] == label, after[box] == label
        size, new = int(one.sum()), int(other.sum())
        figures.append((dice(one, other), hd95(one, other, affine), (new - size) / size if size else np.inf, size))
    table = np.array(figures, np.float64).reshape(-1, 4)
    return {
        "labels": labels,
        "dice": table[:, 0],
        "hd95": table[:, 1],
        "volume_diff": table[:, 2],
        "voxels": table[:, 3],
        "flips": np.packbits(_flip_map((before != after) & head.brain, affine, pose)),
    }


def method_table(
    rows: Sequence[dict[str, Any]],
    sizes: Sequence[int],
    failures: Sequence[Failure],
    asked: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """A row for each method and segmenter: the mean of the scans' mean Dice, the worst structure, failures.

    Those `asked` for have one even if no scan was done, with nan for Dice.
    """
    groups: dict[tuple[str, str], list[tuple[dict[str, Any], int]]] = defaultdict(list, {pair: [] for pair in asked})
    for row, size in zip(rows, sizes, strict=True):
        groups[row["method"], row["segmenter"]].append((row, size))
    table = []
    for (method, segmenter), members in groups.items():
        by_scan = defaultdict(list)
        for row, _ in members:
            by_scan[row["scan"]].append(row["dice"])
        large = [row for row, size in members if size > SMALL_VOXELS]
        by_structure = defaultdict(list)
        for row in large:
            by_structure[row["structure"]].append(row["dice"])
        means = {s: float(np.mean(v)) for s, v in by_structure.items()}
        worst = min(means, key=means.__getitem__) if means else ""
        table.append(
            {
                "method": method,
                "segmenter": segmenter,
                "scans": len(by_scan),
                "mean_dice": float(np.mean([np.mean(v) for v in by_scan.values()])) if by_scan else float("nan"),
                "worst_structure": worst,
                "worst_mean_dice": means.get(worst, float("nan")),
                "lowest_dice": min((row["dice"] for row in large), default=float("nan")),
                "mean_hd95_mm": _finite_mean([row["hd95_mm"] for row in large]),
                "failures": sum(f.step in (method, f"{segmenter} after {method}") for f in failures),
            }
        )
    return table


def structure_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Which structures change and by how much: means over scans, those that change most first.

    `lost` counts scans in which one of the two segmentations has nothing of a structure; they have no distance.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["segmenter"], row["structure"]].append(row)
    table = [
        {
            "method": method,
            "segmenter": segmenter,
            "structure": structure,
            "scans": len(members),
            "dice": float(np.mean([m["dice"] for m in members])),
            "lost": sum(not np.isfinite(m["hd95_mm"]) for m in members),
            "hd95_mm": _finite_mean([m["hd95_mm"] for m in members]),
            "volume_diff": _finite_mean([m["volume_diff"] for m in members]),
            "volume_diff_abs": _finite_mean([abs(m["volume_diff"]) for m in members]),
        }
        for (method, segmenter, structure), members in groups.items()
    ]
    return sorted(table, key=lambda r: (r["method"], r["segmenter"], r["dice"]))


def _finite_mean(values: Sequence[float]) -> float:
    """The mean of those that are finite, NaN where none is."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def flip_figures(maps: Sequence[NDArray[np.bool_]]) -> dict[str, float]:
    """How much flips, and whether it is the same place each time.

    `same_place` is the mean Dice of two scans' flipped voxels, `same_place_by_chance` what it would be if each scan's
    flips were spread evenly over all places where any scan flips.
    """
    sizes = [int(m.sum()) for m in maps]
    anywhere = int(np.any(maps, axis=0).sum())
    pairs = [(2 * int((a & b).sum()) / max(int(a.sum() + b.sum()), 1)) for a, b in combinations(maps, 2)]
    expected = [2 * a * b / anywhere / max(a + b, 1) for a, b in combinations(sizes, 2)] if anywhere else []
    return {
        "scans": len(maps),
        "mean_flipped_ml": float(np.mean(sizes)) * MAP_STEP_MM**3 / 1000,
        "same_place": float(np.mean(pairs)) if pairs else float("nan"),
        "same_place_by_chance": float(np.mean(expected)) if expected else float("nan"),
    }


def projections(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Largest share along each line of sight from the side, the front and the top, side by side, grey uint8."""
    views = [np.rot90(share.max(axis=axis)) for axis in range(3)]
    height = max(v.shape[0] for v in views)
    padded = [np.pad(v, ((0, height - v.shape[0]), (2, 2))) for v in views]
    return np.rint(np.concatenate(padded, axis=1) * 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)


def _flip_map(flipped: NDArray[np.bool_], affine: NDArray[np.float64], pose: canonical.Pose) -> NDArray[np.bool_]:
    """Flipped voxels as they are met at every `MAP_STEP_MM` of the canonical grid, so that their share stays."""
    m = np.linalg.inv(affine) @ pose.matrix @ canonical.GRID_AFFINE @ np.diag([*[MAP_STEP_MM] * 3, 1.0])
    return ndimage.affine_transform(flipped.astype(np.uint8), m[:3, :3], m[:3, 3], map_shape(), order=0) > 0


def map_shape() -> tuple[int, int, int]:
    x, y, z = (n // MAP_STEP_MM for n in canonical.GRID_SHAPE)
    return x, y, z


def _box_of(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The mask's surroundings with a voxel of rim, where its surface is what it is in the whole."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
