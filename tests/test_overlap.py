import numpy as np
import pytest

from cpmae.compare import dice
from cpmae.evaluation.overlap import hd95, label_dice, mean_dice


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [0, 0, 1, 1], 0.0),
        ([1, 1, 0, 0], [0, 1, 1, 0], 0.5),  # 2 * 1 / (2 + 2)
        ([1, 0, 0, 0], [1, 1, 1, 0], 0.5),  # 2 * 1 / (1 + 3)
        ([7, 0, 0, 0], [2, 0, 0, 0], 1.0),  # nonzero is inside, whatever the value
    ],
)
def test_dice(a, b, expected):
    assert dice(a, b) == pytest.approx(expected)
    assert dice(b, a) == pytest.approx(expected)


def test_dice_of_two_empty_masks_is_undefined():
    assert np.isnan(dice(np.zeros(4), np.zeros(4)))


def test_label_dice_counts_a_label_that_one_map_lacks_as_zero():
    a = np.array([0, 1, 1, 2, 2, 5])
    b = np.array([0, 1, 2, 2, 2, 0])
    # label 1: 2*1/(2+1), label 2: 2*2/(2+3), label 5: only in a
    assert label_dice(a, b) == pytest.approx({1: 2 / 3, 2: 4 / 5, 5: 0.0})
    assert mean_dice(a, b) == pytest.approx((2 / 3 + 4 / 5) / 3)


def test_mean_dice_of_two_empty_maps_is_undefined():
    assert np.isnan(mean_dice(np.zeros(3, int), np.zeros(3, int)))


def test_label_maps_must_be_integers():
    with pytest.raises(ValueError, match="float64"):
        label_dice(np.array([0.5]), np.array([1.0]))
    with pytest.raises(ValueError, match="-1"):
        label_dice(np.array([-1]), np.array([1]))


@pytest.mark.parametrize("measure", [dice, label_dice, lambda a, b: hd95(a, b, np.eye(4))])
def test_shapes_must_agree(measure):
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
        measure(np.ones((2, 2, 2), int), np.ones((2, 2, 3), int))


def shifted_cubes(axis: int, by: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:12, 5:12, 5:12] = True
    return mask, np.roll(mask, by, axis=axis)


@pytest.mark.parametrize(("axis", "edge"), [(0, 1.0), (1, 2.0), (2, 0.5)])
def test_hd95_is_in_millimetres_along_each_axis(axis, edge):
    a, b = shifted_cubes(axis, 2)
    assert hd95(a, b, np.diag([1.0, 2.0, 0.5, 1.0])) == pytest.approx(2 * edge)


def test_hd95_takes_voxel_sizes_from_a_rotated_affine():
    a, b = shifted_cubes(1, 2)
    angle = np.radians(30)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] = affine[:3, :3] @ np.diag([1.0, 3.0, 1.0])
    assert hd95(a, b, affine) == pytest.approx(6.0)


def test_hd95_ignores_a_single_far_voxel():
    a, _ = shifted_cubes(0, 0)
    b = a.copy()
    b[19, 19, 19] = True
    assert hd95(a, b, np.eye(4)) == 0.0


def test_hd95_of_empty_masks():
    full, empty = np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    assert hd95(empty, empty, np.eye(4)) == 0.0
    assert hd95(full, empty, np.eye(4)) == np.inf
