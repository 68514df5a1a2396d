"""Two DICOM folders are not verified if the result holds a picture beside its pixels."""

from pathlib import Path

import dicom_phantom as dp
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from test_study import AFFINE, STORED, mask_file

from cpmae.metadata_dicom import Identity, deidentify_header
from cpmae.verify_study import verify_study


@pytest.mark.parametrize("where", ["nowhere", "beside", "below"])
def test_a_picture_beside_the_pixels_is_a_failure(tmp_path: Path, where: str) -> None:
    identity = Identity()
    for path in dp.classic(tmp_path / "in", STORED, AFFINE):
        data, inner = pydicom.dcmread(path), Dataset()
        deidentify_header(data, identity, "a")
        if where != "nowhere":
            (data if where == "beside" else inner).add_new(0x7FE00020, "OW", data.PixelData)
        data.MREchoSequence = Sequence([inner])
        dp.put(tmp_path / "out" / path.name, data)
    (check,) = verify_study(tmp_path / "in", tmp_path / "out", mask_file(tmp_path), "deepbet")
    told = [text for text in check.failures if "(7FE0,0010)" in text]
    assert len(told) == (where != "nowhere"), check.failures


def named(data: Dataset, patient_id: str) -> None:
    """As `--patient-id` does it."""
    data.PatientID, data.PatientName = patient_id, f"Deidentified^{patient_id}"


HIDDEN = {
    "nothing": (lambda data: None, ""),
    "the ID that it had, on purpose": (lambda data: named(data, "MRN-0042"), ""),
    "the ID alone": (lambda data: setattr(data, "PatientID", "MRN-0042"), "the original's PatientID"),
    "the name": (lambda data: setattr(data, "PatientName", "Doe^Jane"), "the original's PatientName"),
    "an overlay": (lambda data: data.add_new(0x60003000, "OW", bytes(512)), "room for one"),
    "private pixels": (lambda data: data.add_new(0x00431001, "OW", data.PixelData), "room for one"),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_was_put_back_is_a_failure(tmp_path: Path, what: str) -> None:
    change, says = HIDDEN[what]
    identity = Identity()
    for path in dp.classic(tmp_path / "in", STORED, AFFINE):
        data = pydicom.dcmread(path)
        deidentify_header(data, identity, "a")
        change(data)
        dp.put(tmp_path / "out" / path.name, data)
    (check,) = verify_study(tmp_path / "in", tmp_path / "out", mask_file(tmp_path), "deepbet")
    others = [text for text in check.failures if "still the original" not in text]  # its pixels were left as they were
    assert len(others) == bool(says) and all(says in text for text in others), check.failures


def test_a_header_that_breaks_the_standard_is_no_crash(tmp_path: Path) -> None:
    path = dp.enhanced(tmp_path / "in" / "e.dcm", STORED, AFFINE)
    data = pydicom.dcmread(path)
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
        group.add_new(0x00209113, "LO", "text and no sequence")
    data.save_as(path)
    dp.classic(tmp_path / "out", STORED, AFFINE)
    (check,) = verify_study(tmp_path / "in", tmp_path / "out", mask_file(tmp_path), "deepbet")
    assert "no such series in the original" in check.failures[0]


def test_a_file_beside_the_series_is_a_failure(tmp_path: Path) -> None:
    for path in dp.classic(tmp_path / "in", STORED, AFFINE):
        data = pydicom.dcmread(path)
        deidentify_header(data, Identity(), "a")
        dp.put(tmp_path / "out" / path.name, data)
    (tmp_path / "out" / "original.nii").write_bytes(b"all of it")
    checks = verify_study(tmp_path / "in", tmp_path / "out", mask_file(tmp_path), "deepbet")
    assert [c.failures for c in checks if "original.nii" in c.failures[0]], checks
