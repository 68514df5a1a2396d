"""A place for the temporary files of brain extractors, which hold the original, that does not outlive its process long.

Nothing removes the temporary files of a process that is killed with SIGKILL. They therefore go into a folder of the
process, in the system's temporary folder, and whoever starts next on this machine removes those of dead processes.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpmae.leased import temporary_folder


@contextmanager
def private_temporary_folder() -> Iterator[Path]:
    """While the block runs, `tempfile` and programs that this process starts make files in a folder of its own."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    with temporary_folder() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before[1]
            if before[0] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[0]
