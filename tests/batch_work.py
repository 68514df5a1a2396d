"""Cheap work for tests of the batch: real files, written together, by real processes. As a script, a whole batch.

python batch_work.py ROOT JOBS WORKERS [NAME [HOW]]
"""

import hashlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpmae.batch.engine import run
from cpmae.batch.local import LocalWorkers
from cpmae.batch.records import Job, Outcome, Records
from cpmae.errors import ScanError
from cpmae.io.together import write_together
from cpmae.leased import leased_folder, remove_dead
from cpmae.stopping import exit_on_signals

ORIGINAL = b"voxels of the original"
PREFIX = ".cpmae-run-"
PIECE = 20_000


def content(name: str, number: int) -> bytes:
    """What the file `number` of a job has to hold, to the last byte."""
    return hashlib.sha256(f"{name} {number}".encode()).digest() * (PIECE // 4)


def job(root: Path, name: str, how: str = "well", **other: Any) -> Job:
    return Job(name, {"root": root, "name": name, "how": how}, "settings 1", **other)


def slowly(path: Path, data: bytes, pause: float) -> None:
    with open(path, "wb") as file:
        for start in range(0, len(data), PIECE):
            file.write(data[start : start + PIECE])
            file.flush()
            time.sleep(pause)


def work(task: dict[str, Any], staging: Path) -> tuple[Sequence[Path], dict[str, Any]]:
    """Two files a job; `how` says what happens on the way."""
    root, name, how = task["root"], task["name"], task["how"]
    with open(root / "calls", "a") as calls:
        calls.write(f"{name} begins\n")
    if how == "refused":
        raise ScanError(f"{root}/{name} shows no head by /home/Doe/weights.json, give one")
    if how == "broken":
        raise KeyError("Doe^Jane")
    if how == "waits for the next to be read":
        deadline = time.monotonic() + 20
        while not (root / "was-read").exists():
            if time.monotonic() > deadline:
                raise ScanError("the next scan was not read while this one was computed")
            time.sleep(0.01)
    pause = 0.004 if how == "slowly" else 0.0
    with tempfile.NamedTemporaryFile() as copy:  # as brain extractors do
        copy.write(ORIGINAL)
        copy.flush()
        if how == "deadly" or (how == "deadly once" and not (root / f"{name}.once").exists()):
            (root / f"{name}.once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "for ever" or (how == "for ever once" and not (root / f"{name}.once").exists()):
            (root / f"{name}.once").touch()
            time.sleep(600)
        paths = [root / "out" / f"{name}.{number}" for number in (1, 2)]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        writers = [
            (path, lambda place, number=number: slowly(place, content(name, number), pause))  # type: ignore[misc]
            for number, path in enumerate(paths, 1)
        ]
        write_together(writers, staging)
    with open(root / "calls", "a") as calls:
        calls.write(f"{name} ends\n")
    if how == "counts threads":
        import torch

        return paths, {"threads": torch.get_num_threads()}
    if how == "tells its process":
        return paths, {"process": os.getpid()}
    return paths, {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}


def batch(
    root: Path, jobs: Sequence[Job], count: int, events: list[tuple[str, str]] | None = None
) -> tuple[Counter[str], Records]:
    """As `bids.app.participant` does it, with other work."""

    def tell(event: str, job: Job, outcome: Outcome | None) -> None:
        if events is not None:
            events.append((event, job.name))

    out = root / "out"
    out.mkdir(exist_ok=True)
    remove_dead(out, PREFIX)
    with leased_folder(out, PREFIX) as staging:
        records = Records(out, staging)
        with LocalWorkers(count, work, records, staging, (root,)) as workers:
            return run(jobs, workers, records, tell), records


if __name__ == "__main__":
    exit_on_signals()  # as the command line does
    where, many, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    kind = sys.argv[4] if len(sys.argv) > 4 else "scan"
    manner = sys.argv[5] if len(sys.argv) > 5 else "slowly"
    counts, _ = batch(where, [job(where, f"{kind}-{i}", manner) for i in range(many)], workers)
    print(dict(counts))
    sys.exit(1 if counts["failed"] + counts["crashed"] else 0)
