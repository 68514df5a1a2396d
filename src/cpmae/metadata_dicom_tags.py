"""Which elements of a DICOM header hold what: tables of tags, codes and terms for `metadata_dicom`."""

from pydicom.charset import python_encoding
from pydicom.datadict import tag_for_keyword

METHOD_OF = {
    **{"visual": "113102", "basic": "113100", "dates": "113107", "patient": "113108", "device": "113109"},
    **{"uids": "113110", "private": "113111"},
}
TEXT = frozenset(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"))


def _tags(*keywords: str) -> frozenset[int]:
    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    return frozenset(tag for tag in tags.values() if tag is not None)


# Text that makers of scanners put there, without which an image is hard to use.
PLAIN_TEXT = _tags(
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SequenceName", "PulseSequenceName"),
    *("ReceiveCoilName", "TransmitCoilName", "ReceiveCoilManufacturerName", "TransmitCoilManufacturerName"),
    *("MultiCoilElementName", "MultiCoilConfiguration", "RescaleType", "DimensionDescriptionLabel"),
    *("ImagedNucleus", "TriggerSourceOrType", "CardiacFramingType", "ContrastBolusRoute", "ImageFilter"),
    *("ApplicableSafetyStandardDescription", "ASLTechniqueDescription", "ASLCrusherDescription", "TypeOfFilters"),
    *("ASLBolusCutoffTechnique", "RespiratorySignalSourceID", "ManufacturerRelatedModelGroup", "ConvolutionKernel"),
)
# Text of codes, which `metadata_dicom` looks at; a URN goes, since any hospital can have one of its own.
CODE_TEXT = _tags("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "LongCodeValue")
CODE_PARTS = CODE_TEXT | _tags("URNCodeValue", "CodingSchemeUID")  # what has one of them is a code
SCHEMES = ("DCM", "SCT", "SRT", "SNM3", "UCUM", "LN", "RADLEX", "NCIt", "FMA", "UMLS", "NEU", "99SDM")
# Terms of the standard and of Siemens that may be names, titles or test patients too. They are in everybody's files and
# tell nobody.
TERMS = frozenset(
    "YES NO NONE OTHER MR HEAD BRAIN NECK SKULL 2D 3D T1 T2 SE IR GR EP RM SK SS SP MP PER RG CG PPG FC PFF PFP FS ND "
    "ORIGINAL DERIVED PRIMARY MOSAIC MONOCHROME1 MONOCHROME2 00 01".split()
) | {term for term in python_encoding if term}
PIXELS = tag_for_keyword("PixelData")
# Bytes that nobody looks at, as many as a slice has: colour pictures and tables in place of a slope are refused before.
LOOKUP_TABLES = _tags(
    "LUTData",
    *(
        f"{kind}{colour}PaletteColorLookupTable{part}"
        for kind in ("", "Large", "Segmented")
        for colour in ("Red", "Green", "Blue", "Alpha")
        for part in ("Data", "Descriptor")
    ),
)
# Pictures of the head, or room for one, and what is wrong once the pixels are others: windows too, since scanners set
# them from the whole picture, face and all. Gone in any case.
PICTURES = _tags(
    *("IconImageSequence", "GraphicAnnotationSequence", "ReferencedPatientPhotoSequence", "EncapsulatedDocument"),
    *("WaveformSequence", "DataSetTrailingPadding"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
    *("SmallestImagePixelValueInPlane", "LargestImagePixelValueInPlane", "PixelDataProviderURL"),
    *("DigitalSignaturesSequence", "MACParametersSequence", "SourceImageSequence", "DerivationImageSequence"),
    *("HistogramSequence", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"),
    *("VOILUTSequence", "FrameVOILUTSequence"),
)
PICTURES |= LOOKUP_TABLES
# What would go though the class of the object demands it: emptied, or given a dummy, in enhanced objects or always.
NEEDED = _tags(
    *("ContentDate", "ContentTime", "DeviceSerialNumber", "Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
    "PulseSequenceName",
)
NEEDED_EMPTY = _tags(
    *("StudyDate", "StudyTime", "ContentDate", "ContentTime", "AccessionNumber", "ReferringPhysicianName"),
    *("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AcquisitionContextSequence", "ContrastBolusAgent"),
    *("Manufacturer", "PositionReferenceIndicator"),
)
NEEDED_ALWAYS = _tags("LUTLabel", "LUTExplanation")
DUMMIES = {"DA": "19000101", "TM": "000000"}
# of the person, though the profile's table does not name them
BODY = _tags("PatientBodyMassIndex", "MeasuredAPDimension", "MeasuredLateralDimension")
RECORDS = _tags("OtherStudyNumbers", "ReportNumber")  # of hospitals; retired, and so not in the table either
KEPT = {
    "patient": _tags(
        *("PatientAge", "PatientSex", "PatientSize", "PatientWeight", "PatientSexNeutered", "EthnicGroup"),
        *("EthnicGroupCodeSequence", "SmokingStatus", "PregnancyStatus"),
    )
    | BODY,
    "device": _tags(
        *("StationName", "StationAETitle", "DeviceSerialNumber", "DeviceUID", "GantryID", "GeneratorID", "DetectorID"),
        *("PerformedStationName", "PerformedStationAETitle", "UniqueDeviceIdentifier", "UDISequence"),
    ),
    "dates": frozenset(),
    # no others: those that makers give to events and instances hold the scanner's serial number and the second
    "uids": _tags("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID"),
}
# Of a person and not of the examination: never kept as dates.
PERSONAL_DATES = _tags("PatientBirthDate", "PatientBirthTime", "LastMenstrualDate", "DateOfInstallation")
STACK = tag_for_keyword("StackID")
CODE_UIDS = _tags("CodingSchemeUID", "ContextUID", "MappingResourceUID")  # a new one would say nothing

IDENTIFIERS = _tags(
    *("PatientID", "OtherPatientIDs", "AccessionNumber", "PatientBirthDate", "PatientAddress", "InstitutionName"),
    *("InstitutionAddress", "StationName", "DeviceSerialNumber", "IssuerOfPatientID", "PatientTelephoneNumbers"),
)
