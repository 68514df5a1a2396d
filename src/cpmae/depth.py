"""How far apart two surfaces are, each given by its depth along the same lines of sight."""

import numpy as np
from numpy.typing import NDArray


def distance(a: NDArray[np.float32], b: NDArray[np.float32], most: float = np.inf) -> float:
    """Mean distance along the lines of sight, mm, after the shift in depth that brings the two closest.

    Args:
        a, b: depth maps of one shape, mm; NaN where there is no surface.
        most: the most that a line of sight counts, mm; one that meets a single surface counts as much, or not at all
            where there is no limit.

    Returns:
        inf where the two share no surface.
    """
    difference = a - b
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return float("inf")
    past = np.count_nonzero(np.isfinite(a) != np.isfinite(b)) if np.isfinite(most) else 0
    total = np.minimum(np.abs(difference - np.median(difference)), most).sum(dtype=np.float64)
    return float((total + past * most if past else total) / (difference.size + past))
