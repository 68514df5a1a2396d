"""Sidecars keep what was acquired and lose who, where and when; tables keep known columns, and nobody is past 89."""

import unicodedata
from typing import Any

import pytest

from cpmae import metadata_json, metadata_tsv

CASES: list[tuple[str, Any, bool]] = [
    ("EchoTime", 0.0035, True),
    ("EchoTime", [0.003, 0.006], True),
    ("EchoTime", "19700101", False),  # text where a number belongs
    ("EchoTime", [0.003, "Doe"], False),
    ("EchoTime", {"Doe": 1}, False),
    ("PhilipsRescaleSlope", 1.29, True),
    ("PhilipsRescaleIntercept", 0, True),
    ("PhilipsScaleSlope", 0.0083, True),
    ("PhilipsScaleSlope", "Doe", False),
    ("MultipartID", "dwi_1", True),
    ("MultipartID", "DWI run-01_part 2", True),
    ("MultipartID", "multishell", True),
    ("MultipartID", "dwi_Doe", False),
    ("MultipartID", "Doe", False),
    ("MultipartID", "dwi_20250618", False),
    ("MultipartID", "dwi_18_06_25", False),
    ("MultipartID", "180625", False),
    ("MultipartID", "", False),
    ("MultipartID", ["dwi_1"], False),
    ("NonlinearGradientCorrection", True, True),
    ("ShimSetting", [[1, 2], [3]], True),
    ("Manufacturer", "Siemens", True),
    ("ImageType", ["ORIGINAL", "PRIMARY", "M"], True),
    ("ScanOptions", "FS " * 40, False),  # prose
    ("ScanOptions", "PFP 2019-03-04", False),  # a date
    ("ConversionSoftwareVersion", "v1.0.20220720 (JP2:OpenJPEG)", True),
    ("ConversionSoftwareVersion", "v1.0.20220720  (JP2:OpenJPEG) (JP-LS:CharLS) GCC9.3.0", True),
    ("ConversionSoftwareVersion", "4.1.3", True),
    ("ConversionSoftwareVersion", "0.9.0rc1", True),
    ("ConversionSoftwareVersion", "by Jane Doe", False),
    ("ConversionSoftwareVersion", "v1.0 (Jane Doe 1970)", False),
    ("ConversionSoftwareVersion", "v1.0-JaneDoe", False),
    ("ConversionSoftwareVersion", "v1.0 2025-06-18", False),
    ("ConversionSoftwareVersion", "18.06.2025", False),
    ("ConversionSoftwareVersion", "20250618", False),
    ("ConversionSoftwareVersion", "1.0.20220720", True),
    ("PatientPosition", "HFS", True),
    ("EchoTime", float("nan"), False),  # is no JSON
    ("ShimSetting", [1, float("inf")], False),
    ("EchoTime", 10**400, False),
    ("TaskName", "Resting state, eyes open", True),
    ("SequenceName", "*tfl3d1_16ns", True),
    ("SequenceName", "Jane Doe", False),
    ("ScanOptions", "PFP_SFS", True),
    ("ScanOptions", "12.05.1970", False),
    ("CoilString", "of 5/12/1970", False),
    ("SoftwareVersions", "syngo MR E11", True),
    ("SoftwareVersions", "VE11C", True),
    ("SoftwareVersions", ["5.1.7", "5.1.72", "12.1.10"], True),  # no days
    ("SoftwareVersions", r"29\LX\MR Software release:DV29.1_R03_2118.a", True),
    ("SoftwareVersions", "R002.1.0.01.12.13", True),
    ("SoftwareVersions", "patched 18 Jun 2025", False),
    ("SoftwareVersions", "patched 18-JUNE-25", False),
    ("SoftwareVersions", "18Jun2025", False),
    ("SoftwareVersions", "of June 18th, 2025", False),
    ("SoftwareVersions", "2025 jun 18", False),
    ("SoftwareVersions", "VE11 of sept. 2025", False),
    ("SoftwareVersions", "18.06.25", False),
    ("SoftwareVersions", "of 6/18/25", False),
    ("SoftwareVersions", "of 18-6-25", False),
    ("SoftwareVersions", "2025_06_18", False),
    ("SoftwareVersions", "\uff12\uff10\uff12\uff15-06-18", False),  # digits of full width
    ("SoftwareVersions", "N4_VE11E_LATEST_20160120", False),
    ("PulseSequenceName", "ep2_sep", True),
    ("TaskName", "3D marching may decide", True),
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
    ("SeriesNumber", 3001, True),
    ("SeriesNumber", 20250618, False),
    ("AcquisitionNumber", 20250618101112.0, False),
    ("EchoTime", float("nan"), False),
    ("DeviceSerialNumber", "167024", False),
    ("whatever", 1, False),
]

MAKERS = [  # what scanners and converters write, which is neither date nor identifier nor somebody's name
    *(("SequenceName", text) for text in ("*tfl3d1_16ns", "epfid2d1_64", "*spcir_242ns", "*ep_b1000#1", "%AX_ep2d_se")),
    *(("PulseSequenceName", text) for text in ("FSPGR_BW31", "ep2d_bold", "*fl3d1r", "EFGRE3D", "epi2_pepolar")),
    *(("SoftwareVersions", text) for text in ("syngo MR E11", "syngo MR XA30", "syngo MR 2004A 4VA25A", "VE11C")),
    *(("SoftwareVersions", text) for text in ("5.3.1.2", "5.1.7.2", "11.1", "3.2.1.1", "12.1.10", "uMR_V10-Patch2")),
    ("SoftwareVersions", r"27\LX\MR Software release:DV26.0_R03_1831.b"),
    ("SoftwareVersions", r"24\LX\MR Software release:15.0_M4_0910.a"),
    *(("ReceiveCoilName", text) for text in ("HeadNeck_20", "QUADHEAD", "8HRBRAIN", "RM:Nova32ch", "HNS Head")),
    *(("CoilString", text) for text in ("HC1-7;NC1", "HE1-4;NE1,2", "HEA;HEP", "C:HEA;HEP")),
    *(("ManufacturersModelName", text) for text in ("Achieva dStream", "Ingenia Elition X", "Prisma_fit", "uMR 790")),
    *(("ManufacturersModelName", text) for text in ("DISCOVERY MR750w", "SIGNA PET/MR", "MAGNETOM Terra.X")),
    *(("Manufacturer", text) for text in ("Siemens Healthineers", "Philips Medical Systems", "GE MEDICAL SYSTEMS")),
    *(("ImageType", text.split()) for text in ("ORIGINAL PRIMARY M ND NORM DIS2D FM4_1 FIL", "DERIVED PRIMARY M_FFE")),
    *(("ParallelAcquisitionTechnique", text) for text in ("GRAPPA", "mSENSE", "Compressed SENSE")),
    *(("TaskName", text) for text in ("restingstate", "nback 2", "balloon analog risk task", "run 1 of 12")),
]


@pytest.mark.parametrize(("name", "value"), MAKERS)
def test_what_makers_write_is_taken_for_no_date_and_nobodys_name(name: str, value: Any) -> None:
    who = {
        "PatientName": "Mary^Phil^Gina^Otto^Lane^Anna^Head^Eric",
        "PatientID": "MRN-447123",
        "OperatorsName": "Rene, Nora, Alan, Vera",
        "InstitutionName": "State Unit",
        "InstitutionAddress": "1000 Brussels",
        "StationName": "MRC35131",
    }
    assert metadata_json.clean({**who, name: value}) == {name: value}


DAYS = [
    *("2025-6-18", "2025/6/18", "2025.6.8", "2025 6 18", "2025:06:18", "2025_6_8", "2025. 6. 8."),
    *("2025\u5e746\u670818\u65e5", "2025\ub144 6\uc6d4 18\uc77c", "\uff12\uff10\uff12\uff15\u5e74\uff16\u6708\uff18"),
    *("05042023", "18062025", "06182025", "w18062025", "180620251011", "2025061810", "20250618101112", "202506181011"),
    *("18. Juni 2025", "18 juin 2025", "18 de junio", "junio de 2025", "M\u00e4rz 2025", "Ma\u0308rz 2025", "3. Okt."),
    *("18.6.25", "18.6.2025", "18:06:2025", "18. 6. 2025", "250618-1011", "250618_101112", "2025-W25"),
    *("20250618T101112", "2 ao\u00fbt"),
]


@pytest.mark.parametrize("text", DAYS)
def test_days_are_found_in_the_forms_in_which_people_and_machines_write_them(text: str) -> None:
    fields = {"PulseSequenceName": f"tfl {text}", "CoilString": text, "TaskName": f"rest_{text}"}
    assert metadata_json.clean(fields) == {}
    assert metadata_tsv.clean(f"trial_type\ngo {text}\n", "events")[0] == "trial_type\nn/a\n"


@pytest.mark.parametrize(
    "text", ["1.2025.3", "2025", "20252318", "13132025", "2025.13.1", "5.1.72", "19.19.19", "R01_1831"]
)
def test_what_can_be_no_day_is_none(text: str) -> None:
    assert not metadata_json.holds_a_date(text)


@pytest.mark.parametrize("text", ["mprage_4471234", "tfl 1718700000", "\uff14\uff14\uff17\uff11\uff12\uff13\uff14"])
def test_seven_digits_in_a_row_are_an_identifier(text: str) -> None:
    assert metadata_json.clean({"PulseSequenceName": text, "ImageType": ["M", text]}) == {}
    assert metadata_json.clean({"PulseSequenceName": "tfl_447123"}) == {"PulseSequenceName": "tfl_447123"}


GLUED = [  # who it is, and a text with the same in other letters, without its punctuation, or within another word
    *(
        ("M\u00fcller^Jane", text)
        for text in ("restM\u00fcller", "mueller_tfl", "tfl_muller3", "JANEMULLER", "m_uller")
    ),
    *(("MUELLER^A", text) for text in ("restM\u00fcller", "restmuller", "restMu\u0308ller")),
    *(("Gro\u00df^J\u00f8rgen", text) for text in ("restGROSS", "xJorgenx", "xjoergenx")),
    *(("Bj\u00f6rk^\u00c5se", text) for text in ("xbjork", "xbjoerk")),
    *(("Lef\u00e8vre", text) for text in ("restlefevre", "LEFE\u0300VREx")),
    ("O'Brien", "restobrien"),
]


@pytest.mark.parametrize(("name", "text"), GLUED)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_found_within_words_and_in_other_letters(name: str, text: str, form: str) -> None:
    who = {"PatientName": unicodedata.normalize(form, name)}
    assert metadata_json.clean({**who, "PulseSequenceName": text, "ImageType": ["ORIGINAL", text]}) == {}
    assert metadata_json.clean({"PatientName": "Nobody", "PulseSequenceName": text}) == {"PulseSequenceName": text}


@pytest.mark.parametrize("text", ["MRN447123", "447123", "447-123", "tfl4 4 7 1 2 3", "0447123x", "447_123.9"])
@pytest.mark.parametrize("number", ["MRN-447123", "447-123", "MRN447123"])
def test_a_number_is_found_without_its_letters_and_punctuation(number: str, text: str) -> None:
    assert metadata_json.clean({"PatientID": number, "PulseSequenceName": text}) == {}


def test_short_numbers_are_found_where_they_stand_alone() -> None:
    who = {"PatientID": "MRN-0042", "StationName": "MR5312", "InstitutionAddress": "1000 Brussels"}
    texts = {"CoilString": "x0042y", "PulseSequenceName": "00421", "SoftwareVersions": "5.3.1.2", "TaskName": "b1000"}
    assert metadata_json.clean({**who, **texts}) == {k: v for k, v in texts.items() if k != "CoilString"}


def test_short_names_are_found_as_words_alone() -> None:
    who = {"PatientName": "Doe^Ada", "InstitutionName": "The Unity Clinic of Brighton", "StationName": "Unity"}
    texts = {"CoilString": "does", "PulseSequenceName": "adapt", "TaskName": "communityx", "ImageType": "clinical"}
    assert metadata_json.clean({**who, **texts}) == {k: v for k, v in texts.items() if k != "ImageType"}
    assert metadata_json.clean({**who, "CoilString": "xBrightonx", "TaskName": "ada"}) == {}
    assert metadata_json.clean({**who, "OperatorsName": "Unity", "TaskName": "communityx"}) == {}


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
        "ConversionSoftwareVersion": "v1.42042",
    }
    plain = {"SoftwareVersions": "MR 61 a", "MatrixCoilMode": "The Head", "Manufacturer": "Jan", "NumberShots": 42042}
    assert metadata_json.clean({**who, **texts, **plain}) == plain
    assert metadata_json.clean(texts) == texts  # nobody is named


NESTED = [
    {"global": {"const": {"PatientName": "Doe^Jane", "PatientPosition": "HFS"}}},
    {"global": {"slices": [{"x": 1}, [{"InstitutionName": ["The Doe Clinic"]}]]}},
    {"meta": {"patient_name": "DOE JANE"}},
    {"Deep": {"operators name": {"Alphabetic": "jane\u0301 doe"}}},
]


@pytest.mark.parametrize("dropped", NESTED)
def test_who_it_was_is_looked_for_in_objects_that_are_dropped(dropped: dict) -> None:
    fields = {"PulseSequenceName": "Doe special", "CoilString": "HFS 32", "EchoTime": 0.003}
    assert metadata_json.clean({**dropped, **fields}) == {"CoilString": "HFS 32", "EchoTime": 0.003}


@pytest.mark.parametrize("name", ["M\u00fcller", "Mu\u0308ller", "M\u00dcLLER"])
@pytest.mark.parametrize("text", ["M\u00fcller special", "Mu\u0308ller special"])
def test_a_name_is_found_however_its_letters_are_stored(name: str, text: str) -> None:
    assert metadata_json.clean({"PatientName": name, "PulseSequenceName": text}) == {}


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
    ("44", "yrs", "44"),
    ("44", "Years old", "44"),
    ("44", "Years", "44"),
    ("44", " yr. ", "44"),
    ("95", "year old", "89"),
    ("30", "Months", "30"),
    ("5000", "wks", "4644.02"),
]


@pytest.mark.parametrize(("age", "units", "expected"), AGES)
def test_ages_are_capped(age: str, units: str, expected: str) -> None:
    table, _ = metadata_tsv.clean(f"participant_id\tage\nsub-1\t{age}\n", "participants", age_units=units)
    assert table.splitlines()[1] == f"sub-1\t{expected}"


def test_ages_are_years_where_nothing_is_said() -> None:
    assert [metadata_tsv.age_units(about) for about in ({}, {"age": {"Units": ""}}, {"age": "x"})] == ["year"] * 3


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


CELLS = [
    ("participants", "sex", "F", "F"),
    ("participants", "sex", "Female", "Female"),
    ("participants", "sex", " o ", "o"),
    ("participants", "sex", "F (Jane Doe)", "n/a"),
    ("participants", "handedness", "AMBIDEXTROUS", "AMBIDEXTROUS"),
    ("participants", "handedness", "R", "R"),
    ("participants", "handedness", "as Jane Doe", "n/a"),
    ("participants", "species", "Homo sapiens", "Homo sapiens"),
    ("participants", "species", "NCBITaxon:9606", "NCBITaxon:9606"),
    ("participants", "species", "mus musculus", "mus musculus"),
    ("participants", "species", "Jane Doe", "n/a"),  # two words of letters, as a species has
    ("aslcontext", "volume_type", "m0scan", "m0scan"),
    ("aslcontext", "volume_type", "Jane Doe", "n/a"),
    ("events", "onset", "-1.5e1", "-1.5e1"),
    ("events", "onset", "10:11:12", "n/a"),
    ("events", "duration", "Doe", "n/a"),
    ("events", "onset", "1718700000.25", "n/a"),  # seconds of Unix
    ("events", "onset", "-1718700000", "n/a"),
    ("events", "onset", "739420.4", "n/a"),  # days of MATLAB
    ("events", "onset", "86399.5", "86399.5"),
    ("events", "onset", "86400", "n/a"),  # a day
    ("events", "onset", "inf", "n/a"),
    ("events", "onset", "nan", "n/a"),
    ("events", "duration", "1718700001.5", "n/a"),
    ("events", "duration", "-Infinity", "n/a"),
    ("events", "duration", "600", "600"),
    ("events", "response_time", "739420.4", "n/a"),
    ("events", "response_time", "1.7187e9", "n/a"),
    ("events", "response_time", "0.512", "0.512"),
    ("events", "sample", "20250618", "n/a"),
    ("events", "sample", "18062025.0", "n/a"),
    ("events", "sample", "1718700000", "n/a"),
    ("events", "sample", "17187000", "17187000"),
    ("events", "value", "20250618101112", "n/a"),
    ("events", "value", "18062025", "n/a"),
    ("events", "value", "1718700000", "n/a"),
    ("events", "value", "4711", "4711"),
    ("events", "stim_id", "COCO_train2014_000000420713.jpg", "COCO_train2014_000000420713.jpg"),
    ("events", "stim_id", "n02102040_1082.JPEG", "n02102040_1082.JPEG"),  # a class of ImageNet
    ("events", "stim_id", "face_1718700000.png", "n/a"),
    ("events", "response_time", "n/a", "n/a"),
    ("events", "trial_type", "go left", "go left"),
    ("events", "trial_type", "go 2025-06-18", "n/a"),
    ("events", "stim_id", "faces/18.06.2025/07.png", "n/a"),
    ("events", "stim_id", "face_07.png", "face_07.png"),
    ("events", "value", "20250618", "n/a"),
    ("events", "value", "255", "255"),
    ("events", "channel", "of 18 June 2025", "n/a"),
    ("events", "HED", "Sensory-event, (Label/of-\uff12\uff10\uff12\uff15-06-18)", "n/a"),
    ("events", "HED", "Sensory-event, (Red, Blue)", "Sensory-event, (Red, Blue)"),
    ("participants", "participant_id", "sub-20250618", "sub-20250618"),  # as paths have it
]


@pytest.mark.parametrize(("kind", "column", "cell", "expected"), CELLS)
def test_columns_with_values_of_bids_hold_no_others(kind: str, column: str, cell: str, expected: str) -> None:
    assert metadata_tsv.clean(f"{column}\n{cell}\n", kind)[0] == f"{column}\n{expected}\n"


def test_a_column_that_is_asked_for_keeps_values_that_bids_does_not_know() -> None:
    text = "participant_id\tsex\tstrain\tage\nsub-1\tweiblich\tC57BL/6J\t93\n"
    assert metadata_tsv.clean(text, "participants")[0] == "participant_id\tsex\tage\nsub-1\tn/a\t89\n"
    assert metadata_tsv.clean("trial_type\ndec_1\n", "events", ["trial_type"])[0] == "trial_type\ndec_1\n"
    expected = "participant_id\tsex\tstrain\tage\nsub-1\tweiblich\tC57BL/6J\t89\n"  # ages are capped all the same
    assert metadata_tsv.clean(text, "participants", ["sex", "strain", "age"])[0] == expected


def test_what_is_said_of_a_column_of_bids_is_plain() -> None:
    about = {
        "participant_id": {"Description": "key in //srv/list.xls", "Levels": {"sub-01": "Jane Doe"}, "Units": "year"},
        "age": {"Description": "asked Jane", "Units": "years old", "Maximum": 101, "Levels": {"93": "Jane Doe"}},
        "sex": {"Levels": {"M": "male", "F": "Jane Doe", "Jane": "female", "O": ["Doe"]}, "LongName": "Jane"},
        "handedness": {"Levels": "Jane Doe", "Units": "Jane Doe"},
        "onset": {"Units": "s"},
        "duration": {"Units": ["Doe"]},
        "trial_type": {"Levels": {"go": "as Jane Doe does"}, "HED": {"go": "Label/Doe"}},
        "group": {"Description": "of the study", "Levels": {"a": "patients"}},
    }
    assert metadata_tsv.clean_description(about, list(about), ["group"]) == {
        "age": {"Units": "years old"},
        "sex": {"Levels": {"M": "male"}},
        "onset": {"Units": "s"},
        "group": {"Description": "of the study", "Levels": {"a": "patients"}},
    }
    asked = metadata_tsv.clean_description(about, ["trial_type"], ["trial_type"])
    assert asked == {"trial_type": about["trial_type"]}
