"""Tables of a data set: which columns may be shared, and how old a person may be in them.

Columns that BIDS defines and that identify nobody are kept, and those that the user names; all others are dropped,
since any column may hold names, dates or hospital numbers. Where BIDS says which values a column has, others become
n/a, and so do dates in the experimenter's own words. Ages are capped at 89 years, as BIDS asks (and HIPAA's safe
harbor, 45 CFR 164.514(b)(2)(i)(C), which counts all above 89 as one).
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from cpmae.metadata_json import holds_a_date

MAX_AGE = 89
COLUMNS = {
    "participants": ("participant_id", "species", "age", "sex", "handedness"),
    "events": ("onset", "duration", "trial_type", "response_time", "value", "sample", "stim_id", "channel", "HED"),
    "aslcontext": ("volume_type",),
}
_VALUES = {  # of BIDS, in any case
    "sex": {"m", "male", "f", "female", "o", "other"},
    "handedness": {"l", "left", "r", "right", "a", "ambidextrous"},
    # a list, since two words of letters may be somebody's name
    "species": {"homo sapiens", "human", "9606", "ncbitaxon:9606", "ncbi:txid9606", "mus musculus", "rattus norvegicus"}
    | {"macaca mulatta", "macaca fascicularis", "callithrix jacchus"},
    "volume_type": {"control", "label", "m0scan", "deltam", "cbf", "norf"},
}
# And below which number: what is a day or more after the start of a scan is a date or a time of some clock (Unix's
# 1.7e9, MATLAB's 7e5), and so is a sample of ten digits.
_NUMBERS = {**dict.fromkeys(("onset", "duration", "response_time"), 86_400), "sample": 10**9}
_WORDS = {"trial_type", "value", "stim_id", "channel", "HED"}  # the experimenter's own
_IDENTIFIER = re.compile(r"(?<!\d)[1-9]\d{9}")  # ten digits; COCO's names of pictures begin with zeros
_A_YEAR = {  # how many of a unit make one
    **dict.fromkeys(("year", "years", "yr", "yrs", "y", "a"), 1.0),
    **dict.fromkeys(("month", "months", "mo", "mos"), 12.0),
    **dict.fromkeys(("week", "weeks", "wk", "wks"), 52.18),
    **dict.fromkeys(("day", "days", "d"), 365.25),
}
_SECONDS = {"s", "sec", "second", "seconds", "ms"}
_DESCRIPTIONS = ("LongName", "Description", "Levels", "Units", "TermURL", "HED", "Format", "Maximum", "Minimum")


def clean(text: str, kind: str, keep: Collection[str] = (), age_units: str = "year") -> tuple[str, list[str]]:
    """A table without the columns that may identify.

    Args:
        text: tab-separated, a header in the first line.
        kind: the suffix of the file, a key of `COLUMNS`.
        keep: further columns to keep; of a column of BIDS, whatever values it has, but of ages.
        age_units: in which `age` is given.

    Returns:
        The table, and how the kept columns are called.
    """
    header, *rows = (line.removesuffix("\r").split("\t") for line in text.removeprefix("\ufeff").split("\n"))
    places = [i for i, name in enumerate(header) if name in COLUMNS[kind] or name in keep]
    lines = ["\t".join(header[i] for i in places)]
    for row in rows:
        if row != [""]:
            cells = [row[i] if i < len(row) and row[i] else "n/a" for i in places]
            named = zip((header[i] for i in places), cells, strict=True)
            lines.append("\t".join(_cell(name, cell, keep, age_units) for name, cell in named))
    return "\n".join(lines) + "\n", [header[i] for i in places]


def rows_of(text: str, column: str, values: Collection[str]) -> str:
    """The table with only those rows whose `column` is one of `values`."""
    header, *lines = text.split("\n")  # and not at what else Unicode takes for the end of a line
    place = header.split("\t").index(column)
    kept = [line for line in lines if any(cell in values for cell in line.split("\t")[place : place + 1])]
    return "\n".join([header, *kept]) + "\n"


def clean_description(
    fields: Mapping[str, Any], columns: Collection[str], keep: Collection[str] = ()
) -> dict[str, Any]:
    """What a table's JSON says of the columns that are kept.

    BIDS defines its own columns, so of these only units stay, and levels in its own words; all else is free text.
    """
    ours = {name for names in COLUMNS.values() for name in names} - set(keep)
    found = {
        name: _plain(name, about) if name in ours else {key: about[key] for key in about if key in _DESCRIPTIONS}
        for name, about in fields.items()
        if name in columns and isinstance(about, dict)
    }
    return {name: about for name, about in found.items() if about}


def _plain(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Units that are known, of ages and times, and those levels that are values of the column, told in such values."""
    units, levels, values = about.get("Units"), about.get("Levels"), _VALUES.get(name, set())
    known = _A_YEAR.keys() if name == "age" else _SECONDS if name in _NUMBERS else ()
    found: dict[str, Any] = {"Units": units} if isinstance(units, str) and _unit(units) in known else {}
    if isinstance(levels, dict):
        plain = {key: text for key, text in levels.items() if {key.lower(), str(text).lower()} <= values}
        found |= {"Levels": plain} if plain else {}
    return found


def age_units(description: Mapping[str, Any]) -> str:
    """In which units a table's JSON says that ages are; years where it says nothing."""
    about = description.get("age")
    units = (about.get("Units") if isinstance(about, dict) else None) or "year"
    return units if isinstance(units, str) else json.dumps(units)


def _unit(text: str) -> str:
    """`yrs` of ` Yrs. old`."""
    return text.strip().lower().removesuffix("old").strip(" .")


def _cell(name: str, cell: str, keep: Collection[str], age_units: str) -> str:
    """The value of a column, n/a if it is none that BIDS has there."""
    text = cell.strip()
    if name == "age":
        return _capped(cell, age_units)
    if name in keep:
        return cell
    if name in _VALUES:
        return text if text.lower() in _VALUES[name] else "n/a"
    if name in _NUMBERS:
        return text if _is_number(text, _NUMBERS[name]) else "n/a"
    return "n/a" if name in _WORDS and (holds_a_date(cell) or _IDENTIFIER.search(cell)) else cell


def _is_number(text: str, limit: int) -> bool:
    """Whether it is a number below the limit, of either sign, and its digits are no date."""
    try:
        number = abs(float(text))
    except ValueError:
        return False
    return number < limit and not holds_a_date(f"{number:.0f}")  # which infinity and NaN are not


def _capped(cell: str, units: str) -> str:
    """An age, at most `MAX_AGE` years; n/a for what is no number, or in units that are not known."""
    try:
        age = float(cell.strip().removesuffix("+"))
        highest = MAX_AGE * _A_YEAR[_unit(units)]
    except (ValueError, KeyError):
        return "n/a"
    if not age >= 0:  # NaN too
        return "n/a"
    return cell.strip() if age <= highest and not cell.strip().endswith("+") else f"{min(highest, age):g}"
