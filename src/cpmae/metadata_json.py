"""JSON sidecars: what of them may be shared. A list of what is kept, since what identifies has no end of names.

Kept are acquisition parameters of BIDS (its schema 1.11) and of dcm2niix that say how an image was made. Most of them
are numbers, and of these only numbers are kept, whatever else a file may hold there. Few are text: words of a fixed
set, or the names of tasks, sequences, coils and software, which are short and hold no date and no word of who was
scanned, where and by whom, as far as the same file says. Who, where and when (names, dates, numbers of studies, UIDs,
institutions, serial numbers, comments, protocols that somebody named) are dropped with everything unknown.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
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
    PhaseEncodingStepsOutOfPlane PhaseFactor PhaseOversampling PhaseResolution PhilipsRescaleIntercept
    PhilipsRescaleSlope PhilipsScaleSlope PixelBandwidth PostLabelDelay
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
_LONG_NUMBER = re.compile(r"\d{7}")
_DAY, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:19|20)\d\d"
_DAY_2, _MONTH_2 = r"(?:0[1-9]|[12]\d|3[01])", r"(?:0[1-9]|1[0-2])"
_CLOCK = r"(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?"  # 1011, 101112
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    "|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
    # German, French, Spanish, Italian, Dutch, Portuguese; short forms only where they are no English words
    "|januari?|februari?|m[aä]rz|mrz|mai|juni|juli|okt(?:ober)?|dez(?:ember)?"
    "|janv(?:ier)?|f[eé]vr(?:ier)?|mars|avr(?:il)?|juin|juil(?:let)?|ao[uû]t|septembre|octobre|novembre|d[eé]cembre"
    "|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
    "|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre|maart|mei|augustus"
    "|janeiro|fevereiro|março|maio|junho|julho|setembro|outubro|novembro|dezembro)"
)
_BESIDE = rf"(?:\d\d?(?:st|nd|rd|th)?|{_YEAR})"  # a month
_DATES = (
    rf"(?<!\d){_YEAR}[-/._ ]?[01]\d[-/._ ]?[0-3]\d(?:{_CLOCK})?(?!\d)",
    rf"(?<!\d){_YEAR}\s?[-/.:_ 年년]\s?(?:0?[1-9]|1[0-2])\s?[-/.:_ 月월]\s?{_DAY}(?!\d)",  # 2025-6-8
    rf"(?<!\d){_YEAR}-?W[0-5]\d(?!\d)",  # a week
    rf"(?<!\d){_DAY}[-/.:_ ]\s?{_DAY}[-/.:_ ]\s?{_YEAR}(?!\d)",  # the month may come first
    # 18062025 and 06182025, while n02102040 is a class of ImageNet
    rf"(?<!\d)(?<!(?<![a-z])n)(?:{_DAY_2}{_MONTH_2}|{_MONTH_2}{_DAY_2}){_YEAR}(?:{_CLOCK})?(?!\d)",
    rf"(?<!\d)\d\d{_MONTH_2}{_DAY_2}[-_ T]{_CLOCK}(?!\d)",  # 250618-1011
    rf"(?<!\d){_DAY}[-/]{_DAY}[-/]\d\d(?!\d)",
    # 18.06.25 and 18.6.25, while 5.1.72, 12.1.10 and 1.0.01.12.13 are versions
    rf"(?<!\d)(?<!\d[._])(?:{_DAY_2}[._]{_MONTH_2}|(?:1[3-9]|2\d|3[01])[._][1-9])[._]\d\d(?![._]?\d)",
    rf"(?<![a-z\d]){_BESIDE}[-/._,\s]*(?:de\s+)?{_MONTH}(?![a-z])",
    rf"(?<![a-z]){_MONTH}[-/._,\s]*(?:de\s+)?{_BESIDE}(?!\d)",
)
_DATE = re.compile("|".join(_DATES), re.IGNORECASE)
# Letters that Unicode does not take apart, and how they are written without them.
_LETTERS = {"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"}
_PART, _DIGITS, _SURE_DIGITS = 4, 4, 6  # letters or digits, from which on a name or number is looked for within words
# Words of makers and of image types, in which nobody's name is looked for: Mary is in PRIMARY, and Phil in Philips.
_MAKERS = frozenset(
    """
    original primary secondary derived other mosaic norm diffusion magnitude imaginary real phase trace tracew
    projection image images resampled localizer average subtraction fluid attenuated proton density filtered
    distortion corrected normalized normalised epi flair mprage space siemens healthineers healthcare philips medical
    systems canon toshiba hitachi fujifilm bruker united imaging magnetom prisma prismafit skyra skyrafit trio triotim
    verio aera avanto vida lumina sola symphony sonata espree essenza amira altea cima terra biograph achieva ingenia
    ambition elition evolution intera gyroscan panorama dstream discovery signa architect premier artist hero pioneer
    optima explorer horizon excite genesis titan vantage galan orian elan echelon oasis syngo numaris software release
    latest head neck headneck headspine body coil brain spine matrix array volume quad channel channels flex posterior
    anterior breath gated spoiled gradient echo planar turbo fast spin inversion recovery saturation fatsat
    balanced generic enhanced contrast angiography weighted magnetization prepared acquisition parallel multiband
    readout default standard adaptive combine combined combination squares sensitivity encoding water excitation
    suppression transmit receive surface whole sense grappa caipirinha interleaved ascending descending unknown
    reversed series plane quadhead headneckspine nova steady state free precession true susceptibility velocity flow
    compensation resting task median
    """.split()
)
# What dcm2niix and others write.
_VERSION = re.compile(
    r"v?\d+(\.\d+)+([-.+]?(a|b|rc|alpha|beta|dev|post)\d*)?(\s+(\((JP2|JP-LS):\w{1,12}\)|(GCC|Clang|MSC)[\d.]{1,12}))*"
)
# What the runs of one diffusion scan are called together, `dwi_1`: words of these scans, a short number after each.
_RUN_OF = (
    r"(?:dwi|dti|dmri|diffusion|multipart|multishell|part|set|group|series|scan|acq|dir|run|shell|ses|ap|pa|lr|rl)"
)
_RUNS_OF = re.compile(rf"{_RUN_OF}(?:[-_ ]?\d{{1,3}})?(?:[-_ ]{_RUN_OF}(?:[-_ ]?\d{{1,3}})?)*", re.IGNORECASE)
# Fields of who, where and by whom; their words are looked for in the texts that stay.
_WHO = re.compile(
    "patient|person|physician|operator|institution|accession|station|serial.?number|study.?id", re.IGNORECASE
)
_NOBODY = frozenset("mr mri the of and for head brain neck coil body".split())  # words of such fields that tell nothing
# Words of places are words of much else, as State Hospital: within others only those of so many letters are looked for.
_PLACE, _LONG_PLACE = re.compile("institution|station", re.IGNORECASE), 6


def sidecar(fields: Mapping[str, Any], options: Options, tool: str) -> dict[str, Any]:
    """The sidecar of a result: that of its scan, cleaned if the options say so, with what was done by which tool."""
    kept = clean(fields) if options.clean_metadata else fields
    method = f"{tool}: {options.replaced()} replaced by a generated head"
    return marked(kept, method, fields.get("DeidentificationMethodCodeSequence"))


def clean(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shared of a sidecar, which is merged with what it inherits."""
    stays = {name: value for name, value in fields.items() if _may_stay(name, value)}
    told = list(_told(fields))
    who = {word for _, text in told for word in text.split() if not re.fullmatch(r"[a-z\d]|\d\d", word)} - _NOBODY
    people = {word for name, text in told if not _PLACE.search(name) for word in text.split()}
    short = {word for word in who - people if word.isalpha() and len(word) < _LONG_PLACE}
    glued = (who | {text for _, text in told}) - short - _NOBODY
    known = _NUMBERS | _WORDS.keys()
    return {name: value for name, value in stays.items() if name in known or not _holds(value, who, glued)}


def _holds(value: Any, who: set[str], glued: set[str]) -> bool:
    """Whether a value holds one of the words, or one of `glued` within another word."""
    text = " ".join(_texts(value))
    return not who.isdisjoint(text.split()) or holds_part_of(text, glued)


def _told(value: Any) -> Iterator[tuple[str, str]]:
    """Fields of who, where and by whom in what does not stay, and what they say, as `words_of` gives it.

    Other converters put them into objects in objects.
    """
    if isinstance(value, list):
        for item in value:
            yield from _told(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not _may_stay(name, item):
                yield from ((name, text) for text in _texts(item)) if _WHO.search(name) else _told(item)


def _texts(value: Any) -> Iterator[str]:
    """All texts and whole numbers in a value, as `words_of` gives them; the 0.5 of a size is none."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield words_of(str(value))


def words_of(text: str) -> str:
    """The words of a text in lower case, a space between, without punctuation, however its letters are stored."""
    return re.sub(r"[\W_]+", " ", _composed(_composed(text).casefold())).strip()


def holds_part_of(text: str, names: Iterable[str]) -> bool:
    """Whether a text holds one of the names within its words, or one of their longer numbers.

    Letters are compared without accents or with them written out, and nothing counts that stands between letters: all
    of MUELLER_TFL, j.muller and restMüller hold Müller. Numbers of 4 and 5 digits have to be there without others about
    them, while longer ones may have anything about them, and punctuation in them.

    Args:
        names: words, or several of them with spaces between, as `words_of` gives them.
    """
    plain = words_of(text)
    letters = {_squeezed(form) for form in _spellings(_RUN.sub(_without_makers, plain))}
    digits, numbers = _squeezed(plain), set(re.findall(r"\d+", plain))
    for name in names:
        if any(part in form for part in _parts(name) for form in letters):
            return True
        if any(part in numbers or (len(part) >= _SURE_DIGITS and part in digits) for part in _numbers(name)):
            return True
    return False


_RUN = re.compile(r"[^\W\d_]+")  # of letters


def _without_makers(run: re.Match[str]) -> str:
    return "|" if run[0] in _MAKERS else run[0]


@lru_cache(4096)
def _parts(name: str) -> frozenset[str]:
    """Spellings of a name that are long enough to be looked for within words."""
    found = {_squeezed(form) for form in _spellings(name)}
    found |= {short for form in found if len(short := re.sub("([aou])e", r"\1", form)) > _PART}  # Muller of Mueller
    return frozenset(form for form in found if len(form) >= _PART and not form.isdigit())


@lru_cache(4096)
def _numbers(name: str) -> frozenset[str]:
    """Numbers of an identifier, with and without its punctuation."""
    found = frozenset(number for text in (name, _squeezed(name)) for number in re.findall(r"\d+", text))
    return frozenset(n for n in found if len(n) >= _DIGITS and not re.fullmatch(r"\d\d00", n))  # 1000 is a b-value


def _spellings(text: str) -> set[str]:
    """Without accents, and with those of German and of the North written out."""
    written = "".join(_UMLAUTS.get(letter, letter) for letter in text)
    return {_unaccented(text), _unaccented(written)}


def _unaccented(text: str) -> str:
    apart = unicodedata.normalize("NFKD", "".join(_LETTERS.get(letter, letter) for letter in text))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _squeezed(text: str) -> str:
    return text.replace(" ", "")


def holds_a_date(text: str) -> bool:
    """In one of the ways in which people and scanners write dates."""
    return _DATE.search(_composed(text)) is not None


def holds_a_long_number(text: str) -> bool:
    """Seven digits in a row: a date, a time or an identifier."""
    return _LONG_NUMBER.search(_composed(text)) is not None


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
    if name == "MultipartID":
        return isinstance(value, str) and _RUNS_OF.fullmatch(value) is not None
    if name in _TEXTS | _NAMES:
        short = isinstance(value, str) or len(str(value)) <= _MAX_LIST
        return short and _all(value, lambda item: _is_plain(item) and not (name in _NAMES and re.search(r"\s", item)))
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < MAX_NUMBER  # which NaN is not


def _is_plain(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= _MAX_TEXT and not (holds_a_date(text) or holds_a_long_number(text))


def _is_of(text: str, words: frozenset[str]) -> bool:
    return text in words or words.issuperset(re.split(r"[\s_\\/,]+", text))


def _all(value: Any, fits: Any) -> bool:
    """Whether a value, or each one in a list, or in a list of lists, fits."""
    return all(_all(item, fits) for item in value) if isinstance(value, list) else bool(fits(value))
