"""A folder of DICOM files, de-identified into another: which series, in which order, with whose brain mask.

Every head series comes back with the same instances and new pixels around the brain. A series that cannot be handled
is listed with its reason and left out; the others go on. OUT_DIR appears when all is done, or not at all.
"""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpmae import __version__, motion
from cpmae.brain import extractor_name
from cpmae.errors import BrainMaskError, CpmaeError, OutputError, ScanError, with_notes
from cpmae.io import dicom, dicom_pixels, dicom_scan
from cpmae.io.dicom import Left, Series, t1w_score
from cpmae.io.dicom_mosaic import read_mosaic
from cpmae.io.dicom_volumes import Stack, frames_of, no_volume, stacks_of
from cpmae.io.nifti import NiftiScan
from cpmae.io.together import check_outputs
from cpmae.leased import unfinished_folder
from cpmae.metadata_dicom import Identity, deidentify_header
from cpmae.options import Options
from cpmae.shared_mask import FoundBrain, given_mask, lender, without_holes
from cpmae.study_output import Images, check_apart, check_folders, put_in_place
from cpmae.subject_key import seed_of

if TYPE_CHECKING:
    from cpmae.drawn_head import Head
    from cpmae.models.head import HeadModel


@dataclass(frozen=True)
class StudyOptions:
    """What is asked of a DICOM folder beside `Options`.

    Attributes:
        retain: of `metadata_dicom.RETAIN`.
        allow_burned_in: handle series whose pixels are said to hold text (BurnedInAnnotation YES), which stays where
            it lies on the brain.
        patient_id: what the one patient in the folder is called from now on; a random number if None.
        subject_key: a secret from which the seed of each patient follows, see `subject_key`.
    """

    retain: frozenset[str] = frozenset()
    allow_burned_in: bool = False
    patient_id: str | None = None
    subject_key: bytes | None = None


@dataclass(frozen=True)
class StudyResult:
    """What became of a folder.

    Attributes:
        account: plain numbers and strings for JSON: `series` (one entry each), `left_out`, `failed`; names of series
            and files and `patient_id` are the input's and may identify.
        warnings: sentences for the user.
        handled, left_out, failed: names with reasons.
    """

    account: dict[str, Any]
    warnings: list[str]
    handled: list[str]
    left_out: list[Left]
    failed: list[Left]


@dataclass(frozen=True)
class _Head(FoundBrain):
    """A brain of a frame of reference and the head around it, for all its series."""

    series: str  # its name
    is_own: bool  # found in its own series, or given
    mask_from: dict[str, str]  # for accounts
    drawn: "Head"
    images: Images | None  # if picture or mask are asked for


@dataclass
class _Run:
    """What the series of a run share."""

    folder: Path
    options: Options
    study: StudyOptions
    weights: "str | Path | HeadModel | None"
    identity: Identity
    seed: int
    given_mask: Path | None
    shows: bool  # a picture or the mask of the T1w
    tell: Callable[[str], None]
    volumes: int = 0  # handled so far
    patients: dict[str, int] = field(default_factory=dict)  # numbered as they come
    heads: dict[tuple[str, str], list[_Head]] = field(default_factory=dict)  # of each world, the T1w's first
    drawn: dict[str, "Head"] = field(default_factory=dict)  # the first of each patient
    warnings: list[str] = field(default_factory=list)

    def seed_of(self, patient: str) -> int:
        """Another for each patient."""
        if self.study.subject_key:
            return seed_of(self.study.subject_key, patient)
        return (self.seed + self.patients.setdefault(patient, len(self.patients))) % 2**63


def deidentify_study(
    input: Path,
    output: Path,
    options: Options,
    study: StudyOptions | None = None,
    *,
    brain_mask: Path | None = None,
    save_brain_mask: Path | None = None,
    picture: Path | None = None,
    weights: "str | Path | HeadModel | None" = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """De-identify every head series of MR images below `input` into the new folder `output`.

    Args:
        input: DICOM files, sorted or not, with whatever else lies among them.
        output: a folder that is made: `study-01/series-001/0001.dcm`, numbered by study, series and instance.
        options, study: how.
        brain_mask: NIfTI file on the grid of the T1w, its axes in any order.
        save_brain_mask, picture: where mask and before/after picture of the T1w go.
        weights: a weight file or a model; the package's own if None.
        overwrite: replace a folder that this function made, and the two files.
        progress: called with the name of each stage.

    Raises:
        OutputError, ScanError: if nothing can be read, written or handled; the fault of one series is in the result.
    """
    tell = progress or (lambda stage: None)
    check_folders(input, output, overwrite)
    check_apart(input, output, picture, save_brain_mask)
    check_outputs(
        [p for p in (input, brain_mask) if p],
        [p for p in (save_brain_mask,) if p],
        [p for p in (picture,) if p],
        overwrite=overwrite,
    )
    if brain_mask and not os.path.lexists(brain_mask):  # what else it may lack is said when its T1w is known
        raise BrainMaskError(f"{brain_mask} does not exist, check the path")
    tell("reading headers")
    found, left = dicom.find_series(input)
    heads = []
    for series in found:
        reason = dicom.no_head(series)
        if reason:
            left.append(Left(series.name, len(series.instances), reason))
        else:
            heads.append(series)
    study = study or StudyOptions()
    if study.patient_id and (people := len({series.patient for series in heads})) > 1:
        raise ScanError(
            f"{input} holds {people} patients, and patient ID {study.patient_id} is for one; give them apart"
        )
    one = brain_mask or save_brain_mask or picture
    if one and len({series.world for series in heads}) > 1:
        raise ScanError(
            f"{input} holds several patients, studies or frames of reference, and {one} is for one T1w; give them apart"
        )
    seed = secrets.randbits(62) if options.seed is None else options.seed
    tool = f"cpmae {__version__}"
    identity = Identity(options.clean_metadata, study.retain, tool, options.replaced(), study.patient_id)
    run = _Run(input, options, study, weights, identity, seed, brain_mask, bool(picture or save_brain_mask), tell)
    with unfinished_folder(output.resolve().parent) as temporary:
        tree = temporary / "result"
        tree.mkdir()
        entries, failed = _all_series(run, heads, tree, left)
        failed += [item for item in left if item.unseen]
        left = [item for item in left if not item.unseen]
        if not entries:
            why = "; ".join(f"{item.name}: {item.reason}" for item in [*failed, *left][:5])
            raise ScanError(f"{input} holds no head series that can be de-identified ({why})")
        tell("writing")
        first = next((found[0].images for found in run.heads.values() if found), None)
        put_in_place(first, tree, output, save_brain_mask, picture, temporary / "old")
    account = {
        "version": __version__,
        "metadata": "basic" if options.clean_metadata else "keep",
        "retain": sorted(identity.retain),
        "seed": "secret" if options.seed is None else options.seed,
        "series": entries,
        "left_out": [_plain(item) for item in left],
        "failed": [_plain(item) for item in failed],
        "warnings": run.warnings,
    }
    handled = [f"{e['name']}: {e['instances']} instances in {e['folder']}" for e in entries]
    return StudyResult(account, run.warnings, handled, left, failed)


def _plain(item: Left) -> dict[str, Any]:
    return {"name": item.name, "count": item.count, "reason": item.reason}


def _all_series(
    run: _Run, heads: list[Series], tree: Path, left: list[Left]
) -> tuple[list[dict[str, Any]], list[Left]]:
    """Each series into its folder below `tree`; accounts in the order of the folders, and failures.

    One patient after the other, so that memory does not grow with their number, and of each the T1w first.
    """
    studies = {uid: n for n, uid in enumerate(dict.fromkeys(series.study for series in heads), 1)}
    places = {s.uid: f"study-{studies[s.study]:02d}/series-{n:03d}" for n, s in enumerate(heads, 1)}
    entries, failed = [], []
    patients = {patient: n for n, patient in enumerate(dict.fromkeys(series.patient for series in heads))}
    before = None
    for series in sorted(heads, key=lambda s: (patients[s.patient], -t1w_score(s))):
        if series.patient != before:
            run.heads.clear()
            run.drawn.clear()
            before = series.patient
        run.tell(series.name)
        try:
            if not run.study.allow_burned_in and any(_burned_in(i.header) for i in series.instances):
                raise ScanError("text is burned into its pixels (BurnedInAnnotation YES), allow it (--allow-burned-in)")
            stacks, warnings = stacks_of(frames_of(series), series.name)
            reason = no_volume(stacks)
            if reason:
                left.append(Left(series.name, len(series.instances), reason))
                continue
            entry = _one_series(run, series, stacks, tree / places[series.uid])
        except CpmaeError as error:
            if isinstance(error, OutputError):
                raise
            failed.append(Left(series.name, len(series.instances), with_notes(error)))
            if (tree / places[series.uid]).exists():
                shutil.rmtree(tree / places[series.uid])  # what was written before the error
            continue
        run.warnings += [w for w in warnings if w not in run.warnings]
        entries.append({"name": series.name, "folder": places[series.uid], **entry})
    return sorted(entries, key=lambda e: str(e["folder"])), failed


def _burned_in(header: Any) -> bool:
    return str(header.get("BurnedInAnnotation", "NO")).upper() == "YES"


def _one_series(run: _Run, series: Series, stacks: list[Stack], folder: Path) -> dict[str, Any]:
    """De-identify all volumes of a series and write its instances."""
    pixels = dicom_scan.read_pixels(series)
    new: dict[tuple[int, int], NDArray] = {}
    accounts, own = [], None
    for count, stack in enumerate(stacks, 1):
        if len(stacks) > 1:
            run.tell(f"{series.name}, volume {count} of {len(stacks)}")
        try:
            found, part, account = _volume(run, series, stack, pixels, own)
            own = own or found
        except (ScanError, BrainMaskError) as error:
            raise ScanError(_of_volume(stacks, count, with_notes(error))) from error
        new |= part
        accounts.append(account)
    _write(run, series, folder, new)
    if own and own.is_own:  # from here on it lends, since what lends has to be in the result
        run.heads.setdefault(series.world, []).append(own)
        run.drawn.setdefault(series.patient, own.drawn)
    header = series.instances[0].header
    old = str(header.get("PatientID", ""))
    return {
        "patient_id": old,
        "new_patient_id": run.identity.patient_id(series.patient) if run.identity.clean else old,
        "instances": len(series.instances),
        "volumes": accounts,
    }


def _of_volume(stacks: list[Stack], count: int, reason: str) -> str:
    """Why a series cannot be handled, with the number of the volume that cannot; some are broken off or sent twice."""
    if len(stacks) == 1:
        return reason
    slices, most = len(stacks[count - 1].frames), max(len(stack.frames) for stack in stacks)
    short = f", which has {slices} slices of {most}: take these out if it was broken off or sent twice"
    return f"volume {count} of {len(stacks)}{short if slices < most else ''}: {reason}"


def _volume(
    run: _Run, series: Series, stack: Stack, pixels: dicom_scan.Pixels, own: _Head | None
) -> tuple[_Head, dict[tuple[int, int], NDArray], dict[str, Any]]:
    """A volume's new slices, with the brain of its series or its world, which is found here if it is not known yet.

    Args:
        own: the brain of the series' first volume.

    Returns:
        the brain, on this volume's grid; the slices; and the account.
    """
    from cpmae import brain_search, pipeline  # and with it torch, after the questions that need neither
    from cpmae.models.device import usable_device

    header = series.instances[stack.frames[0].instance].header
    values = dicom_pixels.value_range(header)
    scan = dicom_scan.to_scan(stack, pixels, values, header.get("PhotometricInterpretation") == "MONOCHROME1")
    middle = motion.middle(scan.stored, scan.slope, stack.affine)
    mask, drawn, lent = _lent(run, series, stack, scan, own, own is None or motion.has_moved(own.middle, middle))
    searched = mask is None
    if searched and stack.holes:
        # the pipeline would find the brain too, and keep what is interpolated from around it
        device = usable_device(run.options.device)
        mask, _ = brain_search.search_brain(scan.scaled(), run.options.brain_extractor, device)
    shown = scan
    if mask is not None:
        scan, mask = without_holes(scan, mask, stack, found=searched or lent is not None)
    # another draw for each person, and in all volumes of one the same head and texture under other noise
    asked = run.options.for_sequence(series.sequence)
    options = replace(asked, seed=run.seed_of(series.patient), noise_number=run.volumes)
    run.volumes += 1
    done = pipeline.deidentify_scan(
        scan,
        options,
        brain_mask=mask,
        weights=run.weights,
        head=drawn,
        progress=run.tell,
    )
    run.warnings += [text for text in (f"{series.name}: {w}" for w in done.warnings) if text not in run.warnings]
    result = done.image.stored
    new = dicom_scan.from_scan(stack, result, done.protected, pixels, values)
    for frame, slot in zip(stack.frames, stack.slots, strict=True):
        kept, key = done.protected[:, :, slot].T, (frame.instance, frame.index)
        if not np.array_equal(new[key][kept], pixels[key][kept]):
            raise ScanError(f"protected voxels of {series.name} changed on the way, and the result was dropped")
    images = Images(shown, done.image, done.brain_mask, done.protected) if run.shows else None
    if lent:
        mask_from = lent.mask_from if lent is own else {**lent.mask_from, "brain_mask_from": lent.series}
    else:
        by = extractor_name(run.options.brain_extractor) if searched else done.account["brain_extractor"]
        mask_from = {"brain_extractor": by, "brain_mask_from": by}
    here = _Head(done.brain_mask, stack.affine, middle, series.name, lent is None, mask_from, done.head, images)
    account = {k: v for k, v in done.account.items() if k not in ("seed", "warnings", "metadata", "version")}
    return here, new, account | mask_from


def _lent(
    run: _Run, series: Series, stack: Stack, scan: NiftiScan, own: _Head | None, compared: bool
) -> "tuple[NDArray[np.bool_] | None, Head | None, _Head | None]":
    """The mask and the head that a volume gets from its series, its world or the user, as far as there are any.

    Args:
        compared: see whether the mask is this image's brain.

    Returns:
        mask, head, and whose mask it is; None if the brain is this volume's own: found here or given.
    """
    from cpmae import lending

    mask = drawn = None
    head = own or lender(run.heads.get(series.world, []), stack.shape, stack.affine)
    if head:
        mask, doubt = lending.taken_over(head, scan, compared)
        if mask is not None and not mask.any():
            raise ScanError("the brain lies outside of its field of view, in which nothing else shows where a head is")
        text = f"{series.name}: {doubt}"
        run.warnings += [text] if doubt and text not in run.warnings else []
        return (None, head.drawn.elsewhere(), None) if mask is None else (mask, head.drawn, head)
    if run.given_mask:
        mask = given_mask(run.given_mask, scan)
    elif t1w_score(series) < 2:
        run.warnings.append(f"there is no T1w in the world of {series.name}; its own brain was searched for")
    if series.patient in run.drawn:  # one head for all that is shared of a person
        drawn = run.drawn[series.patient].elsewhere()
    return mask, drawn, None


@dicom.quiet()
def _write(run: _Run, series: Series, folder: Path, new: dict[tuple[int, int], NDArray]) -> None:
    """The instances of a series with new pixels and headers, each read again to see that it holds what it should."""
    folder.mkdir(parents=True)
    count = Counter(n for n, _ in new)
    for n, instance in enumerate(series.instances):
        whole = dicom.read_whole(instance.path)
        frames = np.stack([new[n, i] for i in range(count[n])])
        mosaic = read_mosaic(whole, instance.path.name)
        if mosaic:
            frames = mosaic.join(frames)[None]
        path = folder / f"{n + 1:04d}.dcm"
        try:
            dicom_pixels.put_pixels(whole, frames)
            deidentify_header(whole, run.identity, series.patient, mosaic, instance.repeat)
            whole.save_as(path, enforce_file_format=True)
        except OSError as error:
            raise OutputError(f"{path.name} cannot be written ({error.strerror or error}), free space") from error
        except dicom.DAMAGE as error:
            text = str(error).splitlines()[0]
            raise ScanError(
                f"{instance.path.name} holds what DICOM does not allow ({text}), export it again"
            ) from error
        if not np.array_equal(dicom_pixels.get_pixels(dicom.read_whole(path), path.name), frames):
            raise ScanError(f"instance {n + 1} of {series.name} does not read back as it was written, and was dropped")
