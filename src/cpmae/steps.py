"""What a 3-D scan and a 4-D run have in common on their way: a brain found and checked, a head drawn around it."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cpmae import __version__, brain, canonical
from cpmae.compare import tissue_threshold
from cpmae.errors import BrainMaskError, DeviceError, ScanError
from cpmae.generate import generate_field
from cpmae.io import header, nifti
from cpmae.io.nifti import NiftiScan
from cpmae.io.run import NiftiRun
from cpmae.models import checkpoint
from cpmae.models.head import HeadModel
from cpmae.options import Options
from cpmae.region import protected_voxels
from cpmae.volume import Volume, voxel_sizes, voxel_volume_ml

MAX_NOT_FINITE = 0.01  # of the brain
MAX_LIKE_NEIGHBOURS = 0.7  # of the brain's voxels that equal the next one, as labels do; of 8-bit scans a tenth does
MAX_TURNS = 3  # of a head that lies turned, until what is found is upright
MOSTLY_HEAD = 0.8  # of the field of view; from here on leaving out the rest is no help to an extractor
MAX_APART_MM = 15.0  # between the brains of two scans that share a head
# how sums are split among threads changes their rounding, and so which codes are drawn: always the same number
DRAWING_THREADS = 2
MARK = f"{header.MARK} {__version__}"
TRAINED_ON_SCANS = (
    "the weights were trained on scans of people and may draw heads like theirs; show results to nobody who may not "
    "see those scans"
)


@dataclass(frozen=True)
class Head:
    """A head that was drawn around a brain; other scans of that person can be given it too.

    Attributes:
        pose: where the brain lies; None if each scan's own brain has to tell.
        field: (3, X/8, ...) float32, mm, into the model's atlas; see `models.field`.
    """

    pose: canonical.Pose | None
    field: Tensor

    def elsewhere(self) -> "Head":
        """The same head for scans in another world frame, of another session, say."""
        return replace(self, pose=None)


def save_head(path: Path, head: Head) -> None:
    """Write a head that has a pose to an .npz file. It follows from seed and brain; it is nothing to be shared."""
    if head.pose is None:
        raise ValueError("a head for scans elsewhere is not kept, save the one it comes from")
    np.savez(path, field=head.field.numpy(), **asdict(head.pose))


def load_head(path: Path) -> Head:
    """The inverse of `save_head`."""
    with np.load(path, allow_pickle=False) as file:
        pose = canonical.Pose(file["matrix"], *(float(file[k]) for k in ("overlap", "stray_ml", "rival")))
        return Head(pose, torch.from_numpy(file["field"]))


@dataclass(frozen=True)
class Found:
    """Where the brain of a scan is: mask and protected region (X, Y, Z) bool, its pose, and what to tell the user."""

    mask: NDArray[np.bool_]
    protected: NDArray[np.bool_]
    pose: canonical.Pose
    warnings: list[str]


def find(
    volume: Volume,
    given_mask: brain.MaskLike | None,
    options: Options,
    device: str,
    head: Head | None,
    doubts: Sequence[str] = (),
) -> Found:
    """Find the brain, or check the mask that is given, and its pose, which is that of `head` if it has one.

    `doubts` are warnings that there are already.

    Raises:
        ScanError, BrainMaskError, MissingExtraError: as `pipeline.deidentify`.
    """
    if given_mask is None:
        by, (mask, pose) = options.brain_extractor, search_brain(volume, options.brain_extractor, device)
    else:
        by, mask = None, brain.check_given_mask(given_mask, "the brain mask", volume.shape, volume.affine)
        pose = canonical.align(mask, volume.affine)
    warnings = [*doubts, *brain.check_brain_mask(mask, volume.affine), *_check_intensities(volume, mask)]
    warnings += _check_pose(pose, options.allow_unusual_mask, options.region, by)
    if head is not None and head.pose is not None:
        apart = float(np.linalg.norm(pose.matrix[:3, 3] - head.pose.matrix[:3, 3]))
        if apart > MAX_APART_MM:
            raise BrainMaskError(
                f"the brain lies {apart:.0f} mm from where the given head's is (at most {MAX_APART_MM:.0f} mm); "
                "give the same head to scans of one person in one world frame, or `head.elsewhere()`"
            )
        pose = head.pose
    protected = protected_voxels(mask, volume.affine, pose, options.region, options.margin_mm)
    if protected.all():  # of a slab without a face that is right, and else a mistake: the user has to know
        what = options.replaced()
        warnings.append(f"nothing was replaced, the result is the original: the field of view holds nothing of {what}")
    return Found(mask, protected, pose, warnings)


def search_brain(volume: Volume, extractor: str, device: str = "cpu") -> tuple[NDArray[np.bool_], canonical.Pose]:
    """The brain as an extractor finds it, (X, Y, Z) bool and not checked, and its pose.

    Extractors look at the whole field of view. Where it is mostly air they may fail, and then search the head's box.

    Raises:
        BrainMaskError, MissingExtraError: as `brain.extract_brain`.
    """
    try:
        found = _search(volume, extractor, device)
    except BrainMaskError:
        near = _search_near(volume, extractor, device)
        if near is None:
            raise
        return near
    return found if _may_be_brain(*found, volume) else _search_near(volume, extractor, device) or found


def brain_to_compare(volume: Volume, extractor: str) -> NDArray[np.bool_]:
    """The brain of an original, (X, Y, Z) bool, for checking a result without the mask it was made with.

    Raises:
        BrainMaskError, MissingExtraError: as `search_brain`, and where what is found cannot be a brain: nothing can be
            said about a result by such a mask.
    """
    mask, pose = search_brain(volume, extractor, usable_device("auto"))
    brain.check_brain_mask(mask, volume.affine)
    found = canonical.faults(pose)
    if found:
        raise BrainMaskError(
            f"{brain.extractor_name(extractor)} found no plausible brain in the original ({'; '.join(found)}); "
            "give the mask that the result was made with (--brain-mask)"
        )
    return mask


def _search_near(volume: Volume, extractor: str, device: str) -> tuple[NDArray[np.bool_], canonical.Pose] | None:
    """The search in the head's box; None where that is nearly the whole field of view, or holds no brain either."""
    box = _head_box(volume)
    if box is None:
        return None
    shift = np.eye(4)
    shift[:3, 3] = [s.start for s in box]
    near = Volume(np.ascontiguousarray(volume.data[box]), volume.affine @ shift)
    try:
        inner, pose = _search(near, extractor, device)
    except BrainMaskError:  # what the first search found or said counts
        return None
    if not _may_be_brain(inner, pose, near):
        return None
    mask = np.zeros(volume.shape, bool)
    mask[box] = inner
    return mask, pose


def _may_be_brain(mask: NDArray[np.bool_], pose: canonical.Pose, volume: Volume) -> bool:
    low, high = brain.VOLUME_RANGE_ML
    return low <= float(mask.sum()) * voxel_volume_ml(volume.affine) <= high and not canonical.faults(pose)


def _head_box(volume: Volume) -> tuple[slice, ...] | None:
    """Where the largest piece that is brighter than air lies, and 5 voxels about it; None if that is nearly all."""
    labels, count = ndimage.label(ndimage.binary_opening(volume.data > tissue_threshold(volume.data)))
    if not count:
        return None
    largest = ndimage.find_objects(labels)[int(np.bincount(labels.ravel())[1:].argmax())]
    box = tuple(slice(max(0, s.start - 5), min(n, s.stop + 5)) for s, n in zip(largest, volume.shape, strict=True))
    size = np.prod([s.stop - s.start for s in box])
    return box if size < MOSTLY_HEAD * np.prod(volume.shape) else None


def _search(volume: Volume, extractor: str, device: str) -> tuple[NDArray[np.bool_], canonical.Pose]:
    """One search.

    Extractors know upright heads. In others they find most of the brain, with some of what lies beside it: enough to
    see how the head lies, and to search again with the head turned upright.
    """
    mask = brain.extract_brain(volume, extractor, device)
    pose = canonical.align(mask, volume.affine)
    before = np.eye(4)
    for _ in range(MAX_TURNS):
        turn = canonical.nearest_turn(pose)
        if np.array_equal(turn, before):
            break
        mask = brain.extract_brain(Volume(volume.data, turn.T @ volume.affine), extractor, device)
        pose, before = canonical.align(mask, volume.affine), turn
    return mask, pose


@dataclass(frozen=True)
class Brain:
    """A brain as the networks see it, the unit of its intensities, and, in the region "face", all that is kept."""

    unit: canonical.Unit
    conformed: canonical.Conformed
    kept: canonical.Conformed | None


def look_at_brain(volume: Volume, found: Found, region: str) -> Brain:
    """The brain, and what else a region keeps, in the canonical frame."""
    unit = canonical.brain_unit(volume, found.mask)
    kept = canonical.conform(volume, found.protected, found.pose, unit) if region == "face" else None
    return Brain(unit, canonical.conform(volume, found.mask, found.pose, unit), kept)


def draw(
    model: HeadModel,
    found: Found,
    looked: Brain,
    generator: torch.Generator,
    given: Head | None = None,
) -> Head:
    """A head around a brain and what else is kept, or the one that is given, here."""
    if given is not None:
        return Head(found.pose, given.field)
    with _threads(DRAWING_THREADS):
        return Head(found.pose, generate_field(model, looked.conformed, looked.kept, generator))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch computes with `count` threads in the block, whatever the machine, its user or a batch gives it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw_head(volume: Volume, options: Options, weights: "str | Path | HeadModel | None", name: str) -> Head:
    """The head that `pipeline.deidentify` would draw for a scan: a function of options, with their seed, and brain.

    Args:
        volume: a scan, or the mean volume of a run.
        name: of the scan, for messages.

    Raises:
        ScanError, BrainMaskError, WeightsError, DeviceError, MissingExtraError: as `pipeline.deidentify`.
    """
    _, generator, _ = generators(options.seed)
    device = usable_device(options.device)
    nifti.check_is_scan(volume, name)
    found = find(volume, None, options, device, None)
    return draw(load_model(weights, device), found, look_at_brain(volume, found, options.region), generator)


def load_model(weights: "str | Path | HeadModel | None", device: str) -> HeadModel:
    """A weight file's model, the package's own if None; a model as it is. The last one is kept while its file stays."""
    if isinstance(weights, HeadModel):
        return weights
    path = Path(weights) if weights else None
    seen = path.stat() if path and path.is_file() else None
    return _loaded(path, (seen.st_mtime_ns, seen.st_size) if seen else None, device)


@lru_cache(maxsize=1)
def _loaded(path: Path | None, changed: tuple[int, int] | None, device: str) -> HeadModel:
    return checkpoint.load(path, device)


def generators(seed: int | None, noise_number: int = 0) -> tuple[torch.Generator, torch.Generator, torch.Generator]:
    """For the noise, the head and its texture. Without a seed, from the system's secure source, and then forgotten.

    PyTorch's generators take 32 bits each. The texture has its own, so that a head has the same one whether it was just
    drawn or is given again. Each `noise_number` has other noise, and the same head and texture.
    """
    parts = np.random.SeedSequence(secrets.randbits(128) if seed is None else seed).spawn(3)
    if noise_number:
        parts[0] = np.random.SeedSequence(parts[0].entropy, spawn_key=(*parts[0].spawn_key, noise_number))
    noise, head, texture = (
        torch.Generator().manual_seed(int(part.generate_state(1, np.uint64)[0] >> 1)) for part in parts
    )
    return noise, head, texture


def usable_device(name: str) -> str:
    """`name`, or for "auto" cuda where it is there. mps must be asked for: many versions of PyTorch lack parts there.

    Raises:
        DeviceError: it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        usable = ", ".join(n for n, yes in there.items() if yes)
        raise DeviceError(f"there is no device {name!r} here, choose auto or one of {usable}")
    return name


def _check_intensities(volume: Volume, mask: NDArray[np.bool_]) -> list[str]:
    """Refuse a brain without intensities; warn of a scan without a head around it."""
    inside = volume.data[mask]
    bad = 1 - float(np.isfinite(inside).mean())
    if bad > MAX_NOT_FINITE:
        raise ScanError(
            f"{bad:.1%} of the brain is NaN or infinite, at most {MAX_NOT_FINITE:.0%} may be; repair the scan"
        )
    if not np.ptp(inside[np.isfinite(inside)]) > 0:
        raise ScanError("all of the brain has one and the same intensity; give the scan itself, not a mask")
    found = [f"{bad:.2%} of the brain is NaN or infinite; these voxels are kept as they are"] if bad else []
    pairs = mask[1:] & mask[:-1]
    if float((volume.data[1:] == volume.data[:-1])[pairs].mean() if pairs.any() else 0) > MAX_LIKE_NEIGHBOURS:
        found.append(
            "most of the brain has the intensity of the voxel beside it: this seems to be a label map, not a scan"
        )
    if brain.looks_stripped(volume, mask):
        found.append(
            "there is next to nothing around the brain: the scan seems to be skull-stripped already, "
            "and gets a head all the same"
        )
    return found


def _check_pose(pose: canonical.Pose, allow_unusual: bool, region: str, extractor: str | None) -> list[str]:
    """Refuse a mask that no brain fills, one that leaks into the orbits, say: it would keep what identifies.

    A head that lies otherwise than its header says looks the same. In the region "face" nothing is allowed: where the
    face is follows from the pose.
    """
    found = canonical.faults(pose)
    if found and (region == "face" or not allow_unusual):
        look = "look at the mask, at the orientation in the header, and whether the scan holds a whole brain"
        if extractor:
            by = brain.extractor_name(extractor)
            look = (
                f"{by} may be wrong here: give a mask (--brain-mask) or another extractor (--brain-extractor); {look}"
            )
        allow = "and allow it (--allow-unusual-mask) if all are right"
        if region == "face":
            allow = "or replace all around the brain (--region nonbrain): where the face is cannot be told from it"
        raise BrainMaskError(f"{'; '.join(found)}; {look}, {allow}")
    found = [
        f"{fault}; what it holds besides the brain is kept, a part of the face maybe: look at the result"
        for fault in found
    ]
    if pose.rival:
        found.append(
            "the head is not upright in the world of its header; its pose was found from the brain, look at the result"
        )
    return found


def account(scan: "NiftiScan | NiftiRun", found: Found, options: Options, mask_given: bool, model: HeadModel) -> dict:
    """What was found and done, in plain figures and words, and all warnings; a secret seed is not in it."""
    of_weights = [TRAINED_ON_SCANS] if model.trained_on == "scans" else []
    return {
        "version": __version__,
        "shape": list(found.mask.shape),
        "dtype": str(scan.dtype),
        "voxel_sizes_mm": [round(float(s), 4) for s in voxel_sizes(scan.affine)],
        "brain_ml": round(float(found.mask.sum()) * voxel_volume_ml(scan.affine), 1),
        "template_overlap": round(found.pose.overlap, 3),
        "protected_voxels": int(found.protected.sum()),
        "replaced_voxels": int(found.protected.size - found.protected.sum()),
        "brain_extractor": "given mask" if mask_given else brain.extractor_name(options.brain_extractor),
        "region": options.region,
        "margin_mm": options.margin_mm,
        "fat": "suppressed" if options.fat_suppressed else "bright",
        "metadata": "basic" if options.clean_metadata else "keep",
        "seed": "secret" if options.seed is None else options.seed,
        "weights_sha256": model.sha256,
        "warnings": found.warnings + of_weights,
    }
