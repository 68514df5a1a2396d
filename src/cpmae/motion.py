"""Which volume of a run somebody moved in: one mask and one head serve all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOVED_MM = 4.0  # of the middle of what is bright; less is left to whoever looks at a result


def middle(stored: NDArray, slope: float, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of what is brighter than the mean, where a head lies in any contrast: (3,), world mm.

    NaN where nothing is.

    Args:
        stored: (X, Y, Z), numbers as a file holds them.
        slope: from these to intensities; if it is below 0, the greater number is the darker one.
    """
    finite = np.isfinite(stored)
    mean = stored.mean(where=finite, dtype=np.float64) if finite.any() else np.nan
    bright = stored > mean if slope > 0 else stored < mean
    counts = [np.count_nonzero(bright, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    voxel = [(n @ np.arange(len(n))) / n.sum() if n.any() else np.nan for n in counts]
    return affine[:3, :3] @ voxel + affine[:3, 3]


def has_moved(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two such places are more than `MOVED_MM` apart."""
    return bool(np.linalg.norm(one - other) > MOVED_MM)


def farthest(middles: Sequence[NDArray[np.float64]]) -> int | None:
    """Which volume of a run lies farthest from where most lie, counted from 0, if by more than `MOVED_MM`."""
    if np.isnan(middles).all():
        return None
    away = np.nan_to_num(np.linalg.norm(middles - np.nanmedian(middles, axis=0), axis=1))
    return int(away.argmax()) if away.max() > MOVED_MM else None
