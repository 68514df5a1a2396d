"""A folder of DICOM files, de-identified into another: which series, in which order, with whose brain mask.

Every head series comes back with the same instances and new pixels around the brain. A series that cannot be handled
is listed with its reason and left out; the others go on. OUT_DIR appears when all is done, or not at all.
"""

import re
import secrets
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import __version__
from cpmae.brain import extract_brain
from cpmae.errors import CpmaeError, OutputError, ScanError
from cpmae.files import Options
from cpmae.io import dicom, dicom_pixels, dicom_scan, nifti
from cpmae.io.dicom import Left, Series
from cpmae.io.dicom_volumes import Stack, frames_of, no_volume, stacks_of
from cpmae.io.mask import mask_scan
from cpmae.io.nifti import NiftiScan
from cpmae.io.together import Writer, check_outputs, write_together
from cpmae.metadata_dicom import Identity, deidentify_header
from cpmae.volume import voxel_sizes

if TYPE_CHECKING:
    from cpmae.models.head import HeadModel

_T1W = re.compile(r"t1(?!rho)|mp2?rage|spgr|bravo|tfl3d|ir-?fspgr", re.IGNORECASE)
_NOT_T1W = re.compile(r"t2|flair|dwi|dti|diff|bold|fmri|epi|swi|asl|perf|pd|adc|field|tof|angio|loc|b0", re.IGNORECASE)


@dataclass(frozen=True)
class StudyOptions:
    """What is asked of a DICOM folder beside `files.Options`.

    Attributes:
        retain: of `metadata_dicom.RETAIN`.
        allow_burned_in: handle series whose pixels are said to hold text (BurnedInAnnotation YES), which stays where
            it lies on the brain.
    """

    retain: frozenset[str] = frozenset()
    allow_burned_in: bool = False


@dataclass(frozen=True)
class StudyResult:
    """What became of a folder.

    Attributes:
        account: plain numbers and strings for JSON: `series` (one entry each), `left_out`, `failed`; names of series
            and files are the input's and may identify.
        warnings: sentences for the user.
        handled, left_out, failed: names with reasons.
    """

    account: dict[str, Any]
    warnings: list[str]
    handled: list[str]
    left_out: list[Left]
    failed: list[Left]


@dataclass(frozen=True)
class _Head:
    """The brain of a frame of reference, found once and used for all its series."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    before: NiftiScan
    after: NiftiScan


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
    tell: Callable[[str], None]
    heads: dict[tuple[str, str], _Head] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


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
        overwrite: replace a folder of DICOM files, and the two files.
        progress: called with the name of each stage.

    Raises:
        OutputError, ScanError: if nothing can be read, written or handled; the fault of one series is in the result.
    """
    tell = progress or (lambda stage: None)
    _check_folders(input, output, overwrite)
    check_outputs(
        [p for p in (input, brain_mask) if p],
        [p for p in (save_brain_mask,) if p],
        [p for p in (picture,) if p],
        overwrite=overwrite,
    )
    tell("reading headers")
    found, left = dicom.find_series(input)
    heads = []
    for series in found:
        reason = dicom.no_head(series)
        if reason:
            left.append(Left(series.name, len(series.instances), reason))
        else:
            heads.append(series)
    one = brain_mask or save_brain_mask or picture
    if one and len({_world(series) for series in heads}) > 1:
        raise ScanError(
            f"{input} holds several patients, studies or frames of reference, and {one} is for one T1w; give them apart"
        )
    seed = secrets.randbits(62) if options.seed is None else options.seed
    identity = Identity(options.clean_metadata, study.retain if study else frozenset(), f"cpmae {__version__}")
    run = _Run(input, options, study or StudyOptions(), weights, identity, seed, brain_mask, tell)
    with TemporaryDirectory(prefix=".cpmae-", dir=output.absolute().parent) as temporary:
        tree = Path(temporary) / "result"
        tree.mkdir()
        entries, failed = _all_series(run, heads, tree, left)
        if not entries:
            why = "; ".join(f"{item.name}: {item.reason}" for item in [*failed, *left][:5])
            raise ScanError(f"{input} holds no head series that can be de-identified ({why})")
        tell("writing")
        _put_in_place(run, tree, output, save_brain_mask, picture, Path(temporary) / "old")
    account = {
        "version": __version__,
        "metadata": "basic" if options.clean_metadata else "keep",
        "retain": sorted(identity.retain),
        "seed": "secret" if options.seed is None else options.seed,
        "series": entries,
        "left_out": [asdict(item) for item in left],
        "failed": [asdict(item) for item in failed],
        "warnings": run.warnings,
    }
    handled = [f"{e['name']}: {e['instances']} instances in {e['folder']}" for e in entries]
    return StudyResult(account, run.warnings, handled, left, failed)


def _check_folders(input: Path, output: Path, overwrite: bool) -> None:
    """Find out before the work whether the folder can be made, and that nothing of value lies there."""
    source, target = input.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise OutputError(f"{output} is, holds or lies in the input {input}, choose a folder apart from it")
    if not target.parent.is_dir():
        raise OutputError(f"the folder {output.parent} does not exist, make it first")
    if not output.exists():
        return
    if not output.is_dir():
        raise OutputError(f"{output} is a file and the input a folder, choose a new folder")
    there = [p for p in sorted(output.rglob("*")) if not p.is_dir()]
    if there and not overwrite:
        raise OutputError(f"{output} is not empty, choose a new folder or ask to replace it (--overwrite)")
    foreign = [p for p in there if p.suffix != ".dcm"]
    if foreign:
        raise OutputError(f"{output} holds {foreign[0].name}, which is no result of this command; choose a new folder")


def _all_series(
    run: _Run, heads: list[Series], tree: Path, left: list[Left]
) -> tuple[list[dict[str, Any]], list[Left]]:
    """Each series into its folder below `tree`, the T1w first; accounts in the order of the folders, and failures."""
    studies = {uid: n for n, uid in enumerate(dict.fromkeys(series.study for series in heads), 1)}
    places = {s.uid: f"study-{studies[s.study]:02d}/series-{n:03d}" for n, s in enumerate(heads, 1)}
    entries, failed = [], []
    for series in sorted(heads, key=t1w_score, reverse=True):
        run.tell(series.name)
        try:
            if not run.study.allow_burned_in and any(_burned_in(i.header) for i in series.instances):
                raise ScanError("text is burned into its pixels (BurnedInAnnotation YES), allow it (--allow-burned-in)")
            stacks, warnings = stacks_of(frames_of(series), series.name)
            reason = no_volume(stacks, series.name)
            if reason:
                left.append(Left(series.name, len(series.instances), reason))
                continue
            entry = _one_series(run, series, stacks, tree / places[series.uid])
        except CpmaeError as error:
            if isinstance(error, OutputError):
                raise
            failed.append(Left(series.name, len(series.instances), str(error)))
            continue
        run.warnings += [w for w in warnings if w not in run.warnings]
        entries.append({"name": series.name, "folder": places[series.uid], **entry})
    return sorted(entries, key=lambda e: str(e["folder"])), failed


def _burned_in(header: Any) -> bool:
    return str(header.get("BurnedInAnnotation", "NO")).upper() == "YES"


def t1w_score(series: Series) -> float:
    """How much a series looks like the T1w of its study, whose brain is found best; from headers alone."""
    first = series.instances[0].header
    text = " ".join(str(first.get(k) or "") for k in ("SeriesDescription", "ProtocolName", "SequenceName"))
    score = 4.0 * bool(_T1W.search(text)) - 4.0 * bool(_NOT_T1W.search(text))
    echo, repetition = dicom.number_of(first, "EchoTime"), dicom.number_of(first, "RepetitionTime")
    score += 2 if 0 < echo < 15 and 0 < repetition < 3500 else -3 if echo > 40 else 0
    score += 2 * (str(first.get("MRAcquisitionType", "")) == "3D")
    score -= 2 * (dicom.image_type(first)[:1] == ["DERIVED"])
    frames = sum(dicom.number_of(i.header, "NumberOfFrames", 1) for i in series.instances)
    return score + min(frames, 400) / 1000  # of two alike, the one with more slices


def _world(series: Series) -> tuple[str, str]:
    """Series of one world share a brain mask; without a frame of reference each has its own."""
    return series.patient, series.frame or series.uid


def _one_series(run: _Run, series: Series, stacks: list[Stack], folder: Path) -> dict[str, Any]:
    """De-identify all volumes of a series and write its instances."""
    pixels: dict[tuple[int, int], NDArray] = {}
    for n, instance in enumerate(series.instances):
        whole = dicom.read_whole(instance.path)
        pixels |= {(n, i): plane for i, plane in enumerate(dicom_pixels.get_pixels(whole, instance.path.name))}
    new: dict[tuple[int, int], NDArray] = {}
    accounts, own = [], None
    for count, stack in enumerate(stacks, 1):
        if len(stacks) > 1:
            run.tell(f"{series.name}, volume {count} of {len(stacks)}")
        own, part, account = _volume(run, series, stack, pixels, own)
        new |= part
        accounts.append(account)
    _write(run, series, folder, new)
    return {"instances": len(series.instances), "volumes": accounts}


def _volume(
    run: _Run, series: Series, stack: Stack, pixels: dicom_scan.Pixels, own: _Head | None
) -> tuple[_Head, dict[tuple[int, int], NDArray], dict[str, Any]]:
    """A volume's new slices, with the brain of its series or its world, which is found here if it is not known yet."""
    from cpmae import pipeline  # and with it torch, after the questions that need neither

    header = series.instances[stack.frames[0].instance].header
    values = dicom_pixels.value_range(header)
    scan = dicom_scan.to_scan(stack, pixels, values, header.get("PhotometricInterpretation") == "MONOCHROME1")
    world = _world(series)
    head = own or run.heads.get(world)
    mask = None
    if head:
        mask = mask_on(head.mask, head.affine, stack.shape, stack.affine)
    elif run.given_mask:
        mask = _given_mask(run.given_mask, scan)
    elif stack.holes:  # the pipeline would find the brain too, and keep what is interpolated from around it
        device = run.options.device if run.options.device != "auto" else "cpu"
        mask = extract_brain(scan.scaled(), run.options.brain_extractor, device)
    if mask is not None:
        scan, mask = dicom_scan.without_holes(scan, mask, stack)
    if head is None and t1w_score(series) < 2:
        run.warnings.append(f"there is no T1w in the world of {series.name}; its own brain was searched for")
    options = replace(run.options, seed=run.seed)
    done = pipeline.deidentify(scan, brain_mask=mask, weights=run.weights, progress=run.tell, **asdict(options))
    run.warnings += [text for text in (f"{series.name}: {w}" for w in done.warnings) if text not in run.warnings]
    result = done.image.stored
    new = dicom_scan.from_scan(stack, result, done.protected, pixels, values)
    for frame, slot in zip(stack.frames, stack.slots, strict=True):
        kept, key = done.protected[:, :, slot].T, (frame.instance, frame.index)
        if not np.array_equal(new[key][kept], pixels[key][kept]):
            raise ScanError(f"protected voxels of {series.name} changed on the way, and the result was dropped")
    if head is None:
        head = _Head(done.brain_mask, stack.affine, scan, done.image)
        run.heads[world] = head
    account = {k: v for k, v in done.account.items() if k not in ("seed", "warnings", "metadata", "version")}
    return head, new, account


def mask_on(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], shape: tuple[int, int, int], new_affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """A mask on another grid of the same world: True where at least half of the voxel is in it.

    Args:
        mask: (X, Y, Z) bool with its `affine`, voxel to world, mm.
        shape, new_affine: the other grid.
    """
    if mask.shape == shape and np.allclose(affine, new_affine, atol=1e-4):
        return mask
    to_old = np.linalg.inv(affine) @ new_affine
    steps = np.maximum(1, np.rint(voxel_sizes(to_old))).astype(int)
    source, total = mask.astype(np.float32), np.zeros(shape, np.float32)
    for shift in np.ndindex(*steps):
        offset = to_old[:3, :3] @ ((np.array(shift) + 0.5) / steps - 0.5) + to_old[:3, 3]
        total += ndimage.affine_transform(source, to_old[:3, :3], offset, shape, order=1, mode="constant")
    return total >= 0.5 * steps.prod()


def _given_mask(path: Path, scan: NiftiScan) -> NDArray[np.bool_]:
    """A mask whose file has the scan's grid, perhaps with other axes, as converters turn them."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

    from cpmae.brain import check_given_mask

    given = nifti.load(path)
    change = ornt_transform(io_orientation(given.affine), io_orientation(scan.affine))
    turned = apply_orientation(given.stored, change)
    affine = given.affine @ inv_ornt_aff(change, given.stored.shape)
    return check_given_mask(replace(given, stored=turned, affine=affine), path.name, scan.stored.shape, scan.affine)


def _write(run: _Run, series: Series, folder: Path, new: dict[tuple[int, int], NDArray]) -> None:
    """The instances of a series with new pixels and headers, each read again to see that it holds what it should."""
    folder.mkdir(parents=True)
    for n, instance in enumerate(series.instances):
        whole = dicom.read_whole(instance.path)
        frames = [new[n, i] for i in range(sum(1 for key in new if key[0] == n))]
        dicom_pixels.put_pixels(whole, np.stack(frames))
        deidentify_header(whole, run.identity, series.patient)
        path = folder / f"{n + 1:04d}.dcm"
        try:
            whole.save_as(path, enforce_file_format=True)
        except OSError as error:
            raise OutputError(f"{path.name} cannot be written ({error.strerror or error}), free space") from error
        except (
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            OverflowError,
            NotImplementedError,
            struct.error,
        ) as error:
            text = str(error).splitlines()[0]
            raise ScanError(
                f"{instance.path.name} holds what DICOM does not allow ({text}), export it again"
            ) from error
        if not np.array_equal(dicom_pixels.get_pixels(dicom.read_whole(path), path.name), np.stack(frames)):
            raise ScanError(f"instance {n + 1} of {series.name} reads otherwise than it was written, and was dropped")


def _put_in_place(
    run: _Run, tree: Path, output: Path, save_brain_mask: Path | None, picture: Path | None, old: Path
) -> None:
    """Mask and picture, then the folder; an old folder is moved away first and comes back if that fails."""
    head = next(iter(run.heads.values()), None)
    files: list[tuple[Path, Writer]] = []
    if head and picture:
        from cpmae.report.picture import before_after

        before, after = head.before.scaled(), head.after.scaled()
        files.append((picture, lambda path: before_after(before, after, head.mask, path)))
    if head and save_brain_mask:
        files.append((save_brain_mask, lambda path: nifti.write(path, mask_scan(head.before, head.mask))))
    if output.exists():
        output.rename(old)
    try:
        write_together([*files, (output, tree.rename)])
    except BaseException:
        if old.exists():
            with suppress(OSError):  # an error in the restoring would hide the one that led here
                old.rename(output)
        raise
