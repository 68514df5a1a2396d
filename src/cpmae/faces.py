"""The relief of faces, by which they are compared: a drawn face must be no training head's."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cpmae import canonical, depth
from cpmae.models.field import GRID_SHAPE, dense, pull, sampling_grid

# the face as seen from the front, canonical mm: between the outer corners of the eyes, from the brow to the chin
_X_MM, _Z_MM = (-50, 50), (-110, -14)
_FROM_Y = 110  # voxels; everything behind is no face
FACE = (
    slice(canonical.GRID_ORIGIN[0] + _X_MM[0], canonical.GRID_ORIGIN[0] + _X_MM[1]),
    slice(_FROM_Y, None),
    slice(canonical.GRID_ORIGIN[2] + _Z_MM[0], canonical.GRID_ORIGIN[2] + _Z_MM[1]),
)  # of a volume on the canonical grid
_SEEN = 2  # drawn heads are looked at in steps of so many voxels, from left to right and from top to bottom


def relief(solid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The frontmost voxel that is not air, in mm along canonical y; NaN where there is none.

    Args:
        solid: the part `FACE` of a head.

    Returns:
        (X, Z) float32.
    """
    frontmost = solid.shape[1] - 1 - np.argmax(solid[:, ::-1], axis=1)
    return np.where(solid.any(axis=1), frontmost, np.nan).astype(np.float32)


def thinned(reliefs: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Means over blocks of reliefs: (..., X, Z) to (..., X / step, Z / step)."""
    *others, x, z = reliefs.shape
    return reliefs.reshape(*others, x // step, step, z // step, step).mean(axis=(-3, -1))


def least_apart(reliefs: NDArray[np.float32]) -> float:
    """The least `depth.distance` between two of (N, X, Z) reliefs, mm."""
    return min(depth.distance(a, b) for i, a in enumerate(reliefs) for b in reliefs[:i])


def nearest(field: Tensor, solid: Tensor, known: NDArray[np.float32]) -> float:
    """How far the face of a head is from the nearest of the known ones and their mirror images, mm.

    Args:
        field: (3, *control_shape()) float32, the head's field into an atlas.
        solid: GRID_SHAPE float32, the share of the atlas that is not air.
        known: (N, X / n, Z / n), reliefs `thinned` by n, which is a multiple of `_SEEN`.
    """
    x, y, z = GRID_SHAPE
    shape, (of_x, of_y, of_z) = (x // _SEEN, y, z // _SEEN), FACE
    face = (in_steps(of_x, _SEEN), of_y, in_steps(of_z, _SEEN))
    into = sampling_grid(dense(field, shape, face), shape, face)
    found = relief((pull(solid[None], into)[0] > 0.5).numpy())
    found = thinned(found, len(found) // known.shape[1])
    return min(depth.distance(found, other) for other in [*known, *known[:, ::-1]])


def in_steps(voxels: slice, step: int) -> slice:
    """The same part of an axis on a grid of which each voxel stands for `step`."""
    return slice(voxels.start // step, voxels.stop // step)
