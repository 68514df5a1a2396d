"""What headers say of the sequence, and how heads are painted then."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydicom.dataset import Dataset

from cpmae.io.dicom import Instance, Series
from cpmae.models.palette import without_fat
from cpmae.models.tissue import PAINTS
from cpmae.options import Options
from cpmae.sequence import fat_is_suppressed


@pytest.mark.parametrize(
    ("fields", "suppressed"),
    [
        ({"ScanOptions": "FS"}, True),
        ({"ScanOptions": "PFP_FS"}, True),
        ({"ScanOptions": "SAT1\\FS"}, True),
        ({"ScanOptions": ["PFP", "SFS"]}, True),
        ({"ScanOptions": "IR\\\\WE"}, True),
        ({"ScanningSequence": "EP"}, True),
        ({"ScanningSequence": ["SE", "EP"]}, True),
        ({"SpectrallySelectedSuppression": "FAT"}, True),
        ({"SpectrallySelectedSuppression": "FAT_AND_WATER"}, True),
        ({"SpectrallySelectedSuppression": "NONE"}, False),
        ({"ScanOptions": "PFP", "ScanningSequence": "GR_IR"}, False),
        ({"ScanOptions": "FAST_GEMS\\EDR_GEMS"}, False),
        ({"ScanOptions": None, "ScanningSequence": 3}, False),
        ({}, False),
    ],
)
def test_a_header_tells_whether_fat_is_suppressed(fields: dict[str, Any], suppressed: bool) -> None:
    assert fat_is_suppressed(fields) is suppressed
    assert Options().for_sequence(fields).fat_suppressed is suppressed
    assert not Options(fat="bright").for_sequence(fields).fat_suppressed, "the user knows better"
    assert Options(fat="suppressed").for_sequence(fields).fat_suppressed


def test_classic_and_enhanced_series_are_asked() -> None:
    def series(header: Dataset) -> Series:
        return Series("1", "1", "p", "f", 1, "1", (Instance(Path("a.dcm"), header),))

    classic = Dataset()
    classic.ScanningSequence, classic.ScanOptions = ["SE", "IR"], ["PFP", "FS"]
    enhanced, modifier, groups = Dataset(), Dataset(), Dataset()
    modifier.SpectrallySelectedSuppression = "FAT"
    groups.MRModifierSequence = [modifier]
    enhanced.SharedFunctionalGroupsSequence = [groups]
    assert fat_is_suppressed(series(classic).sequence)
    assert fat_is_suppressed(series(enhanced).sequence)
    modifier.SpectrallySelectedSuppression = "WATER"
    assert not fat_is_suppressed(series(enhanced).sequence)
    assert not fat_is_suppressed(series(Dataset()).sequence)


def test_suppression_leaves_water_alone() -> None:
    before = torch.rand(len(PAINTS), generator=torch.Generator().manual_seed(0)) + 0.5
    after = dict(zip(PAINTS, without_fat(before).tolist(), strict=True))
    paints = dict(zip(PAINTS, before.tolist(), strict=True))
    assert {name for name in PAINTS if after[name] != paints[name]} <= {"fat", "orbit", "marrow", "skin"}
    assert after["fat"] < 0.5 * paints["muscle"]
    dark = torch.zeros(len(PAINTS))
    assert torch.equal(without_fat(dark), dark), "what is dark anyway does not get brighter"


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="fat is 'no'"):
        Options(fat="no")
