"""Every form that a scan's file can have, behind one door: NIfTI, pairs (NIfTI, Analyze), MGH; 3-D and 4-D."""

import os
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from numpy.typing import NDArray

from cpmae.errors import OutputError, ScanError
from cpmae.io import mgh, pair
from cpmae.io.nifti import NiftiScan
from cpmae.io.output import SUFFIXES, write_pieces
from cpmae.io.run import NiftiRun, open_run, write_run

ALL_SUFFIXES = (*SUFFIXES, *mgh.SUFFIXES, *pair.SUFFIXES)


def open_scan(path: str | os.PathLike[str], *, checked: bool = True) -> NiftiRun:
    """Open a scan of any form; of a pair, either file. A result can be written back in its form, see `writers`.

    Args:
        checked: refuse what cannot be a head scan by its grid, units and dtype. A mask may be anything.

    Raises:
        ScanError: if a file is missing, damaged, or not such a scan.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise ScanError(f"{path} is a folder, give one file")
    if not _is(path, ALL_SUFFIXES):
        raise ScanError(f"{path.name} is not a {', '.join(ALL_SUFFIXES)} file, convert it to NIfTI first")
    if _is(path, mgh.SUFFIXES):
        return mgh.open_mgh(path, checked)
    if _is(path, pair.SUFFIXES):
        return pair.open_pair(path, checked)
    return open_run(path, checked=checked)


def read(path: str | os.PathLike[str], *, checked: bool = True) -> NiftiScan:
    """Read a 3-D scan of any form, whole. Arguments and errors are those of `open_scan`; 4-D files are refused too."""
    return open_scan(path, checked=checked).only()


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a scan called `path` consists of: both of a pair, otherwise itself."""
    return pair.pair_paths(path) if _is(path, pair.SUFFIXES) else (path,)


def result_files(input: Path, output: Path) -> tuple[Path, ...]:
    """The files that a result called `output` consists of.

    Raises:
        ScanError: if the input is one DICOM file.
        OutputError: if its form is neither NIfTI nor that of the input.
    """
    if _is_dicom(input):
        raise ScanError(f"{input.name} is one DICOM file, give the folder of its series")
    if output.is_dir():
        raise OutputError(f"{output} is a folder, give a file name in it")
    allowed: tuple[str, ...] = SUFFIXES
    for own in (mgh.SUFFIXES, pair.SUFFIXES):
        allowed = (*own, *SUFFIXES) if _is(input, own) else allowed
    if not _is(output, allowed):
        *most, last = allowed
        raise OutputError(f"{output.name} does not end in {', '.join(most)} or {last}, choose one of them")
    return files_of(output)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # whoever opens it next says why
        return False


def writers(output: Path, run: NiftiRun, volumes: Iterable[NDArray]) -> list[tuple[Path, Callable[[Path], object]]]:
    """What `write_together` needs to write a result: each file with the function that writes it.

    Args:
        output: .nii, .nii.gz, or of the form that the run was opened from; for a pair, either name.
        run: the run that was opened, cleaned and marked as it shall be.
        volumes: the new numbers, as for `NiftiRun.to_bytes`; taken one by one while they are written.
    """
    if _is(output, SUFFIXES):
        return [(output, lambda path: write_run(path, run, volumes))]
    container = run.container
    if container is None or _is(output, pair.SUFFIXES) != (container.kind != "mgh"):
        raise OutputError(f"{output.name} is of another form than {run.path.name}, choose .nii or .nii.gz")
    voxels = run.voxels_to_bytes(volumes)
    if container.kind == "mgh":
        return [(output, lambda path: write_pieces(path, chain([container.head], voxels, [container.after])))]
    header, image = pair.pair_paths(output)
    return [
        (image, lambda path: write_pieces(path, chain([container.before], voxels))),
        (header, lambda path: write_pieces(path, [container.head])),
    ]


def _is(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)
