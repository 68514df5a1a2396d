"""A face that would reach out of the field of view is set back into it, and every other one stays as it is."""

import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

from cpmae import canonical, faces, in_view
from cpmae.canonical import Pose
from cpmae.models import checkpoint
from cpmae.models.atlas import Atlas
from cpmae.models.field import control_shape

SHAPE = (192, 240, 256)
FIELD = torch.zeros(3, *control_shape())  # the atlas's own head
ORIGIN = canonical.GRID_ORIGIN[1] - faces.FROM_Y


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return checkpoint.load().atlas


def grid(front_mm: float, axes: tuple[int, int, int] = (0, 1, 2), turned: float = 0.0) -> tuple[tuple, np.ndarray]:
    """Shape and affine of 1 mm voxels about a head in the canonical frame whose view ends so far before its middle."""
    to_mm = np.eye(4)
    to_mm[:3, 3] = -np.array(canonical.GRID_ORIGIN)
    to_mm[1, 3] = front_mm - (SHAPE[1] - 1)
    to_mm = from_matvec(Rotation.from_euler("x", turned, degrees=True).as_matrix()) @ to_mm
    order = np.eye(4)[:, [*axes, 3]]
    return tuple(SHAPE[a] for a in axes), to_mm @ order


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_where_the_view_ends_before_a_face(axes: tuple[int, int, int]) -> None:
    front = in_view.front_of_view(Pose(np.eye(4), 1.0, 0.0), *grid(100.0, axes))
    assert np.isfinite(front).all()
    np.testing.assert_allclose(front - ORIGIN, 100.0)
    turned = in_view.front_of_view(Pose(np.eye(4), 1.0, 0.0), *grid(100.0, axes, turned=20.0)) - ORIGIN
    assert np.nanmax(turned) - np.nanmin(turned) > 20  # brow and chin


def test_what_is_cut_below_or_beside_is_no_bound() -> None:
    shape, affine = grid(100.0)
    lower = affine.copy()
    lower[2, 3] = -60  # where the slices begin
    front = in_view.front_of_view(Pose(np.eye(4), 1.0, 0.0), shape, lower)
    below = faces.middles(2, faces.SEEN) < -60
    assert np.isnan(front[:, below]).all() and np.isfinite(front[:, ~below]).all()


@pytest.mark.parametrize("over", [4.0, 12.0])
def test_a_nose_is_set_back_into_view_and_a_brow_stays(atlas: Atlas, over: float) -> None:
    solid = atlas.share()
    before = faces.relief_of(FIELD, solid)
    nose = float(np.nanmax(before))
    front = np.full(before.shape, nose - over)
    field = in_view.kept_in(FIELD, solid, front)
    after = faces.relief_of(field, solid)
    assert nose - over - 4 <= np.nanmax(after) <= nose - over
    cranium = canonical.control_points()[2] > 35
    assert not field[:, cranium].any() and not field[:, canonical.control_points()[1] < 25].any()


def test_a_face_that_is_in_view_stays_as_it_is(atlas: Atlas) -> None:
    front = np.full((len(faces.middles(0, faces.SEEN)), len(faces.middles(2, faces.SEEN))), 500.0)
    front[3, 4] = np.nan
    assert in_view.kept_in(FIELD, atlas.share(), front) is FIELD
