"""What became of each scan, on disk, so that a run that was killed goes on where it stopped.

One JSON file a job in a hidden folder of the output. A job is done if its record says so for the same settings and
inputs (`Job.fingerprint`), each of its outputs still has the SHA-256 that it had when it was written and checked, and
so it is with the jobs that it belongs together with (`Job.group`). Where inputs are not there, its outputs are enough.
Reading the outputs again costs a hundredth of making them, and finds the truncated copy that a look at names does not.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpmae.errors import OutputError

FOLDER = ".cpmae"


@dataclass(frozen=True)
class Job:
    """One scan to be done.

    Attributes:
        name: its path in the data set; the only thing that is ever said of it.
        task: what the work function takes; has to be picklable.
        fingerprint: changes with every setting and input that changes the result.
        inputs: files that are read ahead.
        after: names of jobs that must have ended, well or not, before this one starts.
        group: jobs of one group are done again, all of them, unless all have ended and those that are done are of one
            draw; those that failed are tried again alone.
        draw: tells apart what was drawn at random and is in no fingerprint, as each run does it anew.
        lacks_inputs: files that it reads are not there now, as DataLad's that were dropped. It can only fail or come
            out worse, and what was made of it stays.
    """

    name: str
    task: Any
    fingerprint: str
    inputs: tuple[Path, ...] = ()
    after: tuple[str, ...] = ()
    group: str = ""
    draw: str = ""
    lacks_inputs: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        state: "done", "failed" (refused with a reason), "crashed" (an exception that nobody expected), or "lost" (its
            worker died).
        reason: a sentence; empty if done.
        outputs: path below the output folder and SHA-256 of each file.
        account: what was done, for the summary.
        traceback: of an unexpected exception, or what another program said, for the terminal; it is not recorded.
    """

    state: Literal["done", "failed", "crashed", "lost"]
    reason: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""


class Records:
    """The records in `root`, the output folder.

    Args:
        staging: a folder on the same file system where records are begun; needed by `write`.
    """

    def __init__(self, root: Path, staging: Path | None = None) -> None:
        self.root, self._staging = root, staging

    def ask(self, names: Iterable[str]) -> None:
        """Remember which jobs a run was asked for, so that what is missing is told from what nobody wanted.

        A file for each list of names, since several runs may do this at the same time.

        Raises:
            OutputError: if it cannot be written.
        """
        new = sorted(set(names) - self.asked())
        if new:
            self._put(self.root / FOLDER / "asked" / f"{digest(new)}.json", new, "what was asked for")

    def asked(self) -> set[str]:
        """Names of the jobs that any run was asked for; those of which there is a record are."""
        found = {record["name"] for record in self.all()}
        for path in (self.root / FOLDER / "asked").glob("*.json"):
            with suppress(OSError, ValueError):
                found |= set(json.loads(path.read_text()))
        return found

    def path(self, name: str) -> Path:
        return self.root / FOLDER / "scans" / f"{name}.json"

    def write(self, job: Job, outcome: Outcome) -> None:
        """Record an outcome; the file changes at once and whole. What the job gave before and now does not is removed.

        Raises:
            OutputError: if it cannot be written.
        """
        facts = {"name": job.name, "fingerprint": job.fingerprint, "draw": job.draw, **asdict(outcome)}
        del facts["traceback"]
        gone = self._outputs_of_none_but(job.name, outcome.outputs if outcome.state == "done" else ())
        self._put(self.path(job.name), facts, f"what became of {job.name}", gone)

    def _put(self, path: Path, content: Any, what: str, gone: Iterable[str] = ()) -> None:
        """A JSON file, at once and whole; the files `gone` are removed just before."""
        if self._staging is None:
            raise ValueError("these records are for reading, give a staging folder")
        temporary = self._staging / f"record-{secrets.token_hex(8)}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content, indent=1) + "\n")
            for output in gone:
                (self.root / output).unlink(missing_ok=True)
            os.replace(temporary, path)
        except OSError as error:
            raise OutputError(f"{what} cannot be recorded ({error.strerror}), free space") from error

    def forget(self, names: Iterable[str]) -> None:
        """Remove records of jobs, all that they gave, and that they were asked for.

        Raises:
            OutputError: if something cannot be removed.
        """
        names = set(names)
        for name in names:
            try:
                for path in [*(self.root / output for output in self._outputs_of_none_but(name)), self.path(name)]:
                    path.unlink(missing_ok=True)
                    self._remove_empty(path.parent)
            except OSError as error:
                raise OutputError(f"the results of {name} cannot be removed ({error.strerror})") from error
        if not names:
            return
        left = self.asked() - names
        shutil.rmtree(self.root / FOLDER / "asked", ignore_errors=True)
        self.ask(left)

    def _remove_empty(self, folder: Path) -> None:
        """Remove a folder in which nothing lies, and those above it: their names are somebody's labels."""
        with suppress(OSError):  # there is something in it, or it is gone
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _outputs_of_none_but(self, name: str, now: Iterable[str] = ()) -> set[str]:
        """What a job gave before, and not `now`; tables that several echoes share are left to those that are done."""
        gone = set((self.read(name) or {"outputs": {}})["outputs"]).difference(now)
        if not gone:
            return gone
        others = (record["outputs"] for record in self.all() if record["name"] != name and record["state"] == "done")
        return gone.difference(*others)

    def read(self, name: str) -> dict[str, Any] | None:
        """The record of a job, None if there is none that can be read: the job is then done again."""
        return _load(self.path(name))

    def all(self) -> list[dict[str, Any]]:
        """All records, by name."""
        found = [_load(path) for path in (self.root / FOLDER / "scans").rglob("*.json")]
        return sorted((record for record in found if record), key=lambda record: record["name"])

    def done(self, jobs: Sequence[Job]) -> set[str]:
        """Names of the jobs whose outputs are there and are those that were checked; see `Job.group`."""
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            records = list(pool.map(self._ended, jobs))
        draws: dict[str, dict[str, str]] = {}  # of each group, by the names of the jobs that are done
        anew, kept = set(), set()
        for job, record in zip(jobs, records, strict=True):
            group = job.group or job.name
            if record and record["state"] == "done" and job.lacks_inputs:
                kept.add(job.name)  # whatever becomes of its group
            elif record is None:
                anew.add(group)
            elif record["state"] == "done":
                draws.setdefault(group, {})[job.name] = record.get("draw", "")
        whole = (found for group, found in draws.items() if group not in anew and len(set(found.values())) == 1)
        return kept | {name for found in whole for name in found}

    def _ended(self, job: Job) -> dict[str, Any] | None:
        """The record of a job, None if there is none of these settings and inputs whose outputs are all there.

        Where inputs are not there, that of a job that was done with others will do.
        """
        record = self.read(job.name)
        if record is None:
            return None
        if record["fingerprint"] != job.fingerprint and not (job.lacks_inputs and record["state"] == "done"):
            return None
        places = [(self.root / path, digest) for path, digest in record["outputs"].items()]
        return record if all(path.is_file() and sha256(path) == digest for path, digest in places) else None

    def outputs(self, paths: Iterable[Path]) -> dict[str, str]:
        """Path below the root and SHA-256 of files in it."""
        return {path.relative_to(self.root).as_posix(): sha256(path) for path in paths}


def _load(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # an empty file is what a loss of power leaves of one just renamed
        return None
    return found if isinstance(found, dict) and found.keys() >= {"name", "fingerprint", "state", "outputs"} else None


def digest(facts: Any) -> str:
    """SHA-256 of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
