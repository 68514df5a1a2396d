"""Temporary folders that are removed when whoever made them is dead, by the next one who starts.

A folder is alive while its maker holds a lock on the file `lease` in it, which the kernel lets go when a process ends
in whatever way, and touches that file from time to time. Other hosts may not see the lock (some network file systems
keep locks to the host, others know none); for them, a lease that has not been touched for `DEAD_AFTER_S` is a dead one.
"""

import errno
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from cpmae.errors import OutputError

if sys.platform != "win32":  # which has no such locks
    import fcntl

LEASE = "lease"
TEMPORARY = "cpmae-private-"
UNFINISHED = ".cpmae-unfinished-"  # beside outputs; not `.cpmae-`, under which older versions keep no lease
TOUCH_EVERY_S = 20.0
DEAD_AFTER_S = 900.0
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # Lustre without -o flock, some NFS


@contextmanager
def leased_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A private folder in `parent` that goes when the block ends; `remove_dead` knows it to be alive until then.

    Raises:
        OutputError: if it cannot be made.
    """
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    done = threading.Event()
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700)
            lease = stack.enter_context(open(folder / LEASE, "x+b"))
            _lock(lease, fcntl.LOCK_EX)
            lease.write(socket.gethostname().encode())
            lease.flush()
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OutputError(
                f"{parent} can hold no folder for what is not complete yet ({error.strerror}), choose another one"
            ) from error
        threading.Thread(target=_touch, args=(folder / LEASE, done), daemon=True).start()
        try:
            yield folder
        finally:
            done.set()
            with suppress(OSError):
                remove(folder)


def remove(folder: Path) -> None:
    """Remove a leased folder, its lease last: what is left by somebody who is killed meanwhile is known to be dead.

    Raises:
        OSError: if something in it cannot be removed.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LEASE:
            path.unlink()
    shutil.rmtree(folder)


def remove_dead(parent: Path, prefix: str) -> list[Path]:
    """Remove the folders of the dead with that prefix; returns which.

    Raises:
        OutputError: if one cannot be looked at or removed.
    """
    removed = []
    for folder in sorted(parent.glob(f"{prefix}*")):
        try:
            found = folder.lstat()  # of a link itself: anybody may have put it there, and it may lead anywhere
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _is_dead(folder):
                remove(folder)
                removed.append(folder)
        except FileNotFoundError:  # another one removes it at the same time
            continue
        except OSError as error:
            raise OutputError(
                f"{folder}, left by a run that was killed, cannot be removed ({error.strerror}), remove it"
            ) from error
    return removed


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A leased folder in the system's temporary one, for copies of originals; those that the dead left there go first.

    Raises:
        OutputError: as `leased_folder` and `remove_dead`.
    """
    system = Path(tempfile.gettempdir())
    remove_dead(system, TEMPORARY)
    with leased_folder(system, TEMPORARY) as folder:
        yield folder


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A leased folder beside an output, for what is not complete; those that the dead left there go first.

    On Windows it is an ordinary temporary folder, and what a killed process leaves stays.

    Raises:
        OutputError: as `leased_folder` and `remove_dead`.
    """
    if sys.platform == "win32":
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=parent) as name:
            yield Path(name)
        return
    remove_dead(parent, UNFINISHED)
    with leased_folder(parent, UNFINISHED) as folder:
        yield folder


def _lock(lease: IO[bytes], how: int) -> bool:
    """Whether the file is locked now; not if its file system knows no locks.

    Raises:
        BlockingIOError: if another one holds it and `how` says not to wait.
    """
    try:
        fcntl.flock(lease, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _touch(lease: Path, done: threading.Event) -> None:
    while not done.wait(TOUCH_EVERY_S):
        with suppress(OSError):  # a network file system that is away for a while comes back
            os.utime(lease)


def _is_dead(folder: Path) -> bool:
    try:
        with open(folder / LEASE, "r+b") as lease:
            locked = _lock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go again when the file is closed
            here = locked and lease.read() == socket.gethostname().encode()  # else the lock says nothing of its maker
            age = time.time() - os.fstat(lease.fileno()).st_mtime
    except BlockingIOError:
        return False
    except FileNotFoundError:  # killed, or seen, between making the folder and the lease in it
        return time.time() - folder.stat().st_mtime > TOUCH_EVERY_S
    return here or age > DEAD_AFTER_S
