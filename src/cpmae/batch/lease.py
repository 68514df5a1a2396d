"""Temporary folders that are removed when whoever made them is dead, by the next one who starts.

A folder is alive while its maker holds a lock on the file `lease` in it, which the kernel lets go when a process ends
in whatever way, and touches that file from time to time. Other hosts may not see the lock (some network file systems
keep locks to the host); for them, a lease that has not been touched for `DEAD_AFTER_S` is a dead one.
"""

import fcntl
import os
import secrets
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEASE = "lease"
TOUCH_EVERY_S = 20.0
DEAD_AFTER_S = 900.0


@contextmanager
def leased_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A private folder in `parent` that goes when the block ends; `remove_dead` knows it to be alive until then."""
    folder = parent / f"{prefix}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    done = threading.Event()
    with open(folder / LEASE, "x+b") as lease:
        fcntl.flock(lease, fcntl.LOCK_EX)
        lease.write(socket.gethostname().encode())
        lease.flush()
        threading.Thread(target=_touch, args=(folder / LEASE, done), daemon=True).start()
        try:
            yield folder
        finally:
            done.set()
            shutil.rmtree(folder, ignore_errors=True)


def remove_dead(parent: Path, prefix: str) -> list[Path]:
    """Remove the folders of the dead with that prefix; returns which."""
    removed = []
    for folder in sorted(parent.glob(f"{prefix}*")):
        with suppress(FileNotFoundError):  # another one removes it at the same time
            found = folder.lstat()  # of a link itself: anybody may have put it there, and it may lead anywhere
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and _is_dead(folder):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def _touch(lease: Path, done: threading.Event) -> None:
    while not done.wait(TOUCH_EVERY_S):
        with suppress(FileNotFoundError):
            os.utime(lease)


def _is_dead(folder: Path) -> bool:
    try:
        with open(folder / LEASE, "r+b") as lease:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go again when the file is closed
            here = lease.read() == socket.gethostname().encode()
            age = time.time() - os.fstat(lease.fileno()).st_mtime
    except BlockingIOError:
        return False
    except FileNotFoundError:  # killed, or seen, between making the folder and the lease in it
        return time.time() - folder.stat().st_mtime > TOUCH_EVERY_S
    return here or age > DEAD_AFTER_S
