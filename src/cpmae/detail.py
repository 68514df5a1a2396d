"""Whether the fine detail of a scan is still in another, moved by a few voxels, in another brightness or under noise.

Two heads around one brain are alike in the large, so a copy of a head that was moved a little correlates with it no
better than a new head may. In the small they differ: how much brighter a voxel is than what surrounds it belongs to
one scan alone.
"""

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

REACH_MM = 4.0  # detail: how much brighter a voxel is than the mean of the six that lie so far from it
SHIFT_MM = 4.5  # how far a copy is looked for along each axis, at least two voxels and at most three
MAX_POINTS = 2000
MIN_POINTS = 100  # fewer are alike by chance


def surviving_detail(
    one: NDArray, other: NDArray, where: NDArray[np.bool_], equal: NDArray[np.bool_], sizes: ArrayLike
) -> float | None:
    """Pearson correlation of the detail of two volumes, at the shift where it is highest.

    Args:
        one, other: (X, Y, Z), real numbers on one grid.
        where: (X, Y, Z) bool, what of `one` is looked for.
        equal: (X, Y, Z) bool, the same number in both, as in the brain and other tissue that was kept on purpose;
            voxels whose detail depends on these are left out.
        sizes: (3,), mm a voxel.

    Returns:
        None where there is too little to be found, or no detail at all.
    """
    reach = np.diag(np.maximum(1, np.rint(REACH_MM / np.asarray(sizes))).astype(int))
    most = np.clip(SHIFT_MM / np.asarray(sizes), 2, 3).astype(int)
    found = _thinned(np.flatnonzero(where & ~equal), 20 * MAX_POINTS)
    points = np.stack(np.unravel_index(found, where.shape))
    points = points[:, ~np.any([_at(equal, points + s[:, None]) for s in (*reach, *-reach)], axis=0)]
    points = _thinned(points, MAX_POINTS)
    if points.shape[1] < MIN_POINTS:
        return None
    shifts = np.array(list(product(*(range(-m, m + 1) for m in most))))
    before = _standard(_detail(one, points, reach))
    after = _standard(np.stack([_detail(other, points + s[:, None], reach) for s in shifts]))
    return float((after @ before).max()) if before.any() and after.any() else None


def _detail(volume: NDArray, points: NDArray[np.intp], reach: NDArray[np.intp]) -> NDArray[np.float32]:
    """How much brighter voxels (3, N) are than those `reach` away, (N,); 0 where that is not finite."""
    with np.errstate(all="ignore"):  # of infinity and what float32 cannot hold
        beside = np.mean([_at(volume, points + s[:, None]) for s in (*reach, *-reach)], axis=0, dtype=np.float32)
        detail = _at(volume, points).astype(np.float32) - beside
    return np.where(np.isfinite(detail), detail, np.float32(0))


def _at(volume: NDArray, points: NDArray[np.intp]) -> NDArray:
    """Values at voxels (3, N); those outside have that of the border."""
    return volume[tuple(np.clip(points, 0, np.array(volume.shape)[:, None] - 1))]


def _thinned(values: NDArray, most: int) -> NDArray:
    """At most `most` of the values along the last axis, evenly spread."""
    return values[..., :: max(1, -(-values.shape[-1] // most))]


def _standard(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and length 1 along the last axis, 0 where a row is constant."""
    rows = rows - rows.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
