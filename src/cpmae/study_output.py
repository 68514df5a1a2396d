"""Where the results of a DICOM folder go: found out before the work, and put in place after it, all or nothing."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpmae.errors import OutputError
from cpmae.files import check_private
from cpmae.io import nifti
from cpmae.io.mask import mask_scan
from cpmae.io.nifti import NiftiScan
from cpmae.io.output import SUFFIXES
from cpmae.io.together import Writer, write_together

_OURS = re.compile(r"study-\d{2,}/series-\d{3,}/\d{4,}\.dcm")  # names of the files of a result


@dataclass(frozen=True)
class Images:
    """What mask and picture show: a volume, its result, its brain, and what was kept of it; masks (X, Y, Z) bool."""

    before: NiftiScan
    after: NiftiScan
    mask: NDArray[np.bool_]
    kept: NDArray[np.bool_]


def check_folders(input: Path, output: Path, overwrite: bool) -> None:
    """Find out before the work whether the folder can be made, and that nothing of value lies there.

    Raises:
        OutputError: if not.
    """
    source, target = input.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise OutputError(f"{output} is, holds or lies in the input {input}, choose a folder apart from it")
    if output.name.lower().endswith(SUFFIXES) and not output.exists():
        raise OutputError(f"{output} would be a folder of DICOM files, name a folder (dcm2niix makes NIfTI of these)")
    if not target.parent.is_dir():
        raise OutputError(f"the folder {output.parent} does not exist, make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {output.parent} is not writable, choose another one")
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file and the input a folder, choose a new folder")
    if os.path.ismount(target):
        raise OutputError(f"{output} is a mount point, which cannot be replaced; name a folder in it")
    there = [p for p in sorted(output.rglob("*")) if not p.is_dir()]
    if there and not overwrite:
        raise OutputError(f"{output} is not empty, choose a new folder or ask to replace it (--overwrite)")
    foreign = [p for p in there if not _OURS.fullmatch(p.relative_to(output).as_posix())]
    if foreign:
        raise OutputError(
            f"{output} holds {foreign[0].name}, which is not a result of this command; choose a new folder"
        )


def check_apart(input: Path, output: Path, picture: Path | None, save_brain_mask: Path | None) -> None:
    """Results are to be shared, and an old one is replaced with all that is in it; the input stays as it is.

    Raises:
        OutputError: for a picture or a mask that would lie in the one or the other.
    """
    for path in (picture, save_brain_mask):
        if path and path.parent.resolve().is_relative_to(input.resolve()):
            raise OutputError(f"{path} lies in the input {input}, which stays as it is; choose a place outside of it")
    for path, why in ((picture, "a picture shows the original face"), (save_brain_mask, "it holds DICOM files alone")):
        if path and path.parent.resolve().is_relative_to(output.resolve()):
            raise OutputError(f"{path} lies in the output {output}, and {why}; choose a place outside of it")
    if picture:
        check_private(picture)


def put_in_place(
    images: Images | None, tree: Path, output: Path, save_brain_mask: Path | None, picture: Path | None, old: Path
) -> None:
    """Mask and picture, then the folder; an old folder is moved away first and comes back if that fails.

    Args:
        images: what mask and picture show; without, there are none.
        tree: the new folder, to be `output`.
        old: where an old one goes.

    Raises:
        OutputError: if something cannot be written.
    """
    files: list[tuple[Path, Writer]] = []
    if images:
        if picture:
            from cpmae.report.picture import before_after

            before, after = images.before.scaled(), images.after.scaled()
            files.append((picture, lambda path: before_after(before, after, images.mask, path, images.kept)))
        if save_brain_mask:
            files.append((save_brain_mask, lambda path: nifti.write(path, mask_scan(images.before, images.mask))))
    output = output.resolve()  # "." cannot be renamed

    def make_room(place: Path) -> None:
        """Called last, when all that takes long is done: a process that is killed meanwhile leaves the old folder."""
        if output.exists():
            output.rename(old)
        tree.rename(place)

    try:
        write_together([*files, (output, make_room)])
    except BaseException:
        if old.exists():
            with suppress(OSError):  # an error in the restoring would hide the one that led here
                old.rename(output)
        raise
