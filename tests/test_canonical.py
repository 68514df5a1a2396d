"""Pose, grid and unit come from the brain alone, and the way back undoes the way in."""

import numpy as np
import phantom
import pytest
from scipy.spatial.transform import Rotation

from cpmae import canonical, overlay
from cpmae.errors import BrainMaskError
from cpmae.volume import Volume, quantiles


def test_quantiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 51, 1000):
        values = rng.normal(100, 30, count).astype(np.float32)
        shares = (0, 0.005, 0.05, 0.5, 0.95, 1)
        np.testing.assert_allclose(quantiles(values, shares), np.quantile(values.astype(float), shares), rtol=1e-12)


def moved(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


@pytest.mark.parametrize(
    ("degrees", "shift_mm"),
    [
        ((15, 0, 0), (0, 0, 0)),  # chin up
        ((-30, 0, 0), (0, 0, -60)),  # chin on the chest, low in the scanner
        ((0, 12, 20), (35, 10, 0)),  # tilted and looking aside
        ((40, 10, -15), (5, -80, 40)),
    ],
)
def test_align_follows_a_moved_head(degrees: tuple, shift_mm: tuple) -> None:
    brain, affine = phantom.turned(phantom.head()[1], "RAS")
    still = canonical.align(brain, affine).matrix
    move = moved(degrees, shift_mm)
    found = canonical.align(brain, move @ affine).matrix
    # compare where the two put the corners of the head
    corners = np.array([[x, y, z, 1] for x in (-80, 80) for y in (-90, 90) for z in (-90, 70)]).T
    assert np.abs(found @ corners - move @ still @ corners).max() < 3.0


@pytest.mark.parametrize(
    "degrees",
    [(180, 0, 0), (0, 180, 0), (0, 0, 180), (0, 90, 0), (0, 0, 90), (90, 90, 0), (195, 20, -10)],
    ids=str,
)
def test_align_finds_a_head_that_lies_turned(degrees: tuple) -> None:
    """And not its mirror image, nor the pose that is upside down or back to front."""
    brain, affine = phantom.turned(phantom.head()[1], "RAS")
    move = moved(degrees, (10, -20, 30))
    pose = canonical.align(brain, move @ affine)
    assert overlay.degrees_between(pose.matrix, move @ canonical.align(brain, affine).matrix) < 5
    assert pose.rival < pose.overlap and not canonical.faults(pose)


def test_of_a_turned_brain_that_is_cut_off_no_pose_is_taken_for_sure() -> None:
    brain, affine = phantom.turned(phantom.head()[1], "RAS")
    brain[:, :, 46:] = False  # a quarter
    pose = canonical.align(brain, moved((0, 90, 0), (0, 0, 0)) @ affine)
    assert canonical.faults(pose)


def test_align_does_not_depend_on_the_storage_orientation(orientation: str) -> None:
    if orientation == "oblique":  # another position, not another storage
        return
    expected = canonical.align(*phantom.turned(phantom.head()[1], "RAS")).matrix
    found = canonical.align(*phantom.turned(phantom.head()[1], orientation)).matrix
    np.testing.assert_allclose(found, expected, atol=0.3)


def test_align_refuses_an_empty_mask() -> None:
    with pytest.raises(BrainMaskError, match="empty"):
        canonical.align(np.zeros((20, 20, 20), bool), np.eye(4))


def test_a_leak_into_the_orbits_is_stray() -> None:
    brain, affine = phantom.turned(phantom.head()[1], "RAS")
    leak = brain.copy()
    leak[12:44, 56:68, 16:30] = True
    assert canonical.align(leak, affine).stray_ml > canonical.align(brain, affine).stray_ml + 50


def test_a_leak_far_from_the_brain_is_stray_too() -> None:
    """Into the neck, say, or the mouth: farther away than the surroundings that the pose is found from."""
    brain, affine = phantom.turned(phantom.head()[1], "RAS")
    grown = np.pad(brain, ((20, 20), (20, 20), (80, 0)))
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ [20, 20, 80]
    leak = grown.copy()
    leak[40:54, 40:54, 2:16] = True
    ml = leak[40:54, 40:54, 2:16].size * abs(np.linalg.det(affine)) / 1000
    pose = canonical.align(leak, moved)
    stray = pose.stray_ml - canonical.align(grown, moved).stray_ml
    assert stray * np.linalg.det(pose.matrix) == pytest.approx(ml, rel=0.15)


def test_resample_like_undoes_conform(orientation: str) -> None:
    brain, affine = phantom.turned(phantom.head()[1], orientation)
    world = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(brain.shape)) + affine[:3, 3, None, None, None]
    ramp = 300 + 0.5 * world[0] - 0.3 * world[1] + 0.2 * world[2]  # linear interpolation gives back a linear function
    volume = Volume(ramp.astype(np.float32), affine)
    pose = canonical.align(brain, affine)
    unit = canonical.brain_unit(volume, brain)
    conformed = canonical.conform(volume, np.ones_like(brain), pose, unit)
    back = unit.unscale(canonical.resample_like(conformed.data, pose, brain.shape, affine))
    np.testing.assert_allclose(back[brain], ramp[brain], atol=0.05)


def test_conform_looks_at_nothing_outside_its_mask() -> None:
    data, affine = phantom.turned(phantom.head()[0], "oblique")
    brain = phantom.head()[1]
    pose = canonical.align(brain, affine)
    other = np.where(brain, data, np.nan).astype(np.float32)
    units = [canonical.brain_unit(Volume(d, affine), brain) for d in (data, other)]
    found = [canonical.conform(Volume(d, affine), brain, pose, u) for d, u in zip((data, other), units, strict=True)]
    assert units[0] == units[1]
    np.testing.assert_array_equal(found[0].data, found[1].data)
    assert found[0].data[found[0].mask].mean() == pytest.approx(1, abs=0.2)


def test_thick_slices_are_averages() -> None:
    fine = np.zeros(canonical.GRID_SHAPE, np.float32)
    fine[:, :, ::2] = 1  # alternating slices of 1 mm
    pose = canonical.Pose(np.eye(4), 1.0, 0.0)
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = [-30, -30, -30]
    thick = canonical.resample_like(fine, pose, (60, 60, 15), affine)
    np.testing.assert_allclose(thick, 0.5, atol=0.01)


def test_beyond_the_canonical_grid_its_edge_goes_on() -> None:
    column = np.zeros(canonical.GRID_SHAPE, np.float32)
    column[80:112, 90:130, :60] = 1  # a neck that reaches the lowest slice
    pose = canonical.Pose(np.eye(4), 1.0, 0.0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-150, -150, -300]
    native = canonical.resample_like(column, pose, (150, 150, 200), affine)
    assert native[75, 75, 5] == 1  # 125 mm below the grid
    assert native[5, 75, 5] == native[75, 145, 190] == 0


def test_brain_unit_where_half_of_the_brain_is_empty() -> None:
    values = np.zeros((10, 10, 10), np.float32)
    values[:4] = np.linspace(50, 150, 400, dtype=np.float32).reshape(4, 10, 10)
    unit = canonical.brain_unit(Volume(values, np.eye(4)), np.ones(values.shape, bool))
    assert unit.floor == 0
    assert unit.scale == pytest.approx(100, rel=0.02)
    values[:4], values[0, 0, 0] = 0, np.inf
    assert canonical.brain_unit(Volume(values, np.eye(4)), np.ones(values.shape, bool)).scale > 0


def test_brain_unit_of_standardised_intensities() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (20, 20, 20)).astype(np.float32)
    unit = canonical.brain_unit(Volume(values, np.eye(4)), np.ones(values.shape, bool))
    assert unit.floor < -2
    np.testing.assert_allclose(unit.unscale(unit.rescale(values)), values, atol=1e-5)


def test_brain_unit_of_intensities_to_which_a_number_was_added() -> None:
    values = np.random.default_rng(0).uniform(100, 900, (20, 20, 20)).astype(np.float32)
    everything = np.ones(values.shape, bool)
    plain = canonical.brain_unit(Volume(values, np.eye(4)), everything)
    added = canonical.brain_unit(Volume(values + 60000, np.eye(4)), everything)
    assert plain.floor == 0
    assert 60100 < added.floor < 60120 and added.scale == pytest.approx(400, rel=0.05)
