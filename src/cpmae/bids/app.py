"""The two levels of the BIDS App: `participant` does scans, `group` sums up what was done."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cpmae.batch import cluster, engine
from cpmae.batch.local import LocalWorkers
from cpmae.batch.records import Job, Outcome, Records
from cpmae.bids import dataset as description
from cpmae.bids.plan import Settings, jobs, picture_path
from cpmae.bids.work import deidentify_scan
from cpmae.brain import with_whole_paths
from cpmae.errors import OutputError, ScanError
from cpmae.io.bids import Dataset, Scan
from cpmae.leased import leased_folder, remove_dead
from cpmae.report import gallery


def participant(
    dataset: Dataset,
    scans: Sequence[Scan],
    target: Path,
    settings: Settings,
    *,
    tell: engine.Tell,
    work: engine.Work = deidentify_scan,
    n_procs: int = 1,
    scheduler: str | None = None,
    slurm: bool = False,
    prune: bool = False,
) -> Counter[str]:
    """De-identify scans of a data set into `target`, those that are done already left alone.

    Args:
        tell: see `engine.run`.
        work: what does a scan in a worker, as `work.deidentify_scan`; has to be picklable.
        n_procs: processes on this machine, or jobs that Slurm is asked for.
        scheduler: address of a Dask scheduler, to work there.
        slurm: work in jobs of Slurm.
        prune: remove results of scans that the data set no longer has.

    Returns:
        How many scans were "skipped" (done before), "done", "failed" and "crashed"; and how many of those skipped were
        "kept" as they were, since files that they are made of are not there.

    Raises:
        OutputError: if `target` is no place for the results, or `settings.pictures` lies in it.
        ScanError: if there is nothing to do.
        BrainMaskError: for the command of a brain extractor that cannot be split into words.
        ClusterError, MissingExtraError.
    """
    if not scans:
        raise ScanError(f"{dataset.root} has no scan that was asked for, check labels and filter")
    source, target, settings = dataset.root.resolve(), target.resolve(), _anywhere(settings)
    dataset = Dataset(source, dataset.scans, dataset.files, dataset.others)
    kept = 0

    def told(event: str, job: Job, outcome: Outcome | None) -> None:
        nonlocal kept
        kept += event == "skipped" and job.lacks_inputs
        tell(event, job, outcome)

    with _not_left_empty(target, *([settings.pictures] if settings.pictures else [])):
        description.check_output(dataset, target, settings.placement)
        if settings.pictures:
            description.check_pictures(dataset, target, settings.pictures)
        todo = jobs(dataset, scans, target, settings, description.source_uri(dataset, target))
        with _staging(target) as staging:
            description.describe(dataset, target, settings, staging)
            records = Records(target, staging)
            if prune:
                gone = description.not_in_input(dataset, target)
                records.forget(gone)
                if settings.pictures:
                    _remove_pictures(settings.pictures, gone)
            records.ask(job.name for job in todo)
            what = (work, records, staging, (source, target))
            if scheduler or slurm:
                workers = cluster.DaskWorkers(
                    cluster.connect(scheduler) if scheduler else cluster.slurm(n_procs), *what
                )
            else:
                workers = LocalWorkers(n_procs, *what)  # type: ignore[assignment]
            with workers:
                counts = engine.run(todo, workers, records, told)
            description.finish(dataset, scans, target, settings, staging)
        if settings.pictures:
            _show(dataset, target, settings.pictures)
    return counts + Counter(kept=kept)


def of_several_heads(target: Path) -> int:
    """How many people have results in different heads, as of runs without a key that each did a session."""
    heads: dict[str, set[tuple[str, str]]] = {}
    for record in Records(target).all():
        if record["state"] == "done" and any((target / path).exists() for path in record["outputs"]):
            head = record.get("draw", ""), record["account"].get("head_from", "")
            heads.setdefault(record["name"].split("/")[0], set()).add(head)
    return sum(len(found) > 1 for found in heads.values())


def _show(dataset: Dataset, target: Path, pictures: Path) -> None:
    """A page of all the pictures that there are, of this run and of earlier ones; those without a result go."""
    records = {record["name"]: record for record in Records(target).all()}
    done, failed = [], []
    for scan in dataset.scans:
        record = records.get(str(scan.path))
        if record and record["state"] != "done":
            failed.append(f"{scan.path} ({record['reason']})")
            _remove_pictures(pictures, [str(scan.path)])
        elif record and (pictures / picture_path(scan.path)).is_file():
            done.append((picture_path(scan.path), record["account"].get("warnings", [])))
    gallery.write_page(pictures, done, failed)


def _remove_pictures(pictures: Path, names: Sequence[str]) -> None:
    """Of scans that have no result, or none any more."""
    for name in names:
        with suppress(FileNotFoundError):
            (pictures / picture_path(PurePosixPath(name))).unlink()
    description.remove_empty(pictures, names)


def group(dataset: Dataset, scans: Sequence[Scan], target: Path) -> Counter[str]:
    """Write `summary.tsv`; how many scans are "done", "failed", "missing" and "not asked for".

    Raises:
        OutputError: if `target` does not hold results.
    """
    if not target.is_dir() or not (target / "dataset_description.json").is_file():
        raise OutputError(f"{target} holds no results, run the participant level first")
    description.check_output(dataset, target, None)
    with _staging(target) as staging:
        return description.summarize(dataset, scans, target, staging)


def _anywhere(settings: Settings) -> Settings:
    """The same for workers that run in other folders."""
    options = replace(settings.options, brain_extractor=with_whole_paths(settings.options.brain_extractor))
    weights = settings.weights.resolve() if settings.weights else None
    pictures = settings.pictures.resolve() if settings.pictures else None
    return replace(settings, options=options, weights=weights, pictures=pictures)


@contextmanager
def _not_left_empty(*folders: Path) -> Iterator[None]:
    """Folders that are made in the block, and in which nothing came to lie as it was refused, go."""
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # there is something in it, or it was not made
                folder.rmdir()


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A private folder in the output, for what is not complete; those of runs that were killed are removed first."""
    remove_dead(target, description.TEMPORARY)
    with leased_folder(target, description.TEMPORARY) as folder:
        yield folder
