"""Packages that are not always installed, and the sentence where one is missing."""

import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from cpmae.errors import MissingExtraError


def require(module: str, name: str, install: str) -> ModuleType:
    """Import a module.

    Args:
        name: what cannot be done without it, for the message.
        install: what pip has to install.

    Raises:
        MissingExtraError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{name} cannot be loaded ({error}); pip install '{install}'") from error


def package_folder(module: str, install: str) -> Path:
    """Where a package lies, without importing it.

    Raises:
        MissingExtraError: it is not installed.
    """
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(f"{module} is not installed; pip install '{install}'")
    return Path(next(iter(found.submodule_search_locations)))
