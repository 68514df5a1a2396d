"""Tables of a data set: which columns may be shared, and how old a person may be in them.

Columns that BIDS defines and that identify nobody are kept, and those that the user names; all others are dropped,
since any column may hold names, dates or hospital numbers. Ages are capped at 89 years, as BIDS asks (and HIPAA's safe
harbor, 45 CFR 164.514(b)(2)(i)(C), which counts all above 89 as one).
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

MAX_AGE = 89
COLUMNS = {
    "participants": ("participant_id", "species", "strain", "strain_rrid", "age", "sex", "handedness"),
    "events": ("onset", "duration", "trial_type", "response_time", "value", "sample", "stim_id", "channel", "HED"),
    "aslcontext": ("volume_type",),
}
_DESCRIPTIONS = ("LongName", "Description", "Levels", "Units", "TermURL", "HED", "Format", "Maximum", "Minimum")


def clean(text: str, kind: str, keep: Collection[str] = (), age_units: str = "year") -> tuple[str, list[str]]:
    """A table without the columns that may identify.

    Args:
        text: tab-separated, a header in the first line.
        kind: the suffix of the file, a key of `COLUMNS`.
        keep: further columns to keep.
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
            lines.append("\t".join(_capped(cell, age_units) if name == "age" else cell for name, cell in named))
    return "\n".join(lines) + "\n", [header[i] for i in places]


def rows_of(text: str, column: str, values: Collection[str]) -> str:
    """The table with only those rows whose `column` is one of `values`."""
    header, *lines = text.split("\n")  # and not at what else Unicode takes for the end of a line
    place = header.split("\t").index(column)
    kept = [line for line in lines if any(cell in values for cell in line.split("\t")[place : place + 1])]
    return "\n".join([header, *kept]) + "\n"


def clean_description(fields: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """What a table's JSON says of the columns that are kept."""
    return {
        name: {key: value for key, value in about.items() if key in _DESCRIPTIONS}
        for name, about in fields.items()
        if name in columns and isinstance(about, dict)
    }


def age_units(description: Mapping[str, Any]) -> str:
    """In which units a table's JSON says that ages are; years where it says nothing."""
    about = description.get("age")
    units = about.get("Units", "year") if isinstance(about, dict) else "year"
    return units if isinstance(units, str) else json.dumps(units)


def _capped(cell: str, units: str) -> str:
    """An age, at most `MAX_AGE` years; n/a for what is no number, or in units that are not known."""
    a_year = {"year": 1.0, "years": 1.0, "yr": 1.0, "y": 1.0, "a": 1.0, "month": 12.0, "months": 12.0, "mo": 12.0}
    a_year |= {"week": 52.18, "weeks": 52.18, "wk": 52.18, "day": 365.25, "days": 365.25, "d": 365.25}
    try:
        age = float(cell.strip().removesuffix("+"))
        highest = MAX_AGE * a_year[units.strip().lower()]
    except (ValueError, KeyError):
        return "n/a"
    if not age >= 0:  # NaN too
        return "n/a"
    return cell.strip() if age <= highest and not cell.strip().endswith("+") else f"{min(highest, age):g}"
