"""What lies within some mm of a mask, on grids with axes at right angles and on skew ones."""

import numpy as np
import phantom
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from cpmae.region import grow
from cpmae.volume import voxel_sizes

BRAIN = phantom.head()[1]


def sheared(sizes: tuple[float, float, float], **shears: float) -> NDArray[np.float64]:
    """Of each shear the key is row and column, and the value how far in mm a step along the column's axis leads."""
    affine = np.diag([*sizes, 1.0])
    for place, mm in shears.items():
        affine["xyz".index(place[0]), "xyz".index(place[1])] = mm
    return affine


@pytest.mark.parametrize(
    "affine",
    [
        sheared((3, 2.8, 3)),
        sheared((3, 2.8, 3), yz=1.5),  # a shear of 0.5
        sheared((3, 2.8, 3), yz=-1.5)[:, [2, 0, 1, 3]],
        sheared((2, 1, 5), yz=2.1),  # thick slices, two columns further for each
        sheared((2, 1, 5), yz=-4.6),
        sheared((3, 2.5, 3), xy=0.8, xz=-1, yz=0.9),
    ],
)
@pytest.mark.parametrize("mm", [5.03, 10.07])
def test_grow_takes_what_is_near_in_the_world(affine: NDArray[np.float64], mm: float) -> None:
    mask = BRAIN[::3, ::3, ::3].copy()
    mask[0, 3, 5] = True  # at the edge of the array
    reach = int(np.ceil(2 * mm / voxel_sizes(affine).min()))
    steps = np.moveaxis(np.indices((2 * reach + 1,) * 3) - reach, 0, -1)
    ball = np.linalg.norm(steps @ affine[:3, :3].T, axis=-1) <= mm
    assert not np.concatenate([ball.take((0, -1), axis).ravel() for axis in range(3)]).any()
    expected = ndimage.binary_dilation(np.pad(mask, reach), ball)[(slice(reach, -reach),) * 3]
    assert np.array_equal(grow(mask, affine, mm), expected)
