"""JSON sidecars: what of them may be shared. A list of what is kept, since what identifies has no end of names.

Kept are acquisition parameters of BIDS (its schema 1.11) and of dcm2niix that say how an image was made. Most of them
are numbers, and of these only numbers are kept, whatever else a file may hold there. Few are text: words of a fixed
set, or the names of tasks, sequences, coils and software, which are short and hold no date and no word of who was
scanned, where and by whom, as far as the same file says. Who, where and when (names, dates, numbers of studies, UIDs,
institutions, serial numbers, comments, protocols that somebody named) are dropped with everything unknown.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from cpmae.options import Options

CLEAN_FEATURES = "113102"
METHODS = {  # DICOM PS3.16, CID 7050
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
}

# Numbers, truth values, and lists of them.
_NUMBERS = frozenset(
    """
    AcquisitionDuration AcquisitionMatrixPE AcquisitionNumber AcquisitionVoxelSize BackgroundSuppression
    BackgroundSuppressionNumberPulses BackgroundSuppressionPulseTime BandwidthPerPixelPhaseEncode BaseResolution
    BigDelta BolusCutOffDelayTime BolusCutOffFlag DelayAfterTrigger DelayTime DerivedVendorReportedEchoSpacing
    DiffusionBValue DiffusionGradientOrientation DwellTime EchoNumber EchoTime EchoTime1 EchoTime2 EchoTrainLength
    EffectiveEchoSpacing FieldOfView FlipAngle FrameAcquisitionDuration FrameTimesStart FrameDuration Gamma
    ImageOrientationPatientDICOM ImagingFrequency InPlanePhaseEncodingDirection InterpolatedDWI InterpolationFactor
    InversionTime LabelingDistance LabelingDuration LabelingEfficiency LabelingOrientation LabelingPulseAverageB1
    LabelingPulseAverageGradient LabelingPulseDuration LabelingPulseFlipAngle LabelingPulseInterval
    LabelingPulseMaximumGradient LabelingSlabThickness LookLocker M0Estimate MTNumberOfPulses MTOffsetFrequency
    MTPulseBandwidth MTPulseDuration MTState MagneticFieldStrength MixingTime MultibandAccelerationFactor
    NegativeContrast NonlinearGradientCorrection NumberOfAverages NumberOfVolumesDiscardedByScanner
    NumberOfVolumesDiscardedByUser NumberReceiveCoilActiveElements NumberShots NumberTransmitCoilActiveElements
    ParallelReductionFactorInPlane ParallelReductionFactorOutOfPlane ParallelReductionOutOfPlane PartialFourier
    PercentPhaseFOV PercentSampling PhaseEncodingPolarityGE PhaseEncodingSteps PhaseEncodingStepsNoPartialFourier
    PhaseEncodingStepsOutOfPlane PhaseFactor PhaseOversampling PhaseResolution PixelBandwidth PostLabelDelay
    PostLabelingDelay RFSpoiling ReconMatrixPE RefLinesPE RepetitionTime RepetitionTimeExcitation
    RepetitionTimeInversion RepetitionTimePreparation SeriesNumber ShimSetting SkullStripped SliceThickness
    SliceTiming SmallDelta SpacingBetweenSlices SpoilingGradientDuration SpoilingGradientMoment
    SpoilingRFPhaseIncrement SpoilingState TablePosition TotalAcquiredPairs TotalReadoutTime TriggerDelayTime
    TxRefAmp VascularCrushing VascularCrushingVENC VendorReportedEchoSpacing VolumeTiming WaterFatShift
    WaterSuppression
    """.split()
)
_AXES = "i j k i- j- k-"
# Words of BIDS and DICOM in any case; several of them with spaces, underscores, slashes or commas between.
_WORDS = {
    name: frozenset(words.lower().split())
    for name, words in {
        "ArterialSpinLabelingType": "CASL PCASL PASL",
        "BodyPart": "HEAD BRAIN SKULL NECK HEADNECK FACE ORBIT EYE CSPINE SPINE WHOLEBODY",
        "CASLType": "single-coil double-coil",
        "ContrastBolusIngredient": "IODINE GADOLINIUM CARBON DIOXIDE BARIUM XENON",
        "M0Type": "Separate Included Estimate Absent",
        "MRAcquisitionType": "1D 2D 3D",
        "MTPulseShape": "HARD GAUSSIAN GAUSSHANN SINC SINCHANN SINCGAUSS FERMI",
        "Modality": "MR",
        "PCASLType": "balanced unbalanced",
        "PartialFourierDirection": "PHASE FREQUENCY SLICE SELECT COMBINATION",
        "PatientPosition": "HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL",
        "PhaseEncodingAxis": _AXES,
        "PhaseEncodingDirection": _AXES,
        "ScanningSequence": "SE IR GR EP RM",
        "SequenceVariant": "SK MTC SS TRSS SP MP OSP NONE",
        "SliceEncodingDirection": _AXES,
        "SpoilingType": "RF GRADIENT COMBINED",
        "Units": "Hz rad T rad/s s ms 1/s arbitrary percent % ppm ppb degree degrees",
    }.items()
}
# What makers and converters write, and labels: a text, or a list of a few.
_TEXTS = frozenset(
    """
    B0FieldIdentifier B0FieldSource B0ShimmingTechnique B1ShimmingTechnique BolusCutOffTechnique CoilCombinationMethod
    CoilString ConversionSoftware GradientSetType ImageType MRTransmitCoilSequence Manufacturer ManufacturersModelName
    MatrixCoilMode PASLType ParallelAcquisitionTechnique PulseSequenceName PulseSequenceType ReceiveCoilActiveElements
    ReceiveCoilName SoftwareVersions TaskName WaterSuppressionTechnique
    """.split()
)
_NAMES = frozenset(("ScanOptions", "SequenceName"))  # the same without spaces
MAX_NUMBER = 10**7  # with more digits it is a date, a time or an identifier
_MAX_TEXT, _MAX_LIST = 80, 240  # characters; more of them are prose
_DAY, _YEAR = r"(0?[1-9]|[12]\d|3[01])", r"(19|20)\d\d"
_MONTH = (
    "(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?"
    "|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?)"
)
_BESIDE = rf"(\d\d?(st|nd|rd|th)?|{_YEAR})"  # a month
_DATES = (
    rf"(?<!\d){_YEAR}[-/._ ]?[01]\d[-/._ ]?[0-3]\d(?!\d)",
    rf"(?<!\d){_DAY}[-/._ ]{_DAY}[-/._ ]{_YEAR}(?!\d)",  # the month may come first
    rf"(?<!\d){_DAY}[-/]{_DAY}[-/]\d\d(?!\d)",
    # 18.06.25, while 5.1.72 and 1.0.01.12.13 are versions
    r"(?<!\d)(?<!\d[._])(0[1-9]|[12]\d|3[01])[._](0[1-9]|1[0-2])[._]\d\d(?![._]?\d)",
    rf"(?<![a-z\d]){_BESIDE}[-/._,\s]*{_MONTH}(?![a-z])",
    rf"(?<![a-z]){_MONTH}[-/._,\s]*{_BESIDE}(?!\d)",
)
_DATE = re.compile("|".join(_DATES), re.IGNORECASE)
# What dcm2niix and others write.
_VERSION = re.compile(
    r"v?\d+(\.\d+)+([-.+]?(a|b|rc|alpha|beta|dev|post)\d*)?(\s+(\((JP2|JP-LS):\w{1,12}\)|(GCC|Clang|MSC)[\d.]{1,12}))*"
)
# Fields of who, where and by whom; their words are looked for in the texts that stay.
_WHO = re.compile(
    "patient|person|physician|operator|institution|accession|station|serial.?number|study.?id", re.IGNORECASE
)
_NOBODY = frozenset("mr mri the of and for head brain neck coil body".split())  # words of such fields that tell nothing


def sidecar(fields: Mapping[str, Any], options: Options, tool: str) -> dict[str, Any]:
    """The sidecar of a result: that of its scan, cleaned if the options say so, with what was done by which tool."""
    kept = clean(fields) if options.clean_metadata else fields
    method = f"{tool}: {options.replaced()} replaced by a generated head"
    return marked(kept, method, fields.get("DeidentificationMethodCodeSequence"))


def clean(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shared of a sidecar, which is merged with what it inherits."""
    stays = {name: value for name, value in fields.items() if _may_stay(name, value)}
    who = {word for word in _told(fields) if not re.fullmatch(r"[a-z\d]|\d\d", word)} - _NOBODY
    known = _NUMBERS | _WORDS.keys()
    return {name: value for name, value in stays.items() if name in known or who.isdisjoint(_words(value))}


def _told(value: Any) -> Iterator[str]:
    """Words of who, where and by whom in what does not stay; other converters put that into objects in objects."""
    if isinstance(value, list):
        for item in value:
            yield from _told(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not _may_stay(name, item):
                yield from _words(item) if _WHO.search(name) else _told(item)


def _words(value: Any) -> Iterator[str]:
    """Words of all texts and whole numbers in a value, lower case; the 0.5 of a size is none."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield from re.sub(r"[\W_]+", " ", _composed(str(value)).casefold()).split()


def holds_a_date(text: str) -> bool:
    """In one of the ways in which people and scanners write dates."""
    return _DATE.search(_composed(text)) is not None


def _composed(text: str) -> str:
    """The text with one code for each letter and digit, however it was stored: u and two dots are one letter."""
    return unicodedata.normalize("NFKC", text)


def marked(fields: Mapping[str, Any], method: str, before: Any = None) -> dict[str, Any]:
    """The fields with `DeidentificationMethod` and its code sequence.

    Args:
        method: what was done, in words.
        before: the code sequence that the original had; its DICOM codes stay, in DICOM's words.
    """
    codes = [code for code in before if isinstance(code, dict)] if isinstance(before, list) else []
    had = [str(code.get("CodeValue")) for code in codes if code.get("CodingSchemeDesignator") == "DCM"]
    values = list(dict.fromkeys([*(value for value in had if value in METHODS), CLEAN_FEATURES]))
    return {
        **fields,
        "DeidentificationMethod": [*(METHODS[value] for value in values if value != CLEAN_FEATURES), method],
        "DeidentificationMethodCodeSequence": [
            {
                "CodeValue": value,
                "CodeMeaning": METHODS[value],
                "CodingSchemeDesignator": "DCM",
                "CodingSchemeVersion": "01",
            }
            for value in values
        ],
    }


def _may_stay(name: str, value: Any) -> bool:
    if name in _NUMBERS:
        return _all(value, _is_number)
    if name in _WORDS:
        return _all(value, lambda item: isinstance(item, str) and _is_of(item.lower(), _WORDS[name]))
    if name == "ConversionSoftwareVersion":
        if not isinstance(value, str) or not _VERSION.fullmatch(value):
            return False
        return _is_plain(re.sub(r"^v?\d\.\d\.20\d{6}", "", value))  # dcm2niix ends in the date of its release
    if name in _TEXTS | _NAMES:
        short = isinstance(value, str) or len(str(value)) <= _MAX_LIST
        return short and _all(value, lambda item: _is_plain(item) and not (name in _NAMES and re.search(r"\s", item)))
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < MAX_NUMBER  # which NaN is not


def _is_plain(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= _MAX_TEXT and not holds_a_date(text)


def _is_of(text: str, words: frozenset[str]) -> bool:
    return text in words or words.issuperset(re.split(r"[\s_\\/,]+", text))


def _all(value: Any, fits: Any) -> bool:
    """Whether a value, or each one in a list, or in a list of lists, fits."""
    return all(_all(item, fits) for item in value) if isinstance(value, list) else bool(fits(value))
