"""The bytes of a scan's file, compressed or not, or the sentence why they cannot be read."""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cpmae.errors import ScanError

GZIPPED = (".gz", ".mgz")
_CHUNK_BYTES = 2**18
_NO_SCANS = ("derivatives", "sourcedata")  # folders of BIDS with what was made of scans, or what they were made of
_MAPS = ("_mask", "_defacemask", "_dseg", "_probseg")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file for reading, from its start and uncompressed.

    Raises:
        ScanError: for any error of reading in the block: a file that is missing, cut short, damaged or not readable.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise ScanError(f"{path} is a folder, give one file")
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise ScanError(f"{path} is a pipe or a device, give a file")
    try:
        with open(path, "rb") as raw:
            if path.name.lower().endswith(GZIPPED):
                if raw.read(2) not in (b"\x1f\x8b", b""):
                    raise ScanError(f"{path.name} is not compressed, rename it to {path.stem}")
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield unpacked  # type: ignore[misc]  # a BufferedIOBase, which has all that is asked for
            else:
                yield raw
    except FileNotFoundError as error:
        if os.path.islink(path):  # as git-annex and DataLad leave what was not fetched
            raise ScanError(f"{path} is a link to a file that is not there, fetch it (datalad get)") from error
        raise ScanError(f"{path} does not exist, check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ScanError(f"{path.name} is truncated or damaged ({error}), copy it again") from error
    except OSError as error:
        raise ScanError(f"{path} cannot be read ({error.strerror or error}), check its permissions") from error


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links to folders too, as archives and DataLad have them; folder by folder.

    Raises:
        ScanError: for a folder that is not there or may not be read, since nobody can say what is left out there.
    """

    def refuse(error: OSError) -> None:
        what = "the path" if isinstance(error, FileNotFoundError) else "its permissions"
        raise ScanError(f"{error.filename} cannot be read ({error.strerror}), check {what}") from error

    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if any(os.path.samefile(name, above) for above in Path(name).parents if above.is_relative_to(folder)):
            folders.clear()  # a link that leads back up
            continue
        folders.sort()
        yield from (Path(name) / file for file in sorted(files))


def scans_below(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern below a folder and may be somebody's scan, in the order of their paths."""
    return sorted(p for p in files_below(folder) if p.match(pattern) and may_be_scan(p.relative_to(folder)))


def may_be_scan(place: Path) -> bool:
    """Whether what lies at this path in a data set may be somebody's scan, by its name.

    Masks and label maps are none, nor is what lies in hidden folders, `derivatives` and `sourcedata`.
    """
    hidden = any(part.startswith(".") for part in place.parts)
    return not hidden and not set(_NO_SCANS) & set(place.parts[:-1]) and not place.name.split(".")[0].endswith(_MAPS)


def read_up_to(file: BinaryIO, size: int) -> bytearray:
    """The next `size` bytes, or fewer where the file ends. A damaged header may ask for more than memory has."""
    found = bytearray()
    while chunk := file.read(min(_CHUNK_BYTES, size - len(found))):
        found += chunk
    return found


def skip(file: BinaryIO, size: int | None = None) -> int:
    """Read on over `size` bytes, or to the end, and say how many there were.

    A gzip file's checksum is compared at its end and nowhere before.
    """
    count = 0
    while chunk := file.read(_CHUNK_BYTES if size is None else min(_CHUNK_BYTES, size - count)):
        count += len(chunk)
    return count
