"""Workers on this machine: processes that live as long as nothing kills them, and are replaced when something does."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from cpmae.batch import cores
from cpmae.batch.engine import Work, attempt
from cpmae.batch.records import Job, Outcome, Records
from cpmae.batch.temporary import private_temporary_folder
from cpmae.leased import TEMPORARY, remove, remove_dead
from cpmae.stopping import exit_on_signals

PATIENCE_S = 5.0  # with a worker that was told to end
_context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold


class LocalWorkers:
    """`count` processes, each of which runs `attempt` on one job at a time and keeps what it has loaded for the next.

    Use it as a context manager: at its end no process is left.
    """

    def __init__(self, count: int, work: Work, records: Records, staging: Path, hide: Iterable[Path] = ()) -> None:
        self._count, self._arguments = count, (work, records, staging, tuple(hide))
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Job] = {}

    def __enter__(self) -> "LocalWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._idle:
            worker.connection.close()  # it then ends by itself
        for worker in self._busy:
            worker.process.terminate()  # what it has begun lies in the staging folder, and goes with it
        for worker in (*self._idle, *self._busy):
            worker.process.join(PATIENCE_S)
            worker.process.kill()
            worker.process.join()
        remove_dead(Path(tempfile.gettempdir()), TEMPORARY)

    def free(self) -> int:
        return self._count - len(self._busy)

    def submit(self, job: Job) -> None:
        alive = [worker for worker in self._idle if worker.process.is_alive()]
        self._idle = alive
        worker = self._idle.pop() if alive else _Worker(self._arguments, self._count)
        self._busy[worker] = job
        try:
            worker.connection.send(job)
        except (BrokenPipeError, ConnectionResetError):
            return  # it died just now; wait() finds out

    def wait(self) -> list[tuple[Job, Outcome]]:
        ready = wait([w.connection for w in self._busy] + [w.process.sentinel for w in self._busy], timeout=1.0)
        ended = []
        for worker, job in list(self._busy.items()):
            if worker.connection in ready or worker.process.sentinel in ready:
                ended.append((job, worker.outcome()))
                del self._busy[worker]
                if ended[-1][1].state != "lost":
                    self._idle.append(worker)
        return ended


class _Worker:
    def __init__(self, arguments: tuple, count: int) -> None:
        self.connection, theirs = _context.Pipe()
        self.process = _context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        with cores.shared(count):
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def outcome(self) -> Outcome:
        """What it sent, even if it died afterwards; or that it died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # before it sent anything, or in the middle
            self.process.kill()
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return Outcome("lost", f"the worker process {how}; is there memory enough?")


def _serve(connection: Connection, work: Work, records: Records, staging: Path, hide: tuple[Path, ...]) -> None:
    """A worker's life: jobs in, outcomes out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    exit_on_signals()
    with private_temporary_folder() as temporary:
        threading.Thread(target=_end_with_parent, args=(temporary,), daemon=True).start()
        while True:
            try:
                job = connection.recv()
                connection.send(attempt(work, job, records, staging, hide))
            except (EOFError, BrokenPipeError):
                return


def _end_with_parent(temporary: Path) -> None:
    """A worker whose batch was killed stops at once: its staging folder is a dead one."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        with suppress(OSError):  # under another name, so that the work that goes on puts nothing more into it
            remove(temporary.rename(temporary.with_name(f"{temporary.name}-")))
        os._exit(1)
