"""Long runs: results kept on disk item by item, and items spread over processes.

What is kept is named after a digest of everything that decides it, so a run that was killed goes on where it was, and a
run with other settings finds nothing that is not its own.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cpmae.batch import cores
from cpmae.batch.records import digest
from cpmae.io.output import make_folder, whole_file

Task = TypeVar("Task")
Result = TypeVar("Result")
Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class Failure:
    """A scan that a method or a segmenter could not do.

    Attributes:
        scan: its name.
        step: what failed on it.
        reason: the message.
    """

    scan: str
    step: str
    reason: str


@dataclass(frozen=True)
class Cache:
    """Arrays on disk, one .npz an item, written whole or not at all."""

    folder: Path

    def path(self, name: str, **settings: Any) -> Path:
        """Where the item of this name and these settings lies."""
        return self.folder / f"{plain(name)}-{digest(settings)[:16]}.npz"

    def load(self, name: str, **settings: Any) -> Arrays | None:
        """The item, or None if it was not kept yet."""
        try:
            with np.load(self.path(name, **settings), allow_pickle=False) as file:
                return dict(file)
        except FileNotFoundError:
            return None

    def save(self, arrays: Mapping[str, NDArray], name: str, **settings: Any) -> None:
        """Keep an item.

        Raises:
            OutputError: it cannot be written.
        """
        make_folder(self.folder)
        with whole_file(self.path(name, **settings)) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def get(self, make: Callable[[], Arrays], name: str, **settings: Any) -> Arrays:
        """The item; if it was not kept yet, it is made and kept."""
        found = self.load(name, **settings)
        if found is None:
            found = make()
            self.save(found, name, **settings)
        return found


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    tell: Callable[[str], None],
    what: str,
) -> Iterator[tuple[int, Result]]:
    """Apply a picklable function to all tasks, in `workers` processes of one thread each.

    With one worker or one task it is done in this process, with all threads.

    Yields:
        (number of the task, its result), as they are done.
    """
    if workers <= 1 or len(tasks) <= 1:
        for number, task in enumerate(tasks):
            tell(f"{what}: {number + 1} of {len(tasks)}")
            yield number, function(task)
        return
    # spawn: a fork of a process with torch's threads can hang
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(tasks))
    run, alive = context.Pipe(duplex=False)
    with cores.shared(count), ProcessPoolExecutor(count, context, initializer=_begin, initargs=(run,)) as pool:
        futures = {pool.submit(function, task): number for number, task in enumerate(tasks)}
        try:
            for done, future in enumerate(as_completed(futures)):
                tell(f"{what}: {done + 1} of {len(tasks)}")
                yield futures[future], future.result()
        except BaseException:
            alive.close()
            raise


def _begin(run: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(run,), daemon=True).start()


def _end_with(run: Connection) -> None:
    """A worker whose run was stopped or killed stops at once, and not after all that was asked of it."""
    try:
        run.poll(None)  # nothing is ever sent: this is the other end's closing
    finally:
        os._exit(1)


def plain(name: str, filler: str = "_") -> str:
    """A name for a file, `filler` for all but letters, digits and hyphens."""
    return "".join(c if c.isalnum() or c in ("-", filler) else filler for c in name)
