"""Sidecars keep what was acquired and lose who, where and when; tables keep known columns, and nobody is past 89."""

from typing import Any

import pytest

from cpmae import metadata_json, metadata_tsv

CASES: list[tuple[str, Any, bool]] = [
    ("EchoTime", 0.0035, True),
    ("EchoTime", [0.003, 0.006], True),
    ("EchoTime", "19700101", False),  # text where a number belongs
    ("EchoTime", [0.003, "Doe"], False),
    ("EchoTime", {"Doe": 1}, False),
    ("NonlinearGradientCorrection", True, True),
    ("ShimSetting", [[1, 2], [3]], True),
    ("Manufacturer", "Siemens", True),
    ("ImageType", ["ORIGINAL", "PRIMARY", "M"], True),
    ("ScanOptions", "FS " * 40, False),  # prose
    ("ScanOptions", "PFP 2019-03-04", False),  # a date
    ("ConversionSoftwareVersion", "v1.0.20220720 (JP2:OpenJPEG)", True),
    ("ConversionSoftwareVersion", "by Jane Doe", False),
    ("PatientPosition", "HFS", True),
    ("EchoTime", float("nan"), False),  # is no JSON
    ("ShimSetting", [1, float("inf")], False),
    ("EchoTime", 10**400, True),
    ("TaskName", "Resting state, eyes open", True),
    ("SequenceName", "*tfl3d1_16ns", True),
    ("SequenceName", "Jane Doe", False),
    ("ScanOptions", "PFP_SFS", True),
    ("ScanOptions", "12.05.1970", False),
    ("CoilString", "of 5/12/1970", False),
    ("SoftwareVersions", "syngo MR E11", True),
    ("ImageType", ["Jane Doe born in May"] * 50, False),
    ("ScanningSequence", "GR_IR", True),
    ("ScanningSequence", ["GR", "IR"], True),
    ("ScanningSequence", "GR_JANE", False),
    ("MRAcquisitionType", "3D", True),
    ("MRAcquisitionType", "of Jane", False),
    ("PatientPosition", "Jane", False),
    ("Modality", "Jane", False),
    ("PhaseEncodingDirection", "j-", True),
    ("PhaseEncodingDirection", "jane", False),
    ("CASLType", "single-coil", True),
    ("Units", "rad/s", True),
    ("M0Type", "of Jane", False),
    ("PatientName", "Doe^Jane", False),
    ("ProtocolName", "Doe t1", False),
    ("AcquisitionTime", "10:11:12", False),
    ("DeviceSerialNumber", "167024", False),
    ("whatever", 1, False),
]


@pytest.mark.parametrize(("name", "value", "stays"), CASES)
def test_sidecars_keep_acquisition_parameters_alone(name: str, value: Any, stays: bool) -> None:
    assert metadata_json.clean({name: value}) == ({name: value} if stays else {})


def test_texts_with_a_word_of_who_was_scanned_where_and_by_whom_go() -> None:
    who = {
        "PatientName": "Doe^Jané",
        "PatientID": 42042,
        "OtherPatientNames": ["Li", {"Wu": "Mo"}],
        "InstitutionName": "The Head Clinic of Brighton",
        "ReferringPhysicianName": "Mr_No",
        "AccessionNumber": "A-77",
        "PatientWeight": 61,
    }
    texts = {
        "TaskName": "for jané",
        "CoilString": "MRN 42042",
        "PulseSequenceName": "tfl_Li",
        "PulseSequenceType": "Brighton EPI",
        "ImageType": ["ORIGINAL", "MO"],
        "ReceiveCoilName": "no",
        "ConversionSoftwareVersion": "v1.0 doe",
    }
    plain = {"SoftwareVersions": "MR 61 a", "MatrixCoilMode": "The Head", "Manufacturer": "Jan", "NumberShots": 42042}
    assert metadata_json.clean({**who, **texts, **plain}) == plain
    assert metadata_json.clean(texts) == texts  # nobody is named


def test_the_mark_comes_after_the_codes_that_were_there() -> None:
    before = [
        {"CodeValue": "113100", "CodeMeaning": "what Jane Doe wrote", "CodingSchemeDesignator": "DCM"},
        {"CodeValue": "Doe", "CodeMeaning": "Jane", "CodingSchemeDesignator": "DCM"},
        {"CodeValue": "113102", "CodingSchemeDesignator": "99DOE"},
        {"CodeValue": ["113107"], "CodingSchemeDesignator": "DCM"},
        "Doe",
    ]
    found = metadata_json.marked({"EchoTime": 1}, "cpmae", before)
    codes = found["DeidentificationMethodCodeSequence"]
    assert [code["CodeValue"] for code in codes] == ["113100", "113102"]
    assert codes[1]["CodeMeaning"] == "Clean Recognizable Visual Features Option"
    assert found["DeidentificationMethod"] == ["Basic Application Confidentiality Profile", "cpmae"]
    assert "Doe" not in str(found) and "Jane" not in str(found)
    assert metadata_json.marked(found, "cpmae", codes) == found  # a second time adds nothing


AGES = [
    ("44", "year", "44"),
    ("89", "year", "89"),
    ("89.5", "year", "89"),
    ("101", "year", "89"),
    ("89+", "year", "89"),
    ("1200", "month", "1068"),
    ("400", "month", "400"),
    ("n/a", "year", "n/a"),
    ("ninety", "year", "n/a"),
    ("-3", "year", "n/a"),
    ("nan", "year", "n/a"),
    ("93", "fortnight", "n/a"),
]


@pytest.mark.parametrize(("age", "units", "expected"), AGES)
def test_ages_are_capped(age: str, units: str, expected: str) -> None:
    table, _ = metadata_tsv.clean(f"participant_id\tage\nsub-1\t{age}\n", "participants", age_units=units)
    assert table.splitlines()[1] == f"sub-1\t{expected}"


def test_unknown_columns_go_unless_they_are_asked_for() -> None:
    text = "\ufeffparticipant_id\tname\tgroup\tsex\r\nsub-1\tJane Doe\tcontrol\tF\r\n\r\nsub-2\tJohn\n"
    assert metadata_tsv.clean(text, "participants")[0] == "participant_id\tsex\nsub-1\tF\nsub-2\tn/a\n"
    table, columns = metadata_tsv.clean(text, "participants", ["group"])
    assert columns == ["participant_id", "group", "sex"]
    assert table == "participant_id\tgroup\tsex\nsub-1\tcontrol\tF\nsub-2\tn/a\tn/a\n"
    assert metadata_tsv.rows_of(table, "participant_id", {"sub-2"}).splitlines()[1:] == ["sub-2\tn/a\tn/a"]
    uneven = "name\tparticipant_id\nx\tsub-1\na\u0085b\u2028c\tsub-2\nshort\n\n"
    assert metadata_tsv.rows_of(uneven, "participant_id", {"sub-2"}) == "name\tparticipant_id\na\u0085b\u2028c\tsub-2\n"
    about = {"group": {"Description": "of the study", "Contact": "Doe"}, "name": {"Description": "Doe"}, "sex": "Doe"}
    assert metadata_tsv.clean_description(about, columns) == {"group": {"Description": "of the study"}}
    assert metadata_tsv.clean("", "events") == ("\n", [])
    long = f"onset\tHED\n1\t{'Event, ' * 20_000}\n"  # the csv module takes 131,072 characters a cell
    assert metadata_tsv.clean(long, "events")[0] == long
