"""Reading and writing DICOM: every stored integer on its way, and the grid that positions make."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import dicom_phantom as dp
import numpy as np
import phantom
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from scipy import ndimage

from cpmae.errors import CpmaeError, ScanError
from cpmae.io import dicom, dicom_pixels, dicom_scan
from cpmae.io.dicom_volumes import Stack, frames_of, no_volume, stacks_of
from cpmae.metadata_dicom import Identity, deidentify_header
from cpmae.shared_mask import without_holes

DATA, BRAIN = phantom.head()
STORED = np.rint(DATA * 8).astype(np.uint16)
AFFINE = phantom.ras_affine()


def one_series(folder: Path) -> dicom.Series:
    series, left = dicom.find_series(folder)
    assert len(series) == 1 and not left
    return series[0]


def read(folder: Path) -> tuple[list[Stack], list[str], dicom_scan.Pixels]:
    series = one_series(folder)
    stacks, warnings = stacks_of(frames_of(series), "the series")
    return stacks, warnings, dicom_scan.read_pixels(series)


def in_world(stored: NDArray, affine: NDArray[np.float64], like: tuple[NDArray, NDArray[np.float64]]) -> NDArray:
    """A volume's voxels at the voxel centres of another grid; both grids have to be the same but for their axes."""
    shape, other = like[0].shape, like[1]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).reshape(3, -1)
    m = np.linalg.inv(affine) @ other
    found = m[:3, :3] @ index + m[:3, 3:]
    assert np.abs(found - np.rint(found)).max() < 1e-3
    return stored[tuple(np.rint(found).astype(int))].reshape(shape)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_the_grid_is_where_the_head_was(tmp_path: Path, orientation: str, kind: str) -> None:
    turned, affine = phantom.turned(STORED, orientation)
    if kind == "classic":
        dp.classic(tmp_path, turned, affine)
    else:
        dp.enhanced(tmp_path / "all.dcm", turned, affine)
    (stack,), warnings, pixels = read(tmp_path)
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095))
    assert not warnings and not stack.holes
    assert np.array_equal(in_world(scan.stored, scan.affine, (turned, affine)), turned)


def by_highdicom(paths: list[Path]) -> tuple[NDArray, NDArray[np.float64]]:
    """Stored integers and affine, RAS+, of a classic series or an enhanced image."""
    highdicom = pytest.importorskip("highdicom")
    found = [pydicom.dcmread(path) for path in paths]
    if len(found) > 1:
        volume = highdicom.get_volume_from_series(found)
    else:
        volume = highdicom.Image.from_dataset(found[0]).get_volume(apply_real_world_transform=False)
    return volume.array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # from LPS+


def oblique(folder: Path, kind: str) -> tuple[list[Path], NDArray, NDArray[np.float64]]:
    turned, affine = phantom.turned(STORED, "oblique")
    if kind == "classic":
        return dp.classic(folder, turned, affine), turned, affine
    return [dp.enhanced(folder / "all.dcm", turned, affine)], turned, affine


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_highdicom_reads_the_same_grid(tmp_path: Path, kind: str) -> None:
    array, affine = by_highdicom(oblique(tmp_path, kind)[0])
    (stack,), _, pixels = read(tmp_path)
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095))
    assert np.array_equal(in_world(scan.stored, scan.affine, (array, affine)), array)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_highdicom_opens_what_was_cleaned_and_written(tmp_path: Path, kind: str) -> None:
    paths, turned, affine = oblique(tmp_path, kind)
    identity = Identity()
    for path in paths:
        whole = dicom.read_whole(path)
        dicom_pixels.put_pixels(whole, dicom_pixels.get_pixels(whole, path.name) ^ 1)
        deidentify_header(whole, identity, "someone")
        whole.save_as(path, enforce_file_format=True)
    array, theirs = by_highdicom(paths)
    assert np.array_equal(in_world(turned, affine, (array, theirs)) ^ 1, array)


def test_nested_unsorted_files_without_suffix_are_sorted_by_position(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    numbers = rng.permutation(STORED.shape[2])
    dp.classic(tmp_path, STORED, AFFINE, lambda d, k: setattr(d, "InstanceNumber", int(numbers[k]) + 1))
    for n, path in enumerate(sorted(tmp_path.iterdir())):
        (tmp_path / f"{n % 3}" / "deep").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / f"{n % 3}" / "deep" / f"{numbers[n]}")
    (stack,), _, pixels = read(tmp_path)
    found = dicom_scan.to_scan(stack, pixels, (0, 4095))
    assert np.array_equal(found.stored, STORED) and np.allclose(found.affine, AFFINE, atol=1e-5)


def test_a_second_copy_of_a_slice_is_left_out(tmp_path: Path) -> None:
    paths = dp.classic(tmp_path, STORED[:, :, :9], AFFINE)
    (tmp_path / "zz").write_bytes(paths[3].read_bytes())
    (series,), (left,) = dicom.find_series(tmp_path)
    assert len(series.instances) == 9 and left.name == "zz" and "a second copy of im0004" in left.reason
    (tmp_path / "again").mkdir()
    for path in paths:
        (tmp_path / "again" / path.name).write_bytes(path.read_bytes())
    _, found = dicom.find_series(tmp_path)
    assert sorted(item.count for item in found) == [1, 9]  # not a line for each file


def test_images_that_share_a_uid_are_no_copies_of_each_other(tmp_path: Path) -> None:
    """Naive tools number the images of each series anew, or those of each volume."""

    def make(n: int, affine: NDArray[np.float64], series: str, first: int = 1) -> None:
        def change(data: Dataset, k: int) -> None:
            data.SOPInstanceUID, data.InstanceNumber = f"1.2.{k + 1}", first + k

        dp.classic(tmp_path / f"{n}", STORED[:, :, :9], affine, change, SeriesInstanceUID=series)

    moved = AFFINE + np.eye(4, k=3) * 30
    for n, (affine, series, first) in enumerate(
        [(AFFINE, "1.3.1", 1), (moved, "1.3.2", 1), (AFFINE, "1.3.3", 1), (AFFINE, "1.3.3", 10), (moved, "1.3.3", 1)]
    ):
        make(n, affine, series, first)
    for n in (0, 9):
        uids = {"SOPInstanceUID": "1.2.1", "SeriesInstanceUID": "1.3.4"}
        dp.enhanced(tmp_path / f"enhanced{n}", STORED[:, :, :9], AFFINE + np.eye(4, k=3) * n, **uids)
    series, left = dicom.find_series(tmp_path)
    assert not left and sorted(len(s.instances) for s in series) == [2, 9, 9, 27]
    uids = [(i.header.SOPInstanceUID, i.repeat) for s in series for i in s.instances]
    assert len(set(uids)) == len(uids) == 47


def test_two_slices_at_one_place_are_named(tmp_path: Path) -> None:
    def again(data: Dataset, k: int) -> None:
        if k == 9:
            data.ImagePositionPatient = dp.planes(STORED.shape, AFFINE)[0][4]

    dp.classic(tmp_path, STORED[:, :, :10], AFFINE, again)
    series = one_series(tmp_path)
    stacks, _ = stacks_of(frames_of(series), "x")
    with pytest.raises(ScanError, match=r"slice 5 \(im0005\) and slice 10 \(im0010\) lie at one position"):
        no_volume(stacks)


def test_a_slice_of_another_size_lies_at_no_others_place(tmp_path: Path) -> None:
    dp.classic(tmp_path, STORED[:, :, :9], AFFINE, SeriesInstanceUID="1.2.3")
    dp.classic(tmp_path / "b", STORED[:-2, :, :1], AFFINE, SeriesInstanceUID="1.2.3")
    stacks, _ = stacks_of(frames_of(one_series(tmp_path)), "x")
    with pytest.raises(ScanError, match="1 slice fits no volume with the others"):
        no_volume(stacks)


def test_gantry_tilt_makes_a_skew_grid(tmp_path: Path) -> None:
    skew = AFFINE.copy()
    skew[1, 2] = 0.8  # each slice lies further in front, its normal is still up
    dp.classic(tmp_path, STORED, skew)
    (stack,), warnings, _ = read(tmp_path)
    assert np.allclose(stack.affine, skew, atol=1e-5)
    assert len(warnings) == 1 and "tilted by 14.9 degrees" in warnings[0]


def without(folder: Path, *slices: int) -> None:
    paths = dp.classic(folder, STORED, AFFINE)
    for k in slices:
        paths[k].unlink()


def test_missing_slices_are_named_filled_and_left_out_again(tmp_path: Path) -> None:
    without(tmp_path, 20, 40, 41)
    (stack,), warnings, pixels = read(tmp_path)
    assert stack.holes == [20, 40, 41] and stack.shape == STORED.shape and len(stack.frames) == 61
    assert "3 slices are missing" in warnings[0] and "20 and 22, 40 and 43" in warnings[0]
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095))
    there = np.setdiff1d(np.arange(64), stack.holes)
    assert np.array_equal(scan.stored[:, :, there], STORED[:, :, there])
    assert np.abs(scan.stored[:, :, 20] - STORED[:, :, [19, 21]].mean(2)).max() <= 0.5
    back = dicom_scan.from_scan(stack, scan.stored, np.zeros(STORED.shape, bool), pixels, (0, 4095))
    assert set(back) == set(pixels) and all(np.array_equal(back[k], pixels[k]) for k in pixels)


def test_what_fills_a_hole_follows_from_the_brain_alone(tmp_path: Path) -> None:
    without(tmp_path, 30)
    (stack,), _, pixels = read(tmp_path)
    results = []
    for change in (0, 1000):
        others = {}
        for frame, slot in zip(stack.frames, stack.slots, strict=True):
            key = frame.instance, frame.index
            others[key] = np.where(BRAIN[:, :, slot].T, pixels[key], pixels[key] + change).astype(np.uint16)
        scan = dicom_scan.to_scan(stack, others, (0, 4095))
        results.append(dicom_scan.without_holes(scan, BRAIN, stack))
    (one, mask), (other, _) = results
    assert np.array_equal(one.stored[:, :, 30], other.stored[:, :, 30])
    assert mask[:, :, 30].any() and not (mask[:, :, 30] & ~BRAIN[:, :, [29, 31]].all(2)).any()


def test_a_piece_that_only_a_hole_tied_to_the_brain_is_none_of_it(tmp_path: Path) -> None:
    """Extractors see what is interpolated there, and may go on into an eye by it."""
    lowest = int(BRAIN.any((0, 1)).argmax())
    x, y = np.argwhere(BRAIN[:, :, lowest])[0]
    without(tmp_path, lowest - 1)
    (stack,), _, pixels = read(tmp_path)
    piece = np.zeros_like(BRAIN)
    piece[x, 62:66, lowest - 5 : lowest - 1] = True
    bridge = np.zeros_like(BRAIN)
    bridge[x, y:66, lowest - 1] = True
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095))
    assert ndimage.label(BRAIN | piece | bridge)[1] == ndimage.label(BRAIN)[1]
    _, found = without_holes(scan, BRAIN | piece | bridge, stack, found=True)
    assert not found[piece].any() and np.array_equal(found[:, :, lowest:], BRAIN[:, :, lowest:])
    _, given = without_holes(scan, BRAIN | piece | bridge, stack, found=False)  # what somebody gave is kept or refused
    assert given[piece].all()


@pytest.mark.parametrize("inverted", [False, True])
def test_around_the_brain_in_a_hole_there_is_nothing(tmp_path: Path, inverted: bool) -> None:
    without(tmp_path, 30)
    (stack,), _, pixels = read(tmp_path)
    scan, mask = dicom_scan.without_holes(dicom_scan.to_scan(stack, pixels, (0, 4095), inverted), BRAIN, stack)
    assert not scan.scaled().data[:, :, 30][~mask[:, :, 30]].any()


def at(depths: list[float], folder: Path) -> None:
    def move(data: pydicom.Dataset, k: int) -> None:
        data.ImagePositionPatient = [0.0, 0.0, depths[k]]

    dp.classic(folder, STORED[:, :, : len(depths)], AFFINE, move)


def test_uneven_gaps(tmp_path: Path) -> None:
    at(np.cumsum([0.0, *([3.0, 4.5] * 6)]).tolist(), tmp_path / "even halves")
    (stack,), warnings, _ = read(tmp_path / "even halves")
    assert "uneven gaps between its slices (3.00 to 4.50 mm)" in warnings[0] and stack.shape[2] == 31
    at([0, 3, 6.6, 9, 13.1, 15, 19.9, 22, 27.7, 31], tmp_path / "none")
    with pytest.raises(ScanError, match="uneven .1.90 to 5.70 mm. and fit no regular grid"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", [2.0, 4.5, 7.0]),
        ("DiffusionBValue", [0.0, 1000.0]),
        ("TemporalPositionIdentifier", [1, 2, 3]),
        ("AcquisitionNumber", [1, 2]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]),
        ("ImageComments", ["nothing tells them apart but their order", "the same"]),
    ],
)
def test_a_series_of_several_volumes_is_split(tmp_path: Path, keyword: str, values: list) -> None:
    thin, series = STORED[:, :, ::4], uid.generate_uid()
    affine = AFFINE @ np.diag([1, 1, 4, 1])
    for n, value in enumerate(values):

        def change(data: pydicom.Dataset, k: int, n: int = n, value: object = value) -> None:
            setattr(data, keyword, value)
            data.InstanceNumber = k * len(values) + n + 1
            data.TriggerTime = 17 * k + n  # one for each slice: tells nothing

        dp.classic(tmp_path, thin + np.uint16(n), affine, change, names=f"{n}-{{}}", SeriesInstanceUID=series)
    stacks, warnings, pixels = read(tmp_path)
    assert len(stacks) == len(values) and not warnings
    for n, stack in enumerate(stacks):
        assert np.array_equal(dicom_scan.to_scan(stack, pixels, (0, 4095)).stored, thin + n)


SYNTAXES = [
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian),
    *(uid.ExplicitVRBigEndian, uid.RLELossless, uid.JPEG2000Lossless),
]


def in_syntax(path: Path, syntax: uid.UID) -> None:
    data = pydicom.dcmread(path)
    if syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        plugin = "pydicom" if syntax == uid.RLELossless else "pylibjpeg"
        data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    else:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            cell = f"u{data.BitsAllocated // 8}"
            data.PixelData = np.frombuffer(data.PixelData, f"<{cell}").astype(f">{cell}").tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


@pytest.mark.parametrize("bits", [(np.uint8, 8), (np.uint16, 12), (np.int16, 16), (np.int16, 12)], ids=str)
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name.split(",")[0])
def test_every_integer_survives_every_transfer_syntax(tmp_path: Path, syntax: uid.UID, bits: tuple) -> None:
    dtype, stored_bits = bits
    low = -(1 << stored_bits - 1) if np.dtype(dtype).kind == "i" else 0
    rng = np.random.default_rng(stored_bits)
    pixels = rng.integers(low, low + (1 << stored_bits), (37, 45, 1)).astype(dtype)  # an odd number of bytes
    pixels[0, :2, 0] = low, low + (1 << stored_bits) - 1
    (path,) = dp.classic(tmp_path, pixels, AFFINE, bits=stored_bits)
    in_syntax(path, syntax)
    whole = dicom.read_whole(path)
    assert whole.file_meta.TransferSyntaxUID == syntax
    found = dicom_pixels.get_pixels(whole, path.name)
    assert found.dtype == dtype and np.array_equal(found[0].T, pixels[:, :, 0])
    assert dicom_pixels.value_range(whole) == (low, low + (1 << stored_bits) - 1)
    new = np.ascontiguousarray(found[:, ::-1])
    dicom_pixels.put_pixels(whole, new)
    whole.save_as(tmp_path / "new.dcm", enforce_file_format=True)
    again = dicom.read_whole(tmp_path / "new.dcm")
    assert np.array_equal(dicom_pixels.get_pixels(again, "new.dcm"), new)
    expected = syntax if syntax in dicom_pixels.UNCOMPRESSED else uid.ExplicitVRLittleEndian
    assert again.file_meta.TransferSyntaxUID == expected


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"])
def test_an_image_that_others_compressed(name: str) -> None:
    if "jpeg" in name:
        pytest.importorskip("libjpeg")
    plain, other = (Path(str(get_testdata_file(n))) for n in ("MR_small.dcm", name))
    expected = dicom_pixels.get_pixels(dicom.read_whole(plain), plain.name)
    assert np.ptp(expected) > 100
    assert np.array_equal(dicom_pixels.get_pixels(dicom.read_whole(other), name), expected)


@pytest.mark.parametrize(("tool", "syntax"), [("dcmcjpeg", uid.JPEGLosslessSV1), ("dcmcjpls", uid.JPEGLSLossless)])
def test_every_integer_survives_jpeg(tmp_path: Path, tool: str, syntax: uid.UID) -> None:
    pytest.importorskip("libjpeg")
    if not shutil.which(tool):
        pytest.skip(f"{tool} of Debian's dcmtk is not installed")
    (path,) = dp.classic(tmp_path, STORED[:, :, 30:31], AFFINE)
    subprocess.run([tool, path, tmp_path / "packed.dcm"], check=True)
    packed = dicom.read_whole(tmp_path / "packed.dcm")
    assert packed.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(dicom_pixels.get_pixels(packed, "packed.dcm")[0].T, STORED[:, :, 30])


def test_bits_above_the_stored_ones_can_hold_a_picture_and_go(tmp_path: Path) -> None:
    (path,) = dp.classic(tmp_path, STORED[:, :, :1], AFFINE)
    whole = dicom.read_whole(path)
    cells = np.frombuffer(whole.PixelData, "<u2") | 0x8000
    whole.PixelData = cells.tobytes()
    found = dicom_pixels.get_pixels(whole, path.name)
    assert np.array_equal(found[0].T, STORED[:, :, 0])
    dicom_pixels.put_pixels(whole, found)
    assert not (np.frombuffer(whole.PixelData, "<u2") & 0xF000).any()


def test_slopes_that_differ_by_slice(tmp_path: Path) -> None:
    def scale(data: pydicom.Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 1 + k / 10, k

    dp.classic(tmp_path, STORED, AFFINE, scale)
    (stack,), _, pixels = read(tmp_path)
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095))
    k = np.arange(STORED.shape[2])
    assert np.allclose(scan.scaled().data, STORED * (1 + k / 10) + k)
    back = dicom_scan.from_scan(stack, scan.stored, np.zeros(STORED.shape, bool), pixels, (0, 4095))
    assert all(np.array_equal(back[key], pixels[key]) for key in pixels)


def test_padding_range_and_inverted_grey(tmp_path: Path) -> None:
    marked = STORED.copy()
    marked[:3] = 4000
    dp.classic(tmp_path, marked, AFFINE, PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1")
    (stack,), _, pixels = read(tmp_path)
    first = one_series(tmp_path).instances[0].header
    assert dicom_pixels.padding(first) == (4000, 4000)
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095), inverted=True)
    assert np.array_equal(scan.scaled().data[3:], 4095 - STORED[3:]) and (scan.scaled().data[:3] == 0).all()
    new = np.full(STORED.shape, 5000.0)
    new[1::2] = 4000
    new[2] = -7
    back = dicom_scan.from_scan(stack, new, BRAIN, pixels, (0, 4095))
    found = np.stack([back[f.instance, f.index].T for f in stack.frames], axis=2)
    assert np.array_equal(found[BRAIN], marked[BRAIN])
    outside = np.where(BRAIN, -1, found.astype(int))
    assert set(np.unique(outside)) == {-1, 0, 4001, 4095}


AROUND = "what lies around it too (ImageType"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer (ImageType LOCALIZER)"),
        *(
            (
                {"ImageType": ["DERIVED", "PRIMARY", sort, "ND"]},
                f"a projection, whose voxels in the brain show {AROUND} {sort}",
            )
            for sort in ("MIP", "MIP_SAG", "MNIP", "CSA MIP THIN", "HD MIP", "MIN IP", "MAX_IP", "PROJECTION IMAGE")
        ),
        ({"VolumeBasedCalculationTechnique": "MAX_IP"}, "a projection"),
        ({"VolumeBasedCalculationTechnique": "SURFACE_REND"}, "a rendering"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "a screenshot"),
        ({"Modality": "CT"}, "its modality is CT"),
        *(
            ({"BodyPartExamined": part}, f"no head but {part}")
            for part in ("KNEE", "HEART", "CARDIAC", "ILIAC", "FOREARM", "SURFACE COIL")
        ),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a colour picture (PALETTE COLOR)"),
        ({"SamplesPerPixel": 3}, "a colour picture"),
        ({"ImagePositionPatient": None}, "do not say where they lie"),
    ],
)
def test_what_is_no_head_volume(tmp_path: Path, change: dict, words: str) -> None:
    dp.classic(tmp_path, STORED[:, :, :2], AFFINE, **change)
    assert words in str(dicom.no_head(one_series(tmp_path)))


@pytest.mark.parametrize(
    "part",
    [
        "HEAD",
        "HEADNECK",
        "WHOLEBRAIN",
        "EAR",
        "INNER EAR",
        "IAC_TMJ",
        "EYES",
        "ORBITS",
        "SCHAEDEL",
        "CEREBRO",
        "",
        None,
    ],
)
def test_parts_of_the_head_are_known(tmp_path: Path, part: str | None) -> None:
    dp.classic(tmp_path, STORED[:, :, :2], AFFINE, BodyPartExamined=part)
    assert dicom.no_head(one_series(tmp_path)) is None


def test_three_planes_are_no_volume_and_a_head_is_one(tmp_path: Path) -> None:
    series = uid.generate_uid()
    for n, orientation in enumerate(("RAS", "RSA", "ASR")):
        turned, affine = phantom.turned(STORED, orientation)
        dp.classic(tmp_path, turned[:, :, 30:33], affine, names=f"{n}-{{}}", SeriesInstanceUID=series)
    series_ = one_series(tmp_path)
    assert dicom.no_head(series_) is None
    stacks, _ = stacks_of(frames_of(series_), "x")
    assert "3 slices at most, in 3 directions" in str(no_volume(stacks))
    dp.classic(tmp_path / "head", STORED, AFFINE)
    assert no_volume(read(tmp_path / "head")[0]) is None


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HighBit": 12}, "12 bits up to bit 12"),
        ({"BitsAllocated": 64}, "12 bits in cells of 64"),
        ({"LossyImageCompression": "01"}, "compressed with losses before"),
        ({"ImagePositionPatient": None}, "does not say where it lies"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not at right angles"),
        ({"RescaleSlope": 0}, "a slope of 0"),
        ({"RescaleSlope": "NaN"}, "a slope of nan"),
        ({"RescaleSlope": 1, "RescaleIntercept": "inf"}, "an intercept of inf"),
        ({"PixelSpacing": [0, 1]}, r"a spacing of [0.0, 1.0] mm"),
    ],
)
def test_images_that_cannot_be_handled_say_why(tmp_path: Path, change: dict, words: str) -> None:
    dp.classic(tmp_path, STORED[:, :, :2], AFFINE, **change)
    with pytest.raises(ScanError) as caught:
        frames_of(one_series(tmp_path))
    assert words in str(caught.value) and "im0001" in str(caught.value)


def test_lossy_and_cut_off_pixels(tmp_path: Path) -> None:
    (path,) = dp.classic(tmp_path, STORED[:, :, :1], AFFINE)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ScanError, match="im0001 .*(truncated|cut off).*copy it again"):
        dicom_pixels.get_pixels(dicom.read_whole(path), path.name)
    (path,) = dp.classic(tmp_path, STORED[:, :, :1], AFFINE)
    lossy = dicom.read_whole(path)
    lossy.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    with pytest.raises(ScanError, match="compressed with losses"):
        dicom_pixels.get_pixels(lossy, path.name)


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path) -> None:
    dp.classic(tmp_path, STORED[:, :, :1], AFFINE)
    os.mkfifo(tmp_path / "pipe")
    found: list[dicom.Left] = []
    search = threading.Thread(target=lambda: found.extend(dicom.find_series(tmp_path)[1]), daemon=True)
    search.start()
    search.join(30)
    assert [(left.name, left.reason) for left in found] == [("pipe", "pipe is not a DICOM file")]


def test_phase_beside_magnitude_is_told_by_the_whole_object_too(tmp_path: Path) -> None:
    thin, series = STORED[::4, ::4, 20:29].copy(), uid.generate_uid()
    for component in ("MAGNITUDE", "PHASE"):
        path = dp.enhanced(tmp_path / f"{component}.dcm", thin, AFFINE, SeriesInstanceUID=series)
        data = pydicom.dcmread(path)
        del data.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence
        data.ComplexImageComponent = component
        data.save_as(path)
    (found,), _ = dicom.find_series(tmp_path)
    stacks, _ = stacks_of(frames_of(found), found.name)
    assert [{frame.kinds[0] for frame in stack.frames} for stack in stacks] == [{"MAGNITUDE"}, {"PHASE"}]


@pytest.mark.parametrize("kind", ["classic", "enhanced", "mosaic"])
def test_damaged_files_raise_sentences_and_nothing_else(tmp_path: Path, kind: str) -> None:
    thin = STORED[::4, ::4, 20:29].copy()
    if kind == "classic":
        whole = dp.classic(tmp_path / "whole", thin[:, :, :1], AFFINE)[0].read_bytes()
    elif kind == "enhanced":
        whole = dp.enhanced(tmp_path / "whole" / "all.dcm", thin, AFFINE).read_bytes()
    else:
        whole = dp.mosaic(tmp_path / "whole", [thin], AFFINE)[0].read_bytes()
    rng, handled, refused = np.random.default_rng(7), 0, 0
    header = len(whole) - thin[:, :, 0].nbytes * (1 if kind == "classic" else 9)
    (tmp_path / "bad").mkdir()
    for trial in range(150):
        raw = bytearray(whole)
        if trial % 3 == 0:
            del raw[rng.integers(1, len(raw)) :]
        for place in rng.integers(128, header, trial % 3 * 2):
            raw[min(place, len(raw) - 1)] = rng.integers(256)
        (tmp_path / "bad" / "file").write_bytes(raw)
        try:
            for series in dicom.find_series(tmp_path / "bad")[0]:
                if not dicom.no_head(series):
                    stacks, _ = stacks_of(frames_of(series), series.name)
                    no_volume(stacks)
                    dicom_scan.read_pixels(series)
            handled += 1
        except CpmaeError as error:
            assert "\n" not in str(error)
            refused += 1
    assert handled > 20 and refused > 20


def test_an_enhanced_image_says_of_its_frames_that_they_are_projections(tmp_path: Path) -> None:
    path = dp.enhanced(tmp_path / "whole", STORED[:, :, :4], AFFINE)
    data = pydicom.dcmread(path)
    frame_type = data.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0]
    assert dicom.no_head(one_series(tmp_path)) is None
    frame_type.VolumeBasedCalculationTechnique = "MIN_IP"
    data.save_as(path)
    assert "a projection" in str(dicom.no_head(one_series(tmp_path)))


def test_folders_behind_links_are_looked_through_and_a_link_to_nothing_is_told_of(tmp_path: Path) -> None:
    """As git-annex and archives have them."""
    dp.classic(tmp_path / "store", STORED[:, :, :4], AFFINE)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "series").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "absent").symlink_to(tmp_path / "nothing")
    series, left = dicom.find_series(tmp_path / "in")
    assert [len(s.instances) for s in series] == [4]
    assert [item.name for item in left] == ["absent"] and "fetch it" in left[0].reason


def test_a_direction_of_one_number_is_none(tmp_path: Path) -> None:
    dp.classic(tmp_path, STORED[:, :, :4], AFFINE, DiffusionGradientOrientation=[0.5])
    assert len(stacks_of(frames_of(one_series(tmp_path)), "x")[0]) == 1


@pytest.mark.parametrize(
    ("text", "is_t1w"),
    [
        *((text, True) for text in ("HeadCoil", "epilepsy", "updated", "block 2", "as performed", "velocity", "ab01")),
        *((text, False) for text in ("PD", "ax_pdw", "eADC", "B0map", "3-plane loc", "localiser", "perfusion")),
        *((text, False) for text in ("pCASL", "asl 3d", "perf_1", "FEEPI", "se_epi2d", "3DTOF", "ep2d_diff", "ep_b0")),
    ],
)
def test_short_words_are_no_parts_of_longer_ones(tmp_path: Path, text: str, is_t1w: bool) -> None:
    dp.classic(tmp_path, STORED[:, :, :4], AFFINE, SeriesDescription=f"t1_mprage {text}")
    assert (dicom.t1w_score(one_series(tmp_path)) > 6) == is_t1w


def test_of_an_mp2rage_the_second_inversion_finds_the_brain(tmp_path: Path) -> None:
    for n in (1, 2):
        words = {"SeriesDescription": f"t1_mp2rage_INV{n}", "SeriesNumber": n}
        dp.classic(tmp_path, STORED[:, :, :4], AFFINE, names=f"{n}-{{}}", **words)
    best = max(dicom.find_series(tmp_path)[0], key=dicom.t1w_score)
    assert best.number == 2
