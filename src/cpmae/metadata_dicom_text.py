"""Which text of a DICOM header may stay: what holds no name, date or number of a person, and public codes."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cpmae import metadata_dicom_tags as tags
from cpmae.metadata_json import holds_a_date, holds_a_long_number, holds_part_of, words_of

_NO_WORD = re.compile(r"(\d\D*){5}|.{17}", re.DOTALL)  # code strings have 16 characters, and terms few digits


def names_in(whole: Dataset) -> set[str]:
    """What identifies, from where the standard wants it, to be looked for elsewhere; lower case, no punctuation."""
    found = set()
    for element in _elements(whole):
        if element.VR == "PN" or element.tag in tags.IDENTIFIERS:
            values = element.value if element.VM > 1 else [element.value]
            for text in (words_of(str(value)) for value in values if value):
                found |= set(text.split()) if element.VR == "PN" else {text}
    return {name for name in found if _tells(name)}


def _tells(name: str) -> bool:
    """False for initials, two digits, Mr and MRI, which are in the names and versions of half of all scanners."""
    return (len(name) > 1 or not name.isascii()) and name not in ("mr", "mri") and not re.fullmatch(r"\d\d?", name)


def _elements(data: Dataset) -> Iterator[DataElement]:
    for tag in data.keys():
        if not tag.is_private and tag.group != 0x7FE0:
            element = data[tag]
            yield element
            if element.VR == "SQ":
                for item in element.value:
                    yield from _elements(item)


def _holds_a_name(value: Any, names: set[str]) -> bool:
    text = str(value)
    return any(f" {name} " in f" {words_of(text)} " for name in names) or holds_part_of(text, names)


def is_plain(text: str, names: set[str]) -> bool:
    """False for text with a name, a date or a long number."""
    return not (holds_a_date(text) or holds_a_long_number(text) or _holds_a_name(text, names))


def is_term(keyword: str, text: str, names: set[str]) -> bool:
    """Whether a value of a code string is one of the standard's, or may be one of a maker."""
    if keyword in tags.WORDS:
        return not text or text.upper() in tags.WORDS[keyword]
    return text in tags.TERMS or (not _NO_WORD.search(text) and is_plain(text, names))


def keep_only(element: DataElement, fits: Callable[[str], bool]) -> bool:
    """Empty those values that do not fit: the place of a value says what it means. False if none is left.

    A name may go over several values, so these have to fit together as well.
    """
    values = list(element.value) if element.VM > 1 else [element.value]
    clean = [value if fits(str(value or "").strip()) else "" for value in values]
    if clean != values:
        element.value = clean if len(clean) > 1 else clean[0]
    whole = " | ".join(str(value) for value in clean if value)
    return not any(values) or (bool(whole) and fits(whole))


def public_codes(element: DataElement, names: set[str]) -> bool:
    """Take items out of a sequence that are codes and not public; False if none is left."""
    if element.VR != "SQ":
        return True
    items = [item for item in element.value if tags.CODE_PARTS.isdisjoint(item.keys()) or is_public(item, names)]
    left = bool(items) or not element.value
    if len(items) < len(element.value):
        element.value = Sequence(items)
    return left


def is_public(code: Dataset, names: set[str]) -> bool:
    """False for a code of no scheme, of one that only one hospital has, and for what is no code of its scheme."""
    scheme = str(code.get("CodingSchemeDesignator", ""))
    return scheme in tags.SCHEMES and all(
        (scheme, value) in tags.meanings()
        or (re.fullmatch(tags.SCHEMES[scheme], value) and _is_plain_code(value, names))
        for value in _values_of(code)
    )


def _is_plain_code(value: str, names: set[str]) -> bool:
    """False for a date or a name; long numbers are what codes are."""
    return not holds_a_date(value) and not _holds_a_name(value, names)


def _values_of(code: Dataset) -> list[str]:
    values = (str(code.get(keyword) or "").strip() for keyword in ("CodeValue", "LongCodeValue"))
    return [value for value in values if value]


def says_a_code(code: Dataset, element: DataElement) -> bool:
    """Put the standard's words in place of a public code's meaning, or the code where it has none; False if it goes."""
    if element.keyword == "CodingSchemeVersion":
        return re.fullmatch(r"\d{1,2}(\.\d{1,2})*", str(element.value or "").strip()) is not None
    if element.keyword == "CodeMeaning":
        values = _values_of(code)
        if not values:
            return False
        known = tags.meanings().get((str(code.CodingSchemeDesignator), values[0]), [values[0]])
        if element.value not in known:
            element.value = min(known, key=len)[:64]
    return True
