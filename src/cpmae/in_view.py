"""A face that fits into the field of view: one whose nose is cut off shows its passages, and looks like nobody's.

Scans are planned so that the person's own face just fits, and a new one may be longer.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cpmae import canonical, faces
from cpmae.canonical import Pose
from cpmae.models.field import through

_MOST_MM = 16.0  # by which a face is set back; what is farther out is cut, as the person's own would be
_AIR_MM = 2.0  # before a nose
# canonical mm: from where on what lies in front is set back, and from where by all of it; and the same upwards
_FROM_Y, _ALL_Y = 30.0, 100.0
_FROM_Z, _ALL_Z = 30.0, -20.0


def front_of_view(pose: Pose, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the field of view ends before a face, (X, Z) in the unit and the steps of `faces.relief_of`.

    NaN where it ends elsewhere first, below a chin or beside a cheek; these stay cut.
    """
    x, z = faces.middles(0, faces.SEEN), faces.middles(2, faces.SEEN)
    start = np.stack(np.broadcast_arrays(x[:, None], _FROM_Y, z[None, :], 1.0), axis=-1)
    to_voxel = np.linalg.inv(affine) @ pose.matrix
    voxel, step, last = start @ to_voxel[:3].T, to_voxel[:3, 1], np.array(shape) - 1
    axis = int(np.abs(step).argmax())
    mm = ((last[axis] if step[axis] > 0 else 0) - voxel[..., axis]) / step[axis]
    end = np.delete(voxel + mm[..., None] * step, axis, axis=-1)
    ends_there = (mm > 0) & ((end >= 0) & (end <= np.delete(last, axis))).all(axis=-1)
    return np.where(ends_there, _FROM_Y + mm + canonical.GRID_ORIGIN[1] - faces.FROM_Y, np.nan)


def kept_in(field: Tensor, solid: Tensor, front: NDArray[np.float64]) -> Tensor:
    """The field of a head whose face is set back as far as it lies before the field of view; it gets flatter.

    Args:
        field: (3, *control_shape()) float32, mm, into an atlas.
        solid: GRID_SHAPE float32, the share of the atlas that is not air.
        front: from `front_of_view`.
    """
    over = faces.relief_of(field, solid) + _AIR_MM - front
    mm = min(float(np.max(over, where=np.isfinite(over), initial=0)), _MOST_MM)
    return through(field, mm * _set_back()) if mm > 0 else field


@cache
def _set_back() -> Tensor:
    """What a head is seen through whose face lies 1 mm farther back, (3, *control_shape()) float32."""
    _, y, z = canonical.control_points()

    def rises(mm: Tensor, start: float, end: float) -> Tensor:
        share = ((mm - start) / (end - start)).clamp(0, 1)
        return share**2 * (3 - 2 * share)

    back = canonical.control_points().mul_(0)
    back[1] = rises(y, _FROM_Y, _ALL_Y) * rises(z, _FROM_Z, _ALL_Z)
    return back
