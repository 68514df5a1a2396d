"""Attackers without pictures: what lies outside the brain, compared voxel by voxel and surface by surface.

All heads lie in the frame of their brains, which every method keeps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpmae.depth import distance
from cpmae.evaluation.render import face
from cpmae.evaluation.work import Arrays

MOST_MM = 30.0  # a line of sight past the edge of one head and not of the other counts as much


def correlations(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """Pearson correlation of the voxels where no brain reaches, (probes, gallery); 0 where a head is constant there."""
    return _correlated(probes, gallery, "outside")


def brain_correlations(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """The same of the brain masks: not an attack on a method, but what the kept brain tells by itself."""
    return _correlated(probes, gallery, "brain")


def surface_closeness(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """Minus the mean distance of two surfaces along the lines of sight of four maps, in mm, (probes, gallery).

    The median difference is taken off first: what a change of size explains. -inf where two share no surface.
    """
    first, second = ([f["depth"] for f in side] for side in (probes, gallery))
    return np.array([[-distance(a, b, MOST_MM) for b in second] for a in first])


def face_closeness(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """`surface_closeness` of the faces alone, seen from the front: cranium and scalp have to follow the brain."""
    first, second = ([face(f["depth"]) for f in side] for side in (probes, gallery))
    return np.array([[-distance(a, b, MOST_MM) for b in second] for a in first])


def _correlated(probes: Sequence[Arrays], gallery: Sequence[Arrays], name: str) -> NDArray[np.float64]:
    """Correlation over the voxels that are anything in some head of the gallery."""
    first, second = (np.stack([f[name].ravel() for f in side]).astype(np.float32) for side in (probes, gallery))
    where = second.any(axis=0)
    return (_standard(first[:, where]) @ _standard(second[:, where]).T).astype(np.float64)


def _standard(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and length 1, 0 where a row is constant."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)
