"""Workers elsewhere: the same jobs on a Dask cluster, one that runs already or one that Slurm is asked for.

https://distributed.dask.org, https://jobqueue.dask.org. Output and input folders have to be seen by all machines under
the same path. A worker that dies has its scan done again by Dask on another one.
"""

import queue
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from cpmae.batch.engine import Work, attempt, read_through
from cpmae.batch.records import Job, Outcome, Records
from cpmae.batch.temporary import private_temporary_folder
from cpmae.errors import ClusterError
from cpmae.extras import require

_one_at_a_time = threading.Lock()


class DaskWorkers:
    """The workers behind a Dask client. Use it as a context manager.

    Args:
        client: of `distributed`.
        work, records, staging, hide: as for `engine.attempt`.
    """

    def __init__(self, client: Any, work: Work, records: Records, staging: Path, hide: Iterable[Path] = ()) -> None:
        self._client, self._arguments = client, (work, records, staging, tuple(hide))
        self._running: dict[Any, Job] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __enter__(self) -> "DaskWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        self._client.cancel(list(self._running))
        self._client.close()
        if self._client.cluster is not None:  # ours, and not somebody's that runs on
            self._client.cluster.close()

    def free(self) -> int:
        return 2**31  # Dask has a queue

    def submit(self, job: Job) -> None:
        work, *others = self._arguments
        future = self._client.submit(_one, work, job, *others, pure=False)
        self._running[future] = job
        future.add_done_callback(self._ended.put)

    def wait(self) -> list[tuple[Job, Outcome]]:
        if self._client.status not in ("running", "connecting"):
            raise ClusterError("the Dask scheduler was lost; start it and run the same command again, it goes on")
        with suppress(queue.Empty):
            ended = [self._ended.get(timeout=1.0)]
            while not self._ended.empty():
                ended.append(self._ended.get())
            return [self._outcome(future, self._running.pop(future)) for future in ended]
        return []

    def _outcome(self, future: Any, job: Job) -> tuple[Job, Outcome]:
        if future.status == "finished":
            return job, future.result()
        # Dask gives up what was on several workers that died. It blames all scans of a worker, so each is tried again.
        error = future.exception() if future.status == "error" else future.status
        return job, Outcome(
            "lost", f"Dask gave the scan up ({error if isinstance(error, str) else type(error).__name__})"
        )


def connect(address: str) -> Any:
    """A client of the Dask scheduler at `address`, "tcp://host:8786".

    Raises:
        MissingExtraError, ClusterError.
    """
    distributed = _dask("distributed")
    try:
        return distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"there is no Dask scheduler at {address} ({error}), check the address") from error


def slurm(count: int) -> Any:
    """A client of `count` workers that are asked for from Slurm.

    Cores, memory, queue and time are those of `jobqueue.slurm` in Dask's configuration; two cores and 6 GB if it says
    nothing.

    Raises:
        MissingExtraError, ClusterError.
    """
    jobqueue, distributed, dask = (_dask(name) for name in ("dask_jobqueue", "distributed", "dask"))
    if not shutil.which("sbatch"):
        raise ClusterError("there is no sbatch on this machine, start the command where Slurm jobs are submitted")
    default = {"cores": 2, "memory": "6GB", "processes": 1}
    said = {key: dask.config.get(f"jobqueue.slurm.{key}", None) or value for key, value in default.items()}
    cluster = jobqueue.SLURMCluster(**said)
    cluster.scale(jobs=count)
    return distributed.Client(cluster, set_as_default=False)


def _one(work: Work, job: Job, records: Records, staging: Path, hide: tuple[Path, ...]) -> Outcome:
    """In a Dask worker: with two threads a worker, one reads the next scan while the other computes."""
    read_through(job.inputs)
    with _one_at_a_time, private_temporary_folder():
        return attempt(work, job, records, staging, hide)


def _dask(module: str) -> ModuleType:
    return require(module, "Dask", "cpmae[cluster]")
