"""A batch: what is done, done again, and left; what becomes of scans that fail and of workers that die."""

import errno
import fcntl
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import batch_work
import pytest
from batch_work import ORIGINAL, PREFIX, batch, content, job

from cpmae import leased, progress
from cpmae.batch import cluster
from cpmae.batch.engine import TRIES, attempt, run
from cpmae.batch.records import Job, Outcome, Records
from cpmae.errors import ClusterError, MissingExtraError, OutputError, ScanError


@pytest.fixture(autouse=True)
def system_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the system for this test; at its end nothing of the original may lie in it."""
    folder = tmp_path / "system"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def calls(root: Path, what: str = "begins") -> list[str]:
    return [line.split()[0] for line in (root / "calls").read_text().splitlines() if line.endswith(what)]


def assert_complete(root: Path, names: list[str]) -> None:
    for name in names:
        for number in (1, 2):
            assert (root / "out" / f"{name}.{number}").read_bytes() == content(name, number)


def visible(folder: Path) -> set[str]:
    """Files that do not lie in hidden folders."""
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {str(p) for p in files if not any(part.startswith(".") for part in p.parts)}


def holding_original(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and ORIGINAL in p.read_bytes()]


def test_all_are_done_each_once_and_nothing_else_is_left(root: Path, system_temporary: Path) -> None:
    names = [f"sub-{i}/anat/scan" for i in range(6)]
    counts, records = batch(root, [job(root, n) for n in names], 2)
    assert counts == {"done": 6}
    assert_complete(root, names)
    assert sorted(calls(root)) == names
    assert visible(root / "out") == {f"{n}.{i}" for n in names for i in (1, 2)}
    assert [p.name for p in (root / "out").iterdir() if p.name.startswith(".")] == [".cpmae"]
    assert list(system_temporary.iterdir()) == []
    assert {r["name"]: r["state"] for r in records.all()} == dict.fromkeys(names, "done")


def test_workers_share_the_cores_and_hold_none_while_they_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    _, records = batch(root, [job(root, name) for name in "ab"], 2)
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert records.all()[0]["account"] == {"OMP_NUM_THREADS": share, "OMP_WAIT_POLICY": "passive"}
    assert "OMP_WAIT_POLICY" not in os.environ
    _, records = batch(root, [job(root, "c")], 1)
    alone = {record["name"]: record["account"] for record in records.all()}["c"]
    assert alone == {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "OMP_WAIT_POLICY": None}


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_the_user_says_with_how_many_threads_workers_compute(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    wanted = max(1, len(os.sched_getaffinity(0)) // 2) + 1  # not what two workers would get
    monkeypatch.setenv(variable, str(wanted))
    _, records = batch(root, [job(root, "a", "counts threads")], 2)
    assert records.all()[0]["account"] == {"threads": wanted}


def test_a_worker_keeps_what_it_has_loaded_for_its_next_scans(root: Path) -> None:
    _, records = batch(root, [job(root, name, "tells its process") for name in "abc"], 1)
    assert len({record["account"]["process"] for record in records.all()}) == 1


def test_a_second_run_does_what_is_missing_changed_or_of_other_settings(root: Path) -> None:
    names = ["kept", "removed", "cut", "other"]
    jobs = [job(root, n) for n in names]
    batch(root, jobs, 1)
    (root / "out" / "removed.1").unlink()
    with open(root / "out" / "cut.2", "r+b") as file:
        file.truncate(1000)
    (root / "calls").unlink()
    other = batch_work.Job("other", jobs[3].task, "settings 2")
    events: list[tuple[str, str]] = []
    counts, _ = batch(root, [*jobs[:3], other], 1, events)
    assert counts == {"skipped": 1, "done": 3}
    assert calls(root) == ["removed", "cut", "other"]
    assert ("skipped", "kept") in events
    assert_complete(root, names)


def test_of_jobs_that_belong_together_all_or_none_are_done_again(root: Path) -> None:
    def jobs(draw: str, *names: str) -> list[batch_work.Job]:
        return [job(root, n, group=n[0], draw=draw) for n in names or ("a1", "a2", "b1")]

    assert batch(root, jobs("first"), 1)[0] == {"done": 3}
    assert batch(root, jobs("second"), 1)[0] == {"skipped": 3}
    (root / "out" / "a2.1").unlink()
    assert batch(root, jobs("third"), 1)[0] == {"done": 2, "skipped": 1}
    (root / "out" / "a2.1").unlink()
    assert batch(root, jobs("fourth", "a2"), 1)[0] == {"done": 1}  # as a run that is killed would leave them
    assert batch(root, jobs("fifth"), 1)[0] == {"done": 2, "skipped": 1}


def test_of_a_job_that_fails_now_nothing_older_is_left(root: Path) -> None:
    batch(root, [job(root, "a")], 1)
    assert (root / "out" / "a.1").exists()
    other = batch_work.Job("a", job(root, "a", "refused").task, "settings 2")
    counts, records = batch(root, [other], 1)
    assert counts == {"failed": 1} and not list((root / "out").glob("a.*"))


def test_what_others_gave_too_stays_when_a_job_fails(root: Path) -> None:
    """Echoes have one table of events."""
    (root / "staging").mkdir()
    records, jobs = Records(root, root / "staging"), [Job(n, None, "1") for n in ("echo-1", "echo-2")]
    for found in jobs:
        for name in ("events.tsv", found.name):
            (root / name).write_text(name)
        records.write(found, Outcome("done", outputs=records.outputs([root / "events.tsv", root / found.name])))
    records.write(jobs[1], Outcome("failed", "refused now"))
    assert (root / "events.tsv").exists() and not (root / "echo-2").exists()
    assert records.done(jobs) == {"echo-1"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "done"}'])
def test_a_record_that_is_none_has_its_job_done_again(root: Path, text: str) -> None:
    batch(root, [job(root, "a")], 1)
    Records(root / "out").path("a").write_text(text)
    assert Records(root / "out").all() == []
    assert batch(root, [job(root, "a")], 1)[0] == {"done": 1}


def test_records_of_earlier_versions_are_read(root: Path) -> None:
    _, records = batch(root, [job(root, "a")], 1)
    facts = json.loads(records.path("a").read_text())
    del facts["draw"]
    records.path("a").write_text(json.dumps(facts))
    assert batch(root, [job(root, "a", group="a")], 1)[0] == {"skipped": 1}


def test_one_that_fails_does_not_have_those_done_again_that_it_belongs_to(root: Path) -> None:
    def jobs(draw: str, how: str) -> list[batch_work.Job]:
        return [job(root, name, how=h, group="a", draw=draw) for name, h in (("a1", "well"), ("a2", how))]

    assert batch(root, jobs("first", "refused"), 1)[0] == {"done": 1, "failed": 1}
    assert batch(root, jobs("second", "refused"), 1)[0] == {"skipped": 1, "failed": 1}
    assert batch(root, jobs("third", "refused"), 1)[0] == {"skipped": 1, "failed": 1}
    assert batch(root, jobs("fourth", "well"), 1)[0] == {"skipped": 1, "done": 1}
    assert batch(root, jobs("fifth", "well"), 1)[0] == {"done": 2}


def test_a_failing_scan_is_recorded_with_its_reason_and_stops_nobody(root: Path) -> None:
    hows = {"a": "refused", "b": "well", "c": "broken", "d": "well"}
    counts, records = batch(root, [job(root, n, how) for n, how in hows.items()], 2)
    assert counts == {"failed": 1, "crashed": 1, "done": 2}
    assert_complete(root, ["b", "d"])
    found = {r["name"]: r for r in records.all()}
    assert found["a"]["reason"] == "a shows no head by weights.json, give one"  # and not where the data set lies
    assert found["c"]["reason"].startswith("KeyError in batch_work.py, line ")
    text = "".join(p.read_text() for p in (root / "out" / ".cpmae").rglob("*.json"))
    assert "Doe" not in text and "Traceback" not in text and str(root) not in text
    counts, _ = batch(root, [job(root, n, "well") for n in hows], 1)  # what failed is tried again
    assert counts == {"skipped": 2, "done": 2}


REASONS = {
    "/data/in/sub-1/x.nii is cut off": "sub-1/x.nii is cut off",
    "/data/in is no folder": ". is no folder",
    "no space in /data/in": "no space in .",
    "/data/input-of-smith/a is cut off": "a is cut off",
    "/home/Jane Doe/fsl/etc/x is missing": "x is missing",
    "'/home/Doe, Jane/O'Brien/my bet' failed, see /data/in/log": "'my bet' failed, see log",
    "the command '/home/doe/bet {input}' of /usr/x lacks {mask}": "the command 'bet {input}' of x lacks {mask}",
    "it is command:/home/doe/bet, see https://x.org/a/b": "it is command:bet, see https://x.org/a/b",
    "a scan/mask of 1/2": "a scan/mask of 1/2",
}


@pytest.mark.parametrize("said", REASONS)
def test_records_tell_nobodys_folders(root: Path, said: str) -> None:
    def work(task: object, staging: Path) -> tuple[list[Path], dict[str, object]]:
        if task == "fails":
            raise ScanError(said)
        return [], {"warnings": [said]}

    records = Records(root, root)
    for task in ("fails", "goes well"):
        attempt(work, Job(task, task, "settings"), records, root, [Path("/data/in")])
    failed, well = records.all()
    assert failed["reason"] == REASONS[said] and well["account"] == {"warnings": [REASONS[said]]}


def test_what_a_program_said_is_for_the_terminal_alone(root: Path) -> None:
    def work(task: object, staging: Path) -> tuple[list[Path], dict[str, object]]:
        error = ScanError("the program failed")
        error.add_note("it said: Jane Doe has no licence")
        raise error

    records = Records(root, root)
    outcome = attempt(work, Job("a", None, "settings"), records, root)
    assert outcome.traceback == "it said: Jane Doe has no licence"
    assert "Doe" not in records.path("a").read_text()


def test_a_scan_whose_worker_dies_is_done_again(root: Path) -> None:
    events: list[tuple[str, str]] = []
    jobs = [job(root, "a", "deadly once"), job(root, "b"), job(root, "c", "deadly once")]
    counts, _ = batch(root, jobs, 2, events)
    assert counts == {"done": 3}
    assert events.count(("again", "a")) == events.count(("again", "c")) == 1
    assert_complete(root, ["a", "b", "c"])


def test_a_scan_that_kills_every_worker_is_given_up(root: Path) -> None:
    counts, records = batch(root, [job(root, "a", "deadly"), job(root, "b"), job(root, "c")], 1)
    assert counts == {"failed": 1, "done": 2}
    assert calls(root).count("a") == TRIES
    record = records.read("a")
    assert record and "SIGKILL" in record["reason"] and "memory" in record["reason"]
    assert_complete(root, ["b", "c"])


@pytest.mark.parametrize("first", ["well", "refused"])
def test_those_that_wait_for_another_start_when_it_has_ended(root: Path, first: str) -> None:
    jobs = [job(root, "t2", after=("t1",)), job(root, "t1", first), job(root, "flair", after=("t1", "gone"))]
    events: list[tuple[str, str]] = []
    counts, _ = batch(root, jobs, 2, events)
    assert counts["done"] == (3 if first == "well" else 2)
    assert events.index(("ended", "t1")) < min(events.index(("started", n)) for n in ("t2", "flair"))


def test_those_that_wait_for_each_other_are_named_and_the_rest_is_done(root: Path) -> None:
    jobs = [job(root, "a"), job(root, "b", after=("a", "c")), job(root, "c", after=("b",)), job(root, "d")]
    with pytest.raises(ValueError, match="^b, c wait for each other"):
        batch(root, jobs, 2)
    assert_complete(root, ["a", "d"])
    assert sorted(calls(root)) == ["a", "d"]


def test_the_next_scan_is_read_while_one_is_computed(root: Path) -> None:
    os.mkfifo(root / "next")

    def feed() -> None:
        with open(root / "next", "wb") as pipe:  # comes back when somebody reads
            pipe.write(b"scan")
        (root / "was-read").touch()

    threading.Thread(target=feed, daemon=True).start()
    jobs = [job(root, "a", "waits for the next to be read"), job(root, "b", inputs=(root / "next",))]
    counts, _ = batch(root, jobs, 1)
    assert counts == {"done": 2}


def test_folders_of_the_dead_go_and_those_of_the_living_stay(root: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cpmae.leased import leased_folder\n"
        "with leased_folder(Path(sys.argv[1]), '.x-') as f: print(f, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    theirs = Path(process.stdout.readline().strip())
    with leased.leased_folder(root, ".x-") as mine:
        assert leased.remove_dead(root, ".x-") == []
        process.kill()
        process.wait()
        assert leased.remove_dead(root, ".x-") == [theirs]
        assert mine.is_dir() and not theirs.exists()
    assert list(root.iterdir()) == []


def test_a_folder_of_another_host_counts_as_dead_only_when_long_untouched(root: Path) -> None:
    (root / ".x-1").mkdir()
    (root / ".x-1" / leased.LEASE).write_text(f"not {socket.gethostname()}")
    assert leased.remove_dead(root, ".x-") == []
    long_ago = time.time() - leased.DEAD_AFTER_S - 10
    os.utime(root / ".x-1" / leased.LEASE, (long_ago, long_ago))
    assert leased.remove_dead(root, ".x-") == [root / ".x-1"]
    (root / ".x-2").mkdir()  # its maker has come no further
    assert leased.remove_dead(root, ".x-") == []
    os.utime(root / ".x-2", (long_ago, long_ago))
    assert leased.remove_dead(root, ".x-") == [root / ".x-2"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_files_cannot_be_locked_the_last_touch_tells(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with leased.leased_folder(root, ".x-") as mine:
        assert leased.remove_dead(root, ".x-") == [] and mine.is_dir()
        long_ago = time.time() - leased.DEAD_AFTER_S - 10
        os.utime(mine / leased.LEASE, (long_ago, long_ago))
        assert leased.remove_dead(root, ".x-") == [mine]


def test_a_folder_that_cannot_be_locked_for_another_reason_goes_and_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match="choose another one"), leased.leased_folder(root, ".x-"):
        pass
    assert list(root.iterdir()) == []
    (root / ".x-1").mkdir()
    (root / ".x-1" / leased.LEASE).touch()
    with pytest.raises(OutputError, match="remove it"):
        leased.remove_dead(root, ".x-")


def test_a_touch_that_fails_is_not_the_last_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures, touch = [errno.ESTALE, errno.EIO], os.utime

    def utime(path: Path) -> None:
        if failures:
            raise OSError(failures.pop(), "away")
        touch(path)

    monkeypatch.setattr(leased, "TOUCH_EVERY_S", 0.01)
    with leased.leased_folder(root, ".x-") as mine:
        touch(mine / leased.LEASE, (0, 0))
        monkeypatch.setattr(os, "utime", utime)
        until = time.time() + 20
        while (mine / leased.LEASE).stat().st_mtime < 1 or failures:
            assert time.time() < until
            time.sleep(0.01)


def test_a_link_that_somebody_put_there_is_left_alone_and_stops_nothing(root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine" / "thesis.txt").touch()
    long_ago = time.time() - leased.DEAD_AFTER_S - 10
    os.utime(root / "mine", (long_ago, long_ago))
    (root / ".x-1").symlink_to(root / "mine")
    assert leased.remove_dead(root, ".x-") == []
    assert (root / ".x-1").is_symlink() and (root / "mine" / "thesis.txt").exists()


def test_two_batches_fill_one_folder_at_the_same_time(root: Path) -> None:
    command = [sys.executable, batch_work.__file__, str(root), "8", "1"]
    (root / "out").mkdir()
    both = [subprocess.Popen([*command, kind], stdout=subprocess.DEVNULL) for kind in ("one", "two")]
    assert [process.wait(60) for process in both] == [0, 0]
    names = [f"{kind}-{i}" for kind in ("one", "two") for i in range(8)]
    assert_complete(root, names)
    assert sorted(calls(root)) == sorted(names)  # nobody removed what the other had begun


def children(pid: int) -> list[int]:
    """The workers: children of a process that run Python's spawn, and not its resource tracker."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(p) for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    except OSError:  # gone meanwhile
        return []


def test_windows_has_folders_for_what_is_unfinished_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with leased.unfinished_folder(root) as folder:
        assert folder.parent == root and not list(folder.iterdir())
    assert not folder.exists()


def kill_at_random(root: Path, system: Path, kills: int, jobs: int, seed: int) -> None:
    """Kill workers, batches and both, `kills` times; start again until all is done; look at everything each time."""
    rng = random.Random(seed)
    names = [f"scan-{i}" for i in range(jobs)]
    done, code = 0, 1
    command = [sys.executable, batch_work.__file__, str(root), str(jobs), "2"]
    while code != 0:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        aim = rng.choice(["worker", "batch", "all"])
        times = TRIES - 1 if aim == "worker" else 1  # one scan may not lose more workers than that in one run
        for _ in range(times if done < kills else 0):
            time.sleep(rng.uniform(0.05, 1.0))
            workers = children(process.pid)
            if process.poll() is None and (workers or aim != "worker"):
                victim = rng.choice(workers) if aim == "worker" else process.pid
                (os.killpg if aim == "all" else os.kill)(victim, signal.SIGKILL)
                done += 1
        code = process.wait()
        time.sleep(0.05)
        for path in visible(root / "out") if (root / "out").exists() else ():
            name, number = path.rsplit(".", 1)
            assert (root / "out" / path).read_bytes() == content(name, int(number)), f"{path} is a partial file"
        assert holding_original(root / "out") == []
        if done < kills and code == 0:  # more to do, so that there is something to kill
            shutil.rmtree(root / "out")
            code = 1
    assert_complete(root, names)
    assert {r["state"] for r in Records(root / "out").all()} == {"done"}
    assert [p.name for p in (root / "out").iterdir() if p.name.startswith(PREFIX)] == []
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # as a user does, and nobody cleans up by hand
    assert holding_original(root) == holding_original(system) == []


def test_kill_9_at_random_moments_loses_no_scan_and_leaves_no_partial_file(root: Path, system_temporary: Path) -> None:
    kill_at_random(root, system_temporary, kills=12, jobs=10, seed=1)


@contextmanager
def holding(root: Path, system: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A batch, the only worker of which has a copy of the original and works on; both are killed at the end."""
    before = holding_original(system)
    command = [sys.executable, batch_work.__file__, str(root), "1", "1", name, "for ever"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not set(holding_original(system)) - set(before):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_worker_whose_batch_is_killed_stops_and_takes_its_original_along(root: Path, system_temporary: Path) -> None:
    with holding(root, system_temporary, "one") as process:
        process.kill()
        deadline = time.monotonic() + 20
        while list(system_temporary.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_run_removes_at_its_start_what_was_killed_with_its_workers(root: Path, system_temporary: Path) -> None:
    with holding(root, system_temporary, "one"):
        pass
    first = holding_original(system_temporary)
    assert len(first) == 1
    with holding(root, system_temporary, "two"):
        assert len(holding_original(system_temporary)) == 1
        assert not first[0].exists()


def test_a_run_leaves_nothing_of_a_worker_that_died_last(root: Path, system_temporary: Path) -> None:
    assert batch(root, [job(root, "a", "deadly")], 1)[0] == {"failed": 1}
    assert list(system_temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_fifty_kills(root: Path, system_temporary: Path, seed: int) -> None:
    kill_at_random(root, system_temporary, kills=50, jobs=30, seed=seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_batch_that_is_told_to_stop_leaves_nothing_begun(root: Path, system_temporary: Path, number: int) -> None:
    command = [sys.executable, batch_work.__file__, str(root), "200", "2"]
    heard = partial(signal.signal, number, signal.SIG_DFL)  # a test run in the background ignores SIGINT
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=heard)
    while not (root / "out" / ".cpmae").exists():  # the first scan is done and noted
        time.sleep(0.02)
    tell = os.killpg if number == signal.SIGHUP else os.kill  # a terminal that closes tells all
    tell(process.pid, number)
    assert process.wait(20) != 0
    hidden = [p.name for p in (root / "out").iterdir() if p.name.startswith(".")]
    assert hidden == [".cpmae"] and list(system_temporary.iterdir()) == []


def dask_cluster(**arguments: object) -> object:
    distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
    return distributed.LocalCluster(processes=True, dashboard_address=None, **arguments)


def dask_run(root: Path, client: object, jobs: list[Job]) -> tuple[dict[str, int], Records]:
    """As `bids.app.participant` does it, with other work."""
    (root / "out").mkdir()
    with leased.leased_folder(root / "out", PREFIX) as staging:
        records = Records(root / "out", staging)
        with cluster.DaskWorkers(client, batch_work.work, records, staging, (root,)) as workers:
            return run(jobs, workers, records, lambda *event: None), records


def test_the_same_work_on_a_dask_cluster_whose_worker_dies(root: Path) -> None:
    hows = {"a": "well", "b": "deadly once", "c": "refused", "d": "well"}
    jobs = [job(root, n, how) for n, how in hows.items()] + [job(root, "e", after=("a", "c"))]
    with dask_cluster(n_workers=1, threads_per_worker=2) as nodes:  # type: ignore[attr-defined]
        counts, records = dask_run(root, cluster.connect(nodes.scheduler_address), jobs)
    assert counts == {"done": 4, "failed": 1}
    assert_complete(root, ["a", "b", "d", "e"])
    assert [r["name"] for r in records.all() if r["state"] == "failed"] == ["c"]
    assert visible(root / "out") == {f"{n}.{i}" for n in "abde" for i in (1, 2)}


def test_a_scan_that_kills_every_dask_worker_is_given_up_and_no_other_one(root: Path) -> None:
    jobs = [job(root, "a", "deadly"), job(root, "b"), job(root, "c")]
    with dask_cluster(n_workers=1, threads_per_worker=2) as nodes:  # type: ignore[attr-defined]
        counts, records = dask_run(root, cluster.connect(nodes.scheduler_address), jobs)
    assert counts == {"failed": 1, "done": 2}
    assert calls(root).count("a") == TRIES
    record = records.read("a")
    assert record and record["reason"] == f"tried {TRIES} times: its Dask workers died; is there memory enough?"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sys.modules['cpmae'] = None", r"the Dask worker tcp://.* has .*cpmae.* install the same"),
        ("import cpmae; cpmae.__version__ = '0.0.9'", rf"^{socket.gethostname()} has cpmae 0.0.9, .* and not cpmae"),
        (
            "import cpmae.options; cpmae.options.DRAWING = 0",
            r"has cpmae .*, drawing 0, and not cpmae .*, drawing [1-9]",
        ),
        ("sys.modules['batch_work'] = None", "ModuleNotFoundError on the Dask cluster: .*batch_work"),
    ],
)
def test_dask_workers_that_have_something_else_end_the_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, told: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; {change}")  # Python runs it at its start
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with dask_cluster(n_workers=1, threads_per_worker=2) as nodes:  # type: ignore[attr-defined]
        with pytest.raises(ClusterError, match=told):
            dask_run(root, cluster.connect(nodes.scheduler_address), [job(root, "a")])
    assert not (root / "calls").exists()


SBATCH = """#!/bin/sh
# Slurm's sbatch, for as many jobs as there are: the script is the last argument
for script; do :; done
cp "$script" "$HOME/job.sh"
setsid sh "$HOME/job.sh" > "$HOME/job.log" 2>&1 &
echo $! >> "$HOME/jobs"
echo "Submitted batch job $!"
"""


@pytest.fixture
def slurm_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs that stand for Slurm's lie (`bin`) and write the last `job.sh`, and the `jobs` by process."""
    pytest.importorskip("dask_jobqueue", reason="the extra cluster is not installed")
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", "#!/bin/sh\nkill -- -$1\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return tmp_path


def test_the_same_work_in_jobs_that_slurm_is_asked_for(root: Path, slurm_home: Path) -> None:
    assert dask_run(root, cluster.slurm(1), [job(root, n) for n in "abc"])[0] == {"done": 3}
    assert_complete(root, ["a", "b", "c"])
    assert "#SBATCH --mem=6G" in (slurm_home / "job.sh").read_text()


def test_a_job_of_slurm_that_ends_is_replaced(root: Path, slurm_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask = pytest.importorskip("dask")
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.2)

    def reach_the_time_limit() -> None:
        while not (root / "a.once").exists():
            time.sleep(0.02)
        os.killpg(int((slurm_home / "jobs").read_text()), signal.SIGKILL)

    threading.Thread(target=reach_the_time_limit, daemon=True).start()
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}):
        assert dask_run(root, cluster.slurm(1), [job(root, "a", "for ever once")])[0] == {"done": 1}
    assert_complete(root, ["a"])
    assert len((slurm_home / "jobs").read_text().split()) == 2


def test_a_job_that_slurm_refuses_ends_the_run_with_its_reason(root: Path, slurm_home: Path) -> None:
    refuse = "echo 'sbatch: error: Invalid account' >&2; exit 1"
    first = 'mkdir "$HOME/first" 2> /dev/null && echo Submitted batch job 7 && exit'
    (slurm_home / "bin" / "sbatch").write_text(f"#!/bin/sh\n{first}\n{refuse}\n")
    (slurm_home / "bin" / "scancel").write_text('#!/bin/sh\necho $1 >> "$HOME/cancelled"\n')
    with pytest.raises(ClusterError, match="Slurm takes no job: sbatch: error: Invalid account$"):
        dask_run(root, cluster.slurm(2), [job(root, "a")])
    assert (slurm_home / "cancelled").read_text() == "7\n"


def test_the_user_is_told_once_that_there_are_no_workers(
    root: Path, slurm_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (slurm_home / "bin" / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 2147483647\n")  # it waits
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.0)
    with cluster.DaskWorkers(cluster.slurm(1), batch_work.work, Records(root, root), root) as workers:
        workers.submit(job(root, "a"))
        assert workers.wait() == workers.wait() == workers.wait() == []
    assert caplog.text.count("no Dask worker is there") == 1 and "squeue" in caplog.text


@pytest.mark.parametrize(("said", "threads"), [({}, "5"), ({"MKL_NUM_THREADS": "3"}, "3")])
def test_a_job_of_slurm_computes_one_scan_with_all_its_cores(
    root: Path, slurm_home: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], threads: str
) -> None:
    dask = pytest.importorskip("dask")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    site = {"cores": 5, "processes": 5, "job-script-prologue": ["export OMP_WAIT_POLICY=passive"]}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in site.items()}):
        _, records = dask_run(root, cluster.slurm(1), [job(root, "a")])
    assert records.all()[0]["account"] == {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    script = (slurm_home / "job.sh").read_text()
    assert "--cpus-per-task=5" in script and "--nthreads 2 " in script and "--nworkers" not in script


def test_without_slurm_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra cluster is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="sbatch"):
        cluster.slurm(1)


def test_a_scheduler_that_is_not_there_is_a_sentence() -> None:
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    with pytest.raises(ClusterError, match="check the address"):
        cluster.connect("nowhere")


def test_without_dask_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("distributed", "dask_jobqueue"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"cpmae\[cluster\]"):
        cluster.connect("tcp://localhost:8786")
    with pytest.raises(MissingExtraError, match=r"cpmae\[cluster\]"):
        cluster.slurm(1)


def test_records_are_json_without_traces(root: Path) -> None:
    _, records = batch(root, [job(root, "a", "broken")], 1)
    assert set(json.loads(records.path("a").read_text())) == {
        *("name", "fingerprint", "draw", "state", "reason", "outputs", "account")
    }


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_progress_is_shown_to_terminals_alone(root: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    screen = kind()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_table(3) as tell:
        tell("skipped", job(root, "sub-1/a"), None)
        tell("started", job(root, "sub-2/b"), None)
        tell("started", job(root, "sub-3/c"), None)
        tell("ended", job(root, "sub-3/c"), Outcome("crashed", "a bug", traceback="Traceback of it"))
    text = screen.getvalue()
    assert "Traceback of it" in text
    for words in ("2 of 3: 1 done before, 1 failed", "sub-2/b"):
        assert (words in text) == (kind is Terminal)
