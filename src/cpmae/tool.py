"""Other people's programs, run so that none of them outlives this process."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

# the second `read` ends when the process that started it lets go of the pipe, however that process ended
_WATCH = 'read -r group; read -r end; kill -s KILL -- "-$group"; rm -rf -- "$1"'


def whole_paths(words: Sequence[str]) -> list[str]:
    """The words of a command for another folder: paths of files that lie here begin at the root.

    A path has a slash; a word without one is the name of a program, or anything.
    """
    return [os.path.abspath(word) if "/" in word and os.path.exists(word) else word for word in words]


def run_tool(words: Sequence[str], folder: str) -> tuple[int, str]:
    """Run a program to its end; it and its children are killed if this process is interrupted, or killed itself.

    Args:
        words: its command line; paths are those of this process's folder, see `whole_paths`.
        folder: a temporary one, where it runs; removed if this process is killed, which then cannot do so.

    Returns:
        Its exit code, and what it said on stdout and stderr.

    Raises:
        OSError: if it cannot be started.
    """
    with _watcher(folder) as started:
        process = subprocess.Popen(
            whole_paths(words),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which can be killed as one
        )
        try:
            started.write(f"{process.pid}\n".encode())
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    return process.returncode, output.decode(errors="replace")


@contextmanager
def _watcher(folder: str) -> Iterator[IO[bytes]]:
    """While the block runs, a shell waits for the end of this process, since after a SIGKILL nothing can be done here.

    It takes a group of processes, which it then kills, and removes the folder.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", _WATCH, "cpmae-watch", folder],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it outlives the group of this process
    )
    assert watcher.stdin
    try:
        yield watcher.stdin
    finally:
        watcher.kill()
        watcher.communicate()
