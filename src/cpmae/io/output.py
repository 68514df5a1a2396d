"""Files that appear whole or not at all, and the questions to ask before the work starts."""

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cpmae.errors import OutputError
from cpmae.io.source import GZIPPED
from cpmae.leased import unfinished_folder

SUFFIXES = (".nii", ".nii.gz")
GZIP_LEVEL = 1  # level 6 takes eight times as long and saves 3 % on a noisy scan


def check_output(
    input_path: str | os.PathLike[str] | None,
    output_path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> None:
    """Find out before the work whether the result can be written; `input_path` None means there is no input file.

    Raises:
        OutputError: if the output is the input (by a link too), a folder, of another suffix, there already and
            `overwrite` is not set, or in a folder that is missing or not writable.
    """
    output, folder = Path(output_path), Path(output_path).parent
    # os.path and not Path.exists, which raises where a folder may not be searched
    if input_path is not None and os.path.exists(input_path) and os.path.exists(output):
        if os.path.samefile(input_path, output):
            raise OutputError(f"{output} is the input itself, inputs are never overwritten; choose another name")
    if os.path.isdir(output):
        raise OutputError(f"{output} is a folder, give a file name in it")
    if os.path.exists(output) and not os.path.isfile(output):
        raise OutputError(f"{output} is a pipe or a device, give a file name")
    if not output.name.lower().endswith(suffixes):
        raise OutputError(f"{output.name} does not end in {' or '.join(suffixes)}; give it such a name")
    if os.path.lexists(output) and not overwrite:
        raise OutputError(
            f"{output} exists already, choose another name or ask to overwrite it (--overwrite, or overwrite=True)"
        )
    if not os.path.isdir(folder):
        raise OutputError(f"the folder {folder} does not exist, make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {folder} is not writable, choose another one")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into that takes the name `path` only once the block has ended well.

    Until then it lies in a private folder beside it. An error or an interrupt (KeyboardInterrupt, SystemExit) removes
    that; what a process leaves that is killed goes when another one writes there.

    Raises:
        OutputError: for an OSError in the block, a full disk included.
    """
    path = Path(path)
    try:
        with unfinished_folder(path.parent) as folder:
            with open(folder / path.name, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(folder / path.name, path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}), free some space or choose another place"
        ) from error


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[bytes]) -> None:
    """A file of these bytes one after the other, whole or not at all; compressed if its name asks for it.

    The same pieces give the same file: a gzip header holds neither time nor name.

    Raises:
        OutputError: as `whole_file`.
    """
    with whole_file(path) as file:
        if Path(path).name.lower().endswith(GZIPPED):
            packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, wbits=31)  # 31: gzip format, time 0, no name
            for piece in pieces:
                file.write(packer.compress(piece))
            file.write(packer.flush())
        else:
            file.writelines(pieces)


def make_folder(folder: Path) -> None:
    """A folder for results, and those above it; it may be there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made ({error.strerror}), choose another name") from error
