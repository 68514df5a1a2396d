"""Other people's programs, run so that nothing of them goes on after this process."""

import os
import signal
import subprocess
from collections.abc import Sequence


def whole_paths(words: Sequence[str]) -> list[str]:
    """The words of a command for another folder: paths of files that lie here begin at the root.

    A path has a slash; a word without one is the name of a program, or anything.
    """
    return [os.path.abspath(word) if "/" in word and os.path.exists(word) else word for word in words]


def run_tool(words: Sequence[str], folder: str) -> tuple[int, str]:
    """Run a program to its end in `folder`; it and its children are killed if this process is interrupted.

    Args:
        words: its command line; paths are those of this process's folder, see `whole_paths`.

    Returns:
        Its exit code, and what it said on stdout and stderr.

    Raises:
        OSError: if it cannot be started.
    """
    process = subprocess.Popen(
        whole_paths(words),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, which can be killed as one
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output.decode(errors="replace")
