"""JSON sidecars of BIDS: an object of fields beside an image, under its name."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cpmae.errors import ScanError
from cpmae.io.forms import ALL_SUFFIXES
from cpmae.io.source import opened

MAX_DEPTH = 50  # of lists and objects in each other, which are walked by recursion; sidecars have three


def sidecar_of(image: Path) -> Path:
    """Where the sidecar of an image lies, `scan.json` beside `scan.nii.gz`, whether it is there or not."""
    name = image.name
    suffix = max((s for s in ALL_SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return image.with_name(name[: len(name) - len(suffix)] + ".json")


def read_text(path: Path) -> str:
    """Raises ScanError if it cannot be read."""
    try:
        with opened(path) as file:
            return io.TextIOWrapper(file, "utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ScanError(f"{path.name} is not UTF-8, store it as UTF-8") from error


def read(path: Path) -> dict[str, Any]:
    """The fields of a sidecar.

    Raises:
        ScanError: if it cannot be read, is no JSON object, or nests lists and objects too deeply.
    """
    try:
        found = json.loads(read_text(path))
    except ScanError:
        raise
    except (ValueError, RecursionError) as error:
        raise ScanError(f"{path.name} is not JSON ({error}), correct it") from error
    if not isinstance(found, dict):
        raise ScanError(f"{path.name} holds a {type(found).__name__} and not one JSON object, correct it")
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _items(value) if isinstance(item, dict | list)]
    if level:
        raise ScanError(f"{path.name} nests lists and objects more than {MAX_DEPTH} levels deep, correct it")
    return found


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def dumped(fields: Mapping[str, Any]) -> str:
    """The text of a sidecar; the inverse of `read`."""
    return json.dumps(fields, indent=2) + "\n"
