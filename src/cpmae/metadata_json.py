"""JSON sidecars: what of them may be shared. A list of what is kept, since what identifies has no end of names.

Kept are acquisition parameters of BIDS (its schema 1.11) and of dcm2niix that say how an image was made. Most of them
are numbers, and of these only numbers are kept, whatever else a file may hold there. Few are text: words of a fixed
set, or the names of sequences, coils and software. Who, where and when (names, dates, numbers of studies, UIDs,
institutions, serial numbers, comments, protocols that somebody named) are dropped with everything unknown.
"""

import re
from collections.abc import Mapping
from typing import Any

from cpmae.options import Options

CLEAN_FEATURES = "113102"
_DCM_CODES = {  # DICOM PS3.16, CID 7050
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
# Text, or a list of short texts.
_TEXTS = frozenset(
    """
    ArterialSpinLabelingType B0FieldIdentifier B0FieldSource B0ShimmingTechnique B1ShimmingTechnique BodyPart
    BolusCutOffTechnique CASLType CoilCombinationMethod CoilString ContrastBolusIngredient ConversionSoftware
    GradientSetType ImageType M0Type MRAcquisitionType MRTransmitCoilSequence MTPulseShape
    Manufacturer ManufacturersModelName MatrixCoilMode Modality PASLType PCASLType ParallelAcquisitionTechnique
    PartialFourierDirection PatientPosition PhaseEncodingAxis PhaseEncodingDirection PulseSequenceName
    PulseSequenceType ReceiveCoilActiveElements ReceiveCoilName ScanOptions ScanningSequence SequenceName
    SequenceVariant SliceEncodingDirection SoftwareVersions SpoilingType TaskName Units WaterSuppressionTechnique
    """.split()
)
_MAX_TEXT = 80  # characters; longer ones are prose
_DATE = re.compile(r"(?<!\d)(19|20)\d\d[-/.]?[01]\d[-/.]?[0-3]\d(?!\d)")


def sidecar(fields: Mapping[str, Any], options: Options, tool: str) -> dict[str, Any]:
    """The sidecar of a result: that of its scan, cleaned if the options say so, with what was done by which tool."""
    kept = clean(fields) if options.clean_metadata else fields
    method = f"{tool}: {options.replaced()} replaced by a generated head"
    return marked(kept, method, fields.get("DeidentificationMethodCodeSequence"))


def clean(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shared of a sidecar, which is merged with what it inherits."""
    return {name: value for name, value in fields.items() if _may_stay(name, value)}


def marked(fields: Mapping[str, Any], method: str, before: Any = None) -> dict[str, Any]:
    """The fields with `DeidentificationMethod` and its code sequence.

    Args:
        method: what was done, in words.
        before: the code sequence that the original had; its DICOM codes stay, in DICOM's words.
    """
    had = [code["CodeValue"] for code in before if _is_known(code)] if isinstance(before, list) else []
    values = list(dict.fromkeys([*had, CLEAN_FEATURES]))
    return {
        **fields,
        "DeidentificationMethod": [*(_DCM_CODES[value] for value in values if value != CLEAN_FEATURES), method],
        "DeidentificationMethodCodeSequence": [
            {
                "CodeValue": value,
                "CodeMeaning": _DCM_CODES[value],
                "CodingSchemeDesignator": "DCM",
                "CodingSchemeVersion": "01",
            }
            for value in values
        ],
    }


def _may_stay(name: str, value: Any) -> bool:
    if name in _NUMBERS:
        return _all(value, lambda item: isinstance(item, int | float))
    if name == "ConversionSoftwareVersion":  # dcm2niix has dates of its own in it
        return isinstance(value, str) and re.fullmatch(r"v?\d+\.[\w.(): -]{1,40}", value) is not None
    if name in _TEXTS:
        return _all(value, lambda item: isinstance(item, str) and len(item) <= _MAX_TEXT and not _DATE.search(item))
    return False


def _all(value: Any, fits: Any) -> bool:
    """Whether a value, or each one in a list, or in a list of lists, fits."""
    return all(_all(item, fits) for item in value) if isinstance(value, list) else bool(fits(value))


def _is_known(code: Any) -> bool:
    return (
        isinstance(code, dict) and code.get("CodingSchemeDesignator") == "DCM" and code.get("CodeValue") in _DCM_CODES
    )
