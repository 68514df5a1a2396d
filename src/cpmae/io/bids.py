"""BIDS names and folders: which files of a data set are scans, and what belongs to a scan.

https://bids-specification.readthedocs.io/en/stable/common-principles.html and, for the tables below, the schema of
BIDS 1.11. Names are enough: nothing here reads a file.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from cpmae.errors import ScanError
from cpmae.io.source import files_below, opened

# Short names of entities in the order in which they stand in a name, and the long ones of filter files.
ENTITIES = {
    **{"sub": "subject", "ses": "session", "sample": "sample", "task": "task", "tracksys": "tracksys"},
    **{"acq": "acquisition", "nuc": "nucleus", "voi": "volume", "ce": "ceagent", "trc": "tracer", "stain": "stain"},
    **{"rec": "reconstruction", "dir": "direction", "run": "run", "mod": "modality", "echo": "echo", "flip": "flip"},
    **{"inv": "inversion", "mt": "mtransfer", "part": "part", "proc": "processing", "hemi": "hemisphere"},
    **{"space": "space", "split": "split", "recording": "recording", "chunk": "chunk", "seg": "segmentation"},
    **{"res": "resolution", "den": "density", "label": "label", "desc": "description"},
}
# Images in which a head can be seen. `defacemask` and `noRF` (noise alone) are none.
SUFFIXES = {
    "anat": frozenset(
        "T1w T2w PDw T2starw FLAIR inplaneT1 inplaneT2 PDT2 angio T2star FLASH PD T1map T2map T2starmap R1map R2map "
        "R2starmap PDmap MTRmap MTsat UNIT1 T1rho MWFmap MTVmap Chimap S0map M0map MEGRE MESE VFA IRT1 MP2RAGE MPM "
        "MTS MTR TB1map RB1map".split()
    ),
    "dwi": frozenset("dwi sbref ADC FA S0map colFA expADC trace".split()),
    "func": frozenset("bold cbv sbref phase".split()),
    "perf": frozenset("asl m0scan".split()),
    "fmap": frozenset(
        "magnitude magnitude1 magnitude2 phasediff phase1 phase2 fieldmap epi m0scan TB1DAM TB1EPI TB1AFI TB1TFL "
        "TB1RFM RB1COR TB1SRGE TB1map RB1map".split()
    ),
}
IMAGES = (".nii.gz", ".nii")
KNOWN_SUFFIXES = frozenset().union(
    *SUFFIXES.values(),
    "defacemask noRF events aslcontext asllabeling physio stim scans sessions participants".split(),
)
EXTENSIONS = (*IMAGES, ".json", ".bval", ".bvec", ".tsv", ".tsv.gz")
_NAME = re.compile(r"(?P<entities>(?:[a-z]+-[0-9A-Za-z+]+_)*)(?P<suffix>[0-9A-Za-z]+)(?P<extension>\.[a-z.]+)")


@dataclass(frozen=True)
class Name:
    """A BIDS file name in its parts: `sub-01_run-2_T1w.nii.gz` has two entities, a suffix and an extension."""

    entities: Mapping[str, str]
    suffix: str
    extension: str

    def __str__(self) -> str:
        order = list(ENTITIES)
        parts = [f"{k}-{self.entities[k]}" for k in sorted(self.entities, key=order.index)]
        return "_".join([*parts, self.suffix]) + self.extension

    def but(self, suffix: str | None = None, extension: str | None = None, **entities: str | None) -> "Name":
        """The same name with other parts; an entity that is None is left out."""
        merged = {k: v for k, v in {**self.entities, **entities}.items() if v is not None}
        return Name(merged, suffix or self.suffix, extension or self.extension)

    def applies_to(self, other: "Name") -> bool:
        """The inheritance principle: every entity of this name is in the other, with the same value."""
        return self.entities.items() <= other.entities.items()


def parse(text: str) -> Name | None:
    """The parts of a file name, or None if it is none of BIDS: entities known, each once, and an extension of ours."""
    found = _NAME.fullmatch(text)
    if not found or found["extension"] not in EXTENSIONS:
        return None
    pairs = [part.split("-") for part in found["entities"].split("_") if part]
    if len(dict(pairs)) < len(pairs) or not dict(pairs).keys() <= ENTITIES.keys():  # type: ignore[arg-type]
        return None
    return Name(dict(pairs), found["suffix"], found["extension"])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scan:
    """An image that can show a head.

    Attributes:
        path: below the root, as BIDS writes it.
        name: its file name's parts.
        datatype: anat, dwi, func, perf or fmap.
    """

    path: PurePosixPath
    name: Name
    datatype: str

    @property
    def session(self) -> tuple[str, str | None]:
        """Labels of subject and session; scans of one session lie in one scanner, as a rule."""
        return self.name.entities["sub"], self.name.entities.get("ses")


@dataclass(frozen=True)
class Dataset:
    """The files of a BIDS data set.

    Attributes:
        root: its folder.
        scans: in the order of their names; of one that is there as .nii.gz and as .nii too, the first.
        files: all files with a name of BIDS, scans too, by their path below the root.
        others: what has another name or place; a folder at the top (`sourcedata/`) is one of them, whole.
    """

    root: Path
    scans: tuple[Scan, ...]
    files: Mapping[PurePosixPath, Name]
    others: tuple[PurePosixPath, ...]

    @cached_property
    def _by_folder(self) -> dict[PurePosixPath, list[tuple[PurePosixPath, Name]]]:
        folders: dict[PurePosixPath, list[tuple[PurePosixPath, Name]]] = {}
        for path, name in self.files.items():
            folders.setdefault(path.parent, []).append((path, name))
        return folders

    def inherited(self, scan: Scan, suffix: str | None = None, extension: str = ".json") -> list[PurePosixPath]:
        """Files that say something of a scan, from the top of the data set to the scan's own folder.

        Args:
            suffix: of the files; the scan's own if None.
        """
        found = []
        for folder in reversed(scan.path.parents):
            fit = [
                (len(name.entities), path)
                for path, name in self._by_folder.get(folder, ())
                if (name.suffix, name.extension) == (suffix or scan.name.suffix, extension)
                and name.applies_to(scan.name)
            ]
            found += [path for _, path in sorted(fit)]
        return found


def find(root: Path) -> Dataset:
    """Look through a data set.

    Raises:
        ScanError: if there is no folder, or it has no `dataset_description.json` that can be opened.
    """
    if not root.is_dir():
        raise ScanError(f"{root} is not a folder, give the root of a BIDS data set")
    if not os.path.lexists(root / "dataset_description.json"):
        raise ScanError(f"{root} has no dataset_description.json, give the root of a BIDS data set")
    with opened(root / "dataset_description.json"):  # which tells of a link to what was not fetched
        pass
    files: dict[PurePosixPath, Name] = {}
    scans, others = [], []
    for path in _walk(root):
        name = parse(path.name)
        if name is None or not _in_place(path, name):
            others.append(path)
            continue
        files[path] = name
        datatype = path.parent.name
        if name.extension in IMAGES and "desc" not in name.entities and name.suffix in SUFFIXES.get(datatype, ()):
            scans.append(Scan(path, name, datatype))
    return Dataset(root, tuple(s for s in scans if packed(s.path) not in files), files, tuple(others))


def packed(path: PurePosixPath) -> PurePosixPath:
    """The .nii.gz beside a .nii. Where both are there, they share a sidecar and a result, which BIDS does not allow."""
    return path.with_name(f"{path.name}.gz")


def _walk(root: Path) -> Iterator[PurePosixPath]:
    """Files of the root and of the subjects' folders, and the other folders of the root as they are."""
    for entry in sorted(root.iterdir()):
        if not entry.is_dir():
            yield PurePosixPath(entry.name)
        elif re.fullmatch(r"sub-[0-9A-Za-z+]+", entry.name):
            for path in sorted(files_below(entry)):
                yield PurePosixPath(path.relative_to(root).as_posix())
        else:
            yield PurePosixPath(entry.name)


def is_path(text: str) -> bool:
    """Whether a path below the root, or below a subject's folder, is made of names of BIDS from end to end."""
    *folders, file = PurePosixPath(text).parts or ("",)
    name = parse(file)
    known = all(re.fullmatch(r"(sub|ses)-[0-9A-Za-z+]+", part) or part in SUFFIXES for part in folders)
    return name is not None and name.suffix in KNOWN_SUFFIXES and known


def _in_place(path: PurePosixPath, name: Name) -> bool:
    """Whether the folders say what the name says: `sub-01/ses-1/anat/sub-01_ses-1_*`; above, files that all inherit."""
    folders = list(path.parent.parts)
    whose = [f"{key}-{name.entities[key]}" for key in ("sub", "ses") if key in name.entities]
    if name.suffix not in KNOWN_SUFFIXES:
        return False
    if folders and folders[-1] in SUFFIXES:
        return bool(whose) and folders[:-1] == whose
    if not folders and "sub" in name.entities:  # while `ses-1_task-rest_bold.json` speaks of that session of all
        return False
    return name.extension not in IMAGES and folders == whose[: len(folders)]


def choose(
    scans: Iterable[Scan],
    subjects: Iterable[str] = (),
    sessions: Iterable[str] = (),
    queries: Mapping[str, Mapping[str, object]] | None = None,
) -> list[Scan]:
    """The scans that were asked for; empty labels and no queries ask for all.

    Args:
        subjects, sessions: labels, with or without `sub-` and `ses-`.
        queries: of a filter file; a scan is taken if it fits one of them. Each maps long or short names of entities,
            `datatype`, `suffix` or `extension` to a value, a list of values, or None where the entity must be absent.

    Raises:
        ScanError: for a label that no scan has, or an unknown entity in a query.
    """
    scans = list(scans)
    for key, labels in (("sub", subjects), ("ses", sessions)):
        wanted = {label.removeprefix(f"{key}-") for label in labels}
        absent = wanted - {scan.name.entities.get(key) for scan in scans}
        if absent:
            raise ScanError(f"the data set has no scan of {key}-{min(absent)}, check the label")
        scans = [s for s in scans if not wanted or s.name.entities.get(key) in wanted]
    if queries is None:
        return scans
    return [s for s in scans if any(_fits(s, query) for query in queries.values())]


def _fits(scan: Scan, query: Mapping[str, object]) -> bool:
    known = {**{long: short for short, long in ENTITIES.items()}, **{short: short for short in ENTITIES}}
    parts = {"datatype": scan.datatype, "suffix": scan.name.suffix, "extension": scan.name.extension.lstrip(".")}
    for key, wanted in query.items():
        if key not in known and key not in parts:
            raise ScanError(f"the filter file asks for {key!r}, which is not an entity of BIDS; correct it")
        found = parts[key] if key in parts else scan.name.entities.get(known[key])
        values = wanted if isinstance(wanted, list) else [wanted]
        if key == "extension":  # with its dot or without, as in PyBIDS
            values = [str(value).lstrip(".") for value in values]
        if not any(_same(found, value) for value in values):
            return False
    return True


def _same(found: str | None, wanted: object) -> bool:
    """Labels are equal as text, and as numbers: run 1 is `run-01`."""
    if found is None or wanted is None:
        return found is None and wanted is None
    text = str(wanted)
    return found == text or (found.isdecimal() and text.isdecimal() and int(found) == int(text))
