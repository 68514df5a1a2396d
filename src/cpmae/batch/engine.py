"""The batch itself: hand each job to a worker when its turn has come, until all have ended.

What a job does is a function that is given (`Work`); who runs it are workers (`local.LocalWorkers` on this machine,
`cluster.DaskWorkers` elsewhere).
"""

import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cpmae.batch.records import Job, Outcome, Records
from cpmae.errors import CpmaeError, OutputError

TRIES = 3  # a scan whose worker died this often is a failed one: it may be what kills them
READ_AHEAD = 2  # scans that are read while others are computed

# Takes `Job.task` and a private folder on the output's file system; returns the files it wrote and an account for JSON.
Work = Callable[[Any, Path], tuple[Sequence[Path], dict[str, Any]]]
Tell = Callable[[str, Job, Outcome | None], None]


class Workers(Protocol):
    """Who does the jobs."""

    def free(self) -> int:
        """How many more jobs can be handed over now."""

    def submit(self, job: Job) -> None: ...

    def wait(self) -> list[tuple[Job, Outcome]]:
        """Jobs that have ended; comes back after about a second without any, too."""


def run(jobs: Sequence[Job], workers: Workers, records: Records, tell: Tell) -> Counter[str]:
    """Do all jobs that are not done yet.

    Args:
        jobs: in the order in which they should be started; those in `after` stand before.
        tell: called with "skipped", "started", "again" or "ended", the job and, where there is one, its outcome.

    Returns:
        How many were "skipped", "done", "failed", "crashed".

    Raises:
        ValueError: if those that are left wait for each other.
    """
    counts: Counter[str] = Counter()
    waiting = {job.name: job for job in jobs}
    done = records.done(jobs)
    for job in jobs:
        if job.name in done:
            del waiting[job.name]
            counts["skipped"] += 1
            tell("skipped", job, None)
    open_names, ahead, lost = set(waiting), set[str](), Counter[str]()
    while open_names:
        ready = [job for job in waiting.values() if not open_names & set(job.after)]
        if not ready and len(waiting) == len(open_names):  # nothing runs, and nothing will
            names = ", ".join(waiting)
            raise ValueError(f"{names} wait for each other, so that none can start; this is a bug, please report it")
        free = workers.free()
        for job in ready[:free]:
            del waiting[job.name]
            tell("started", job, None)
            workers.submit(job)
        for job in ready[free : free + READ_AHEAD]:
            if job.name not in ahead:
                ahead.add(job.name)
                threading.Thread(target=read_through, args=(job.inputs,), daemon=True).start()
        for job, outcome in workers.wait():
            if outcome.state == "lost":
                lost[job.name] += 1
                if lost[job.name] < TRIES:
                    waiting[job.name] = job
                    tell("again", job, outcome)
                    continue
                outcome = give_up(job, outcome.reason, records)
            open_names.remove(job.name)
            counts[outcome.state] += 1
            tell("ended", job, outcome)
    return counts


def give_up(job: Job, reason: str, records: Records) -> Outcome:
    """Record that a job was tried often enough."""
    outcome = Outcome("failed", f"tried {TRIES} times: {reason}")
    records.write(job, outcome)
    return outcome


def attempt(work: Work, job: Job, records: Records, staging: Path, hide: Iterable[Path] = ()) -> Outcome:
    """Do one job and record what became of it; this runs in the worker.

    Args:
        staging: where the work writes before files get their names.
        hide: folders that reasons speak of; the way to them may name people, and is taken out.
    """
    try:
        paths, account = work(job.task, staging)
        outcome = Outcome("done", outputs=records.outputs(paths), account=_without_paths(account, hide))
    except CpmaeError as error:
        said = "\n".join(getattr(error, "__notes__", []))  # by another program: anything
        outcome = Outcome("failed", _hidden(" ".join(str(error).split()), hide), traceback=said)
    except Exception as error:  # recorded with its place, told with its trace, and seen in the exit code
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        reason = "there was not enough memory" if isinstance(error, MemoryError) else "this is a bug, please report it"
        outcome = Outcome("crashed", f"{type(error).__name__} in {place}: {reason}", traceback=traceback.format_exc())
    try:
        records.write(job, outcome)
    except OutputError as error:  # what is not recorded is not done: it would be done again and again
        return Outcome("failed", str(error))
    return outcome


def read_through(paths: Iterable[Path]) -> None:
    """Read files to their end, so that they lie in the system's cache when they are wanted; needs no memory of ours."""
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                while file.read(2**22):
                    pass
        except OSError:
            return  # it will be said when the file is wanted


def _without_paths(value: Any, hide: Iterable[Path]) -> Any:
    """An account, a command in which can name folders, with `_hidden` texts."""
    if isinstance(value, dict):
        return {key: _without_paths(item, hide) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item, hide) for item in value]
    return _hidden(value, hide) if isinstance(value, str) else value


# From the root to the last slash. Folders may have spaces, commas and apostrophes, so that a path goes on over words if
# another slash follows: rather too much of a sentence than too little.
_FOLDERS = re.compile(r"(?<![\w./])/(?!/)(?:(?:[^/'\"]|(?<=\w)'(?=\w))*[^/\s'\":]/)+")


def _hidden(text: str, folders: Iterable[Path]) -> str:
    """Paths below `folders` as they are below them, and of other absolute paths the file name alone."""
    for folder in folders:
        whole = rf"(?<![\w.-]){re.escape(str(folder))}"  # and no folder whose name only begins so
        text = re.sub(rf"{whole}(?![\w./-])", ".", re.sub(f"{whole}/", "", text))
    return _FOLDERS.sub("", text)
