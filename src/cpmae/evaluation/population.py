"""Who is to be recognised: persons with two scans each, synthetic ones or those of a folder."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from cpmae import brain, canonical
from cpmae.batch import records
from cpmae.canonical import Pose
from cpmae.errors import CpmaeError, ScanError
from cpmae.evaluation.identities import HeadScan, Recipe, identity
from cpmae.evaluation.work import Cache, Failure
from cpmae.io import forms, nifti
from cpmae.io.source import scans_below

Item = TypeVar("Item")
TRAINING_NUMBER = 1_000_000  # identities from here on teach attackers and are never in a test
_CONTRAST = re.compile(r"(?<![a-z])(t1|t2|pd|flair|swi|dwi|bold)", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """One scan, not yet read.

    Attributes:
        name: for reports.
        key: what it is, as plain values, for the cache.
        load: reads or draws it, with its brain; picklable.
        synthetic: nobody's, so that its picture may be shown.
    """

    name: str
    key: dict[str, Any]
    load: Callable[[], HeadScan]
    synthetic: bool


@dataclass(frozen=True)
class Person:
    """An identity: the scan that is de-identified (the probe) and another one that the attacker has (the gallery)."""

    name: str
    probe: Scan
    gallery: Scan


def synthetic(recipe: Recipe, numbers: range) -> list[Person]:
    """Identities of the generator."""
    return [Person(f"synthetic {n:04d}", *(_drawn(recipe, n, session) for session in (0, 1))) for n in numbers]


def pairs_in_folder(
    folder: Path, pattern: str = "*.nii*", brain_extractor: str = "deepbet"
) -> tuple[list[Person], list[tuple[str, str]]]:
    """Persons with two scans of one kind below a folder; of each the first two in the order of their names are taken.

    All have one contrast, by which they could be told apart otherwise: the one that most persons have twice, and T1w
    where several are as frequent.

    Who it is comes from `sub-...` in the path as in BIDS, else from the name of the folder that holds the scan. See
    `source.may_be_scan` for what is no scan.

    Returns:
        the persons, and the names of others with the reasons why they are left out.

    Raises:
        ScanError: fewer than two persons have two such scans, or one of these cannot be read.
    """
    scans: dict[str, dict[tuple[str, ...], list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in scans_below(folder, pattern):
        if name := person_of(path.relative_to(folder)):
            scans[name][tuple(_kind(path))].append(path)
    # two contrasts of one person are less alike than two scans, which would make every method look safer
    twice = {name: [paths for paths in kinds.values() if len(paths) > 1] for name, kinds in sorted(scans.items())}
    of_all = Counter(c for found in twice.values() for c in {_contrast(paths[0]) for paths in found} - {""})
    contrast = max(of_all, key=lambda c: (of_all[c], c.startswith("t1")), default="")
    chosen = {name: [p for p in found if _contrast(p[0]) in (contrast, "")] for name, found in twice.items()}
    pairs = {name: found[0][:2] for name, found in chosen.items() if found}
    if len(pairs) < 2:
        raise ScanError(
            f"{folder} has {len(pairs)} persons with two scans of one kind that match {pattern!r}, at least 2 are "
            "needed: name files as in BIDS (sub-01_ses-1_T1w.nii.gz) or put each person's into a folder"
        )
    people = [Person(n, *(file_scan(p, brain_extractor) for p in paths)) for n, paths in pairs.items()]
    why = "no two of its scans are of one kind", f"no two of its scans are {contrast}, as those of others"
    return people, [(name, why[bool(found)]) for name, found in twice.items() if name not in pairs]


def compute_missing(
    scan: Scan,
    cache: Cache,
    wanted: Iterable[Item],
    key: Callable[[Item], dict[str, Any]],
    compute: Callable[[HeadScan, Pose, list[Item]], list[Failure]],
) -> list[Failure]:
    """Read a scan, if anything that is wanted of it is not in the cache yet, and compute that.

    Args:
        key: what decides an item, for the cache.
        compute: (scan with its brain, pose of that brain, what is missing) -> what failed; it fills the cache.

    Returns:
        what failed.
    """
    missing = [item for item in wanted if not cache.path(scan.name, **key(item)).exists()]
    if not missing:
        return []
    try:
        head = scan.load()
        pose = canonical.align(head.brain, head.volume.affine)
    except CpmaeError as error:
        return [Failure(scan.name, "reading the scan", str(error))]
    return compute(head, pose, missing)


def with_rescans(
    paths: Sequence[Path], brain_extractor: str = "deepbet"
) -> tuple[list[tuple[Scan, Scan | None]], list[tuple[str, str]]]:
    """Files as scans, one of each `sub-...`, with the next one of the same kind as its rescan, which is a yardstick.

    Returns:
        the pairs, and the names of the other files with the reasons why they are left out.
    """
    persons: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found = re.search(r"sub-[A-Za-z0-9]+", path.name)
        persons[found.group() if found else str(path)].append(path)
    pairs: list[tuple[Scan, Scan | None]] = []
    left_out = []
    for first, *others in persons.values():
        again = next((path for path in others if _kind(path) == _kind(first)), None)
        pairs.append((file_scan(first, brain_extractor), file_scan(again, brain_extractor) if again else None))
        for path in others:
            if path != again:
                same = _kind(path) == _kind(first)
                why = f"a further scan of its person, after {again.name}" if same and again else f"not as {first.name}"
                left_out.append((path.name, f"{why}; a scan and one rescan of each person are measured"))
    return pairs, left_out


def _kind(path: Path) -> list[str]:
    """What the names of two scans of one kind share.

    In BIDS all entities and the suffix, but session and run; elsewhere the contrasts that are named.
    """
    if not path.name.startswith("sub-"):
        return sorted({found.lower() for found in _CONTRAST.findall(path.name)})
    return sorted(p for p in path.name.split(".")[0].split("_") if not p.startswith(("ses-", "run-")))


def _contrast(path: Path) -> str:
    """The suffix in BIDS, elsewhere the contrasts that the name has: "t1" for T1w and T1, "" where it says none."""
    kind = path.name.split(".")[0].split("_")[-1] if path.name.startswith("sub-") else " ".join(_kind(path))
    return kind.lower().removesuffix("w")


def person_of(path: Path) -> str:
    """Whose scan lies at a path relative to the data set: `sub-...`, or the folder's name; "" for neither."""
    found = re.search(r"sub-[A-Za-z0-9]+", str(path))
    return found.group() if found else path.parent.name


def file_scan(path: Path, brain_extractor: str) -> Scan:
    """A scan in a file; its brain is searched for.

    Raises:
        ScanError: it cannot be read, as a link to what DataLad has not fetched.
    """
    try:
        key = {"sha256": records.sha256(path), "brain_extractor": brain_extractor}
    except OSError as error:
        raise ScanError(f"{path} cannot be read ({error.strerror}), check that it is there") from error
    name = path.name if path.name.startswith("sub-") else f"{path.parent.name}/{path.name}"
    return Scan(name, key, partial(_read, path, brain_extractor), synthetic=False)


def _drawn(recipe: Recipe, number: int, session: int) -> Scan:
    key = recipe.settings() | {"number": number, "session": session}
    return Scan(f"synthetic {number:04d} scan {session + 1}", key, partial(_draw, recipe, number, session), True)


def _draw(recipe: Recipe, number: int, session: int) -> HeadScan:
    return identity(recipe, number)[session]


@lru_cache(maxsize=2)
def _read(path: Path, brain_extractor: str) -> HeadScan:
    volume = forms.read(path).scaled()
    nifti.check_is_scan(volume, path.name)
    mask = brain.extract_brain(volume, brain_extractor)
    brain.check_brain_mask(mask, volume.affine)
    return HeadScan(volume, mask)
