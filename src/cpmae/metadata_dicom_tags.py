"""Which elements of a DICOM header hold what: tables of tags, codes and terms for `metadata_dicom`."""

from functools import cache

from pydicom.charset import python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.sr import Collection
from pydicom.sr._snomed_dict import mapping as snomed

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
_SNOMED_3 = r"[A-Z][A-Z\d]?-[A-F\d]{4,5}"
_UNIT = r"(?:[numkMcd]?(?:m|s|g|l|T|Hz|V|rad|mol|Pa)|deg|min|h|%|ppm|1)-?\d?"
SCHEMES = {  # and how their codes look, where pydicom's dictionary does not know one
    **{"DCM": r"1\d{5}", "SCT": r"\d{3,15}[01]0\d", "SRT": _SNOMED_3, "SNM3": _SNOMED_3, "99SDM": _SNOMED_3},
    **{"UCUM": rf"/?{_UNIT}([./]{_UNIT})*", "LN": r"\d{1,5}-\d", "RADLEX": r"RID\d{2,6}", "NCIt": r"C\d{3,6}"},
    **{"FMA": r"\d{3,6}", "UMLS": r"C\d{7}", "NEU": r"\d{1,4}"},
}
# Terms of the standard and of Siemens that may be names, titles or test patients too. They are in everybody's files and
# tell nobody.
TERMS = frozenset(
    "YES NO NONE OTHER MR HEAD BRAIN NECK SKULL 2D 3D T1 T2 SE IR GR EP RM SK SS SP MP PER RG CG PPG FC PFF PFP FS ND "
    "ORIGINAL DERIVED PRIMARY MOSAIC MONOCHROME1 MONOCHROME2 00 01".split()
) | {term for term in python_encoding if term}
# Code strings whose values the standard lists to the last; of others, makers add their own.
WORDS = {
    keyword: frozenset(words.split())
    for keywords, words in (
        (("PatientPosition",), "HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL"),
        (("ContentQualification",), "PRODUCT RESEARCH SERVICE"),
        (("ScanningSequence",), "SE IR GR EP RM"),
        (("SequenceVariant",), "SK MTC SS TRSS SP MP OSP NONE"),
        (("MRAcquisitionType",), "1D 2D 3D"),
        (("AngioFlag", "VariableFlipAngleFlag"), "Y N"),
        (("Laterality", "ImageLaterality", "FrameLaterality"), "R L U B"),
        (("InPlanePhaseEncodingDirection",), "ROW COL COLUMN OTHER"),
        (("BurnedInAnnotation", "RecognizableVisualFeatures"), "YES NO"),
        (("PixelPresentation",), "COLOR MONOCHROME MIXED TRUE_COLOR COLOR_RANGE COLOR_REF"),
        (("VolumetricProperties",), "VOLUME SAMPLED DISTORTED MIXED"),
        (("ComplexImageComponent",), "MAGNITUDE PHASE REAL IMAGINARY MIXED"),
        (("PresentationLUTShape",), "IDENTITY INVERSE"),
    )
    for keyword in keywords
}
NUMBERS = frozenset(("DS", "FD", "FL", "IS", "SL", "SV", "UL", "UV"))
LISTED = NUMBERS | BINARY | frozenset(("SS", "US"))  # VRs of one or more numbers, with room for a picture
# What stored integers mean, which may be large.
SCALES = _tags(
    *("RescaleSlope", "RescaleIntercept", "RealWorldValueSlope", "RealWorldValueIntercept", "RealWorldValueLUTData"),
    *("DoubleFloatRealWorldValueFirstValueMapped", "DoubleFloatRealWorldValueLastValueMapped"),  # see `ENDS`
)
PIXELS = tag_for_keyword("PixelData")
# Stored numbers at both ends of what real world values are for, as a rule the extremes of the whole original; the
# class demands them.
ENDS = {
    **dict.fromkeys(("RealWorldValueFirstValueMapped", "DoubleFloatRealWorldValueFirstValueMapped"), min),
    **dict.fromkeys(("RealWorldValueLastValueMapped", "DoubleFloatRealWorldValueLastValueMapped"), max),
}
# What may have many values: references to frames, what stored numbers mean, and bytes whose meaning is known.
LONG = _tags(
    *("PixelData", "ICCProfile", "EncryptedContent", "RealWorldValueLUTData", "ReferencedFrameNumber"),
    *("SimpleFrameList", "CalculatedFrameList"),
)
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
    *("SmallestValidPixelValue", "LargestValidPixelValue", "LargestMonochromePixelValue", "UpperLowerPixelValues"),
    *("StoredValueColorRangeSequence", "MinimumStoredValueMapped", "MaximumStoredValueMapped"),
    *("GrayLookupTableDescriptor", "GrayLookupTableData"),
)
PICTURES |= LOOKUP_TABLES
# What would go though the class of the object demands it: emptied, or given a dummy, in enhanced objects or always.
NEEDED = _tags(
    *("ContentDate", "ContentTime", "DeviceSerialNumber", "Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
    *("PulseSequenceName", "InstanceNumber"),
)
NEEDED_EMPTY = _tags(
    *("StudyDate", "StudyTime", "ContentDate", "ContentTime", "AccessionNumber", "ReferringPhysicianName"),
    *("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AcquisitionContextSequence", "ContrastBolusAgent"),
    *("Manufacturer", "PositionReferenceIndicator", "SeriesNumber", "AcquisitionNumber", "InstanceNumber"),
)
NEEDED_ALWAYS = _tags("LUTLabel", "LUTExplanation")
DUMMIES = {"DA": "19000101", "TM": "000000", "IS": 1}
# of the person, though the profile's table does not name them
BODY = _tags(
    *("PatientBodyMassIndex", "MeasuredAPDimension", "MeasuredLateralDimension", "ExaminedBodyThickness", "HeartRate"),
)
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
    *("InstitutionalDepartmentName", "StudyID", "AdmissionID", "RequestedProcedureID", "PerformedProcedureStepID"),
    "ClinicalTrialSubjectID",
)


@cache
def meanings() -> dict[tuple[str, str], list[str]]:
    """Scheme and value of the codes that pydicom's dictionary knows, to what they mean, in one or several wordings."""
    found: dict[tuple[str, str], list[str]] = {}
    for scheme in ("DCM", "SCT", "UCUM", "LN", "RADLEX", "NCIt", "FMA", "UMLS", "NEU"):
        for code in Collection(scheme).concepts.values():
            found.setdefault((scheme, code.value), []).append(code.meaning)
    for old, new in snomed["SRT"].items():  # the same codes under their names of before 2020
        found |= {(scheme, old): found["SCT", new] for scheme in ("SRT", "SNM3", "99SDM") if ("SCT", new) in found}
    return found
