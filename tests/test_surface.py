import numpy as np
import pytest
from scipy import ndimage

from cpmae.report.surface import BACKGROUND, head_surface, render_surface
from cpmae.volume import Volume

SIZE = (120, 120)


def head_with_a_nose(spacing=(2.0, 2.0, 2.0), orientation=(0, 1, 2), flips=(1, 1, 1), tilt=0.0) -> Volume:
    """An ellipsoid 140 x 180 x 200 mm with a nose in front, right of the middle, and one ear, on the left.

    Voxel values come from world coordinates, so every grid holds the same head.
    """
    directions = np.zeros((3, 3))
    for axis, (world_axis, flip) in enumerate(zip(orientation, flips, strict=True)):
        directions[world_axis, axis] = flip
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    directions = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ directions
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    shape = tuple(int(np.ceil(260 / step)) for step in spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    world = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3][:, None, None, None]
    x, y, z = world
    parts = [((0, 0, 0), (70, 90, 100)), ((15, 88, -10), (10, 22, 18)), ((-72, 0, 0), (10, 15, 25))]
    depth = np.full(shape, -np.inf)  # mm under the surface, about
    for centre, radii in parts:
        q = np.sqrt(sum(((w - c) / r) ** 2 for w, c, r in zip((x, y, z), centre, radii, strict=True)))
        depth = np.maximum(depth, (1 - q) * min(radii))
    inside = np.clip(0.5 + depth / 3, 0, 1)
    noise = np.abs(np.random.default_rng(0).normal(0, 8, shape))
    return Volume((400 * inside + noise).astype(np.int16), affine)


def render_head(
    volume: Volume, view: str = "front", size: tuple[int, int] = SIZE, threshold: float | None = None
) -> np.ndarray:
    return render_surface(head_surface(volume, threshold), view, size)


def silhouette(image: np.ndarray) -> np.ndarray:
    return (image != np.array(BACKGROUND)).any(axis=-1)


def test_the_image_is_rgb_and_shows_a_head():
    image = render_head(head_with_a_nose(), "front", (100, 140))
    assert image.shape == (100, 140, 3) and image.dtype == np.uint8
    shown = silhouette(image)
    assert 0.2 < shown.mean() < 0.9
    assert not shown[0].any() and not shown[:, 0].any()


def test_proportions_are_true():
    rows, columns = np.nonzero(silhouette(render_head(head_with_a_nose(), "front", SIZE)))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    # 200 mm high; 70 mm to the right and 82 mm, with the ear, to the left
    assert width / height == pytest.approx(152 / 200, abs=0.04)


def test_the_left_view_has_the_nose_on_the_left():
    shown = silhouette(render_head(head_with_a_nose(), "left", SIZE))
    band = shown[60:72]  # the nose's height, a little under the middle
    left, right = np.flatnonzero(band.any(axis=0))[[0, -1]]
    assert 59.5 - left > right - 59.5 or left < 120 - right


def test_left_and_right_views_show_opposite_sides():
    volume = head_with_a_nose()
    left, right = (render_head(volume, view, SIZE) for view in ("left", "right"))
    agreement = silhouette(left) == silhouette(right)[:, ::-1]
    assert agreement.mean() > 0.97
    middle = (slice(45, 75), slice(45, 85))  # the ear stands out on one of them
    assert left[middle].astype(float).std() > 1.5 * right[middle][:, ::-1].astype(float).std()


def test_the_front_view_has_the_patients_right_on_the_left():
    columns = np.flatnonzero(silhouette(render_head(head_with_a_nose(), "front", SIZE)).any(axis=0))
    surface = head_surface(head_with_a_nose())
    pixel = 2.12 * surface.radius / min(SIZE)
    world_of_left_edge = surface.centre[0] + (59.5 - columns[0]) * pixel
    world_of_right_edge = surface.centre[0] + (59.5 - columns[-1]) * pixel
    assert world_of_left_edge == pytest.approx(70, abs=4)  # no ear on the head's right
    assert world_of_right_edge == pytest.approx(-82, abs=4)


@pytest.mark.parametrize("view", ["front", "left", "three-quarter"])
@pytest.mark.parametrize(
    "grid",
    [
        {"orientation": (0, 1, 2), "flips": (-1, 1, 1)},
        {"orientation": (1, 2, 0), "flips": (-1, -1, 1)},
        {"spacing": (1.5, 2.0, 4.0)},
        {"tilt": 25.0},
    ],
    ids=["LAS", "PIR", "anisotropic", "oblique"],
)
def test_every_grid_shows_the_same_head(grid, view):
    expected, found = (render_head(head_with_a_nose(**g), view, SIZE) for g in ({}, grid))
    assert (silhouette(expected) != silhouette(found)).mean() < 0.02
    both = silhouette(expected) & silhouette(found)
    difference = np.abs(expected[both].astype(float) - found[both].astype(float))
    assert np.median(difference) < 10


def test_finer_voxels_are_averaged_to_about_one_millimetre_and_coarser_ones_refined():
    fine = head_surface(head_with_a_nose((0.5, 2.0, 2.0)))
    coarse = head_surface(head_with_a_nose())
    assert np.linalg.norm(fine.affine[:3, :3], axis=0) == pytest.approx(1.0)
    np.testing.assert_allclose(fine.centre, coarse.centre, atol=3)


def test_a_mask_can_be_rendered_and_speckle_is_left_out():
    volume = head_with_a_nose()
    mask = volume.data > 200
    mask[:4, :4, :4] = True  # a stray block in a corner
    shown = silhouette(render_head(Volume(mask, volume.affine), "front", SIZE))
    assert (shown == silhouette(render_head(volume, "front", SIZE))).mean() > 0.98


def test_a_given_threshold_is_used():
    volume = head_with_a_nose()
    brighter = Volume(np.where(np.indices(volume.shape)[2] > 65, volume.data * 3, volume.data), volume.affine)
    whole, upper = (silhouette(render_head(brighter, "front", SIZE, threshold=t)).sum() for t in (100, 700))
    assert upper < 0.7 * whole


def test_values_that_are_not_finite_count_as_air():
    volume = head_with_a_nose()
    data = volume.data.astype(np.float32)
    data[:, :, 120:] = np.nan
    assert silhouette(render_head(Volume(data, volume.affine), "front", SIZE)).any()


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_is_all_background(value):
    image = render_head(Volume(np.full((20, 20, 20), value, np.int16), np.eye(4)), "front", SIZE)
    assert not silhouette(image).any()


def test_an_unknown_view_is_named():
    with pytest.raises(ValueError, match="'back'.*three-quarter"):
        render_head(head_with_a_nose((6.0, 6.0, 6.0)), "back")


@pytest.mark.parametrize(("edge", "most"), [(1.5, 1.8), (2.0, 2.8), (3.0, 4.2)])
def test_coarse_voxels_show_no_rings(edge: float, most: float) -> None:
    """A ball's shading is smooth, as that of one in fine voxels, whose ripple is 1.5."""
    count = round(150 / edge)
    x, y, z = np.meshgrid(*[(np.arange(count) - (count - 1) / 2) * edge] * 3, indexing="ij")
    ball = 100 * ((60 - np.sqrt(x**2 + y**2 + z**2)) / 1.5 + 0.5).clip(0, 1)  # its edge is thinner than the voxels
    surface = head_surface(Volume(ball.astype(np.float32), np.diag([edge, edge, edge, 1.0])), threshold=50)
    shade = render_surface(surface, "front", (200, 200)).mean(axis=2)
    ripple = shade - ndimage.gaussian_filter(shade, 6)
    rows, columns = np.mgrid[:200, :200] - 99.5
    assert ripple[np.hypot(rows, columns) < 70].std() < most


def test_the_cut_through_a_neck_in_thick_slices_is_closed() -> None:
    block = np.zeros((60, 60, 20), np.float32)
    block[10:50, 10:50] = 100  # reaches the lowest and the highest slice
    surface = head_surface(Volume(block, np.diag([1.0, 1.0, 5.0, 1.0])))
    assert (surface.field[:, :, [0, -1]] < surface.threshold).all()
