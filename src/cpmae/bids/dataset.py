"""The data set around the scans: its description, the people in it, and the lists of what failed and was left out.

Everything here can be made again at any time from the input and the records, and is: several runs may fill one output
folder at the same time.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from cpmae import __version__, metadata_tsv
from cpmae.batch.records import FOLDER, Records
from cpmae.bids.plan import Placement, Settings
from cpmae.errors import OutputError, ScanError
from cpmae.files import check_private
from cpmae.io import sidecar
from cpmae.io.bids import IMAGES, SUFFIXES, Dataset, Scan, packed
from cpmae.io.together import text_writer, write_together
from cpmae.metadata_json import holds_a_date
from cpmae.report import gallery

TEMPORARY = ".cpmae-run-"  # folders of runs, see `leased`
LEFT_OUT = "left_out.tsv"
NOT_ASKED = "not asked for"
NOT_IN_INPUT = "not in the input"
_IMAGE_SUFFIXES = frozenset().union(*SUFFIXES.values())
_IGNORED = (f"{FOLDER}*/", "failures.tsv", LEFT_OUT, "summary.tsv")
_DESCRIPTION = (
    *("Name", "BIDSVersion", "HEDVersion", "License", "Authors", "Acknowledgements", "HowToAcknowledge", "Funding"),
    *("EthicsApprovals", "ReferencesAndLinks", "Keywords"),
)
_FOLDERS = {"sourcedata", "derivatives", "code", "stimuli", "phenotype", "docs", "logs"}
_PROSE = {"README", "README.md", "README.rst", "README.txt", "CHANGES", "CITATION.cff", "LICENSE", ".bidsignore"}
_PROSE |= {"genetic_info.json", "samples.tsv", "samples.json"}
_FOLDER = re.compile(r"(sub|ses)-[0-9A-Za-z+]+|anat|dwi|func|perf|fmap|eeg|meg|ieeg|beh|pet|mrs|nirs|motion|micr")
# Addresses that anybody can open: of hosts with a public name, without a user.
_PUBLIC = re.compile(
    r"https?://(?![^/]*\.(local|localhost|localdomain|internal|intranet|lan|home|corp)(:\d+)?(/|$))"
    r"[a-z\d-]+(\.[a-z\d-]+)*\.[a-z]{2,}(:\d+)?(/\S*)?",
    re.IGNORECASE,
)
# 230405, 050423 and 040523: in a label, and nowhere else, six digits are taken for a day if they can be one.
_SHORT_DAY = re.compile(
    r"(?<!\d)(?:\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
    r"|(?:(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))\d\d)(?!\d)"
)
# Signs of a place that is not everybody's: an address (or a folder of another machine, or mail), a path, a user's name.
_PRIVATE = re.compile(
    r"[\w.+-]:[/\\]|\bmailto:|\b(file|smb|sftp|ssh|scp|afp|nfs):\S|\w@\w|\\\\|\w\\\w+\\"
    r"|(?:^|[\s\"'(\[<{=,;|])(?:~?/+|~\w+/|\.\.?[/\\])[^\s/]*\w",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"[?&#;][^=&#;\s]*(token|secret|passw|pwd|signature|credential|session|api[-_]?key|access[-_]?key)[^=&#;\s]*="
    r"|[?&#;](auth|key|sig|sid|pw|pass|user|login)=",
    re.IGNORECASE,
)
_DOI = re.compile(r"(?:doi:\s*|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
_README = """{name}: head MRI, de-identified

Replaced by a generated head that nobody has, with cpmae {version}: {replaced}. Every other stored
number is the original's. Do not measure what was replaced (of skull, scalp, eyes, sinuses, neck) in these images.

Masks named defacemask are 1 in the voxels that were replaced, and 0 in those that were kept.
JSON sidecars hold acquisition parameters alone, and each image has all of its own beside it. Ages are capped at
{age} years.
"""


def source_uri(dataset: Dataset, target: Path) -> str | None:
    """`bids:raw:`, if the output can say where the original is without telling how somebody's folders are called."""
    return "bids:raw:" if _link(dataset, target) else None


def check_output(dataset: Dataset, target: Path, placement: Placement | None) -> None:
    """Make the output folder, or make sure that it is one of ours, in the given placement or, if None, in either.

    Raises:
        OutputError: if the folder is the input, holds it, lies in it (but for `derivatives`), or holds something else
            than results of this command in this placement, or may not be written to.
    """
    source, place = dataset.root.resolve(), target.resolve()
    inside = place.relative_to(source).parts if place.is_relative_to(source) else None
    if source.is_relative_to(place) or (inside is not None and (inside[0] != "derivatives" or placement == "raw")):
        raise OutputError(
            f"{target} is or holds the input data set, or lies in it; choose another folder for the output"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        holds = [entry.name for entry in os.scandir(target) if not entry.name.startswith(FOLDER)]
    except OSError as error:
        raise OutputError(f"{target} cannot be used ({error.strerror}), choose another folder") from error
    if not os.access(target, os.W_OK | os.X_OK):
        raise OutputError(f"{target} is not writable, choose another folder")
    if holds:
        found = _load(target / "dataset_description.json")
        ours = any(step.get("Name") == "cpmae" for step in _dicts(found.get("GeneratedBy")))
        if not ours or (placement and found.get("DatasetType") != placement):
            what = f"{placement} data set" if placement else "data set"
            raise OutputError(f"{target} is not empty and holds no {what} made by this command, choose another folder")


def check_pictures(dataset: Dataset, target: Path, pictures: Path) -> None:
    """Make the folder of the pictures, which show the original faces: never among what is shared.

    Raises:
        OutputError: if it lies in one of the two data sets, or may not be written to.
    """
    place = pictures.resolve()
    if place.is_relative_to(target.resolve()):
        raise OutputError(f"{pictures} lies in the output, and pictures show the original faces; choose another folder")
    if place.is_relative_to(dataset.root.resolve()):
        raise OutputError(f"{pictures} lies in the input data set, choose another folder for the pictures")
    page = pictures / gallery.PAGE
    check_private(pictures)
    try:
        if page.exists() and b"<title>cpmae: pictures</title>" not in page.read_bytes():
            raise OutputError(f"{pictures} holds somebody else's {page.name}, choose another folder for the pictures")
        pictures.mkdir(parents=True, exist_ok=True)
    except OutputError:  # an OSError too
        raise
    except OSError as error:
        raise OutputError(f"{pictures} cannot be used ({error.strerror}), choose another folder") from error
    if not os.access(pictures, os.W_OK | os.X_OK):
        raise OutputError(f"{pictures} is not writable, choose another folder")


def dated_labels(scans: Iterable[Scan]) -> list[str]:
    """Labels, such as `ses-20230405`, that may say on which day somebody was scanned; results keep them."""
    labels = {item for scan in scans for item in scan.name.entities.items()}
    dated = [item for item in labels if holds_a_date(item[1]) or _SHORT_DAY.search(item[1])]
    return sorted(f"{entity}-{label}" for entity, label in dated)


def describe(dataset: Dataset, target: Path, settings: Settings, staging: Path) -> None:
    """Write what says that this is a data set, and whose work.

    Raises:
        ScanError: if the input's description or its list of people cannot be used.
    """
    description = _description(dataset, target, settings.placement)
    if settings.placement == "raw":
        _people(dataset)  # found out before the work, and not after it
    texts = {
        "dataset_description.json": json.dumps(description, indent=2) + "\n",
        ".bidsignore": "".join(f"{name}\n" for name in _IGNORED),
        "README": _README.format(
            name=description["Name"],
            version=__version__,
            replaced=settings.options.replaced(),
            age=metadata_tsv.MAX_AGE,
        ),
    }
    _put(target, texts, staging)


def finish(dataset: Dataset, scans: Sequence[Scan], target: Path, settings: Settings, staging: Path) -> None:
    """Write the lists and, for a raw data set, who took part.

    Args:
        scans: those that this run was about; folders of theirs in which nothing came to lie are removed.
    """
    names = {str(scan.path) for scan in dataset.scans}
    failed = [r for r in Records(target).all() if r["state"] != "done" and r["name"] in names]
    remove_empty(target, {str(scan.path) for scan in scans} & {record["name"] for record in failed})
    texts = {LEFT_OUT: _table(("path", "files", "reason"), left_out(dataset, settings.placement))}
    if settings.placement == "raw":
        texts |= _participants(dataset, target, settings.keep_columns, settings.options.clean_metadata)
    if failed:
        texts["failures.tsv"] = _table(("scan", "reason"), [(r["name"], r["reason"]) for r in failed])
    _put(target, texts, staging)
    ours = {"failures.tsv"} | ({"participants.tsv", "participants.json"} if settings.placement == "raw" else set())
    for name in ours - texts.keys():  # of an earlier run; beside derivatives a list of people is somebody's own
        (target / name).unlink(missing_ok=True)


def not_in_input(dataset: Dataset, target: Path) -> list[str]:
    """Scans that `target` has results or records of and the data set no longer has: withdrawn, or renamed."""
    there = {str(scan.path) for scan in dataset.scans}
    return [record["name"] for record in Records(target).all() if record["name"] not in there]


def remove_empty(target: Path, names: Iterable[str]) -> None:
    """Remove the folders of scans in which nothing lies.

    An empty one would be a person without scans, whom participants.tsv does not have.
    """
    for name in names:
        for folder in list(PurePosixPath(name).parents)[:-1]:
            with suppress(OSError):  # there is something in it, or it is gone
                (target / folder).rmdir()


def summarize(dataset: Dataset, scans: Sequence[Scan], target: Path, staging: Path) -> Counter[str]:
    """Write `summary.tsv`, a line a scan of the input and of those that it no longer has, and count them.

    Args:
        scans: those of the input to count.

    Returns:
        How many are "done", "failed", "missing" (not done yet), "not asked for" by any run and "not in the input".
    """
    records, asked = {record["name"]: record for record in Records(target).all()}, Records(target).asked()
    columns = (
        "brain_mask_from",
        "head_from",
        "brain_ml",
        "template_overlap",
        "protected_voxels",
        "replaced_voxels",
        "warnings",
    )
    rows, counts, counted = [], Counter[str](), {scan.path for scan in scans}
    for scan in dataset.scans:
        name = str(scan.path)
        state, reason = ("missing", "not done yet") if name in asked else (NOT_ASKED, "n/a")
        record = records.get(name, {"state": state, "account": {}, "reason": reason})
        state = record["state"] if record["state"] in ("done", "missing", NOT_ASKED) else "failed"
        counts[state] += scan.path in counted
        account = {**record["account"], "warnings": "; ".join(record["account"].get("warnings", []))}
        found = [str(account.get(column, "n/a")) or "n/a" for column in columns]
        rows.append((name, state, record["reason"] or "n/a", *found))
    for name in not_in_input(dataset, target):
        counts[NOT_IN_INPUT] += 1
        rows.append(
            (name, NOT_IN_INPUT, "withdrawn or renamed: cpmae bids --prune removes it", *["n/a"] * len(columns))
        )
    _put(target, {"summary.tsv": _table(("scan", "state", "reason", *columns), rows)}, staging)
    return counts


def left_out(dataset: Dataset, placement: Placement) -> list[tuple[str, int, str]]:
    """What is not in the output: path, number of files, reason.

    Names that are none of BIDS may be anybody's, and are counted by folder instead of told.
    """
    taken = {scan.path for scan in dataset.scans}
    taken |= {path for scan in dataset.scans for path in _belongs(dataset, scan)}
    found: Counter[tuple[str, str]] = Counter()
    for path in dataset.files.keys() - taken:
        if placement == "raw" and len(path.parts) == 1 and path.stem == "participants":
            continue
        image = path.name.endswith(IMAGES)
        if placement == "raw" or image:
            found[str(path), _no_scan(dataset, path) if image else "may hold dates or names"] += 1
    for path in dataset.others:
        top = len(path.parts) == 1
        if str(path) == "dataset_description.json":
            continue
        if top and (path.name in _FOLDERS or path.name in _PROSE):
            if placement == "raw":
                slash = "/" if path.name in _FOLDERS else ""
                found[
                    f"{path}{slash}", "not looked into" if slash else "free text: copy it after you have read it"
                ] += 1
        elif placement == "raw" or path.name.endswith(IMAGES) or _speaks_of_images(path):
            known = [part for part in path.parts[:-1] if _FOLDER.fullmatch(part)]
            found["/".join((*known, "*")), "not understood"] += 1
    return sorted((path, count, reason) for (path, reason), count in found.items())


def _speaks_of_images(path: PurePosixPath) -> bool:
    """Whether somebody may have meant a JSON file to say something of images."""
    return path.suffix == ".json" and path.stem.rsplit("_", 1)[-1] in _IMAGE_SUFFIXES


def _no_scan(dataset: Dataset, path: PurePosixPath) -> str:
    """Why an image is none of the data set's scans."""
    name = dataset.files[path]
    if name.suffix not in _IMAGE_SUFFIXES:
        return "no image that shows a head"
    if packed(path) in dataset.files:
        return "is there as .nii.gz too"
    return "desc- is for derivatives" if "desc" in name.entities else f"{name.suffix} belongs into another folder"


def _belongs(dataset: Dataset, scan: Scan) -> list[PurePosixPath]:
    kinds: list[tuple[str | None, str]] = [(None, ".json"), (None, ".bval"), (None, ".bvec")]
    kinds += [("events", e) for e in (".tsv", ".json")] if scan.datatype == "func" else []
    kinds += [("aslcontext", e) for e in (".tsv", ".json")] if scan.name.suffix == "asl" else []
    return [path for suffix, extension in kinds for path in dataset.inherited(scan, suffix, extension)]


def _description(dataset: Dataset, target: Path, placement: Placement) -> dict[str, Any]:
    before = _load(dataset.root / "dataset_description.json")
    kept = {key: before[key] for key in _DESCRIPTION if key in before}
    if "ReferencesAndLinks" in kept:
        references = kept["ReferencesAndLinks"]  # a text, where somebody has only one
        items = references if isinstance(references, list) else [references]
        kept["ReferencesAndLinks"] = [item for item in items if _leads_nowhere_private(item)]
    steps = [{k: s[k] for k in ("Name", "Version", "CodeURL") if k in s} for s in _dicts(before.get("GeneratedBy"))]
    for step in steps:
        if "CodeURL" in step and not _is_public(step["CodeURL"]):
            del step["CodeURL"]
    link = _link(dataset, target)
    origin = {"DOI": before["DatasetDOI"]} if _doi(before) else {"Name": str(before.get("Name", "unknown"))}
    if link:
        origin["URL"] = link
    found = {"Name": "unknown", "BIDSVersion": "1.10.0", **kept}
    found["DatasetType"] = placement
    found["GeneratedBy"] = [
        *(steps if placement == "raw" else []),
        {"Name": "cpmae", "Version": __version__, "Description": "de-identification of head MRI"},
    ]
    found["SourceDatasets"] = [origin]
    if link and placement == "derivative":
        found["DatasetLinks"] = {"raw": link}
    return found


def _link(dataset: Dataset, target: Path) -> str | None:
    """A DOI, or the way up out of the data set's own `derivatives`; other paths may hold names of people."""
    doi = _doi(_load(dataset.root / "dataset_description.json"))
    if doi:
        return f"https://doi.org/{doi}"
    source, place = dataset.root.resolve(), target.resolve()
    return "/".join(".." for _ in place.relative_to(source).parts) if place.is_relative_to(source) else None


def _doi(description: Mapping[str, Any]) -> str | None:
    """`10.5281/zenodo.1`; None for what is no DOI, as a path on somebody's server."""
    found = _DOI.fullmatch(str(description.get("DatasetDOI")))
    return found[1] if found else None


def _is_public(address: Any) -> bool:
    """Whether an address is anybody's, and lets nobody in with it."""
    return isinstance(address, str) and _PUBLIC.fullmatch(address) is not None and not _TOKEN.search(address)


def _leads_nowhere_private(text: Any) -> bool:
    """Whether a reference is prose in which all addresses are public, without paths, people's own and passwords."""
    if not isinstance(text, str):
        return False
    addresses = [address.rstrip(".,;)>]\"'") for address in re.findall(r"https?:/\S*", text, re.IGNORECASE)]
    if not all(_is_public(address) for address in addresses):
        return False
    for address in sorted(addresses, key=len, reverse=True):  # or the rest of a longer one would look like a path
        text = text.replace(address, "")
    return _PRIVATE.search(text) is None


def _participants(dataset: Dataset, target: Path, keep: Sequence[str], clean: bool) -> dict[str, str]:
    """participants.tsv and .json of those of whom the output holds a scan."""
    there = {record["name"].split("/")[0] for record in Records(target).all() if record["state"] == "done"}
    text, about = _people(dataset)
    if not text or not there:
        return {}
    if clean:
        text, columns = metadata_tsv.clean(text, "participants", keep, metadata_tsv.age_units(about))
        about = metadata_tsv.clean_description(about, columns, keep)
    texts = {"participants.tsv": metadata_tsv.rows_of(text, "participant_id", there)}
    return texts | ({"participants.json": json.dumps(about, indent=2) + "\n"} if about else {})


def _people(dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """participants.tsv, empty if there is none, and .json.

    Raises:
        ScanError: if one of them cannot be used.
    """
    if not os.path.lexists(dataset.root / "participants.tsv"):
        return "", {}
    text = sidecar.read_text(dataset.root / "participants.tsv")
    header, *rows = (line.split("\t") for line in text.split("\n"))
    if "participant_id" not in header:
        raise ScanError("participants.tsv has no column participant_id, correct it")
    place = header.index("participant_id")
    people = [row[place] for row in rows if len(row) > place and row[place]]
    if people and not any(person.startswith("sub-") for person in people):
        raise ScanError("participants.tsv names nobody as sub-..., as BIDS and the folders do, correct participant_id")
    return text, _load(dataset.root / "participants.json")


def _load(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is no such file; a link to one that was not fetched is refused."""
    return sidecar.read(path) if os.path.lexists(path) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _put(folder: Path, texts: Mapping[str, str], staging: Path) -> None:
    """Write texts that differ from what is there, byte by byte; each appears at once and whole."""
    there = {name: (folder / name).read_bytes() for name in texts if (folder / name).is_file()}
    changed = {name: text for name, text in texts.items() if there.get(name) != text.encode("utf-8", "replace")}
    write_together([(folder / name, text_writer(text)) for name, text in changed.items()], staging)
