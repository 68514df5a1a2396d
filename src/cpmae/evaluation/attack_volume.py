"""Attackers without pictures: what lies outside the brain, compared voxel by voxel and surface by surface.

All heads lie in the frame of their brains, which every method keeps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpmae.evaluation.work import Arrays


def correlations(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """Pearson correlation of the voxels where no brain reaches, (probes, gallery); 0 where a head is constant there."""
    return _standard(probes, "outside") @ _standard(gallery, "outside").T


def brain_correlations(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """The same of the brain masks: not an attack on a method, but what the kept brain tells by itself."""
    return _standard(probes, "brain") @ _standard(gallery, "brain").T


def surface_closeness(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """Minus the mean distance of two surfaces along the lines of sight of four maps, in mm, (probes, gallery).

    Each map's median difference is taken off first: what a shift of the head explains. -inf where two share no surface.
    """
    first, second = (np.stack([f["depth"] for f in side]) for side in (probes, gallery))
    return np.array([[-_distance(a, b) for b in second] for a in first])


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    difference = a - b
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return float("inf")
    return float(np.minimum(np.abs(difference - np.median(difference)), 30.0).mean())


def _standard(features: Sequence[Arrays], name: str) -> NDArray[np.float64]:
    """Mean 0 and length 1 over the voxels that are anything in any head, (N, V)."""
    rows = np.stack([f[name].ravel() for f in features]).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-9)
