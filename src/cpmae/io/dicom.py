"""A folder of DICOM files as series: what is in it, and which of it shows a head.

Only headers are read here; pixels are the matter of `dicom_pixels`, geometry of `dicom_volumes`.
"""

import re
import struct
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    UID_dictionary,
)

from cpmae.errors import ScanError
from cpmae.io.source import files_below
from cpmae.sequence import FIELDS

# how pydicom says that it cannot understand or write an element
DAMAGE = (
    *(EOFError, ValueError, KeyError, NotImplementedError, AttributeError, TypeError, RecursionError, OverflowError),
    *(struct.error, BytesLengthException),
)
ENHANCED = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
MR_IMAGES = (MRImageStorage, *ENHANCED)
# of BodyPartExamined; long names stand in compounds (HEADNECK) too, short ones in other words (HEART, ILIAC, SURFACE)
_HEAD_PART = re.compile(
    r"HEAD|BRAIN|SKULL|ORBIT|PITUITARY|SELLA|SINUS|(?<![A-Z])(?:FACE|EYES?|EARS?|IACS?|TMJS?|TESTA|T[EÊ]TE)(?![A-Z])"
    # and as it is written where English is not
    r"|KOPF|SCH(?:AE|Ä)DEL|HIRN|CRANI|CR[AÂ]NE|CEREBR|CERVEAU|CERVELLO|ENC[EÉ](?:PH|F)AL|CABE[ZCÇ]A|HOOFD|HERSEN|HUVUD|HJERNE"
)
# of ImageType: pictures of pictures. A projection's brain voxels show what lies around the brain as well; makers write
# MIP_SAG, MNIP, HD MIP, CSA MIP THIN, MAX_IP, PROJECTION IMAGE
_SORTS = {
    re.compile(r"LOCALIZER|SCOUT"): "a localizer",
    re.compile(r"(.*[ _])?(MIP|MNIP|MINIP|M(AX|IN)[ _]?IP)([ _].*)?|PROJECTION.*"): (
        "a projection, whose voxels in the brain show what lies around it too"
    ),
    re.compile(r"(VOLUME|SURFACE)[ _]REND.*"): "a rendering",
    re.compile(r"SCREEN ?SAVE|SCREENSHOT|POSDISP"): "a screenshot",
}
_T1W = re.compile(r"t1(?!rho)|mp2?rage|spgr|bravo|tfl3d|ir-?fspgr", re.IGNORECASE)
_NOT_T1W = re.compile(
    r"t2|flair|dwi|dti|diff|bold|fmri|swi|perfus|field|tof|angio|locali[sz]er"
    # short ones stand in other words (epilepsy, HeadCoil, updated, block); what comes before is pCASL, FEEPI
    r"|(?:epi|asl|perf|(?<![a-z])(?:pd|pdw|e?adc|loc|b0|b0map))(?![a-z])",
    re.IGNORECASE,
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# what a second copy shares with the first beside the groups: naive tools give one SOPInstanceUID to several images
_COPIED = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber", "ImageType", "EchoTime"),
    "ImagePositionPatient",
)
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "IssuerOfPatientID", "PatientName", "Modality", "SeriesNumber", "InstanceNumber"),
    *("SeriesDescription", "ProtocolName", "SequenceName", "BodyPartExamined", "BurnedInAnnotation", "ImageType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "LossyImageCompression", "ScanningSequence", "MRAcquisitionType", "SliceThickness"),
    *("EchoTime", "EchoNumbers", "RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue"),
    *("DiffusionGradientOrientation", "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime"),
    *("ComplexImageComponent", "SpacingBetweenSlices", *FIELDS),
    *(*_GROUPS, "VolumeBasedCalculationTechnique"),
]


@dataclass(frozen=True)
class Instance:
    """One file of an image: where it is, and its header as far as sorting needs it (no pixels, no private tags).

    Attributes:
        repeat: how many other images before it have its SOPInstanceUID.
    """

    path: Path
    header: Dataset
    repeat: int = 0


@dataclass(frozen=True)
class Series:
    """The MR images of one SeriesInstanceUID, in the order of their instance numbers.

    Attributes:
        patient: what tells patients apart; identifies.
        frame: FrameOfReferenceUID; series of one frame lie in one world. Empty if the series has none.
        name: number and description, and a file where others have the same, for messages; may identify.
    """

    uid: str
    study: str
    patient: str
    frame: str
    number: int
    name: str
    instances: tuple[Instance, ...]

    @property
    def sequence(self) -> dict[str, Any]:
        """What `cpmae.sequence` asks; enhanced images have some of it in a sequence that all their frames share."""
        header = self.instances[0].header
        shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        modifiers = shared[0].get("MRModifierSequence") or [Dataset()]
        return {name: header.get(name) or modifiers[0].get(name) for name in FIELDS}

    @property
    def world(self) -> tuple[str, str]:
        """Series of one world lie in one head; without a frame of reference each has its own."""
        return self.patient, self.frame or self.uid


@dataclass(frozen=True)
class Left:
    """What is not handled, and why: `name` of a file or a series, `count` of files.

    Attributes:
        unseen: the file cannot be read, so that nobody knows what is missing without it.
    """

    name: str
    count: int
    reason: str
    unseen: bool = False


class _Unreadable(ScanError):
    """Of a file that may be anything."""


class _NoDicom(ScanError):
    """Of a file of another kind."""


def find_series(folder: Path) -> tuple[list[Series], list[Left]]:
    """All series of MR images below a folder, by study and number, and whatever else lies there.

    Args:
        folder: looked through with all folders below it, through links too.

    Raises:
        ScanError: if there is not a DICOM file at all, or the folder cannot be read.
    """
    found: dict[str, list[Instance]] = {}
    left: list[Left] = []
    of_another_kind = 0
    seen: dict[tuple[str, ...], list[tuple[str, Dataset]]] = {}
    uses: Counter[str] = Counter()
    copies: dict[tuple[Path, Path], list[tuple[str, str]]] = {}  # by their folder and that of the first copies
    for path in files_below(folder):
        name = str(path.relative_to(folder))
        try:
            header = read_header(path)
        except ScanError as error:
            left.append(Left(name, 1, str(error), isinstance(error, _Unreadable)))
            of_another_kind += isinstance(error, _NoDicom)
            continue
        kind = header.get("SOPClassUID", "")
        if kind == MediaStorageDirectoryStorage or path.name == "DICOMDIR":
            left.append(Left(name, 1, "an index of files (DICOMDIR), which would be wrong for the result"))
        elif not kind or not isinstance(kind, str):
            left.append(
                Left(name, 1, "it does not say what it is (SOPClassUID) and seems to be cut off, copy it again")
            )
        elif kind not in MR_IMAGES:
            left.append(Left(name, 1, f"not an MR image but {UID_dictionary.get(kind, (kind,))[0]}"))
        elif not header.get("SeriesInstanceUID") or not header.get("StudyInstanceUID"):
            left.append(Left(name, 1, "it names no study or series, export it again"))
        else:
            uid = str(header.get("SOPInstanceUID") or name)
            alike = seen.setdefault((uid, *(str(header.get(keyword)) for keyword in _COPIED)), [])
            twin = next((n for n, other in alike if all(other.get(g) == header.get(g) for g in _GROUPS)), None)
            if twin:
                copies.setdefault((Path(name).parent, Path(twin).parent), []).append((name, twin))
            else:
                alike.append((name, header))
                found.setdefault(str(header.SeriesInstanceUID), []).append(Instance(path, header, uses[uid]))
                uses[uid] += 1
    for (name, twin), *more in copies.values():
        others = f", and {len(more)} more of these folders" if more else ""
        left.append(Left(name, 1 + len(more), f"a second copy of {twin} (SOPInstanceUID){others}"))
    if not found and not left:
        raise ScanError(f"{folder} holds no files, give a folder of DICOM files")
    if not found and of_another_kind == len(left):
        if (folder / "dataset_description.json").exists():
            raise ScanError(f"{folder} is a BIDS data set, use `cpmae bids`, and `cpmae verify` on single files")
        raise ScanError(f"{folder} holds no DICOM file among its {len(left)}, give a folder of DICOM files")
    series = sorted((_series(uid, items) for uid, items in found.items()), key=lambda s: (s.study, s.number, s.uid))
    return _told_apart(series, folder), left


def _told_apart(series: list[Series], folder: Path) -> list[Series]:
    """Names that several series have, as those of several patients, with the first file of each."""
    names = Counter(s.name for s in series)
    return [
        replace(s, name=f"{s.name} of {s.instances[0].path.relative_to(folder)}") if names[s.name] > 1 else s
        for s in series
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of pydicom's about values that break rules of the standard; they are kept as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(path: Path) -> Dataset:
    """The tags that sorting needs; `file_meta` has the transfer syntax.

    Raises:
        ScanError: if the file is not DICOM or damaged; the sentence begins with its name.
    """
    return _read(path, whole=False, specific_tags=_TAGS, stop_before_pixels=True)


def read_whole(path: Path, pixels: bool = True) -> Dataset:
    """All of a file, or all but its pixels.

    Raises:
        ScanError: as `read_header`.
    """
    return _read(path, whole=True, stop_before_pixels=not pixels)


def _read(path: Path, whole: bool, **arguments: object) -> Dataset:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise _NoDicom(f"{path.name} is not a DICOM file")
    try:
        with quiet():
            try:
                found = pydicom.dcmread(path, **arguments)  # type: ignore[arg-type]
            except InvalidDicomError:
                found = pydicom.dcmread(path, force=True, **arguments)  # type: ignore[arg-type]
                if "SOPClassUID" not in found:  # a data set without the preamble has one, other files do not
                    raise
            if not whole:
                deque(found.iterall(), 0)  # elements are understood when they are asked for: ask here, once for all
    except InvalidDicomError as error:
        raise _NoDicom(f"{path.name} is not a DICOM file") from error
    except DAMAGE as error:
        text = " ".join(str(error).splitlines()[:1])
        raise ScanError(f"{path.name} is truncated or damaged ({text}), copy it again") from error
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise _Unreadable(f"{path.name} is a link to a file that is not there, fetch it (datalad get)") from error
        if error.errno is None:  # pydicom's word for a file that ends too early
            raise ScanError(f"{path.name} is truncated or damaged ({error}), copy it again") from error
        raise _Unreadable(f"{path.name} cannot be read ({error.strerror}), check its permissions") from error
    if "TransferSyntaxUID" not in found.file_meta:
        implicit, little = found.original_encoding
        found.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if implicit
            else (pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian)
        )
    return found


def _series(uid: str, items: list[Instance]) -> Series:
    items = sorted(items, key=lambda i: (number_of(i.header, "InstanceNumber"), str(i.header.get("SOPInstanceUID"))))
    first = items[0].header
    number = int(number_of(first, "SeriesNumber"))
    patient = "\n".join(str(first.get(k, "")) for k in ("PatientID", "IssuerOfPatientID"))
    if not first.get("PatientID"):
        patient += f"\n{first.get('PatientName', '')}"
    text = str(first.get("SeriesDescription") or first.get("ProtocolName") or "no description")
    frame = str(first.get("FrameOfReferenceUID", "") or "")
    return Series(uid, str(first.StudyInstanceUID), patient, frame, number, f"series {number} ({text})", tuple(items))


def number_of(header: Dataset, keyword: str, default: float = 0.0) -> float:
    """A number from a header, or the default where it has none or something else."""
    try:
        value = header.get(keyword)
        return default if value is None or value == "" else float(value[0] if hasattr(value, "append") else value)
    except (TypeError, ValueError, IndexError):
        return default


def image_type(header: Dataset, keyword: str = "ImageType") -> list[str]:
    value = header.get(keyword) or []
    return [str(v).upper() for v in ([value] if isinstance(value, str) else value)]


def _said_of(header: Dataset) -> Iterator[str]:
    """What an image says that it is; an enhanced one says it of its frames, and how these were computed, too."""
    frames = (f for name in _GROUPS for g in header.get(name) or [] for f in g.get("MRImageFrameTypeSequence") or [])
    for part in (header, *frames):
        for keyword in ("ImageType", "FrameType", "VolumeBasedCalculationTechnique"):
            yield from image_type(part, keyword)


def no_head(series: Series) -> str | None:
    """Why the series is no head MR volume, as far as headers tell; None if it may be one."""
    first = series.instances[0].header
    modality = str(first.get("Modality", "MR") or "MR")
    if modality != "MR":
        return f"its modality is {modality}"
    part = str(first.get("BodyPartExamined", "") or "").upper()
    if part and not _HEAD_PART.search(part):
        return f"it shows no head but {part} (BodyPartExamined)"
    if first.SOPClassUID not in ENHANCED and not any(i.header.get("ImagePositionPatient") for i in series.instances):
        return "its pictures do not say where they lie, and make no volume"
    sorts = {v for i in series.instances for v in _said_of(i.header)}
    for written, what in _SORTS.items():
        for value in sorted(sorts):
            if written.fullmatch(value):
                return f"it is {what} (ImageType {value})"
    if any(number_of(i.header, "SamplesPerPixel", 1) != 1 for i in series.instances):
        return "it is a colour picture"
    photometric = {str(i.header.get("PhotometricInterpretation", "MONOCHROME2")) for i in series.instances}
    if not photometric <= {"MONOCHROME1", "MONOCHROME2"}:
        return f"it is a colour picture ({', '.join(sorted(photometric))})"
    return None


def t1w_score(series: Series) -> float:
    """How much a series looks like the T1w of its study, whose brain is found best; from headers alone."""
    first = series.instances[0].header
    text = " ".join(str(first.get(k) or "") for k in ("SeriesDescription", "ProtocolName", "SequenceName"))
    score = 4.0 * bool(_T1W.search(text)) - 4.0 * bool(_NOT_T1W.search(text))
    echo, repetition = number_of(first, "EchoTime"), number_of(first, "RepetitionTime")
    score += 2 if 0 < echo < 15 and 0 < repetition < 3500 else -3 if echo > 40 else 0
    score += 2 * (str(first.get("MRAcquisitionType", "")) == "3D")
    score -= 2 * (image_type(first)[:1] == ["DERIVED"])
    frames = sum(number_of(i.header, "NumberOfFrames", 1) for i in series.instances)
    score -= 0.5 * bool(re.search(r"inv-?_?1(?!\d)", text, re.IGNORECASE))  # of an MP2RAGE the second shows the brain
    return score + min(frames, 400) / 1000  # of two alike, the one with more slices
