import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cpmae.errors import OutputError
from cpmae.report.picture import _inside_brain, _world_slice, before_after
from cpmae.volume import Volume


def ball(seed: int = 0) -> tuple[Volume, np.ndarray]:
    """A bright ball in noise with a brain in it, 4 mm voxels, tilted."""
    shape = (40, 44, 48)
    angle = np.radians(15)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= 4
    distance = np.linalg.norm(np.indices(shape).T - np.array([20, 22, 24]), axis=-1).T
    data = 300 * (distance < 18) + np.random.default_rng(seed).uniform(0, 20, shape)
    return Volume(data.astype(np.int16), affine), distance < 12


def chunks(png: bytes) -> list[bytes]:
    names, offset = [], 8
    while offset < len(png):
        (length,) = struct.unpack(">I", png[offset : offset + 4])
        names.append(png[offset + 4 : offset + 8])
        offset += 12 + length
    return names


def read_png(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_the_rows_show_their_own_volume(tmp_path):
    original, mask = ball()
    dark = Volume(np.zeros_like(original.data), original.affine)
    before_after(original, dark, mask, tmp_path / "x.png")
    upper, lower = np.array_split(read_png(tmp_path / "x.png"), 2)
    assert upper.mean() > 2 * lower.mean()


@pytest.mark.thorough
@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e30])
def test_the_unit_of_the_intensities_does_not_show(tmp_path, unit):
    volume, mask = ball()
    before_after(volume, volume, mask, tmp_path / "plain.png")
    other = Volume(volume.data * unit, volume.affine)
    before_after(other, other, mask, tmp_path / "unit.png")
    difference = np.abs(read_png(tmp_path / "plain.png") - read_png(tmp_path / "unit.png"))
    assert difference.mean() < 0.002


def test_the_file_holds_pixels_and_nothing_that_identifies(tmp_path):
    volume, mask = ball()
    before_after(volume, volume, mask, tmp_path / "x.png")
    png = (tmp_path / "x.png").read_bytes()
    assert set(chunks(png)) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_an_older_picture_is_replaced_and_nothing_else_is_left(tmp_path):
    volume, mask = ball()
    (tmp_path / "x.png").write_bytes(b"old")
    before_after(volume, volume, mask, tmp_path / "x.png")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_a_missing_folder_is_named(tmp_path):
    volume, mask = ball()
    with pytest.raises(OutputError, match="nowhere"):
        before_after(volume, volume, mask, tmp_path / "nowhere" / "x.png")


def test_a_folder_in_the_pictures_place_leaves_no_temporary_file(tmp_path):
    volume, mask = ball()
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OutputError, match="x.png"):
        before_after(volume, volume, mask, tmp_path / "x.png")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_the_grids_must_agree(tmp_path):
    volume, mask = ball()
    moved = Volume(volume.data, volume.affine + np.eye(4) * [[1], [1], [1], [0]])
    with pytest.raises(ValueError, match=r"\(40, 44, 47\)"):
        before_after(volume, volume, mask[..., :-1], tmp_path / "x.png")
    with pytest.raises(ValueError, match="differently"):
        before_after(volume, moved, mask, tmp_path / "x.png")
    with pytest.raises(ValueError, match="empty"):
        before_after(volume, volume, np.zeros_like(mask), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)], ids=["RAS", "LAI"])
@pytest.mark.parametrize(
    ("plane", "expected"),
    [
        (0, {"front": "left", "top": "up"}),
        (1, {"right": "right", "top": "up"}),
        (2, {"right": "right", "front": "up"}),
    ],
)
def test_slices_are_upright_in_world_directions(flips, plane, expected):
    """Voxels are marked in the directions right, front and top of the centre; each must come out on its side."""
    affine = np.diag([*flips, 1.0]).astype(float)
    affine[:3, 3] = [-20 if f > 0 else 20 for f in flips]
    to_voxel = np.linalg.inv(affine)
    for direction, vector in {"right": (12, 0, 0), "front": (0, 12, 0), "top": (0, 0, 12)}.items():
        if direction not in expected:
            continue
        data = np.zeros((41, 41, 41), np.float32)
        data[tuple(np.rint(to_voxel[:3, :3] @ vector + to_voxel[:3, 3]).astype(int))] = 1
        mask = np.zeros(data.shape, bool)
        mask[18:23, 18:23, 18:23] = True
        image, outline, _ = _world_slice(
            Volume(data, affine), mask, plane, 1.0, _inside_brain(mask, affine, plane, 0.5), 0.0
        )
        row, column = np.unravel_index(image.argmax(), image.shape)
        middle = np.array(np.nonzero(outline > 0.5)).mean(axis=1)
        moved = {"up": row - middle[0], "right": column - middle[1], "left": middle[1] - column}
        assert moved[expected[direction]] == pytest.approx(12, abs=1)


def test_past_the_field_of_view_it_is_as_dark_as_air():
    volume, mask = ball()  # tilted, so that corners of the picture lie past it
    below = Volume(volume.data.astype(np.float32) - 1000, volume.affine)
    image, outline, _ = _world_slice(below, mask, 0, 1.0, _inside_brain(mask, volume.affine, 0, 0.5), -995.0)
    assert image[0, 0] == -995 and outline[0, 0] == 0 and image.max() < -600


def test_slices_keep_millimetres_on_anisotropic_grids():
    affine = np.diag([1.0, 0.5, 3.0, 1.0])
    whole = np.ones((30, 60, 10), bool)
    image, outline, _ = _world_slice(
        Volume(whole * 1.0, affine), whole, 0, 1.0, _inside_brain(whole, affine, 0, 0.5), 0.0
    )
    assert image.shape == (30, 30)  # 10 * 3 mm high, 60 * 0.5 mm wide
    assert outline.shape == image.shape


def test_one_slice_runs_low_where_masks_leak_into_the_eyes():
    affine = np.diag([2.0, 2.0, -1.5, 1.0])
    mask = np.zeros((40, 40, 60), bool)
    mask[10:31, 10:31, 10:51] = True
    x, y, z = _inside_brain(mask, affine, 2, 0.3)
    assert (x, y) == (40, 40)
    assert z == pytest.approx(-75 + 0.3 * 60)  # from the lowest voxel, the 50th


@pytest.mark.thorough
def test_what_is_kept_beyond_the_brain_has_an_outline_of_its_own(tmp_path):
    volume, mask = ball()
    pixels = []
    for kept in (None, mask, ndimage.binary_dilation(mask, iterations=4)):
        before_after(volume, volume, mask, tmp_path / "x.png", kept)
        picture = read_png(tmp_path / "x.png")
        pixels.append(int((picture[..., 2] > picture[..., 0] + 0.3).sum()))
    assert pixels[:2] == [0, 0] and pixels[2] > 100


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, cpmae.report.picture; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
