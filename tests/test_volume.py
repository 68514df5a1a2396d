"""Grids and boxes in them."""

import numpy as np
import phantom
import pytest

from cpmae.volume import box_of, closest_axis, coarser

AXES = [  # orientation, then axis and direction of right, front, up
    ("RAS", ((0, True), (1, True), (2, True))),
    ("LPS", ((0, False), (1, False), (2, True))),
    ("PIR", ((2, True), (0, False), (1, False))),
    ("oblique", ((0, True), (1, True), (2, True))),
]


@pytest.mark.parametrize(("orientation", "expected"), AXES, ids=[name for name, _ in AXES])
def test_the_axis_closest_to_a_world_axis(orientation: str, expected: tuple) -> None:
    _, affine = phantom.turned(np.zeros(phantom.SHAPE), orientation)
    assert tuple(closest_axis(affine, world) for world in range(3)) == expected


def test_a_long_voxel_does_not_make_its_axis_the_closest() -> None:
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    assert closest_axis(affine @ np.diag([9, 1, 1, 1]), 1) == (1, True)


@pytest.mark.parametrize("factors", [(2, 3, 1), (0.5, 1, 0.25)])
def test_coarser_voxels_begin_at_the_same_corner(factors: tuple[float, ...]) -> None:
    _, affine = phantom.turned(np.zeros(phantom.SHAPE), "oblique")
    found, corner = coarser(affine, factors), [-0.5, -0.5, -0.5, 1]
    np.testing.assert_allclose(found @ corner, affine @ corner)
    np.testing.assert_allclose(found[:3, :3], affine[:3, :3] * factors)


def test_the_box_of_a_mask_ends_where_the_array_does() -> None:
    mask = np.zeros((8, 9, 10), bool)
    mask[1:3, 4, 8] = mask[2, 2, 9] = True
    assert box_of(mask) == (slice(1, 3), slice(2, 5), slice(8, 10))
    assert box_of(mask, 2) == (slice(0, 5), slice(0, 7), slice(6, 10))
    assert box_of(mask, np.array([0, 1, 2])) == (slice(1, 3), slice(1, 6), slice(6, 10))
    assert box_of(np.asfortranarray(mask)[::2]) == (slice(1, 2), slice(2, 5), slice(8, 10))
