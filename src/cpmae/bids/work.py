"""A scan of a data set, in a worker: image, masks, sidecars and tables, all or none.

All scans of a person get the head of one of them (`Task.head`), which follows from seed, options and that scan's brain.
Whoever wants it and finds it nowhere draws it again, so that no order of the scans changes anything, nor a killed run
where the user keeps the secret.
It is kept in the private folder of the run, for the other scans of that run, and never among the results.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cpmae import __version__, metadata_json, metadata_tsv
from cpmae.batch.records import FOLDER
from cpmae.bids.plan import Reference, Task
from cpmae.bids.session_mask import Grid, agree, grid_of, mask_for, same_grid, write_mask
from cpmae.errors import BrainMaskError, ScanError
from cpmae.files import deidentify_file, draw_head
from cpmae.io import bids, forms, sidecar
from cpmae.io.together import Writer, text_writer
from cpmae.sequence import ECHO_PLANAR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpmae.drawn_head import Head


_UNCHECKED = "nothing in a phase image tells whether the brain mask of another scan fits, see whether it does"


def deidentify_scan(task: Task, staging: Path) -> tuple[list[Path], dict[str, Any]]:
    """De-identify one scan of a data set; the `batch.engine.Work` of data sets.

    Args:
        staging: a private folder on the output's file system, for what is not complete yet.

    Raises:
        what `files.deidentify_file` raises, and ScanError for sidecars and tables that cannot be read.
    """
    output = task.target / task.output
    said = _merged(task.source, task.sidecars)
    files = _texts(task, said)  # before the long part, since they may be at fault too
    paths = [task.target / p for p in (task.mask, task.defacemask) if p is not None] + [path for path, _ in files]
    for folder in {path.parent for path in (*paths, output, *([task.picture] if task.picture else []))}:
        folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="scan-", dir=staging) as private:
        mask, mask_from, here, doubts = _mask_of_another(task, Path(private))
        head = _head_of_another(task, staging, here)
        result = deidentify_file(
            task.source / task.scan,
            output,
            task.options.for_sequence(_with_suffix(task, said)),
            brain_mask=mask,
            save_brain_mask=task.target / task.mask,
            save_replaced_mask=task.target / task.defacemask if task.defacemask else None,
            picture=task.picture,
            weights=task.weights,
            head=head,
            overwrite=True,
            beside=files,
            staging=Path(private),
        )
    if task.lends_head:
        _keep_head(result.head, _kept_head(task, staging))
    account = {key: value for key, value in result.account.items() if key != "seed"}  # it follows from the secret
    account |= {"brain_mask_from": mask_from or account["brain_extractor"], "head_from": str(task.scan)}
    if head is not None:
        account["head_from"] = str(task.head)
    elif task.head is not None:
        text = f"no head could be drawn for {task.head}, whose head it should have; it has one of its own"
        doubts = [*doubts, text]
    if doubts:
        account["warnings"] = [*account.get("warnings", []), *doubts]
    return [*paths, output], account


def _mask_of_another(task: Task, folder: Path) -> tuple[Path | None, str | None, bool, list[str]]:
    """The brain mask of a scan of the session, on this one's grid, by the rule of `bids.session_mask`, and whose it is.

    It is compared with the image, but not where the two are of one acquisition and grid, as maps are, in which brains
    look strange, and not in phases, in which nobody sees a brain.

    Returns:
        the mask's file and whose it is; whether the brain lies where that of `task.head` does; and warnings.
    """
    from cpmae import lending  # and with it torch, which this process needs in any case

    grid, volume, warnings = grid_of(task.source / task.scan), None, []
    lent = {reference: _lent(task, reference, grid) for reference in task.references}
    of_head = next((mask for reference, mask in lent.items() if reference.scan == task.head), None)
    for reference, mask in lent.items():
        if mask is None:
            continue
        fit, doubt = True, None
        together = reference.of_one_acquisition and same_grid(grid, grid_of(task.source / reference.scan))
        if task.is_phase:
            doubt = None if together else _UNCHECKED
        elif not together:
            if volume is None:
                volume = forms.open_scan(task.source / task.scan).mean()
            fit, doubt = lending.lent_mask_fits(volume, mask)
        warnings += [f"{reference.scan}: {doubt}"] if doubt else []
        if fit:
            here = of_head is not None and agree(mask, of_head)
            return write_mask(folder / "mask.nii", mask, grid), str(reference.scan), here, warnings
    if task.is_phase:
        raise BrainMaskError(
            f"{task.scan.name} shows phases, in which no brain can be found, and no magnitude image or T1w of its "
            "session lends it a mask; de-identify one in the same frame, or leave the scan out"
        )
    return None, None, False, warnings


def _lent(task: Task, reference: Reference, grid: Grid) -> "NDArray | None":
    """A reference's mask on this scan's grid, if it is there and the headers say that it is this one's."""
    there, scan = task.target / reference.mask, task.source / reference.scan
    return mask_for(grid, grid_of(scan), there) if there.is_file() and scan.is_file() else None


def _head_of_another(task: Task, staging: Path, here: bool) -> "Head | None":
    """The head of the person's other scan, in its place if this scan lies in the same frame; None if there is none.

    Args:
        here: the brain lies where that scan's does; if somebody moved, or it lies in another frame, the scan has the
            head about its own brain.
    """
    if task.head is None:
        return None
    from cpmae.drawn_head import load_head

    kept = _kept_head(task, staging)
    if kept.is_file():
        head = load_head(kept)
    else:
        try:
            head = draw_head(task.source / task.head, task.options, weights=task.weights)
        except (ScanError, BrainMaskError):
            return None
        _keep_head(head, kept)
    return head if here else head.elsewhere()


def _kept_head(task: Task, staging: Path) -> Path:
    return staging / f"head-{task.scan.parts[0]}.npz"


def _keep_head(head: "Head", place: Path) -> None:
    """Whole or not at all; others may draw the same head at the same time."""
    from cpmae.drawn_head import save_head

    begun = place.with_name(f"head-{secrets.token_hex(8)}.npz")
    save_head(begun, head)
    os.replace(begun, place)


def _with_suffix(task: Task, said: dict[str, Any]) -> dict[str, Any]:
    """What sidecars say of the sequence; the suffix alone says that it is echo planar."""
    name = bids.parse(task.scan.name)
    return said | {"ScanningSequence": "EP"} if name and name.suffix in ECHO_PLANAR else said


def _texts(task: Task, said: dict[str, Any]) -> list[tuple[Path, Writer]]:
    """Sidecars and tables, cleaned."""
    texts = {_json_of(task.output): _sidecar(task, said)}
    if task.mask.parts[0] != FOLDER:
        texts[_json_of(task.mask)] = sidecar.dumped({"Type": "Brain", "SpatialReference": f"bids::{task.output}"})
    for path, about, output in task.tables:
        text = sidecar.read_text(task.source / path)
        if path.suffix != ".tsv":
            texts[output] = _numbers(text, path)
            continue
        kind = path.stem.rsplit("_", 1)[-1]
        if task.options.clean_metadata:
            text, columns = metadata_tsv.clean(text, kind, task.keep_columns)
            described = metadata_tsv.clean_description(_merged(task.source, about), columns, task.keep_columns)
        else:
            described = _merged(task.source, about)
        texts[output] = text
        if described:
            texts[_json_of(output)] = sidecar.dumped(described)
    return [(task.target / path, text_writer(text)) for path, text in texts.items()]


def _sidecar(task: Task, before: dict[str, Any]) -> str:
    fields = metadata_json.sidecar(before, task.options, f"cpmae {__version__}")
    if task.options.clean_metadata and task.placement == "raw" and (paths := _bids_paths(before.get("IntendedFor"))):
        fields["IntendedFor"] = paths
    name = bids.parse(task.scan.name)
    if "TaskName" in before.keys() - fields.keys() and name and "task" in name.entities:  # BIDS demands one
        fields["TaskName"] = name.entities["task"]
    if task.placement == "derivative":
        fields |= {"SkullStripped": False, **_sources(task)}
    return sidecar.dumped(fields)


def _sources(task: Task) -> dict[str, list[str]]:
    return {"Sources": [f"{task.source_uri}{task.scan}"]} if task.source_uri else {}


def _merged(root: Path, paths: Sequence[PurePosixPath]) -> dict[str, Any]:
    """The inheritance principle: the lower file overrides the upper one, field by field."""
    fields: dict[str, Any] = {}
    for path in paths:
        fields |= sidecar.read(root / path)
    return fields


def _bids_paths(value: Any) -> list[str]:
    """Those of the paths that are names of BIDS from end to end."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str) and bids.is_path(item.removeprefix("bids::"))]


def _numbers(text: str, path: PurePosixPath) -> str:
    """The text of a .bval or .bvec file, which is numbers and no more.

    What else stands there may be anything, and is not quoted: records are shared with the results.
    """
    rows = [line.split() for line in text.splitlines() if line.strip()]
    for i, row in enumerate(rows, 1):
        for j, word in enumerate(row, 1):
            try:
                float(word)
            except ValueError:
                raise ScanError(
                    f"{path} holds something that is not a number (row {i}, column {j}), correct it"
                ) from None
    return "".join(" ".join(row) + "\n" for row in rows)


def _json_of(path: PurePosixPath) -> PurePosixPath:
    return path.with_name(path.name.split(".")[0] + ".json")
