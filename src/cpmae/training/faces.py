"""The relief of faces, by which they are compared: a drawn face must be no training head's."""

import numpy as np
from numpy.typing import NDArray

from cpmae import canonical

# the face as seen from the front, canonical mm: between the outer corners of the eyes, from the brow to the chin
_X_MM, _Z_MM = (-50, 50), (-110, -14)
_FROM_Y = 110  # voxels; everything behind is no face
FACE = (
    slice(canonical.GRID_ORIGIN[0] + _X_MM[0], canonical.GRID_ORIGIN[0] + _X_MM[1]),
    slice(_FROM_Y, None),
    slice(canonical.GRID_ORIGIN[2] + _Z_MM[0], canonical.GRID_ORIGIN[2] + _Z_MM[1]),
)  # of a volume on the canonical grid


def relief(solid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The frontmost voxel that is not air, in mm along canonical y; NaN where there is none.

    Args:
        solid: the part `FACE` of a head.

    Returns:
        (X, Z) float32.
    """
    depth = solid.shape[1] - 1 - np.argmax(solid[:, ::-1], axis=1)
    return np.where(solid.any(axis=1), depth, np.nan).astype(np.float32)
