"""What beside the pixels of a DICOM file may tell who was scanned, its removal, and the marks that say so.

The basic profile of PS3.15, Table E.1-1 (dicom.nema.org/medical/dicom/current/output/html/part15.html#chapter_E). The
table is taken from a library that is kept up with the standard; the walk is here since that library's stops at the
first level. What the table does not name is kept only if the standard has it, and it is a number that is no date, a
public code, a word in a code string, or text of `tags.PLAIN_TEXT`.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from cpmae import metadata_dicom_tags as tags
from cpmae.io.dicom import quiet
from cpmae.io.dicom_mosaic import Mosaic
from cpmae.metadata_dicom_text import is_plain, is_public, is_term, keep_only, names_in, public_codes, says_a_code
from cpmae.metadata_json import MAX_NUMBER, METHODS
from cpmae.options import Options

TABLE = "dicomfields_2026c"
RETAIN = ("dates", "patient", "device", "uids")
_TIMES = {"DA": r"\d{8}", "DT": r"\d{8}[\d.+-]*", "TM": r"[\d:.]*"}  # and how their values look
_MANY, _LONG = 64, 4096  # values, characters; more of them are room for a picture
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}  # units of ages
_STANDARD = "1.2.840.10008."  # its UIDs are the same for everybody
_CSA = b"SV10"  # Siemens' list of sequence parameters, which holds no picture


# in every character set of DICOM, and without a meaning in it; names have 64 characters at most, `Deidentified^` too
PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,50}")


@dataclass(frozen=True)
class Identity:
    """How a run gives new identities; one object for all files of a run makes them consistent.

    The key is drawn from the system's secure source and written nowhere, so that nobody can go back from a new UID,
    patient ID or date to the old one.

    Attributes:
        clean: remove what identifies; if False only pictures go and UIDs change.
        retain: of `RETAIN`, what is kept in spite of that: dates (shifted), patient's characteristics, device, UIDs.
        tool: name and version of this program, for the marks.
        replaced: what of the pixels was, in words, for the marks.
        pseudonym: what the one patient of the run is called from now on, as `PSEUDONYM`; a random number if None.
    """

    clean: bool = True
    retain: frozenset[str] = frozenset()
    tool: str = "cpmae"
    replaced: str = Options().replaced()
    pseudonym: str | None = None
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def uid(self, old: str) -> str:
        """Another UID, the same for the same old one; UIDs of the standard stay."""
        if not old or old.startswith(_STANDARD):
            return old
        return f"2.25.{self._number('uid', old) >> 128 | 1 << 126}"

    def patient_id(self, patient: str) -> str:
        """Another patient ID, the same for the same patient."""
        if self.pseudonym:
            return self.pseudonym
        return f"P{self._number('patient', patient) % 10**10:010d}"

    def stack_id(self, old: str) -> str:
        """Another name of a stack of frames, the same for the same old one."""
        return f"{self._number('stack', old) % 10**10:010d}"

    def shift(self, patient: str) -> timedelta:
        """By how much the dates of a patient move, whole days into the past, about one to ten years."""
        return -timedelta(days=365 + self._number("dates", patient) % 3287)

    def _number(self, use: str, text: str) -> int:
        return int.from_bytes(hmac.digest(self.key, f"{use}\n{text}".encode(), hashlib.sha256))


@cache
def _table() -> tuple[dict[int, str], list[tuple[int, int, int, int]]]:
    """Table E.1-1: what to do with a tag, as in the standard (X, Z, D, U, X/Z, ...), and repeating groups to remove."""
    lists, actions, groups = dicom_anonymization_database_selector(TABLE), {}, []
    for name, listed in lists.items():
        if name == "ALL_TAGS":
            continue
        for tag in listed:
            if len(tag) == 2:
                actions[int(Tag(*tag))] = name.removesuffix("_TAGS").replace("_", "/")
            else:
                groups.append(tag)
    return actions, groups


@quiet()
def deidentify_header(
    whole: Dataset, identity: Identity, patient: str, mosaic: Mosaic | None = None, repeat: int = 0
) -> None:
    """Clean and mark the header of an MR image whose pixels outside the brain are new; in place.

    Args:
        whole: all of a file.
        identity: how, one for all files of a run.
        patient: what tells the patients of a run apart.
        mosaic: what `read_mosaic` found in it; its private elements are put back, since nobody could unpack it without.
        repeat: of the images that have its SOPInstanceUID, which this is; each gets one of its own. What refers to them
            cannot tell them apart, and refers to number 0.
    """
    names = names_in(whole) if identity.clean else set()
    _walk(whole, identity, patient, names)
    if repeat:
        whole.SOPInstanceUID = identity.uid(f"{whole.SOPInstanceUID} {repeat}")
    if identity.clean:
        whole.PatientID = identity.patient_id(patient)
        whole.PatientName = f"Deidentified^{whole.PatientID}"
    _widen(whole, whole)
    if mosaic:
        mosaic.put(whole)
    _new_meta(whole)
    _mark(whole, identity, mosaic is not None)


def _walk(data: Dataset, identity: Identity, patient: str, names: set[str], depth: int = 0) -> None:
    for tag in list(data.keys()):
        unknown = tag.is_private or not dictionary_has_tag(tag)
        if _is_picture(tag, depth) or (identity.clean and unknown):
            del data[tag]
            continue
        element = data[tag]
        if _may_be_picture(element) if unknown else _is_long(element):
            del data[tag]
        elif element.VR == "UI":
            _new_uids(data, element, identity)
        elif identity.clean and not (
            _cleaned(data, element, identity, patient, names) and public_codes(element, names)
        ):
            del data[tag]
        elif element.VR == "SQ":
            for item in element.value:
                _walk(item, identity, patient, names, depth + 1)


@quiet()
def pictures_of(data: Dataset, depth: int = 0) -> list[int]:
    """Tags that hold pictures beside the pixels, or have room for one: what goes whatever else is kept."""
    found = []
    for tag in list(data.keys()):
        unknown = tag.is_private or not dictionary_has_tag(tag)
        if _is_picture(tag, depth) or (_may_be_picture(data[tag]) if unknown else _is_long(data[tag])):
            found.append(int(tag))
        elif data[tag].VR == "SQ":
            found += [inner for item in data[tag].value for inner in pictures_of(item, depth + 1)]
    return found


def _is_picture(tag: BaseTag, depth: int) -> bool:
    if tag.group & 0xFF00 == 0x7F00:  # all that is, or once was, for pixels
        return depth > 0 or tag != tags.PIXELS
    curve_or_overlay = not tag.is_private and tag.group & 0xFF00 in (0x5000, 0x6000)
    return tag in tags.PICTURES or curve_or_overlay


def _may_be_picture(element: DataElement) -> bool:
    """Whether there is room for one in an element whose meaning nobody knows; Siemens' parameters are none."""
    if element.VR == "SQ":
        return any(_may_be_picture(e) for item in element.value for e in item)
    if element.VR in tags.BINARY:
        return not (isinstance(element.value, bytes) and element.value.startswith(_CSA))
    return element.VM > _MANY or len(str(element.value)) > _LONG


def _is_long(element: DataElement) -> bool:
    """Whether there is room for a picture in an element of the standard that needs none: a list of many numbers."""
    if element.tag in tags.LONG or not tags.LISTED.intersection(element.VR.split(" or ")):
        return False
    return (len(element.value) if isinstance(element.value, bytes) else element.VM) > _MANY


def _widen(data: Dataset, whole: Dataset) -> None:
    """Let real world values be for all numbers that can be stored, and not just for those that the original had.

    Where several maps follow one another, the places at which they meet stay, and so do those of a table, which has as
    many entries as there are numbers from the first to the last.
    """
    for element in data:
        if element.VR != "SQ":
            continue
        for item in element.value:
            _widen(item, whole)
        if element.keyword == "RealWorldValueMappingSequence":
            items = [item for item in element.value if "RealWorldValueLUTData" not in item]
            for keyword, outermost in tags.ENDS.items():
                ends = [item[keyword] for item in items if item.get(keyword) is not None]
                limit = outermost((end.value for end in ends if isinstance(end.value, int | float)), default=0)
                for end in ends:
                    if end.value == limit or not isinstance(end.value, int | float):
                        end.value = outermost(_storable(end, whole))


def _storable(end: DataElement, whole: Dataset) -> tuple[int, int]:
    """The least and the greatest number that the pixels' bits, and those of the element, can hold."""
    signed = bool(whole.get("PixelRepresentation"))
    if " or " in end.VR:
        end.VR = "SS" if signed else "US"
    bits = int(whole.get("BitsStored") or 16)
    if end.VR in ("US", "SS"):
        signed, bits = end.VR == "SS", min(bits, 16)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _new_uids(data: Dataset, element: DataElement, identity: Identity) -> None:
    """Replace UIDs that are not retained; those of codes stay, or go."""
    if any(element.tag in tags.KEPT[what] for what in identity.retain):
        return
    value = element.value
    if element.tag in tags.CODE_UIDS:
        if identity.clean and not str(value or "").startswith(_STANDARD):
            del data[element.tag]
        return
    element.value = [identity.uid(str(v)) for v in value] if element.VM > 1 else identity.uid(str(value or ""))


def _cleaned(data: Dataset, element: DataElement, identity: Identity, patient: str, names: set[str]) -> bool:
    """Clean one element, not what is below it; False if it has to go."""
    actions, groups = _table()
    tag = element.tag
    if any(tag.group & t[2] == t[0] & t[2] and tag.element & t[3] == t[1] & t[3] for t in groups):
        return False
    if any(tag in tags.KEPT[what] for what in identity.retain):
        return element.keyword != "PatientAge" or _capped(element)
    if tag in tags.BODY or tag in tags.RECORDS:
        return False
    if "dates" in identity.retain and element.VR in _TIMES and tag not in tags.PERSONAL_DATES:
        return _shift(element, identity.shift(patient)) or _replaced(data, element)
    action = actions.get(int(tag))
    if action == "X/Z/U/STAR":
        return True  # references: their UIDs change below
    if action is not None:
        return _replaced(data, element)
    if element.VR in _TIMES:
        return False
    if element.VR in tags.BINARY:  # such as a profile of colours, which has room for text
        return tag == tags.PIXELS
    if element.VR in tags.NUMBERS:
        return tag in tags.SCALES or _is_small(element) or _replaced(data, element)
    if element.VR in tags.TEXT:
        if tag == tags.STACK:
            return _numbered(element, identity)
        if tag in tags.CODE_TEXT:
            return is_public(data, names) and says_a_code(data, element)
        plain = tag in tags.PLAIN_TEXT and keep_only(element, lambda text: is_plain(text, names))
        return plain or _replaced(data, element)
    if element.VR == "CS":
        keep_only(element, lambda text: is_term(element.keyword, text, names))
    return True


def _replaced(data: Dataset, element: DataElement) -> bool:
    """Empty an element, give it a dummy value, or say that it goes: what the table asks for and the class allows."""
    if element.tag in tags.NEEDED and "PerFrameFunctionalGroupsSequence" in data:
        element.value = tags.DUMMIES.get(element.VR, "none")
        return True
    if element.tag in tags.NEEDED_EMPTY:
        element.value = Sequence() if element.VR == "SQ" else ""
        return True
    if element.tag in tags.NEEDED_ALWAYS:
        element.value = "none"
        return True
    return False


def _is_small(element: DataElement) -> bool:
    """False if a number is so large that it is a date or an identifier."""
    values = element.value if element.VM > 1 else [element.value]
    return not any(abs(float(value)) >= MAX_NUMBER for value in values if value not in (None, ""))


def _numbered(element: DataElement, identity: Identity) -> bool:
    """Stacks of frames are told apart by numbers, the same for the same old ID; small numbers stay."""
    if not re.fullmatch(r"\s*\d{0,2}\s*", str(element.value or "")):
        element.value = identity.stack_id(str(element.value))
    return True


def _capped(element: DataElement) -> bool:
    """Ages over 89 years become 90: so few are older that the age itself identifies. False if it is no age."""
    found = re.fullmatch(r"\s*(\d+)([DWMY])\s*", str(element.value or "000Y"))
    if found and int(found[1]) >= 90 * _PER_YEAR[found[2]]:
        element.value = "090Y"
    return found is not None


def _shift(element: DataElement, by: timedelta) -> bool:
    """Move dates; times of the day stay. False if it is anything else, or a date that cannot be moved."""
    values = list(element.value) if element.VM > 1 else [element.value]
    moved = []
    for value in (str(v).strip() for v in values if v):
        if not re.fullmatch(_TIMES[element.VR], value):
            return False
        if element.VR != "TM":
            try:
                day = datetime.strptime(value[:8], "%Y%m%d") + by
            except (ValueError, OverflowError):  # 00010101 is how many a database says that there is none
                return False
            value = f"{day:%Y%m%d}".rjust(8, "0") + value[8:]
        moved.append(value)
    element.value = moved if len(moved) > 1 else (moved or [""])[0]
    return True


def _new_meta(whole: Dataset) -> None:
    """File meta information with what a reader needs and nothing of who wrote the file before."""
    syntax = whole.file_meta.TransferSyntaxUID
    for tag in list(whole.file_meta.keys()):
        del whole.file_meta[tag]
    whole.file_meta.TransferSyntaxUID = syntax
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
    whole.preamble = bytes(128)


def _mark(whole: Dataset, identity: Identity, safe_private: bool) -> None:
    """Say what was done, as PS3.15 wants it."""
    whole.ImageType = _derived(whole.get("ImageType"))
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in whole.get(groups) or []:
            for item in group.get("MRImageFrameTypeSequence") or []:
                if item.get("FrameType"):
                    item.FrameType = _derived(item.FrameType)
    said = f"{identity.tool}: {identity.replaced} replaced by a generated head"
    whole.DerivationDescription = "; ".join(filter(None, [str(whole.get("DerivationDescription") or ""), said]))[-1024:]
    whole.RecognizableVisualFeatures = "NO"
    before = whole.get("DeidentificationMethod") or []  # of an earlier tool; gone where the metadata was cleaned
    whole.DeidentificationMethod = [
        *([before] if isinstance(before, str) else before),
        f"{identity.tool}: {identity.replaced} replaced",  # a DICOM string of 64 characters at most
    ]
    options = ["visual", "basic", *(r for r in RETAIN if r in identity.retain)] if identity.clean else ["visual"]
    if identity.clean and safe_private:
        options.append("private")
    codes = list(whole.get("DeidentificationMethodCodeSequence") or [])
    had = [str(code.get("CodeValue")) for code in codes if code.get("CodingSchemeDesignator") == "DCM"]
    if identity.clean:
        had = [value for value in dict.fromkeys(had) if value in METHODS]
        codes = [_code(value) for value in had]  # in the standard's words
    codes += [_code(value) for value in (tags.METHOD_OF[option] for option in options) if value not in had]
    whole.DeidentificationMethodCodeSequence = Sequence(codes)
    if identity.clean:
        whole.PatientIdentityRemoved = "YES"
        whole.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in identity.retain else "REMOVED"
    elif "PatientIdentityRemoved" not in whole:
        whole.PatientIdentityRemoved = "NO"


def _derived(value: Any) -> list[str]:
    """An ImageType or FrameType with DERIVED in the first place and something in the second, which DICOM demands."""
    others = [] if isinstance(value, str) else list(value or [])[1:]
    return ["DERIVED", *(others or ["PRIMARY"])]


def _code(value: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", METHODS[value]
    return code
