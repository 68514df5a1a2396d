"""Identifiers planted wherever a DICOM file has room for them do not survive; what the image needs does."""

import shutil
import subprocess
import unicodedata
from io import BytesIO
from itertools import count
from pathlib import Path

import dicom_phantom as dp
import numpy as np
import phantom
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from cpmae import metadata_json
from cpmae.metadata_dicom import Identity, deidentify_header, pictures_of
from cpmae.options import Options

STORED = np.rint(phantom.head()[0] * 8).astype(np.uint16)[:, :, 30:32]
AFFINE = phantom.ras_affine()
TEXTS = (
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "StudyDescription"),
    *("SeriesDescription", "ProtocolName", "AccessionNumber", "StudyID", "ReferringPhysicianName", "OperatorsName"),
    *("PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "PatientName", "PatientID"),
    *("OtherPatientNames", "OtherPatientIDs", "PatientBirthName", "PatientMotherBirthName", "PatientAddress"),
    *("PatientTelephoneNumbers", "PatientComments", "AdditionalPatientHistory", "MedicalAlerts", "Allergies"),
    *("EthnicGroup", "Occupation", "IssuerOfPatientID", "MilitaryRank", "BranchOfService", "CountryOfResidence"),
    *("RegionOfResidence", "PatientReligiousPreference", "ResponsiblePerson", "ResponsibleOrganization"),
    *("DeviceSerialNumber", "ImageComments", "RequestedProcedureDescription", "RequestingPhysician"),
    *("PerformedProcedureStepID", "PerformedProcedureStepDescription", "PerformedStationName", "PerformedLocation"),
    *("ContrastBolusAgent", "AdmissionID", "CurrentPatientLocation", "ReasonForStudy", "StudyComments"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialSubjectID", "ClinicalTrialSiteName"),
    *("DerivationDescription", "RequestedProcedureID", "RequestedProcedureComments", "ScheduledStudyLocation"),
    *("CommentsOnThePerformedProcedureStep", "AdmittingDiagnosesDescription", "FillerOrderNumberImagingServiceRequest"),
    *("PlacerOrderNumberImagingServiceRequest", "OrderEnteredBy", "ServiceEpisodeID", "MedicalRecordLocator"),
    *("VisitComments", "PatientState", "SpecialNeeds", "GantryID", "PlateID", "DeviceDescription", "DeviceID"),
    # none of these stands in the standard's table
    *("AcquisitionProtocolName", "PotentialReasonsForProcedure", "InstructionText", "TextValue", "FrameLabel"),
    *("CommentsOnTheScheduledProcedureStep", "PartialViewDescription", "StorageMediaFileSetID", "RetrieveURL"),
    *("WindowCenterWidthExplanation", "StackID", "PositionReferenceIndicator", "LUTLabel", "LUTExplanation"),
)
DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientBirthDate", "InstanceCreationDate")
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "InstanceCreatorUID")


class Plants:
    """Every call gives another identifier; all of them are remembered."""

    def __init__(self) -> None:
        self.numbers, self.known = count(1001), []

    def __call__(self, form: str = "PLANT{}") -> str:
        text = form.format(next(self.numbers))
        self.known.append(text)
        return text

    def found_in(self, raw: bytes) -> list[str]:
        return [text for text in self.known if text.encode() in raw or text.encode("utf-16-le") in raw]


def fill(data: Dataset, plants: Plants, depth: int = 0) -> None:
    """Identifiers in this data set, in private tags and in sequences below it."""
    for keyword in TEXTS:
        setattr(data, keyword, plants())
    for keyword in DATES:
        setattr(data, keyword, plants("{}1231"))  # of the year 1001 and the next ones
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(data, keyword, plants("101112.{}"))
    data.AcquisitionDateTime, data.PerformedProcedureStepStartDateTime = plants("{}1230101112"), plants("{}1229101112")
    for keyword in UIDS:
        setattr(data, keyword, plants("1.2.3.{}.4"))
    block = data.private_block(0x0029, "ACME HEADER", create=True)
    block.add_new(0x10, "OB", f"x{plants()}x".encode() * 20)
    block.add_new(0x11, "LO", plants())
    block.add_new(0x12, "UN", plants().encode() + b" ")
    inner = Dataset()
    inner.PatientName = plants()
    block.add_new(0x13, "SQ", Sequence([inner]))
    if depth == 2:
        return
    # the last two are not in the standard's table: they stay, and what is in them is looked at
    for keyword in ("RequestAttributesSequence", "ReferencedImageSequence", "AnatomicRegionSequence", "MREchoSequence"):
        item = Dataset()
        fill(item, plants, depth + 1)
        setattr(data, keyword, Sequence([item]))
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = plants(), "99HOSPITAL", plants()
    data.ProcedureCodeSequence = Sequence([code])
    nobodys = Dataset()
    nobodys.CodeMeaning = plants()
    data.RequestedProcedureCodeSequence = Sequence([nobodys])


def planted(enhanced: bool, tmp_path: Path) -> tuple[Dataset, Plants]:
    if enhanced:
        path = dp.enhanced(tmp_path / "e.dcm", STORED, AFFINE)
    else:
        path = dp.classic(tmp_path, STORED, AFFINE)[0]
    data, plants = pydicom.dcmread(path), Plants()
    fill(data, plants)
    for group in (0x6000, 0x6002, 0x5000):
        data.add_new((group, 0x0022), "LO", plants())
        data.add_new((group, 0x3000), "OW", plants().encode() + b" ")
    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.PixelData = plants().encode().ljust(16)
    icon["PixelData"].VR = "OB"
    data.IconImageSequence = Sequence([icon])
    data.add_new((0xFFFC, 0xFFFC), "OB", plants().encode())
    data.preamble = plants().encode().ljust(128, b"\0")
    data.file_meta.SourceApplicationEntityTitle = plants()
    data.file_meta.PrivateInformationCreatorUID = plants("1.2.3.{}.4")
    data.file_meta.PrivateInformation = plants().encode()
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [8, 0, 16], plants()
    table.add_new("LUTData", "OW", plants().encode().ljust(16))
    data.VOILUTSequence, data.VOILUTFunction = Sequence([table]), "LINEAR"
    data.add_new("ICCProfile", "OB", plants().encode())
    data.add_new((0x0028, 0x9990), "UN", plants().encode())
    data.add_new("SmallestImagePixelValue", "US", 3)
    data.add_new("LargestImagePixelValue", "US", 4095)
    return data, plants


def written(data: Dataset) -> bytes:
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_no_planted_identifier_survives(tmp_path: Path, enhanced: bool) -> None:
    data, plants = planted(enhanced, tmp_path)
    raw = written(data)
    assert len(plants.known) > 400 and len(plants.found_in(raw)) > 400
    deidentify_header(data, Identity(), "someone")
    clean = written(data)
    assert plants.found_in(clean) == []
    again = pydicom.dcmread(BytesIO(clean))
    assert again.PixelData == pydicom.dcmread(BytesIO(raw)).PixelData
    kept = ("Rows", "Columns", "BitsStored", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")
    assert all(keyword in again for keyword in kept)


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_no_extreme_and_no_window_of_the_original_stays(tmp_path: Path, enhanced: bool, clean: bool) -> None:
    data, _ = planted(enhanced, tmp_path)
    ranges = ("SmallestImagePixelValue", "LargestImagePixelValue", "WindowCenter", "WindowWidth", "LUTData")

    def held() -> set[str]:
        return {element.keyword for element in data.iterall()} & set(ranges)

    assert held() == set(ranges)
    deidentify_header(data, Identity(clean), "someone")
    assert held() == set()


def test_a_public_code_stays(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.classic(tmp_path, STORED, AFFINE)[0])
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "69536005", "SCT", "Head"
    data.AnatomicRegionSequence = Sequence([code])
    deidentify_header(data, Identity(), "someone")
    assert data.AnatomicRegionSequence[0].CodeMeaning == "Head"


def test_a_name_in_text_that_stays_goes_too(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.classic(tmp_path, STORED, AFFINE)[0])
    data.SequenceName, data.SoftwareVersions = "t1_doe_42", "1.0"  # the phantom's name is Doe^Jane
    data.ReceiveCoilName, data.TransmitCoilName = "does", "of MRN 0042"
    deidentify_header(data, Identity(), "someone")
    assert "SequenceName" not in data and "TransmitCoilName" not in data and data.ReceiveCoilName == "does"
    assert data.SoftwareVersions == "1.0" and data.ImagedNucleus == "1H"


def test_short_names_and_names_among_codes_go_and_terms_stay(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.classic(tmp_path, STORED, AFFINE)[0])
    data.PatientName, data.PatientID, data.OperatorsName = "Li^Wu^No^Mr", "12", "Head^J=王"
    data.SequenceName, data.SoftwareVersions, data.ReceiveCoilName = "tfl Li Wu", "syngo MR 12.0 J", "of 王"
    data.BodyPartExamined, data.ScanOptions, data.BurnedInAnnotation = "BRAIN LI WU", ["FS", "WU"], "NO"
    data.ImageType = ["ORIGINAL", "PRIMARY", "LI", "ND"]
    item = Dataset()
    item.ImageType = ["DERIVED", "PRIMARY", "WU LI"]
    data.MREchoSequence = Sequence([item])
    deidentify_header(data, Identity(), "someone")
    again = pydicom.dcmread(BytesIO(written(data)))
    assert "SequenceName" not in again and "ReceiveCoilName" not in again and again.BodyPartExamined == ""
    assert again.ScanOptions == ["FS", ""] and again.ImageType == ["DERIVED", "PRIMARY", "", "ND"]
    assert again.MREchoSequence[0].ImageType == ["DERIVED", "PRIMARY", ""]
    assert again.SoftwareVersions == "syngo MR 12.0 J"  # Mr, two digits and an initial tell nobody
    assert (again.BurnedInAnnotation, again.Modality, again.SpecificCharacterSet) == ("NO", "MR", "ISO_IR 100")
    data.BodyPartExamined = "HEAD"
    deidentify_header(data, Identity(), "someone")
    assert data.BodyPartExamined == "HEAD"


KEPT = [  # texts and code strings of makers and of the standard
    *(("SequenceName", text) for text in ("*spcir_242ns", "epfid2d1_64", "FSPGR_BW31", "*ep_b1000#1")),
    *(
        ("ManufacturerModelName", text)
        for text in ("Achieva dStream", "Prisma_fit", "DISCOVERY MR750w", "SIGNA PET/MR")
    ),
    *(("SoftwareVersions", text) for text in ("syngo MR E11", "5.3.1.2", "VE11C", "11.1")),
    ("SoftwareVersions", ["27", "LX", "MR Software release:DV26.0_R03_1831.b"]),
    *(("Manufacturer", text) for text in ("SIEMENS", "Philips Medical Systems", "GE MEDICAL SYSTEMS")),
    ("ReceiveCoilName", "HC1-7;NC1"),
    ("SoftwareVersions", "syngo MR XA30"),
    ("SoftwareVersions", "syngo MR 20.1"),
    ("SoftwareVersions", "syngo MR 2004V 4VB11D"),
    ("SoftwareVersions", ["27", "LX", "MR Software release:DV27.1_R03_2118.a"]),
    ("SoftwareVersions", ["5.1.7", "5.1.72", "12.1.10"]),
    ("SequenceName", "*tfl3d1_16ns"),
    ("ReceiveCoilName", "HeadNeck_20_TCS"),
    ("ScanOptions", ["PFP", "SFS", "FAST_GEMS"]),
    ("PatientPosition", "HFS"),
    ("SequenceVariant", ["SK", "SP", "MP", "OSP"]),
    ("MRAcquisitionType", "3D"),
    ("BodyPartExamined", "HEAD"),
    *(
        ("ImageType", ["DERIVED", "PRIMARY", *kinds.split()])
        for kinds in (
            "M P R I NORM DIS2D DIS3D ND MOSAIC MPR FFE M_FFE M_SE T1_MAP ADC TRACEW FM4_1 DIFFUSION",
            "FLUID_ATTENUATED PROTON_DENSITY B_1000 TI_2500",
        )
    ),
    ("ImageType", ["DERIVED", "PRIMARY", "CSA RESAMPLED", "", "PROJECTION IMAGE"]),
    ("AcquisitionNumber", 9999999),
    ("SeriesNumber", 30001),
    ("EchoTime", 2.98),
]
GONE = [  # and what becomes of it
    ("SoftwareVersions", "syngo 20250618", None),
    ("SoftwareVersions", "20250618101112", None),
    ("SoftwareVersions", ["syngo MR E11", "N4_VE11E_LATEST_20160120"], ["syngo MR E11", ""]),
    ("SequenceName", "*tfl 2025-06-18", None),
    ("SequenceName", "*tfl 18.06.2025", None),
    ("ReceiveCoilName", "coil QX3306498", None),
    ("ReceiveCoilName", ["of Sankt", "Anna Haus"], None),  # the institution's name goes over two values
    ("ReceiveCoilName", "coil ST4711", None),  # StudyID
    ("ManufacturerModelName", "Dep Neuro Xyz", None),  # the department
    ("Manufacturer", "QX1714134", ""),
    ("ScanOptions", ["FS", "20250618"], ["FS", ""]),
    ("ScanOptions", "18 JUN 25", ""),
    ("ScanOptions", "A1B2C3D4E5", ""),
    ("ScanOptions", "as the doctor said", ""),  # more than a code string holds
    ("ImageType", ["DERIVED", "PRIMARY", "M", "QX9347278"], ["DERIVED", "PRIMARY", "M", ""]),
    ("PatientPosition", "QXLI", ""),
    ("ContentQualification", "QXLI", ""),
    ("SequenceVariant", ["SP", "QXLI"], ["SP", ""]),
    ("AcquisitionNumber", 19480705, ""),
    ("SeriesNumber", 20250618, ""),
    ("InstanceNumber", -20250618, ""),
    ("EchoTime", 20250618.5, None),
    ("TriggerTime", 36672000.0, None),  # the time of the day in ms
    ("EchoTrainLength", 10**7, None),
]


def with_value(keyword: str, value: object) -> Dataset:
    return header(
        **{"StudyID": "ST4711", "InstitutionalDepartmentName": "Dep Neuro Xyz", "InstitutionName": "Sankt Anna"},
        **{"OperatorsName": "Mary^Phil^Gina^Otto^Lane", "InstitutionAddress": "Rue 12, 1000 Brussels"},
        **{keyword: value},
    )


@pytest.mark.parametrize(("keyword", "value"), KEPT)
@pytest.mark.parametrize("retain", [(), ("dates",)], ids=str)
def test_what_makers_write_stays(keyword: str, value: object, retain: tuple) -> None:
    data = with_value(keyword, value)
    deidentify_header(data, Identity(retain=frozenset(retain)), "a")
    assert data[keyword].value == value


@pytest.mark.filterwarnings("ignore:.*VR CS")
@pytest.mark.parametrize(("keyword", "value", "expected"), GONE)
@pytest.mark.parametrize("retain", [(), ("dates",)], ids=str)
def test_dates_and_identifiers_where_makers_write_go(
    keyword: str, value: object, expected: object, retain: tuple
) -> None:
    data = with_value(keyword, value)
    data.MREchoSequence = Sequence([with_value(keyword, value)])
    deidentify_header(data, Identity(retain=frozenset(retain)), "a")
    again = pydicom.dcmread(BytesIO(written(data)))
    for found in (again, again.MREchoSequence[0]):
        assert (keyword in found) is (expected is not None) and (found.get(keyword) or "") == (expected or "")


def test_an_enhanced_image_keeps_an_instance_number(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.enhanced(tmp_path / "e.dcm", STORED, AFFINE, InstanceNumber=20250618))
    deidentify_header(data, Identity(), "a")
    assert data.InstanceNumber == 1  # which its class demands


def test_what_integers_mean_stays_however_large_it_is() -> None:
    mapping = item(RealWorldValueSlope=3e7, RealWorldValueIntercept=-4e8, DoubleFloatRealWorldValueLastValueMapped=1e9)
    data = header(RescaleSlope=2e7, RescaleIntercept=-5e7, RealWorldValueMappingSequence=Sequence([mapping]))
    deidentify_header(data, Identity(), "a")
    assert (data.RescaleSlope, data.RescaleIntercept) == (2e7, -5e7)
    (found,) = data.RealWorldValueMappingSequence
    assert (found.RealWorldValueSlope, found.RealWorldValueIntercept) == (3e7, -4e8)
    assert found.DoubleFloatRealWorldValueLastValueMapped == 4095  # of 12 bits


EXTREMES = {
    **{"SmallestValidPixelValue": ("US", 3), "LargestValidPixelValue": ("US", 3011)},
    **{"LargestMonochromePixelValue": ("US", 3011), "UpperLowerPixelValues": ("IS", [3011, 3])},
    **{"MinimumStoredValueMapped": ("FD", 3.0), "MaximumStoredValueMapped": ("FD", 3011.0)},
    **{"GrayLookupTableDescriptor": ("US", [256, 0, 16]), "GrayLookupTableData": ("US", [3011] * 9)},
}


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
def test_no_further_value_of_all_voxels_stays(clean: bool) -> None:
    data, inner = header(), Dataset()
    for where in (data, inner):
        for keyword, (vr, value) in EXTREMES.items():
            where.add_new(keyword, vr, value)
    data.MREchoSequence = Sequence([inner])
    colours = Dataset()
    colours.add_new("MaximumStoredValueMapped", "FD", 3011.0)
    data.StoredValueColorRangeSequence = Sequence([colours])
    assert len(pictures_of(data)) == 2 * len(EXTREMES) + 3
    deidentify_header(data, Identity(clean), "a")
    assert pictures_of(data) == []
    told = [e for e in data.iterall() if e.VR != "UI"]  # a new UID holds any four digits now and then
    assert not [e for e in told if e.keyword in EXTREMES or "3011" in str(e.value)]


def mapped(first: int, last: int, vr: str = "US", **values: object) -> Dataset:
    mapping = item(RealWorldValueSlope=2.0, RealWorldValueIntercept=0.0, **values)
    mapping.add_new("RealWorldValueFirstValueMapped", vr, first)
    mapping.add_new("RealWorldValueLastValueMapped", vr, last)
    return mapping


def ends(data: Dataset) -> list[tuple[int, int]]:
    items = data.RealWorldValueMappingSequence
    return [(i.RealWorldValueFirstValueMapped, i.RealWorldValueLastValueMapped) for i in items]


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
@pytest.mark.parametrize(
    ("bits", "signed", "vr", "expected"),
    [
        (12, 0, "US", (0, 4095)),
        (16, 0, "US", (0, 65535)),
        (16, 1, "SS", (-32768, 32767)),
        (12, 1, "US or SS", (-2048, 2047)),
        (32, 0, "US", (0, 65535)),
    ],
)
def test_real_world_values_are_for_all_that_can_be_stored(
    bits: int, signed: int, vr: str, expected: tuple[int, int], clean: bool
) -> None:
    data = header()
    data.BitsStored, data.PixelRepresentation = bits, signed
    data.RealWorldValueMappingSequence = Sequence([mapped(3, 3011, vr)])
    data.MREchoSequence = Sequence([item(RealWorldValueMappingSequence=Sequence([mapped(5, 2999, vr)]))])
    deidentify_header(data, Identity(clean), "a")
    again = pydicom.dcmread(BytesIO(written(data)))
    assert ends(again) == ends(again.MREchoSequence[0]) == [expected]


def test_maps_that_follow_one_another_meet_where_they_did_and_tables_stay_as_long_as_they_are() -> None:
    table = mapped(1, 3500, RealWorldValueLUTData=[0.5] * 3500)
    data = header(RealWorldValueMappingSequence=Sequence([mapped(3, 1000), mapped(1001, 3011), table]))
    deidentify_header(data, Identity(), "a")
    assert ends(data) == [(0, 1000), (1001, 4095), (1, 3500)]
    assert len(data.RealWorldValueMappingSequence[2].RealWorldValueLUTData) == 3500


LONG = {
    **{"RWaveTimeVector": "FL", "InversionTimes": "FD", "TableOfXBreakPoints": "UL", "ReferencedPathIndex": "US"},
    **{"SliceLocationVector": "DS", "TriggerVector": "IS", "VerticesOfTheRegion": "SS", "HistogramData": "UL"},
}


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
@pytest.mark.parametrize("keyword", LONG)
def test_room_for_a_picture_is_not_kept_in_numbers_of_the_standard(keyword: str, clean: bool) -> None:
    for many, count_of in ((False, 64), (True, 66)):
        data, inner = header(), Dataset()
        for where in (data, inner):
            where.add_new(keyword, LONG[keyword], [7] * count_of)
        data.MREchoSequence = Sequence([inner])
        assert len(pictures_of(data)) == 2 + 2 * many  # the window
        deidentify_header(data, Identity(clean), "a")
        assert (keyword in data) is (keyword in data.MREchoSequence[0]) is not many


def test_bytes_of_the_standard_have_no_room_for_a_picture_where_metadata_is_kept() -> None:
    data = header()
    data.add_new("SpectroscopyData", "OF", bytes(4096))
    data.add_new("ICCProfile", "OB", bytes(4096))  # colours
    frames = item(ReferencedSOPInstanceUID="1.2.3", ReferencedFrameNumber=list(range(1, 200)))
    data.ReferencedImageSequence = Sequence([frames])
    deidentify_header(data, Identity(clean=False), "a")
    assert "SpectroscopyData" not in data and len(data.ICCProfile) == 4096
    assert len(data.ReferencedImageSequence[0].ReferencedFrameNumber) == 199


def test_bodies_are_for_those_who_ask_for_them() -> None:
    of_a_body = {"ExaminedBodyThickness": 231.0, "HeartRate": 61, "MeasuredAPDimension": 190.0}
    plain, asked = header(**of_a_body), header(**of_a_body)
    deidentify_header(plain, Identity(retain=frozenset({"dates", "device", "uids"})), "a")
    assert not of_a_body.keys() & set(plain.dir())
    deidentify_header(asked, Identity(retain=frozenset({"patient"})), "a")
    assert all(asked[keyword].value == value for keyword, value in of_a_body.items())


GLUED = {
    **{"SequenceName": "mueller_tfl", "PulseSequenceName": "MRN447123", "ManufacturerModelName": "447123 Prisma"},
    **{"SoftwareVersions": "janemuller", "ReceiveCoilName": "447-123", "TransmitCoilName": "SanktAnnaHaus_32"},
    **{"MultiCoilElementName": "Muller", "ImageFilter": "J.M\u00fcller", "ConvolutionKernel": "xSN4714711"},
    **{"DimensionDescriptionLabel": "2025.6.8", "TypeOfFilters": "18062025", "RescaleType": "250618-1012"},
}


def test_names_and_numbers_within_words_go() -> None:
    who = {"PatientName": "M\u00fcller^Jane", "PatientID": "MRN-447123", "InstitutionName": "Sankt Anna Haus"}
    data = header(SpecificCharacterSet="ISO_IR 192", DeviceSerialNumber="SN-4714711", **who, **GLUED)
    data.ImageType = ["ORIGINAL", "PRIMARY", "MULLER_JANE", "JANEMULLER", "MUELLER", "ND"]
    data.Manufacturer = "Siemens Healthineers"
    deidentify_header(data, Identity(), "a")
    assert not GLUED.keys() & set(data.dir())
    assert data.ImageType == ["DERIVED", "PRIMARY", "", "", "", "ND"] and data.Manufacturer == "Siemens Healthineers"


def broken() -> Dataset:
    """A header with values that are longer than the standard allows, as a file has them before they are looked at."""
    data = pydicom.dcmread(BytesIO(written(header())))
    for tag, vr, value in (
        (0x00181020, "LO", b"x" * 70),
        (0x0020000D, "UI", b"1.2." + b"3" * 66),
        (0x00180081, "DS", b"2.9" + b"0" * 19),
    ):
        data[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    return data


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
def test_headers_that_break_rules_are_cleaned_without_a_word(clean: bool, recwarn: pytest.WarningsRecorder) -> None:
    data = broken()
    deidentify_header(data, Identity(clean), "a")
    written(data)
    assert not recwarn.list and data.SoftwareVersions == "x" * 70 and data.EchoTime == 2.9


def test_headers_that_break_rules_are_looked_through_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    assert pictures_of(broken()) == [0x00281050, 0x00281051]  # the window
    assert not recwarn.list


def test_stacks_stay_apart_under_numbers(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.enhanced(tmp_path / "e.dcm", np.repeat(STORED, 2, axis=2), AFFINE))
    frames = data.PerFrameFunctionalGroupsSequence
    for frame, name in zip(frames, ("of Jane", "of Jane", "of John", "2"), strict=True):
        frame.FrameContentSequence[0].StackID = name
    deidentify_header(data, Identity(), "someone")
    one, same, other, plain = (frame.FrameContentSequence[0].StackID for frame in frames)
    assert one == same != other and plain == "2" and one.isdigit() and other.isdigit()


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_marks(tmp_path: Path, clean: bool, enhanced: bool) -> None:
    data, plants = planted(enhanced, tmp_path)
    before = written(data)
    deidentify_header(data, Identity(clean), "someone")
    raw = written(data)
    found = pydicom.dcmread(BytesIO(raw))
    codes = [(c.CodeValue, c.CodingSchemeDesignator) for c in found.DeidentificationMethodCodeSequence]
    assert codes == [("113102", "DCM"), ("113100", "DCM")] if clean else [("113102", "DCM")]
    assert found.RecognizableVisualFeatures == "NO" and found.PatientIdentityRemoved == ("YES" if clean else "NO")
    assert "cpmae" in found.DeidentificationMethod and "cpmae" in found.DerivationDescription
    assert found.ImageType[0] == "DERIVED" and found.ImageType[1:] == pydicom.dcmread(BytesIO(before)).ImageType[1:]
    if enhanced:
        kinds = found.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0].FrameType
        assert kinds[0] == "DERIVED"
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID
    assert raw[:128] == bytes(128)
    pictures = [p for p in plants.known if p.encode() in raw]
    if not clean:  # names stay; UIDs, overlays, curves, thumbnails, private bytes and what follows the pixels do not
        assert found.PatientName in plants.known and found[0x00291011].value in plants.known
        assert not any(p.startswith("1.2.3.") for p in pictures)
        for gone in (0x60003000, 0x50003000, 0x00880200, 0x00291010, 0x00291012, 0xFFFCFFFC):
            assert gone not in found
        assert "LargestImagePixelValue" not in found


def test_a_type_of_one_value_is_one_value(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.enhanced(tmp_path / "all.dcm", STORED, AFFINE, ImageType="ORIGINAL"))
    (kind,) = data.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence
    kind.FrameType = "ORIGINAL"
    deidentify_header(data, Identity(), "someone")
    assert data.ImageType == kind.FrameType == ["DERIVED", "PRIMARY"]


def test_images_that_share_a_uid_get_one_each(tmp_path: Path) -> None:
    identity, (path, _) = Identity(), dp.classic(tmp_path, STORED, AFFINE)
    uids = []
    for repeat in (0, 1, 2, 1):
        data = pydicom.dcmread(path)
        old = data.SOPInstanceUID
        deidentify_header(data, identity, "someone", repeat=repeat)
        assert data.SOPInstanceUID == data.file_meta.MediaStorageSOPInstanceUID
        uids.append(data.SOPInstanceUID)
    assert uids[0] == identity.uid(old) and len(set(uids)) == 3 and uids[1] == uids[3]


def test_siemens_parameters_stay_where_metadata_is_kept(tmp_path: Path) -> None:
    data = pydicom.dcmread(dp.classic(tmp_path, STORED, AFFINE)[0])
    block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", b"SV10\4\3\2\1parameters")
    block.add_new(0x15, "OB", b"a thumbnail!")
    deidentify_header(data, Identity(clean=False), "someone")
    assert 0x00291010 in data and 0x00291015 not in data


def test_new_uids_are_one_for_each_old_one_in_a_run_and_others_in_the_next() -> None:
    one, other = Identity(), Identity()
    assert one.uid("1.2.3.4") == one.uid("1.2.3.4") != one.uid("1.2.3.5")
    assert one.uid("1.2.3.4") != other.uid("1.2.3.4")
    assert one.uid(MRImageStorage) == MRImageStorage and one.uid(EnhancedMRImageStorage) == EnhancedMRImageStorage
    assert pydicom.uid.UID(one.uid("1.2.3.4")).is_valid and len(one.uid("1.2.3.4")) <= 64
    assert one.patient_id("a") == one.patient_id("a") != one.patient_id("b")
    assert "key" not in repr(one)


def header(**values: object) -> Dataset:
    data = dp.base(MRImageStorage, **values)
    return dp.image(data, STORED[:, :, 0])


def test_retained_dates_move_together_by_patient() -> None:
    identity = Identity(retain=frozenset({"dates"}))
    moved = []
    for date, patient in (("20200110", "a"), ("20210110", "a"), ("20200110", "b")):
        data = header(StudyDate=date, AcquisitionDateTime=f"{date}101112.5")
        deidentify_header(data, identity, patient)
        assert data.AcquisitionDateTime == f"{data.StudyDate}101112.5" and data.StudyTime == "101112"
        assert data.PatientBirthDate == "" and data.LongitudinalTemporalInformationModified == "MODIFIED"
        assert "113107" in [c.CodeValue for c in data.DeidentificationMethodCodeSequence]
        moved.append(np.datetime64(f"{data.StudyDate[:4]}-{data.StudyDate[4:6]}-{data.StudyDate[6:]}"))
    assert (moved[1] - moved[0]).astype(int) == 366 and moved[0] != moved[2]
    assert moved[0] < np.datetime64("2019-01-12")


@pytest.mark.filterwarnings("ignore:.*VR (DA|DT|TM)")
@pytest.mark.parametrize("date", ["00010101", "2020", "1995.03.02", "20200110 by Doe", "20200110-20200111"])
def test_what_is_no_date_alone_is_not_retained(date: str) -> None:
    data = header(StudyDate=date, AcquisitionDate=date, AcquisitionDateTime=f"{date} ", AcquisitionTime="1011 by Doe")
    deidentify_header(data, Identity(retain=frozenset({"dates"})), "a")
    assert data.StudyDate == ""  # which has to be there
    assert not {"AcquisitionDate", "AcquisitionTime"} & set(data.dir()) and "Doe" not in str(data)


def test_retained_characteristics_device_and_uids() -> None:
    plain, patient, device, uids = (
        header(
            **{"PatientAge": "093Y", "DeviceSerialNumber": "SN-77", "StationName": "MR1", "PatientBodyMassIndex": 31.5},
            OtherStudyNumbers=7077,
        )
        for _ in range(4)
    )
    study = plain.StudyInstanceUID
    deidentify_header(plain, Identity(), "a")
    assert not {"PatientAge", "PatientBodyMassIndex", "StationName"} & set(plain.dir()) and plain.PatientSex == ""
    assert plain.LongitudinalTemporalInformationModified == "REMOVED"
    deidentify_header(patient, Identity(retain=frozenset({"patient"})), "a")
    assert (patient.PatientAge, patient.PatientSex, patient.PatientWeight) == ("090Y", "F", 61)
    assert "OtherStudyNumbers" not in plain and "OtherStudyNumbers" not in patient
    assert patient.PatientBodyMassIndex == 31.5
    deidentify_header(device, Identity(retain=frozenset({"device"})), "a")
    assert (device.DeviceSerialNumber, device.StationName) == ("SN-77", "MR1")
    old = uids.SOPInstanceUID
    deidentify_header(uids, Identity(retain=frozenset({"uids"})), "a")
    assert uids.StudyInstanceUID == study and uids.SOPInstanceUID != old
    for data, code in ((patient, "113108"), (device, "113109"), (uids, "113110")):
        assert code in [c.CodeValue for c in data.DeidentificationMethodCodeSequence]


def item(**values: object) -> Dataset:
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


PALETTES = ("RedPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData", "LUTData")


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
def test_of_all_pictures_only_the_pixels_stay(clean: bool) -> None:
    data, inner = header(), Dataset()
    pixels = data.PixelData
    for tag in (0x7FE00001, 0x7FE00020, 0x7FE00030, 0x7FE09999, 0x7F020010, 0x7FE11010):
        data.add_new(tag, "OW", pixels)
    data.add_new(0x7FE10010, "LO", "ACME")
    inner.add_new(0x7FE00010, "OW", pixels)
    inner.add_new(0x7FE00020, "OW", pixels)
    for tables in (data, inner):
        for keyword in PALETTES:
            tables.add_new(keyword, "OW", pixels)
    data.MREchoSequence = Sequence([inner])
    deidentify_header(data, Identity(clean), "a")
    assert [tag for tag in data.keys() if tag.group & 0xFF00 == 0x7F00] == [0x7FE00010] and data.PixelData == pixels
    assert written(data).count(pixels) == 1


def test_a_retained_device_retains_no_date() -> None:
    dates = {"DateOfLastCalibration": "20250616", "TimeOfLastCalibration": "063000", "StudyDate": "20250618"}
    plain, moved = header(**dates), header(**dates)
    deidentify_header(plain, Identity(retain=frozenset({"device"})), "a")
    assert not {"DateOfLastCalibration", "TimeOfLastCalibration"} & set(plain.dir())
    assert plain.DeviceSerialNumber == "SN-77"
    deidentify_header(moved, Identity(retain=frozenset({"device", "dates"})), "a")
    days = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (moved.DateOfLastCalibration, moved.StudyDate)]
    assert moved.DateOfLastCalibration != "20250616" and (days[1] - days[0]).astype(int) == 2


def test_retained_uids_are_those_of_study_series_and_frame_of_reference() -> None:
    kept = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
    gone = (
        *("SOPInstanceUID", "DeviceUID", "IrradiationEventUID", "InstanceCreatorUID", "ConcatenationUID"),
        *("SOPInstanceUIDOfConcatenationSource", "ReferencedSOPInstanceUID", "DimensionOrganizationUID"),
        *("SynchronizationFrameOfReferenceUID", "AcquisitionUID", "TrackingUID", "MultiFrameSourceSOPInstanceUID"),
    )
    plain, uids, device = (header() for _ in range(3))
    for data in (plain, uids, device):
        inner = Dataset()
        for number, keyword in enumerate((*kept, *gone)):
            setattr(data, keyword, f"1.3.12.2.1107.5.2.32.35131.{number}")
            setattr(inner, keyword, f"1.3.12.2.1107.5.2.32.35131.{number}")
        data.MREchoSequence = Sequence([inner])
    old = {keyword: str(uids[keyword].value) for keyword in (*kept, *gone)}
    identity = Identity(retain=frozenset({"uids"}))
    deidentify_header(uids, identity, "a")
    for data in (uids, uids.MREchoSequence[0]):
        assert all(data[keyword].value == old[keyword] for keyword in kept)
        assert all(data[keyword].value == identity.uid(old[keyword]) for keyword in gone)
    deidentify_header(device, Identity(retain=frozenset({"device"})), "a")
    assert device.DeviceUID == old["DeviceUID"] and device.StudyInstanceUID != old["StudyInstanceUID"]
    deidentify_header(plain, Identity(), "a")
    assert "32.35131." not in str(plain)


def test_what_an_earlier_tool_said_goes_but_for_its_public_codes() -> None:
    data, kept = (header(DeidentificationMethod=["by A. Clerk", "on 2025-06-19"]) for _ in range(2))
    for each in (data, kept):
        each.DeidentificationMethodCodeSequence = Sequence(
            item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning="by A. Clerk")
            for value, scheme in (("113105", "DCM"), ("113105", "DCM"), ("999999", "DCM"), ("1", "SCT"), ("2", "99X"))
        )
    inner = item(DeidentificationMethod="by A. Clerk")
    data.MREchoSequence = Sequence([inner])
    deidentify_header(data, Identity(tool="cpmae 1"), "a")
    assert data.DeidentificationMethod == "cpmae 1: everything outside the brain replaced"
    codes = [(c.CodeValue, c.CodeMeaning) for c in data.DeidentificationMethodCodeSequence]
    assert [value for value, _ in codes] == ["113105", "113102", "113100"]
    assert codes[0][1] == "Clean Descriptors Option" and "Clerk" not in str(data)
    deidentify_header(kept, Identity(clean=False), "a")
    assert kept.DeidentificationMethod[:2] == ["by A. Clerk", "on 2025-06-19"]


CODES = {  # and whether they stay
    "public": ({"CodeValue": "69536005", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Head"}, True),
    "long": ({"LongCodeValue": "69536005", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Head"}, True),
    "hospital": ({"CodeValue": "7", "CodingSchemeDesignator": "99ZQ", "CodeMeaning": "Zq"}, False),
    "no meaning": ({"LongCodeValue": "Zq fell", "CodingSchemeDesignator": "99ZQ"}, False),
    "URN": ({"URNCodeValue": "urn:zq:7"}, False),
    "URN of a scheme": ({"URNCodeValue": "urn:zq:7", "CodingSchemeDesignator": "99ZQ", "CodeMeaning": "Zq"}, False),
    "no scheme": ({"CodeValue": "Zq"}, False),
    "no code": ({"CodingSchemeDesignator": "99ZQ"}, False),
    "a sentence": ({"LongCodeValue": "Zq fell off", "CodingSchemeDesignator": "SCT"}, False),
    "a name": ({"CodeValue": "Zq", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Zq"}, False),
    "an identifier": ({"CodeValue": "ZQ4307744", "CodingSchemeDesignator": "SRT"}, False),
    "a date": ({"CodeValue": "20251004", "CodingSchemeDesignator": "SCT"}, False),
    "a number of a hospital": ({"CodeValue": "471123456", "CodingSchemeDesignator": "SCT"}, False),
    "not in the dictionary": ({"CodeValue": "1234567890005", "CodingSchemeDesignator": "SCT"}, True),
    "former SNOMED": ({"CodeValue": "T-D1100", "CodingSchemeDesignator": "SRT"}, True),
    "units": ({"CodeValue": "mm-1", "CodingSchemeDesignator": "UCUM"}, True),
    "no units": ({"CodeValue": "Zq", "CodingSchemeDesignator": "UCUM"}, False),
}


@pytest.mark.parametrize("keyword", ["ProcedureCodeSequence", "AnatomicRegionSequence", "EthnicGroupCodeSequence"])
@pytest.mark.parametrize("name", CODES)
def test_codes_of_schemes_that_are_not_public_go(name: str, keyword: str) -> None:
    values, stays = CODES[name]
    public = item(CodeValue="113100", CodingSchemeDesignator="DCM")
    data = header(**{keyword: Sequence([item(**values), public])})
    alone = header(**{keyword: Sequence([item(**values)])})
    data.MREchoSequence = Sequence([item(**{keyword: Sequence([item(**values)])})])
    identity = Identity(retain=frozenset({"patient"}))
    deidentify_header(data, identity, "a")
    deidentify_header(alone, identity, "a")
    assert "zq" not in (str(data) + str(alone)).lower()
    if keyword != "ProcedureCodeSequence":  # which the standard's table names
        assert len(data[keyword].value) == 1 + stays and (keyword in alone) is stays


def test_code_elements_outside_of_codes_go() -> None:
    data = header(CodeValue="Zq", CodeMeaning="Zq of nobody", CodingSchemeDesignator="99ZQ", LongCodeValue="Zq fell")
    data.MREchoSequence = Sequence([item(CodeMeaning="Zq")])
    deidentify_header(data, Identity(), "a")
    assert "Zq" not in str(data) and "ZQ" not in str(data)


MEANINGS = [
    ("69536005", "SCT", "Head", "Head"),
    ("69536005", "SCT", "Head structure (body structure)", "Head structure (body structure)"),
    ("69536005", "SCT", "of Ms Zq, 18.06.2025", "Head"),  # pydicom's dictionary knows it
    ("T-D1100", "SRT", "Zq", "Head"),
    ("1", "UCUM", "Zq", "no units"),
    ("113100", "DCM", "Zq", "Basic Application Confidentiality Profile"),
    ("1234567890005", "SCT", "Zq", "1234567890005"),  # no dictionary knows it, and any words may be a name
]


@pytest.mark.parametrize(("value", "scheme", "meaning", "expected"), MEANINGS)
def test_what_a_code_means_is_said_in_the_words_of_a_dictionary(
    value: str, scheme: str, meaning: str, expected: str
) -> None:
    code = item(CodeValue=value, CodingSchemeDesignator=scheme, CodingSchemeVersion="ZQ476", CodeMeaning=meaning)
    data = header(AnatomicRegionSequence=Sequence([code]))
    deidentify_header(data, Identity(), "a")
    (found,) = data.AnatomicRegionSequence
    assert (found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning) == (value, scheme, expected)
    assert "CodingSchemeVersion" not in found


def test_initials_that_are_a_scheme_do_not_take_it_from_its_codes() -> None:
    data = header(OperatorsName="SCT")
    code = item(CodeValue="69536005", CodingSchemeDesignator="SCT", CodeMeaning="Head")
    data.AnatomicRegionSequence = Sequence([code])
    deidentify_header(data, Identity(), "a")
    assert data.AnatomicRegionSequence[0].CodingSchemeDesignator == "SCT"


def test_schemes_that_are_not_public_are_not_named_and_uids_of_schemes_are_the_standards() -> None:
    data = header()
    schemes = {"99ZQ": "1.2.276.0.76.3.1.999.5", "DCM": "1.2.840.10008.2.16.4", "SCT": "2.16.840.1.113883.6.96"}
    data.CodingSchemeIdentificationSequence = Sequence(
        item(CodingSchemeDesignator=name, CodingSchemeUID=uid, CodingSchemeName="Zq", CodingSchemeRegistry="HL7 of Zq")
        for name, uid in schemes.items()
    )
    data.CodingSchemeIdentificationSequence.append(item(CodingSchemeUID="1.2.276.0.76.3.1.999.6"))
    code = {"CodeValue": "113100", "CodingSchemeDesignator": "DCM"}
    inner = item(**code, ContextUID="1.2.840.10008.6.1.2", MappingResourceUID="1.2.276.0.76.3.1.999.7")
    data.AnatomicRegionSequence = Sequence([inner])
    deidentify_header(data, Identity(), "a")
    left = [(s.CodingSchemeDesignator, s.get("CodingSchemeUID")) for s in data.CodingSchemeIdentificationSequence]
    assert left == [("DCM", "1.2.840.10008.2.16.4"), ("SCT", None)]
    assert data.AnatomicRegionSequence[0].ContextUID == "1.2.840.10008.6.1.2"
    assert "Zq" not in str(data) and "1.2.276" not in str(data)


def test_what_no_dictionary_knows_goes() -> None:
    data = header()
    for where in (data, inner := Dataset()):
        where.add_new(0x00109998, "IS", "4711234")
        where.add_new(0x00109997, "CS", "ZQ JANE")
        where.add_new(0x00109996, "UI", "1.2.3.4711234")
        where.add_new(0x00109995, "SQ", Sequence([item(Rows=4711)]))
        where.add_new(0x00200000, "UL", 4711)  # the length of a group
    data.MREchoSequence = Sequence([inner])
    kept = Dataset()
    kept.update(data)
    kept.file_meta = data.file_meta
    deidentify_header(data, Identity(), "a")
    assert not [e for e in data.iterall() if e.tag.element > 0x9990 or e.tag.element == 0 or e.value == 4711]
    deidentify_header(kept, Identity(clean=False), "a")
    assert kept[0x00109998].value == 4711234


def test_room_for_a_picture_is_not_kept_in_private_numbers_and_texts() -> None:
    small = {1: ("US", list(range(64))), 2: ("LT", "ACQ " * 100), 3: ("DS", ["1.5"] * 3), 4: ("UT", "plain")}
    large = {
        **{0x11: ("US", list(range(4096))), 0x12: ("FD", [0.5] * 65), 0x13: ("IS", [7] * 4096), 0x14: ("SL", [7] * 99)},
        **{0x15: ("UT", "iVBORw0KGgo=" * 1000), 0x16: ("LT", "x" * 9000), 0x17: ("LO", ["iVBORw0KGgo="] * 400)},
        0x18: ("SQ", Sequence([item(PixelPaddingValue=0, RWaveTimeVector=[0.5] * 4096)])),
    }
    data = header()
    block = data.private_block(0x0011, "ACME", create=True)
    for offset, (vr, value) in (small | large).items():
        block.add_new(offset, vr, value)
    data.add_new(0x00109998, "OB", data.PixelData)  # as private as the others
    deidentify_header(data, Identity(clean=False), "a")
    assert {tag.element & 0xFF for tag in data.keys() if tag.group == 0x0011} == {0x10, *small}
    assert 0x00109998 not in data


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("other", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("name", ["Müller", "Großmann", "Åse", "ＬＥＥ"])
def test_names_are_found_in_any_spelling_of_their_letters(name: str, form: str, other: str) -> None:
    data = header(SpecificCharacterSet="ISO_IR 192", PatientName=unicodedata.normalize(form, f"{name}^J"))
    data.ReceiveCoilName = unicodedata.normalize(other, f"of {name}")
    data.TransmitCoilName = unicodedata.normalize(other, name.upper())
    deidentify_header(data, Identity(), "a")
    assert "ReceiveCoilName" not in data and "TransmitCoilName" not in data


AGES = {
    **{"000D": "000D", "120D": "120D", "999D": "999D", "090W": "090W", "999W": "999W", "100M": "100M", "999M": "999M"},
    **{"001Y": "001Y", "089Y": "089Y", "090Y": "090Y", "091Y": "090Y", "120Y": "090Y", "1079M": "1079M"},
    **{"1080M": "090Y", "4700W": "090Y", "33000D": "090Y", "": "", "93": None, "93 years": None},
}


@pytest.mark.filterwarnings("ignore:.*VR AS|.*maximum length")
@pytest.mark.parametrize("age", AGES)
def test_retained_ages_over_89_years_and_no_others_become_90(age: str) -> None:
    data, inner = header(PatientAge=age), Dataset()
    inner.PatientAge = age
    data.MREchoSequence = Sequence([inner])
    deidentify_header(data, Identity(retain=frozenset({"patient"})), "a")
    assert data.get("PatientAge") == data.MREchoSequence[0].get("PatientAge") == AGES[age]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(), "everything outside the brain"),
        (Options(region="face"), "face and ears"),
        (Options(region="face", margin_mm=9), "face and ears"),
        (Options(margin_mm=29.98765), "all but the brain and 30 mm around it"),
    ],
)
def test_marks_say_what_was_replaced(options: Options, words: str) -> None:
    data = header()
    deidentify_header(data, Identity(tool="cpmae 10.11.12", replaced=options.replaced()), "a")
    assert data.DerivationDescription == f"cpmae 10.11.12: {words} replaced by a generated head"
    assert data.DeidentificationMethod == f"cpmae 10.11.12: {words} replaced"
    assert len(data.DeidentificationMethod) <= 64
    assert metadata_json.sidecar({}, options, "cpmae 1")["DeidentificationMethod"] == [
        f"cpmae 1: {words} replaced by a generated head"
    ]


@pytest.mark.parametrize("clean", [True, False], ids=["basic", "keep"])
@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_dciodvfy_finds_no_fault_that_was_not_there(tmp_path: Path, enhanced: bool, clean: bool) -> None:
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy of Debian's dicom3tools is not installed")
    path = dp.enhanced(tmp_path / "e.dcm", STORED, AFFINE) if enhanced else dp.classic(tmp_path, STORED, AFFINE)[0]
    data = pydicom.dcmread(path)
    mapping, units = Dataset(), Dataset()
    units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = "1", "UCUM", "no units"
    mapping.MeasurementUnitsCodeSequence = Sequence([units])
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = 0.0, 1.0
    mapping.LUTLabel, mapping.LUTExplanation = "of Jane", "what Jane saw"
    for keyword, value in (("RealWorldValueFirstValueMapped", 0), ("RealWorldValueLastValueMapped", 4095)):
        mapping.add_new(keyword, "US", value)
    (data.SharedFunctionalGroupsSequence[0] if enhanced else data).RealWorldValueMappingSequence = Sequence([mapping])
    data.SoftwareVersions, data.PositionReferenceIndicator = "1.0 of Doe", "of Doe"
    data.save_as(path)
    before = faults(path)
    deidentify_header(data, Identity(clean), "someone")
    data.save_as(tmp_path / "new.dcm", enforce_file_format=True)
    assert faults(tmp_path / "new.dcm") <= before


def faults(path: Path) -> set[str]:
    ran = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
    assert "MRImage" in ran.stderr
    return {line for line in ran.stderr.splitlines() if line.startswith("Error")}
