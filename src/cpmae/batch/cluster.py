"""Workers elsewhere: the same jobs on a Dask cluster, one that runs already or one that Slurm is asked for.

https://distributed.dask.org, https://jobqueue.dask.org. Output and input folders have to be seen by all machines under
the same path. A worker that dies has its scan done again by Dask on another one.
"""

import logging
import math
import pickle
import queue
import shutil
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import cpmae
from cpmae.batch.cores import exports
from cpmae.batch.engine import TRIES, Work, attempt, give_up, read_through
from cpmae.batch.records import Job, Outcome, Records, digest
from cpmae.batch.temporary import private_temporary_folder
from cpmae.errors import ClusterError
from cpmae.extras import require
from cpmae.options import DRAWING

LOOK_EVERY_S = 10.0  # at who is there
PATIENCE_S = 60.0  # with no worker at all, before the user is told

log = logging.getLogger(__name__)
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
        self._look_at = self._seen = time.monotonic()  # when to look again, and when a worker was seen last

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
        call = pickle.dumps(_Call(_identity(), job, *self._arguments))
        future = self._client.submit(pickle.loads, call, pure=False)
        self._running[future] = job
        future.add_done_callback(self._ended.put)

    def wait(self) -> list[tuple[Job, Outcome]]:
        if self._client.status not in ("running", "connecting"):
            raise ClusterError("the Dask scheduler was lost; start it and run the same command again, it goes on")
        if time.monotonic() >= self._look_at and self._client.status == "running":
            self._look()
        with suppress(queue.Empty):
            ended = [self._ended.get(timeout=1.0)]
            while not self._ended.empty():
                ended.append(self._ended.get())
            return [self._outcome(future, self._running.pop(future)) for future in ended]
        return []

    def _look(self) -> None:
        """Tell the user if there is no worker; have jobs of Slurm that have ended replaced."""
        now = time.monotonic()
        self._look_at = now + LOOK_EVERY_S
        try:
            count = len(self._client.nthreads())
        except OSError:
            return  # the scheduler was lost just now; the status will say so
        if count:
            self._seen = now
        elif now - self._seen > PATIENCE_S:
            self._seen = math.inf  # once is enough, until one has come
            ours = "; squeue shows jobs that wait, and the files slurm-*.out tell why others ended"
            log.warning("no Dask worker is there, scans wait for one%s", ours if self._client.cluster else "")
        if self._client.cluster is not None and count < len(self._running):
            self._client.cluster.sync(_ask, self._client.cluster)

    def _outcome(self, future: Any, job: Job) -> tuple[Job, Outcome]:
        if future.status == "finished":
            return job, future.result()
        if future.status != "error":
            return job, Outcome("lost", f"Dask says that it is {future.status}")
        error = future.exception()
        if type(error).__name__ == "KilledWorker":  # Dask blames all scans of a worker, so each is tried again
            return job, Outcome("lost", "its Dask workers died; is there memory enough?")
        if isinstance(error, ClusterError):
            raise error
        found = self._client.run(_identity, on_error="return")
        for address, identity in found.items():
            if identity != _identity():
                raise _other(f"the Dask worker {address}", identity) from error
        raise ClusterError(f"a scan ended with {type(error).__name__} on the Dask cluster: {error}") from error


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
    """A client of `count` workers, each a job that `DaskWorkers` asks Slurm for when there is something to do.

    Cores, memory, queue and time are those of `jobqueue.slurm` in Dask's configuration; two cores and 6 GB if it says
    nothing. A job is one process, which computes with all of its cores.

    Raises:
        MissingExtraError, ClusterError.
    """
    jobqueue, distributed, dask = (_dask(name) for name in ("dask_jobqueue", "distributed", "dask"))
    if not shutil.which("sbatch"):
        raise ClusterError("there is no sbatch on this machine, start the command where Slurm jobs are submitted")

    def said(key: str) -> Any:
        return dask.config.get(f"jobqueue.slurm.{key}", None)

    cores = said("job-cpu") or said("cores") or 2
    cluster = jobqueue.SLURMCluster(
        cores=2,  # threads of Dask: one reads the next scan while the other computes
        job_cpu=cores,
        memory=said("memory") or "6GB",
        processes=1,
        job_script_prologue=[*(said("job-script-prologue") or said("env-extra") or ()), *exports(cores)],
    )
    client = distributed.Client(cluster, set_as_default=False)  # it would submit what is wanted, and drop errors
    for _ in range(count):
        cluster.worker_spec.update(cluster.new_worker_spec())
    return client


async def _ask(cluster: Any) -> None:
    """Submit the jobs that are wanted and neither wait nor run. `cluster.scale` would do it where no error is seen."""
    try:
        await cluster
    except (RuntimeError, ValueError, OSError) as error:
        for job in cluster.workers.values():  # or closing the cluster, which cancels those taken, fails for the others
            job.status = _dask("distributed").Status.failed
        said = str(error).rpartition("stderr:")[2]
        raise ClusterError(f"Slurm takes no job: {' '.join(said.split())}") from error


class _Call:
    """Unpickled, it is what `_one` returns. So a worker that lacks this package fails; of a message with what it cannot
    import it would die.
    """

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> Any:
        return _one, self._arguments


def _one(identity: str, job: Job, work: Work, records: Records, staging: Path, hide: tuple[Path, ...]) -> Outcome:
    """In a Dask worker: with two threads a worker, one reads the next scan while the other computes."""
    if identity != _identity():
        raise _other(socket.gethostname(), _identity(), identity)
    read_through(job.inputs)
    with _one_at_a_time, private_temporary_folder():
        with open(staging / f"tries-{digest(job.name)}", "ab") as tries:  # Dask counts deaths of others for it, too
            if tries.tell() >= TRIES:
                return give_up(job, "its Dask workers died; is there memory enough?", records)
            tries.write(b".")
        return attempt(work, job, records, staging, hide)


def _identity() -> str:
    """What has to be the same on all machines, for results that a record can speak of."""
    return f"cpmae {cpmae.__version__}, drawing {DRAWING}"


def _other(who: str, identity: object, wanted: str = "") -> ClusterError:
    return ClusterError(f"{who} has {identity}, and not {wanted or _identity()}; install the same on all machines")


def _dask(module: str) -> ModuleType:
    return require(module, "Dask", "cpmae[cluster]")
