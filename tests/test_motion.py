"""Where a head lies in an image, and that it moved."""

import numpy as np
import pytest

from cpmae.motion import farthest, has_moved, middle

AFFINE = np.array([[0, 2.0, 0, -10], [1, 0, 0, 5], [0, 0, 3, 0], [0, 0, 0, 1]])


def block(start: int, inside: float, outside: float, dtype: str) -> np.ndarray:
    """(12, 12, 12) with a cube of 3 voxels an edge that begins at `start` along each axis."""
    found = np.full((12, 12, 12), outside, dtype)
    found[start : start + 3, start : start + 3, start : start + 3] = inside
    return found


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize(("slope", "inside", "outside"), [(1, 100, 3), (0.01, 100, 3), (-1, 3, 100), (-0.5, 0, 90)])
def test_the_middle_is_that_of_what_is_bright(dtype: str, slope: float, inside: float, outside: float) -> None:
    found = middle(block(2, inside, outside, dtype), slope, AFFINE)
    np.testing.assert_allclose(found, (2 * 3 - 10, 3 + 5, 3 * 3))


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_what_is_not_finite_is_no_head(slope: float) -> None:
    values = block(2, 100 if slope > 0 else 3, 3 if slope > 0 else 100, "float32")
    expected = middle(values, slope, AFFINE)
    values[9, 9, 9] = np.nan
    np.testing.assert_array_equal(middle(values, slope, AFFINE), expected)
    assert np.isnan(middle(np.full((4, 4, 4), np.nan), slope, AFFINE)).all()
    assert np.isnan(middle(np.full((4, 4, 4), 7, np.int16), slope, AFFINE)).all()


def test_a_step_of_a_few_millimetres_is_no_movement() -> None:
    place = np.array([1.0, 2.0, 3.0])
    assert not has_moved(place, place + (0, 3.9, 0)) and has_moved(place, place + (0, 0, 4.1))
    assert farthest([place, place, place + (9, 0, 0), place]) == 2
    assert farthest([place, place + 1]) is None and farthest([np.full(3, np.nan)]) is None
