"""Siemens mosaics are read as the volumes that other readers see in them, and come back as mosaics that these read."""

import gzip
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import dicom_phantom as dp
import nibabel as nib
import numpy as np
import phantom
import pydicom
import pytest
from numpy.typing import NDArray
from test_cli import run
from test_dicom import in_world, one_series, read
from test_metadata_dicom import Plants

from cpmae.errors import ScanError
from cpmae.io import dicom, dicom_scan
from cpmae.io.dicom_mosaic import read_mosaic
from cpmae.io.dicom_volumes import frames_of
from cpmae.metadata_dicom import Identity, deidentify_header
from cpmae.shared_mask import mask_on

DATA, BRAIN = phantom.head()
STORED = np.rint(DATA * 8).astype(np.uint16)
AFFINE = phantom.ras_affine()
THICK = np.ascontiguousarray(STORED.reshape(56, 72, 32, 2).mean(3)).astype(np.uint16)  # 32 slices, 36 tiles
THICK_AFFINE = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0.5], [0, 0, 0, 1.0]])
REVERSED = THICK_AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 71], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # normal opposite
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def dcm2niix(folder: Path, out: Path) -> tuple[Any, Path]:
    """The image that it makes of a series, and the name of what lies beside it without suffix."""
    tool = shutil.which("dcm2niix", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not tool:
        pytest.skip("dcm2niix is not installed")
    out.mkdir(parents=True)
    subprocess.run([tool, "-b", "n", "-f", "x", "-o", out, folder], check=True, capture_output=True)
    return nib.load(out / "x.nii"), out / "x"


def wrapped(path: Path) -> Any:
    """nibabel's reading of a mosaic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import MosaicWrapper
    return MosaicWrapper(pydicom.dcmread(path))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL", "LSA", "oblique"])  # the third is reversed
def test_the_grid_is_the_one_that_nibabel_and_dcm2niix_read(tmp_path: Path, axes: str) -> None:
    turned, affine = phantom.turned(STORED, axes)
    turned = np.ascontiguousarray(turned[:, :, 20:41])  # 21 slices in 25 tiles
    affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 20], [0, 0, 0, 1.0]])
    (path,) = dp.mosaic(tmp_path / "in", [turned], affine)
    (stack,), said, pixels = read(tmp_path / "in")
    scan = dicom_scan.to_scan(stack, pixels, (0, 4095))
    assert not said and stack.shape == turned.shape
    assert np.array_equal(in_world(scan.stored, scan.affine, (turned, affine)), turned)
    theirs = wrapped(path)  # its first axis goes down
    grid = LPS @ theirs.affine @ np.eye(4)[[1, 0, 2, 3]]
    assert np.array_equal(in_world(scan.stored, scan.affine, (theirs.get_data().transpose(1, 0, 2), grid)), turned)
    image, _ = dcm2niix(tmp_path / "in", tmp_path / "nii")
    found = np.asarray(image.dataobj)
    assert np.array_equal(in_world(scan.stored, scan.affine, (found, image.affine)), found)


def without_csa(data: pydicom.Dataset, _: int) -> None:
    del data[0x0029, 0x1010]


def without_count(data: pydicom.Dataset, _: int) -> None:
    del data[0x0019, 0x100A]


@pytest.mark.parametrize("change", [without_csa, without_count])
def test_the_number_of_slices_in_one_place_is_enough(tmp_path: Path, change: Callable) -> None:
    dp.mosaic(tmp_path, [THICK], THICK_AFFINE, change)
    (stack,), _, pixels = read(tmp_path)
    assert np.array_equal(dicom_scan.to_scan(stack, pixels, (0, 4095)).stored, THICK)
    assert np.allclose(stack.affine, THICK_AFFINE, atol=1e-5)


def test_each_mosaic_is_a_volume_wherever_it_lies(tmp_path: Path) -> None:
    """Scanners that follow the head move the slices from volume to volume, by parts of their distance and more."""

    def move(data: pydicom.Dataset, k: int) -> None:
        x, y, z = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, z + (0, 0.02, 6, 300)[k]]

    dp.mosaic(tmp_path, [THICK + np.uint16(k) for k in range(4)], THICK_AFFINE, move)
    stacks, said, pixels = read(tmp_path)
    assert len(stacks) == 4 and not said
    for k, stack in enumerate(stacks):
        assert np.array_equal(dicom_scan.to_scan(stack, pixels, (0, 4095)).stored, THICK + k)


def damaged_csa(data: pydicom.Dataset, _: int) -> None:
    data[0x0029, 0x1010].value = data[0x0029, 0x1010].value[:120]


def no_count(data: pydicom.Dataset, k: int) -> None:
    without_csa(data, k)
    without_count(data, k)


def other_count(data: pydicom.Dataset, k: int) -> None:
    without_csa(data, k)
    data[0x0019, 0x100A].value = 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_count, "does not say of how many slices"),
        (other_count, "of 20 slices in 432 rows and 336 columns"),
        (damaged_csa, "damaged CSA header"),
        (lambda data, k: data.pop("SpacingBetweenSlices"), "how far apart slices are"),
    ],
)
def test_mosaics_that_cannot_be_unpacked_say_why(tmp_path: Path, change: Callable, words: str) -> None:
    dp.mosaic(tmp_path, [THICK], THICK_AFFINE, change)
    with pytest.raises(ScanError, match=words) as caught:
        frames_of(one_series(tmp_path))
    assert str(caught.value).startswith("im0001 ")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A T1w and two volumes as mosaics, of reversed slices, and what the command made of them."""
    work, plants = tmp_path_factory.mktemp("mosaic"), Plants()
    affine, first = REVERSED, np.ascontiguousarray(THICK[:, ::-1])
    volumes = [first, (first * 0.7).astype(np.uint16)]

    def plant(data: pydicom.Dataset, k: int) -> None:
        for offset, tag in ((0x10, "PatientName"), (0x20, "MrPhoenixProtocol")):
            tags = {tag: ("LO", [plants()]), "NumberOfImagesInMosaic": ("US", ["32"])}
            tags["SliceNormalVector"] = ("FD", [str(v) for v in (LPS @ affine)[:3, 2] / 6])
            data[0x0029, 0x1000 + offset].value = dp.csa_header(tags)
        data[0x0019, 0x1009].value = plants()
        data.private_block(0x0051, "SIEMENS MR HEADER", create=True).add_new(0x19, "LO", plants())
        data[0x0019, 0x100C].value = 1000 * k

    dp.classic(work / "in" / "t1", STORED, AFFINE, SeriesNumber=1)
    dp.mosaic(work / "in" / "dwi", volumes, affine, plant, SeriesNumber=2)
    nib.save(nib.Nifti1Image(BRAIN.astype(np.uint8), AFFINE), work / "mask.nii.gz")
    ran = run("deidentify", work / "in", work / "out", "--brain-mask", work / "mask.nii.gz", "--seed", "3")
    assert ran.exit_code == 0, ran.output
    brain = mask_on(BRAIN, AFFINE, first.shape, affine)
    assert 0.45 * BRAIN.sum() < brain.sum()
    return {"work": work, "volumes": volumes, "brain": brain, "plants": plants}


def pairs(study: dict[str, Any]) -> list[tuple[pydicom.Dataset, pydicom.Dataset]]:
    folders = (study["work"] / "in" / "dwi", study["work"] / "out" / "study-01" / "series-002")
    return list(zip(*([pydicom.dcmread(p) for p in sorted(f.iterdir())] for f in folders), strict=True))


def tiles(data: pydicom.Dataset) -> NDArray:
    """All tiles of a picture, (columns, rows, tiles)."""
    rows = [np.split(row, 6, axis=1) for row in np.split(data.pixel_array, 6, axis=0)]
    return np.stack([tile.T for row in rows for tile in row], axis=2)


def test_mosaics_come_back_with_the_brain_and_another_head(study: dict[str, Any]) -> None:
    brain = study["brain"]
    assert len(pairs(study)) == 2
    for (old, new), stored in zip(pairs(study), study["volumes"], strict=True):
        found = tiles(new)
        assert tiles(old)[:, :, 32:].any() and not found[:, :, 32:].any()
        assert found.dtype == stored.dtype and np.array_equal(found[:, :, :32][brain], stored[brain])
        head = ~brain & (stored > 400)
        assert np.mean(found[:, :, :32][head] == stored[head]) < 0.1 and found[:, :, :32][head].any()
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            assert old[keyword] == new[keyword]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices"):
            assert old[keyword] == new[keyword]
        assert new.SOPClassUID == old.SOPClassUID and new.ImageType == ["DERIVED", *old.ImageType[1:]]


def test_only_numbers_stay_of_the_private_elements(study: dict[str, Any]) -> None:
    raw = b"".join(p.read_bytes() for p in (study["work"] / "out").rglob("*.dcm"))
    assert not study["plants"].found_in(raw) and b"Doe" not in raw
    for k, (old, new) in enumerate(pairs(study)):
        private = {f"{e.tag.group:04X}{e.tag.elem:04X}" for e in new if e.tag.is_private}
        assert private == {"00190010", "0019100A", "0019100C", "0019100E", "00191027", "00290010", "00291010"}
        assert (new[0x0019, 0x100A].value, new[0x0019, 0x100C].value) == (32, 1000 * k)
        assert old[0x0019, 0x100E] == new[0x0019, 0x100E] and old[0x0019, 0x1027] == new[0x0019, 0x1027]
        codes = {c.CodeValue: c.CodeMeaning for c in new.DeidentificationMethodCodeSequence}
        assert codes["113111"] == "Retain Safe Private Option"
    t1 = pydicom.dcmread(study["work"] / "out" / "study-01" / "series-001" / "0001.dcm")
    assert "113111" not in {c.CodeValue for c in t1.DeidentificationMethodCodeSequence}


def test_other_readers_find_the_volumes_where_they_were(study: dict[str, Any], tmp_path: Path) -> None:
    old, new = study["work"] / "in" / "dwi", study["work"] / "out" / "study-01" / "series-002"
    assert np.allclose(wrapped(old / "im0001").affine, wrapped(new / "0001.dcm").affine)
    assert np.array_equal(wrapped(new / "0001.dcm").get_data(), tiles(pairs(study)[0][1])[:, :, :32].transpose(1, 0, 2))
    (before, _), (after, beside) = dcm2niix(old, tmp_path / "old"), dcm2niix(new, tmp_path / "new")
    assert before.shape == after.shape == (56, 72, 32, 2) and np.array_equal(before.affine, after.affine)
    brain = mask_on(BRAIN, AFFINE, after.shape[:3], after.affine)
    a, b = (np.asarray(image.dataobj) for image in (before, after))
    assert np.array_equal(a[brain], b[brain]) and not np.array_equal(a, b)
    assert beside.with_suffix(".bval").read_text().split() == ["0", "1000"]
    assert np.allclose(np.abs(np.loadtxt(beside.with_suffix(".bvec"))[:, 1]), [0.6, 0, 0.8], atol=1e-4)


def test_verify_of_mosaics(study: dict[str, Any], tmp_path: Path) -> None:
    arguments = ("--brain-mask", study["work"] / "mask.nii.gz")
    ran = run("verify", study["work"] / "in", study["work"] / "out", *arguments)
    assert ran.exit_code == 0 and ran.stdout.count("  verified\n") == 2, ran.output
    shutil.copytree(study["work"] / "out", tmp_path / "out")
    path = tmp_path / "out" / "study-01" / "series-002" / "0002.dcm"
    data = pydicom.dcmread(path)
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(path)
    ran = run("verify", study["work"] / "in", tmp_path / "out", *arguments)
    assert ran.exit_code == 1 and f"{int(study['brain'].sum())} of " in ran.stdout, ran.output


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("change", [without_count, without_csa, lambda data, k: None])
def test_a_cleaned_mosaic_can_be_unpacked_again(tmp_path: Path, clean: bool, change: Callable) -> None:
    (path,) = dp.mosaic(tmp_path, [THICK], REVERSED, change)
    whole = dicom.read_whole(path)
    mosaic = read_mosaic(whole, path.name)
    deidentify_header(whole, Identity(clean=clean), "1", mosaic)
    whole.save_as(path, enforce_file_format=True)
    again = read_mosaic(dicom.read_whole(path), path.name)
    assert mosaic and again and again.count == 32 and again.numbers == mosaic.numbers
    assert (again.normal is None) == (mosaic.normal is None)
    assert mosaic.normal is None or np.allclose(again.normal, mosaic.normal)
    if change is not without_csa:
        assert ("Doe" in str(dicom.read_whole(path)[0x0029, 0x1010].value)) is not clean


def test_headers_of_a_scanner_are_read_as_others_read_them_and_so_are_cleaned_ones(tmp_path: Path) -> None:
    """Two volumes that come with nibabel, whose pixels are 0 there."""
    rng, identity = np.random.default_rng(1), Identity()
    for name in ("siemens_dwi_0", "siemens_dwi_1000"):
        path = Path(nib.__file__).parent / "nicom" / "tests" / "data" / f"{name}.dcm.gz"
        if not path.exists():
            pytest.skip(f"this nibabel has no {path.name}")
        whole = pydicom.dcmread(BytesIO(gzip.decompress(path.read_bytes())))
        whole.PixelData = rng.integers(0, 4096, (896, 896)).astype(np.uint16).tobytes()
        dp.put(tmp_path / "in" / name, whole)
        whole = dicom.read_whole(tmp_path / "in" / name)
        deidentify_header(whole, identity, "1", read_mosaic(whole, name))
        dp.put(tmp_path / "out" / name, whole)
    stacks, _, pixels = read(tmp_path / "in")
    scans = [dicom_scan.to_scan(stack, pixels, (0, 4095)) for stack in stacks]
    for scan, path in zip(scans, sorted((tmp_path / "in").iterdir()), strict=True):
        theirs = wrapped(path)
        assert np.allclose(scan.affine, LPS @ theirs.affine @ np.eye(4)[[1, 0, 2, 3]], atol=1e-4)
        assert np.array_equal(scan.stored.transpose(1, 0, 2), theirs.get_unscaled_data())
    (before, old), (after, new) = (dcm2niix(tmp_path / d, tmp_path / f"{d}-nii") for d in ("in", "out"))
    found = np.asarray(after.dataobj)
    assert np.array_equal(before.affine, after.affine) and np.array_equal(np.asarray(before.dataobj), found)
    for k, scan in enumerate(scans):
        assert np.array_equal(in_world(scan.stored, scan.affine, (found[..., k], after.affine)), found[..., k])
    for suffix in (".bval", ".bvec"):
        a, b = (np.loadtxt(beside.with_suffix(suffix)) for beside in (old, new))
        assert np.abs(a).max() > 0.9 and np.allclose(a, b, atol=1e-4)
