"""Several files that appear all or not at all."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cpmae.errors import OutputError
from cpmae.io.output import SUFFIXES, check_output
from cpmae.leased import unfinished_folder

Writer = Callable[[Path], object]


def text_writer(text: str) -> Writer:
    """What `write_together` needs to write a text, in UTF-8; halves of characters become question marks."""
    return lambda path: path.write_text(text, "utf-8", errors="replace")


def check_outputs(
    inputs: Sequence[Path],
    scans: Sequence[Path],
    pictures: Sequence[Path] = (),
    *,
    own: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Find out before the work whether all results can be written.

    Args:
        inputs: files that are read; none may be overwritten.
        scans, pictures: files to write, .nii or .nii.gz and .png.
        own: further files to write, in the form of the input; see `forms.result_files`.

    Raises:
        OutputError: as `check_output`, or if two of the files to write are one.
    """
    for path, suffixes in [*((p, SUFFIXES) for p in scans), *((p, ("",)) for p in own)]:
        for source in inputs:
            check_output(source, path, overwrite=overwrite, suffixes=suffixes)
    for path in pictures:
        check_output(None, path, overwrite=overwrite, suffixes=(".png",))  # so that it cannot be one of the inputs
    places: set[Path] = set()
    for path in (*own, *scans, *pictures):
        place = path.parent.resolve() / path.name
        if place in places:
            raise OutputError(f"{path} is asked for twice, give each output its own name")
        places.add(place)


def write_together(
    files: Sequence[tuple[Path, Writer]],
    staging: Path | None = None,
    late: Sequence[tuple[Path, Writer]] = (),
    *,
    overwrite: bool = True,
) -> None:
    """Call each writer with a name in a private folder; when all have ended well, move all in place.

    The private folder lies in `staging`, on the file system of the targets. If that is None it lies beside each target,
    as those of `late` files always do, and what is left there by a process that is killed goes when another one writes
    there: it may hold a picture of an original's face.

    A full disk, an error or an interrupt while anything is written leaves no file at all. The moves come last, in the
    given order: put the file whose presence says that all went well at the end. An existing target is replaced, or, if
    `overwrite` is False, an error, as where another run has written it meanwhile.
    `late` files follow from the others: they are written after them and moved before them.

    Raises:
        OutputError: if one of them cannot be written.
    """
    with ExitStack() as stack:
        staged = []
        leased: dict[Path, Path] = {}  # private folders beside targets, by the folder that they are in
        for target, write, private in [*((*f, staging) for f in files), *((*f, None) for f in late)]:
            if private is None:
                parent = target.parent.resolve()
                if parent not in leased:
                    leased[parent] = stack.enter_context(unfinished_folder(target.parent))
                private = leased[parent]
            with _errors_named(target):
                # a folder for each file, since targets of one name may share `private`, which holds a lease too
                folder = stack.enter_context(TemporaryDirectory(prefix="file-", dir=private))
                place = Path(folder) / target.name
                write(place)
                staged.append((place, target))
        with ExitStack() as undo:
            for place, target in [*staged[len(files) :], *staged[: len(files)]]:
                with _errors_named(target):
                    if overwrite:
                        os.replace(place, target)
                    else:
                        _put_new(place, target)
                        undo.callback(target.unlink)
            undo.pop_all()


def _put_new(place: Path, target: Path) -> None:
    """Give a file its name, if nothing has it."""
    try:
        os.link(place, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; what remains is a moment
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(place, target)


@contextmanager
def _errors_named(target: Path) -> Iterator[None]:
    """Errors name the file that was asked for and not its temporary place."""
    try:
        yield
    except OSError as error:  # OutputError too
        reason = error.strerror or (error.__cause__.strerror if isinstance(error.__cause__, OSError) else None) or error
        raise OutputError(f"{target} cannot be written ({reason}), free some space or choose another place") from error
