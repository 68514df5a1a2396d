"""What is to be done for a data set: a job a scan, with the names of all that it reads and writes."""

import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Literal

from cpmae import __version__, subject_key
from cpmae.batch.records import FOLDER, Job, digest, sha256
from cpmae.errors import WeightsError
from cpmae.io.bids import Dataset, Scan
from cpmae.options import DRAWING, Options

Placement = Literal["derivative", "raw"]
# Entities that tell images of one acquisition apart: they share grid, frame and mask.
_TOGETHER = ("echo", "flip", "inv", "mt", "part")
_MASK_ENTITIES = {
    "anat": {"sub", "ses", "task", "echo", "part", "ce", "rec", "chunk", "acq", "run"},
    "dwi": {"sub", "ses", "dir", "part", "rec", "chunk", "acq", "run"},
    "func": {"sub", "ses", "task", "echo", "dir", "part", "ce", "rec", "chunk", "acq", "run"},
}
_PLAIN_MASK = {"T1w", "dwi", "bold"}  # whose mask is `desc-brain`; those of others name their suffix too
_DEFACEMASK_ENTITIES = {"sub", "ses", "task", "ce", "rec", "chunk", "acq", "run"}
_SHOW_BRAINS_WELL = ("T1w", "T2w", "FLAIR", "PDw")  # and to every extractor
# Maps, and the images that they are made of; these show brains better, and the second inversion best.
_MAPS = {"UNIT1", "T1map", "R1map", "PDmap", "T2starmap", "R2starmap", "MTsat", "MTRmap"}
_MADE_OF = {"MP2RAGE", "VFA", "MPM", "MTS"}
_PHASES = {"phase", "phasediff", "phase1", "phase2", "fieldmap"}


@dataclass(frozen=True)
class Settings:
    """How a data set is done.

    Attributes:
        placement: "derivative", files under derived names, or "raw", a data set under the original names.
        options: of every scan; its seed and number of noise are not used.
        weights: a weight file; the package's own if None.
        key: the secret of `subject_key`; every run has one of its own if None.
        keep_columns: of tables, besides those that are kept anyway.
        pictures: a folder for before/after pictures, which identify people.
    """

    placement: Placement = "derivative"
    options: Options = Options()
    weights: Path | None = None
    key: bytes | None = None
    keep_columns: tuple[str, ...] = ()
    pictures: Path | None = None


@dataclass(frozen=True)
class Reference:
    """Another scan whose brain mask may be this one's; and whether both were taken at one and the same time."""

    scan: PurePosixPath
    mask: PurePosixPath
    of_one_acquisition: bool = False


@dataclass(frozen=True)
class Task:
    """A scan: paths in the data set `source` and in the output `target`, below the two.

    Attributes:
        mask: where the brain mask goes; in the hidden folder of the run where BIDS has no name for it.
        defacemask: where the mask of what was replaced goes, if anywhere.
        picture: where the before/after picture goes, if anywhere; not below `target`.
        references: scans to take the mask of, best first.
        head: the person's scan whose head this one gets, in whatever session it is; None if it draws its own.
        lends_head: others get the head that this one draws.
        is_phase: nothing but another scan can tell where the brain is.
        sidecars: JSON files that say something of the scan, from the top down.
        tables: other files of the scan, with the JSON files that describe them, and where they go.
        source_uri: BIDS URI of the data set, if it has one.
    """

    source: Path
    target: Path
    scan: PurePosixPath
    output: PurePosixPath
    placement: Placement
    options: Options
    weights: Path | None
    mask: PurePosixPath
    defacemask: PurePosixPath | None
    picture: Path | None
    references: tuple[Reference, ...]
    head: PurePosixPath | None
    lends_head: bool
    is_phase: bool
    sidecars: tuple[PurePosixPath, ...]
    tables: tuple[tuple[PurePosixPath, tuple[PurePosixPath, ...], PurePosixPath], ...]
    keep_columns: tuple[str, ...]
    source_uri: str | None


def jobs(
    dataset: Dataset, scans: Sequence[Scan], target: Path, settings: Settings, source_uri: str | None = None
) -> list[Job]:
    """A job for each of `scans`, those that others wait for first within a person.

    Without a key the seeds of people follow from a secret that this run forgets. So whoever is not done as a whole is
    done again as a whole, that all of a person's scans have one head.
    """
    fixed = _fixed(settings)
    key = secrets.token_bytes(32) if settings.key is None else settings.key
    draw = digest(_drawing(settings) | {"key": subject_key.fingerprint(key)})
    chosen = {scan.path for scan in scans}
    by_session: dict[tuple[str, str | None], list[Scan]] = {}
    for scan in dataset.scans:
        by_session.setdefault(scan.session, []).append(scan)
    heads = head_scans(by_session.values())
    content = cache(partial(_content, dataset.root))
    scans_of = Counter(scan.name.entities["sub"] for scan in dataset.scans)
    found = []
    for scan in scans:
        near = references(scan, by_session[scan.session])
        person = scan.name.entities["sub"]
        head = heads.get(person)
        head = None if head == scan.path else head
        seed = subject_key.seed_of(key, person)
        task = Task(
            source=dataset.root,
            target=target,
            scan=scan.path,
            output=scan.path if settings.placement == "raw" else derivative(scan),
            placement=settings.placement,
            options=replace(settings.options, seed=seed, noise_number=_noise_number(scan)),
            weights=settings.weights,
            mask=mask_path(scan, settings.placement),
            defacemask=_defacemask(scan) if settings.placement == "raw" else None,
            picture=settings.pictures / picture_path(scan.path) if settings.pictures else None,
            references=tuple(
                Reference(r.path, mask_path(r, settings.placement), _of_one_acquisition(scan, r)) for r in near
            ),
            head=head,
            lends_head=head is None and scans_of[person] > 1,
            is_phase=is_phase(scan),
            sidecars=tuple(dataset.inherited(scan)),
            tables=tuple(_tables(dataset, scan, settings.placement)),
            keep_columns=settings.keep_columns,
            source_uri=source_uri,
        )
        read = [scan.path, *task.sidecars, *(p for table, about, _ in task.tables for p in (table, *about))]
        read += [*([head] if head else []), *(r.path for r in near)]  # whose head and mask it may take
        facts = fixed | {"inputs": [_identity(dataset.root, path) for path in read]}
        if settings.key is None:  # which is in `fixed`, and nobody's to guess
            facts["content"] = content(heads.get(person, scan.path))
        waits = dict.fromkeys([*(r.path for r in near), *([head] if head else [])])
        found.append(
            Job(
                name=str(scan.path),
                task=task,
                fingerprint=digest(facts),
                inputs=(dataset.root / scan.path,),
                after=tuple(str(path) for path in waits if path in chosen),
                group=person if settings.key is None else "",
                draw=draw,
                lacks_inputs=not all(os.path.exists(dataset.root / path) for path in read),
            )
        )
    return sorted(found, key=lambda job: (PurePosixPath(job.name).parts[0], len(job.after)))


def _noise_number(scan: Scan) -> int:
    """Another one for each scan, whichever others there are."""
    return int.from_bytes(hashlib.sha256(str(scan.path).encode()).digest()[:8])


def derivative(scan: Scan, desc: str = "deid", **parts: str) -> PurePosixPath:
    """The name of what is made from a scan, in the same folder: `sub-01_desc-deid_T1w.nii.gz`."""
    return scan.path.with_name(str(scan.name.but(desc=desc, **parts)))


def mask_path(scan: Scan, placement: Placement) -> PurePosixPath:
    """Where a scan's brain mask goes: `sub-01_desc-brain_mask.nii.gz`, `sub-01_desc-brainT2w_mask.nii.gz`.

    BIDS has no masks beside raw images, and none for `perf` and `fmap`: these lie in the hidden folder of the run, for
    other scans to use. Entities that it does not allow in the name of a mask go into `desc`.
    """
    allowed = _MASK_ENTITIES.get(scan.datatype)
    if placement == "raw" or allowed is None:
        return PurePosixPath(FOLDER) / "masks" / scan.path
    other = {k: v for k, v in scan.name.entities.items() if k not in allowed}
    label = "" if scan.name.suffix in _PLAIN_MASK and not other else scan.name.suffix
    label += "".join(f"{k}{v}" for k, v in other.items())
    return derivative(scan, f"brain{label}", suffix="mask", **dict.fromkeys(other))  # type: ignore[arg-type]


def picture_path(scan: PurePosixPath) -> PurePosixPath:
    """Where a scan's before/after picture goes, below the folder of the pictures: `sub-01/anat/sub-01_T1w.png`."""
    return scan.with_name(scan.name.split(".")[0] + ".png")


def is_phase(scan: Scan) -> bool:
    """Whether a scan shows phases or fields, in which no extractor finds a brain (but a viewer finds a face)."""
    return scan.name.suffix in _PHASES or scan.name.entities.get("part", "mag") != "mag"


def references(scan: Scan, session: Sequence[Scan]) -> list[Scan]:
    """The scans whose mask may be this one's, best first: of the same acquisition, then the session's first T1w."""
    if scan.name.suffix == "T1w" and not is_phase(scan) and "echo" not in scan.name.entities:
        return []
    magnitudes = [other for other in session if other.path != scan.path and not is_phase(other)]
    same = [other for other in magnitudes if _of_one_acquisition(scan, other)]
    t1w = [other for other in magnitudes if other.name.suffix == "T1w"]
    if not is_phase(scan):  # the first image of an acquisition finds its brain, the others follow it
        same = [other for other in same if _order(other) < _order(scan)]
        if scan.name.suffix == "T1w":  # and no two wait for each other
            t1w = [other for other in t1w if _order(other) < _order(scan)]
    t1w = [other for other in t1w if other not in same]
    return sorted(same, key=_order)[:1] + sorted(t1w, key=_order)[:1]


def head_scans(sessions: Iterable[Sequence[Scan]]) -> dict[str, PurePosixPath]:
    """Of each person the scan whose head all others get: the first T1w, or else the first that finds its own brain.

    It is chosen among all scans of the data set, whichever of them are to be done, so that the choice changes nothing.
    """
    own = [scan for session in sessions for scan in session if not is_phase(scan) and not references(scan, session)]
    found: dict[str, PurePosixPath] = {}
    for scan in sorted(own, key=lambda s: (s.datatype != "anat", _preference(s.name.suffix), *_order(s))):
        found.setdefault(scan.name.entities["sub"], scan.path)
    return found


def _preference(suffix: str) -> int:
    return _SHOW_BRAINS_WELL.index(suffix) if suffix in _SHOW_BRAINS_WELL else len(_SHOW_BRAINS_WELL)


def _order(scan: Scan) -> tuple:
    """Of the images of an acquisition, those that show the brain best come first."""
    suffix, inversion = scan.name.suffix, scan.name.entities.get("inv", "2").lstrip("0")
    made = (suffix in _MAPS) + (suffix in _MAPS - {"UNIT1"})
    return made, suffix == "MP2RAGE" and inversion != "2", len(scan.name.entities), str(scan.path)


def _of_one_acquisition(scan: Scan, other: Scan) -> bool:
    """Whether two were taken at one and the same time, or the first is a map of that acquisition."""
    (datatype, suffix, entities), (*_, others) = _acquisition(scan), _acquisition(other)
    if (datatype, suffix, entities) == _acquisition(other):
        return True
    is_map_of = suffix in _MAPS and other.name.suffix in _MAPS | _MADE_OF
    return is_map_of and datatype == other.datatype and entities == others


def _acquisition(scan: Scan) -> tuple[str, str, tuple]:
    """Equal for images that were taken at one and the same time."""
    kept = {k: v for k, v in scan.name.entities.items() if k not in _TOGETHER}
    groups = {"phase": "bold", **dict.fromkeys(_PHASES - {"phase"}, "magnitude")}
    groups |= {"magnitude1": "magnitude", "magnitude2": "magnitude"}
    return scan.datatype, groups.get(scan.name.suffix, scan.name.suffix), tuple(sorted(kept.items()))


def _defacemask(scan: Scan) -> PurePosixPath | None:
    """`sub-01_mod-T1w_defacemask.nii.gz`, which raw data sets may hold for anatomical images."""
    if scan.datatype != "anat" or not scan.name.entities.keys() <= _DEFACEMASK_ENTITIES:
        return None
    return scan.path.with_name(str(scan.name.but(suffix="defacemask", mod=scan.name.suffix)))


def _tables(dataset: Dataset, scan: Scan, placement: Placement) -> list[tuple[PurePosixPath, tuple, PurePosixPath]]:
    """Files without images that belong to a scan: gradients, events, the order of labelling.

    Derived images inherit them under the scan's name; BIDS knows no derived ones.
    """
    wanted = [(scan.name.suffix, ".bval"), (scan.name.suffix, ".bvec")]
    wanted += [("aslcontext", ".tsv")] if scan.name.suffix == "asl" else []
    wanted += [("events", ".tsv")] if scan.datatype == "func" and placement == "raw" else []
    found = []
    for suffix, extension in wanted:
        paths = dataset.inherited(scan, suffix, extension)
        if paths:
            name = scan.name.but(suffix, extension)  # gradients are each image's own
            if extension == ".tsv":  # a table beside the scan keeps its name, one from above becomes the scan's own
                name = name.but(**dict.fromkeys(_TOGETHER))  # one for all echoes
                name = dataset.files[paths[-1]] if paths[-1].parent == scan.path.parent else name
            about = dataset.inherited(scan, suffix) if extension == ".tsv" else []
            found.append((paths[-1], tuple(about), scan.path.with_name(str(name))))
    return found


def _fixed(settings: Settings) -> dict[str, object]:
    """All settings that change results, and nothing that says what the secret is."""
    return _drawing(settings) | {
        "placement": settings.placement,
        "key": subject_key.fingerprint(settings.key) if settings.key is not None else None,
        "keep_columns": sorted(settings.keep_columns),
    }


def _drawing(settings: Settings) -> dict[str, object]:
    """What decides on a person's head, besides the key and the brain."""
    return {
        "version": [__version__, DRAWING],
        "weights": _weights_sha256(settings.weights),
        "options": asdict(replace(settings.options, seed=None)),
    }


def _weights_sha256(path: Path | None) -> str:
    """As the JSON beside the weights says; the worker that loads them checks it."""
    beside = path.with_suffix(".json") if path else resources.files("cpmae") / "weights" / "head.json"
    try:
        return json.loads(beside.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{beside}, which must lie beside the weights, cannot be used ({error}); copy both files again"
        raise WeightsError(text) from error


def _identity(root: Path, path: PurePosixPath) -> tuple[str, str | int, int]:
    """Changes when a file does; a file that cannot be seen is for the worker to speak of.

    A link into git-annex leads to a file named after its content, whatever time it was fetched at, and if it is not.
    """
    try:
        if "annex/objects/" in (link := os.readlink(root / path)):
            return str(path), os.path.basename(link), 0
    except OSError:  # no link
        pass
    try:
        found = (root / path).stat()
    except OSError:
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns


def _content(root: Path, path: PurePosixPath) -> str:
    """What only those know who have an original: without it, sizes and times of files could be found by trying.

    Records may be shared with the results. One image a person is enough, and reading all would take as long again as
    looking whether the results are still there.
    """
    try:
        return sha256(root / path)
    except OSError:  # for the worker to speak of
        return ""
