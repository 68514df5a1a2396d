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
