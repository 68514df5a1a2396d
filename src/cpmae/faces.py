"""The relief of faces, by which they are compared: a drawn face must be no training head's."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cpmae import canonical, depth
from cpmae.models.field import GRID_SHAPE, dense, pull, sampling_grid

# the face as seen from the front, canonical mm: between the outer corners of the eyes, from the brow to the chin
_X_MM, _Z_MM = (-50, 50), (-110, -14)
FROM_Y = 110  # voxels; everything behind is no face
FACE = (
    slice(canonical.GRID_ORIGIN[0] + _X_MM[0], canonical.GRID_ORIGIN[0] + _X_MM[1]),
    slice(FROM_Y, None),
    slice(canonical.GRID_ORIGIN[2] + _Z_MM[0], canonical.GRID_ORIGIN[2] + _Z_MM[1]),
)  # of a volume on the canonical grid
SEEN = 2  # drawn heads are looked at in steps of so many voxels, from left to right and from top to bottom
SIZES = tuple(np.linspace(0.9, 1.1, 9).tolist())  # in which a drawn face is compared: a larger copy is a copy too


def relief(solid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The frontmost voxel that is not air, in mm along canonical y from `FROM_Y`; NaN where there is none.

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
    """How far the face of a head, in any of `SIZES`, is from the nearest of the known ones and their mirror images, mm.

    Args:
        field: (3, *control_shape()) float32, the head's field into an atlas.
        solid: GRID_SHAPE float32, the share of the atlas that is not air.
        known: (N, X / n, Z / n), reliefs `thinned` by n, which is a multiple of `SEEN`.
    """
    found = relief_of(field, solid)
    step = len(found) // known.shape[1]
    drawn = [thinned(resized(found, size), step) for size in SIZES]
    return min(depth.distance(one, other) for one in drawn for other in [*known, *known[:, ::-1]])


def relief_of(field: Tensor, solid: Tensor) -> NDArray[np.float32]:
    """The relief of a head that is drawn, in steps of `SEEN`; arguments as of `nearest`."""
    x, y, z = GRID_SHAPE
    shape, (of_x, of_y, of_z) = (x // SEEN, y, z // SEEN), FACE
    face = (in_steps(of_x, SEEN), of_y, in_steps(of_z, SEEN))
    into = sampling_grid(dense(field, shape, face), shape, face)
    return relief((pull(solid[None], into)[0] > 0.5).numpy())


def middles(axis: int, step: int) -> NDArray[np.float64]:
    """Canonical mm of a relief's points, of which each stands for `step` voxels of the grid's axis 0 or 2."""
    voxels = np.arange(FACE[axis].start, FACE[axis].stop, step) + (step - 1) / 2
    return voxels - canonical.GRID_ORIGIN[axis]


def resized(found: NDArray[np.float32], size: float) -> NDArray[np.float32]:
    """The relief of a face that is larger about the middle of the canonical frame; NaN where it was not seen.

    Args:
        found: (X, Z), a `relief` or means over blocks of one. What is added to all of it is left to who compares.
    """
    step = (FACE[0].stop - FACE[0].start) // len(found)
    x, z = ((mm / size - mm[0]) / step for mm in (middles(0, step), middles(2, step)))
    place = np.stack(np.meshgrid(x, z, indexing="ij"))
    return size * ndimage.map_coordinates(found, place, order=1, cval=np.nan)


def in_steps(voxels: slice, step: int) -> slice:
    """The same part of an axis on a grid of which each voxel stands for `step`."""
    return slice(voxels.start // step, voxels.stop // step)
