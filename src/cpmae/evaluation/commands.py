"""Other people's programs on one volume: a private temporary folder in, a volume of the same grid out."""

import os
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from cpmae.batch import records
from cpmae.errors import MethodError
from cpmae.leased import temporary_folder
from cpmae.tool import run_tool
from cpmae.volume import Volume

LARGE_BYTES = 50_000_000  # hashing more takes longer than a run that finds all kept


def run_command(template: str, volume: Volume) -> Volume:
    """Run `template` with {in} and {out} replaced by file names, and read what it wrote.

    Returns:
        what {out} holds, on the grid of `volume`.

    Raises:
        MethodError: the command cannot be run, fails, or writes nothing or another grid.
    """
    if "{in}" not in template or "{out}" not in template:
        raise MethodError(f"the command {template!r} lacks {{in}} or {{out}}; put both where the tool wants its files")
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise MethodError(
            f"the command {template!r} cannot be split into words ({error}); correct its quotes"
        ) from error
    return run_words(words, volume)


def run_words(words: list[str], volume: Volume) -> Volume:
    """`run_command` on words."""
    with temporary_folder() as folder:  # mode 0700
        source, target = folder / "in.nii.gz", folder / "out.nii.gz"
        nib.Nifti1Image(volume.data, volume.affine).to_filename(source)
        words = [w.replace("{in}", str(source)).replace("{out}", str(target)) for w in words]
        try:
            code, output = run_tool(words, str(folder))
        except OSError as error:
            raise MethodError(f"{words[0]} cannot be started ({error.strerror}); check that it is installed") from error
        text = " ".join(output.split())[-300:]
        if code:
            raise MethodError(f"{words[0]} failed with exit code {code} ({text or 'no message'})")
        if not target.exists():
            raise MethodError(f"{words[0]} ended well but wrote no {{out}}; check the command ({text or 'no message'})")
        return read_like(target, volume, words[0])


def read_like(path: Path, volume: Volume, name: str) -> Volume:
    """A file as a volume that has to lie on the grid of another one."""
    image = nib.load(path)
    data = np.asarray(image.dataobj)  # type: ignore[attr-defined]
    data = data.reshape(data.shape[:3]) if data.ndim > 3 and data.size == np.prod(data.shape[:3]) else data
    if data.shape != volume.shape or not np.allclose(image.affine, volume.affine, atol=0.01):  # type: ignore[attr-defined]
        raise MethodError(
            f"{name} wrote another grid ({data.shape} for {volume.shape}); results must lie on the scan's"
        )
    return Volume(data, volume.affine)


def parse_command(text: str) -> tuple[str, str]:
    """`name=command {in} {out}` as name and command.

    Raises:
        MethodError: it has no such form.
    """
    name, separator, command = text.partition("=")
    if not separator or not name.strip() or "{in}" not in command or "{out}" not in command:
        raise MethodError(f"{text!r} is not of the form 'name=command {{in}} {{out}}'; write it so")
    return name.strip(), command.strip()


def files_of_command(template: str) -> dict[str, str]:
    """The words of a command that are a program or files, each with its `content_of`, for the cache.

    What these start or read in turn is not seen.
    """
    try:
        words = shlex.split(template)
    except ValueError:  # `run_command` says so
        return {}
    places = {word: shutil.which(word) if number == 0 else word for number, word in enumerate(words)}
    return {word: content_of(Path(place)) for word, place in places.items() if place and os.path.isfile(place)}


def content_of(path: Path) -> str:
    """What tells another content of a file: its SHA-256, or size and time of one that is large or cannot be read."""
    status = path.stat()
    if status.st_size <= LARGE_BYTES and os.access(path, os.R_OK):
        return records.sha256(path)
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"
