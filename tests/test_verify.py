"""`verify` passes an exact brain in another head, and fails whatever breaks a promise."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import put
from scipy import ndimage

from cpmae import metadata
from cpmae.compare import tissue_threshold
from cpmae.io import forms, nifti
from cpmae.verify import Verification, verify, verify_files


def other_head() -> np.ndarray:
    """Another head around the same place, RAS: wider, shorter, with its own noise."""
    data = ndimage.affine_transform(phantom.head(seed=7)[0], [0.93, 1.05, 0.97], [2, -3, 1], order=1)
    return np.abs(data + np.random.default_rng(8).normal(0, 3, data.shape)).astype(np.float32)


def pair(orientation: str, storage: tuple[str, float, float]) -> tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray]:
    """Original, a result with the same brain in another head, and the mask."""
    original = phantom.parse(phantom.nifti_bytes(orientation, storage))
    mask, _ = phantom.turned(phantom.head()[1], orientation)
    new, _ = phantom.turned(other_head(), orientation)
    stored = np.where(mask, original.stored, original.unscaled(new))
    return original, original.with_stored(stored), mask


@pytest.fixture
def scans() -> tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray]:
    return pair("RAS", phantom.STORAGES[1])


def test_an_exact_brain_in_another_head_passes(orientation: str, storage: tuple[str, float, float]) -> None:
    found = verify(*pair(orientation, storage))
    assert found.ok and not found.failures
    assert found.protected_differing == 0
    assert found.face_tissue_voxels > 500
    assert found.face_distance_mm is not None and 1 < found.face_distance_mm < 20
    assert found.face_equal is not None and found.face_equal < 0.1
    assert found.outside_correlation is not None and 0.3 < found.outside_correlation < 0.98
    assert found.face_detail is not None and found.face_detail < 0.3


def test_orientation_does_not_change_what_is_measured() -> None:
    results = [verify(*pair(orientation, phantom.STORAGES[1])) for orientation in ("RAS", "LAS", "LPS")]
    first = results[0]
    for other in results[1:]:
        assert other.face_tissue_voxels == first.face_tissue_voxels
        assert np.isclose(other.face_distance_mm, first.face_distance_mm)
        assert np.isclose(other.face_correlation, first.face_correlation)


def test_one_voxel_of_the_brain_is_enough(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, result, mask = scans
    stored = result.stored.copy()
    stored[tuple(np.argwhere(mask)[100])] += 1
    found = verify(original, result.with_stored(stored), mask)
    assert not found.ok and found.protected_differing == 1
    assert "1 of " in found.failures[0]


def test_floats_are_compared_by_their_bits() -> None:
    original, result, mask = pair("RAS", ("float32", 1.0, 0.0))
    where = tuple(np.argwhere(mask)[5])
    stored = original.stored.copy()
    stored[where] = np.nan
    with_nan, changed = original.with_stored(stored), np.where(mask, stored, result.stored)
    assert verify(with_nan, result.with_stored(changed), mask).ok
    stored[where] = 0.0
    changed[where] = -0.0
    assert verify(original.with_stored(stored), result.with_stored(changed), mask).protected_differing == 1


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("codes", "sform_code", 1),
        ("codes", "qform_code", 0),
        ("units", "xyzt_units", 0),
        ("scaling", "scl_slope", 2.0),
        ("scaling", "scl_inter", np.nan),
        ("affine", "srow_x", [3.0, 0, 0, 1]),
        ("affine", "quatern_b", 0.1),
        ("shape", "dim", [4, *phantom.SHAPE, 1, 1, 1, 1]),
        ("dtype", "bitpix", 8),
    ],
)
def test_a_changed_header_fails(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray], name: str, field: str, value: object
) -> None:
    original, result, mask = scans
    result.header[field] = value
    found = verify(original, nifti.NiftiScan(result.stored, 1, 0, result.affine, result.header), mask)
    assert not found.ok and [n for n, same in found.header.items() if not same] == [name]
    assert name in found.failures[0]


def test_the_mark_in_the_description_is_no_change(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, result, mask = scans
    assert verify(original, result.marked("cpmae 1.0 de-identified"), mask).ok


def test_float_output_of_an_integer_scan_fails(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, result, mask = scans
    raw = phantom.nifti_bytes_of(result.stored.astype(np.float32), result.affine)
    found = verify(original, phantom.parse(raw), mask)
    assert not found.ok and not found.header["dtype"]
    assert found.protected_differing == 0  # the numbers are the same, the type is not


def test_another_grid_fails_without_measures(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, result, mask = scans
    raw = phantom.nifti_bytes_of(result.stored[:-1], result.affine)
    found = verify(original, phantom.parse(raw), mask)
    assert not found.ok and not found.header["shape"] and found.protected_differing is None


def copies() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    rng = np.random.default_rng(3)
    return {
        "the original": lambda data: data,
        "a little noise": lambda data: data + rng.integers(-2, 3, data.shape),
        "another brightness": lambda data: data * 1.3 + 4,
        "moved a voxel": lambda data: np.roll(data, 1, axis=0),
        "moved two voxels": lambda data: np.roll(data, -2, axis=2),
        "moved aslant": lambda data: np.roll(data, (1, -1, 1), axis=(0, 1, 2)),
        "noise of a tenth of the brain's level": lambda data: np.abs(data + rng.normal(0, 11, data.shape)),
        "noise of a quarter": lambda data: np.abs(data + rng.normal(0, 30, data.shape)),
        "moved under noise": lambda data: np.abs(np.roll(data, 1, axis=1) + rng.normal(0, 11, data.shape)),
        "its negative": lambda data: data.max() - data,
        "the face alone is left": lambda data: np.where(np.arange(phantom.SHAPE[1])[None, :, None] > 35, data, 0),
    }


@pytest.mark.parametrize("copy", copies())
def test_the_original_outside_the_brain_fails(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray], copy: str
) -> None:
    original, _, mask = scans
    stored = np.where(mask, original.stored, copies()[copy](original.stored)).astype(np.int16)
    found = verify(original, original.with_stored(stored), mask)
    assert not found.changed and not found.ok
    assert "still the original" in found.failures[-1]


def test_a_new_face_on_the_old_cranium_passes(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, result, mask = scans
    front_low = np.zeros(phantom.SHAPE, bool)
    front_low[:, 36:, :40] = True
    found = verify(original, original.with_stored(np.where(front_low, result.stored, original.stored)), mask)
    assert found.ok and found.tissue_equal is not None and found.tissue_equal > 0.3


def test_what_was_kept_on_purpose_is_no_detail_that_survived(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    """As with --margin-mm: 15 mm around the brain are the original's."""
    original, result, mask = scans
    kept = ndimage.distance_transform_edt(~mask, sampling=phantom.VOXEL_MM) < 15
    found = verify(original, original.with_stored(np.where(kept, original.stored, result.stored)), mask)
    assert found.ok and found.face_equal is not None and found.face_equal > 0.1
    assert found.face_detail is not None and found.face_detail < 0.3


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_a_removed_face_passes(scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray], fill: str) -> None:
    original, _, mask = scans
    noise = np.random.default_rng(1).integers(0, 200, phantom.SHAPE) if fill == "noise" else np.zeros(phantom.SHAPE)
    assert verify(original, original.with_stored(np.where(mask, original.stored, noise).astype(np.int16)), mask).ok


def test_of_a_skull_stripped_original_a_copy_alone_is_refused(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, _, mask = scans
    stripped = original.with_stored(np.where(mask, original.stored, 0).astype(np.int16))
    found = verify(stripped, original.with_stored(np.where(mask, original.stored, 40).astype(np.int16)), mask)
    assert found.ok and found.face_equal is None and found.outside_correlation is None
    assert not verify(stripped, stripped, mask).ok


def test_without_measures_the_promises_are_still_checked(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    original, result, mask = scans
    quick = verify(original, result, mask, measure=False)
    assert quick.ok and quick.outside_correlation is None
    assert not verify(original, original.with_stored(original.stored + np.int16(1)), mask, measure=False).ok


def test_files_and_json(tmp_path: Path) -> None:
    original, result, mask = pair("LPS", phantom.STORAGES[2])
    for name, scan in (("a.nii.gz", original), ("b.nii.gz", result)):
        put(tmp_path / name, b"".join(scan.to_bytes()))
    found = verify_files(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", mask.astype(np.uint8) * 2)  # as files hold masks
    assert found == verify_files(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", mask)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert found.ok and said["ok"] is True and said["header"]["affine"] is True
    assert set(said) == {"ok", *Verification.__dataclass_fields__}
    os.link(tmp_path / "a.nii.gz", tmp_path / "same.nii.gz")
    same = verify_files(tmp_path / "a.nii.gz", tmp_path / "same.nii.gz", mask)
    assert not same.separate_files and "original file itself" in same.failures[0]


def test_nifti_2_files_are_verified_too(tmp_path: Path) -> None:
    mask, affine = phantom.head()[1], phantom.ras_affine()
    before = phantom.head()[0].astype(np.int16)
    for name, data in (("a.nii", before), ("b.nii", np.where(mask, before, other_head()).astype(np.int16))):
        nib.save(nib.Nifti2Image(data, affine), tmp_path / name)
    assert verify_files(tmp_path / "a.nii", tmp_path / "b.nii", mask).ok
    named = nib.Nifti2Image(np.where(mask, before, other_head()).astype(np.int16), affine)
    named.header["intent_name"] = b"MRN-0042"
    nib.save(named, tmp_path / "named.nii")
    assert "intent_name" in verify_files(tmp_path / "a.nii", tmp_path / "named.nii", mask).failures[0]


HIDDEN: dict[str, tuple[dict, bytes, str]] = {
    "nothing": ({}, b"", ""),
    "a text": ({"db_name": b"MRN-0042"}, b"", "text of its own \\(db_name\\)"),
    "more than the mark": (
        {"descrip": b"de-identified by cpmae 1.0 for DOE^JANE"},
        b"",
        "text of its own \\(descrip\\)",
    ),
    "an extension": ({"extension": b"the whole original"}, b"", "an extension of its own"),
    "bytes at the end": ({}, b"the whole original", "18 bytes follow the voxels"),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_a_result_that_holds_more_than_brain_and_head_fails(tmp_path: Path, what: str) -> None:
    fields, rest, says = HIDDEN[what]
    original, result, mask = pair("RAS", phantom.STORAGES[1])
    affine = phantom.ras_affine()
    first = put(tmp_path / "a.nii.gz", phantom.nifti_bytes_of(original.stored, affine))
    fields = {"descrip": b"de-identified by cpmae 0.1.0", **fields}
    second = put(tmp_path / "b.nii.gz", phantom.nifti_bytes_of(result.stored, affine, **fields) + rest)
    found = verify_files(first, second, mask)
    assert found.ok == (not says), found.failures
    assert not says or re.search(says, found.failures[0])


FORMS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pair": ("b.hdr", lambda path: None, ""),
    "pair, header": ("b.hdr", lambda path: add(path, b"Doe, Jane"), "b.img holds what"),
    "pair, voxels": ("b.hdr", lambda path: add(path.with_suffix(".img"), b"the whole original"), "18 bytes follow"),
    "mgh": ("b.mgh", lambda path: None, ""),
    "mgh, tag": ("b.mgh", lambda path: add(path, struct.pack(">iq", 3, 9) + b"Doe, Jane"), "b.mgh holds what"),
    "mgh, mark": (
        "b.mgh",
        lambda path: put(path, path.read_bytes()[:-41] + b"Doe, Jane 42" + path.read_bytes()[-29:]),
        "holds",
    ),
    "mgh, head": ("b.mgh", lambda path: put(path, path.read_bytes()[:200] + b"Doe" + path.read_bytes()[203:]), "holds"),
}


def add(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


@pytest.mark.parametrize("cleaned", [True, False])
@pytest.mark.parametrize("what", FORMS)
def test_results_of_other_forms_hold_nothing_more_either(tmp_path: Path, what: str, cleaned: bool) -> None:
    name, change, says = FORMS[what]
    original, result, mask = pair("RAS", phantom.STORAGES[1])
    source = tmp_path / name.replace("b", "a")
    kind = nib.MGHImage if name.endswith("mgh") else nib.Nifti1Pair
    kind(original.stored.astype(np.int16), phantom.ras_affine()).to_filename(source)
    if name.endswith("mgh"):
        add(source, struct.pack(">iq", 3, 9) + b"by Roe, R")
    run = forms.open_scan(source)
    marked = (metadata.clean_nifti(run) if cleaned else run).marked("de-identified by cpmae 0.1.0")
    for path, write in forms.writers(tmp_path / name, marked, [result.stored.astype(np.int16)]):
        write(path)
    change(tmp_path / name)
    found = verify_files(source, tmp_path / name, mask)
    assert found.ok == (not says), found.failures
    assert not says or any(re.search(says, text) for text in found.failures)
    files = forms.files_of(source)
    same = verify_files(files[0], files[-1], mask)
    assert not same.separate_files


def test_a_pair_the_wrong_way_round_is_refused(tmp_path: Path) -> None:
    original, result, mask = pair("RAS", phantom.STORAGES[1])
    put(tmp_path / "a.nii.gz", b"".join(original.to_bytes()))
    put(tmp_path / "b.nii.gz", b"".join(result.marked("de-identified by cpmae 9.9").to_bytes()))
    assert verify_files(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", mask).ok
    turned = verify_files(tmp_path / "b.nii.gz", tmp_path / "a.nii.gz", mask)
    assert "the other way round" in turned.failures[0]
    assert verify_files(tmp_path / "b.nii.gz", tmp_path / "b.nii.gz", mask).failures == (
        "the result is the original file itself",
        "outside the brain the result is still the original",
    )


def test_a_mask_of_another_shape_is_an_error(
    scans: tuple[nifti.NiftiScan, nifti.NiftiScan, np.ndarray],
) -> None:
    with pytest.raises(ValueError, match="mask has shape"):
        verify(scans[0], scans[1], scans[2][1:])


def test_the_threshold_lies_between_air_and_skin() -> None:
    data, brain = phantom.head()
    assert 12 < tissue_threshold(data[~brain]) < 60
    assert tissue_threshold(np.zeros(100)) == np.inf
