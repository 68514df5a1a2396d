"""Fixtures: the phantom head as files, and the shared real scans where they are."""

import gzip
import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it, before torch is imported

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import phantom
import pytest


@pytest.fixture(params=phantom.ORIENTATIONS)
def orientation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=phantom.STORAGES, ids=[s[0] for s in phantom.STORAGES])
def storage(request: pytest.FixtureRequest) -> tuple[str, float, float]:
    return request.param


@pytest.fixture
def scan_file(tmp_path: Path) -> Callable[..., Path]:
    """`scan_file(name, **arguments of phantom.nifti_bytes)` writes the phantom and returns its path."""

    def make(name: str = "scan.nii", **arguments: Any) -> Path:
        return put(tmp_path / name, phantom.nifti_bytes(**arguments))

    return make


@contextmanager
def full_disk(most: int = 200) -> Iterator[None]:
    """No file can be written past `most` bytes."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused_to_nobody(ask: Callable[[], object], folder: Path, error: type[Exception], says: str) -> bool:
    """Whether `ask`, called in `folder` by somebody without rights there, raises what says that.

    Root may read and write anywhere, so a child process takes another identity.
    """
    folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            if os.getuid() == 0:
                os.setuid(65534)
            ask()
        except error as found:
            code = 0 if says in str(found) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def put(path: Path, raw: bytes) -> Path:
    """Write the bytes of a NIfTI file, compressed if the name asks for it."""
    path.write_bytes(gzip.compress(raw, 1) if path.name.endswith(".gz") else raw)
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans, which is no part of the project."""
    folder = Path(os.environ.get("CPMAE_SHARED", Path(__file__).parents[1] / ".." / "shared"))
    if not (folder / "scans").is_dir():
        pytest.skip("the shared real scans are absent (set CPMAE_SHARED)")
    return folder
