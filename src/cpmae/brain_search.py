"""Where the brain of a scan is: searched for or given, and checked, with its pose and what is protected.

A 3-D scan and the mean of a 4-D run take the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import brain, canonical
from cpmae.compare import tissue_threshold
from cpmae.errors import BrainMaskError, ScanError
from cpmae.models.device import usable_device
from cpmae.options import Options
from cpmae.region import protected_voxels
from cpmae.volume import Volume, box_of, voxel_volume_ml

MAX_NOT_FINITE = 0.01  # of the brain
MAX_LIKE_NEIGHBOURS = 0.7  # of the brain's voxels that equal the next one, as labels do; of 8-bit scans a tenth does
MAX_TURNS = 3  # of a head that lies turned, until what is found is upright
MOSTLY_HEAD = 0.8  # of the field of view; from here on leaving out the rest is no help to an extractor
MAX_STRAY_PIECES_ML = 0.5  # of a mask that somebody made, apart from the brain and where no brain reaches
MAX_APART_MM = 15.0  # between the brains of two scans that share a head


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
    head_pose: canonical.Pose | None,
    doubts: Sequence[str] = (),
) -> Found:
    """Find the brain, or check the mask that is given, and its pose.

    Args:
        head_pose: of a head that the scan shall have, if that head has one; the brain then has to lie there.
        doubts: warnings that there are already.

    Raises:
        ScanError, BrainMaskError, MissingExtraError: as `pipeline.deidentify`.
    """
    if given_mask is None:
        by, (mask, pose) = options.brain_extractor, search_brain(volume, options.brain_extractor, device)
    else:
        by, mask = None, brain.check_given_mask(given_mask, "the brain mask", volume.shape, volume.affine)
        pose = canonical.align(mask, volume.affine)
    warnings = [*doubts, *brain.check_brain_mask(mask, volume.affine), *_check_intensities(volume, mask)]
    faults = canonical.faults(pose)
    stray = canonical.stray_pieces(mask, volume.affine, pose).sum() * voxel_volume_ml(volume.affine)
    if stray > 0:
        text = f"{stray:.2f} ml of the brain mask lie apart from the brain, where no brain reaches"
        if stray > MAX_STRAY_PIECES_ML:
            faults.append(text)
        else:
            warnings.append(f"{text}, and are kept; look whether they are of the face")
    warnings += _check_pose(pose, faults, options.allow_unusual_mask, options.region, by)
    if head_pose is not None:
        apart = float(np.linalg.norm(pose.matrix[:3, 3] - head_pose.matrix[:3, 3]))
        if apart > MAX_APART_MM:
            raise BrainMaskError(
                f"the brain lies {apart:.0f} mm from where the given head's is (at most {MAX_APART_MM:.0f} mm); "
                "give the same head to scans of one person in one world frame, or `head.elsewhere()`"
            )
        pose = head_pose
    protected = protected_voxels(mask, volume.affine, pose, options.region, options.margin_mm)
    if protected.all():  # of a slab without a face that is right, and else a mistake: the user has to know
        what = options.replaced()
        warnings.append(f"nothing was replaced, the result is the original: the field of view holds nothing of {what}")
    return Found(mask, protected, pose, warnings)


def search_brain(volume: Volume, extractor: str, device: str = "cpu") -> tuple[NDArray[np.bool_], canonical.Pose]:
    """The brain as an extractor finds it, (X, Y, Z) bool and not checked, and its pose.

    Extractors look at the whole field of view. Where it is mostly air they may fail, and then search the head's box.
    What they take for brain apart from it, on the face or in an orbit, is left out.

    Raises:
        BrainMaskError, MissingExtraError: as `brain.extract_brain`.
    """
    mask, pose = _search_everywhere(volume, extractor, device)
    stray = canonical.stray_pieces(mask, volume.affine, pose)
    if not stray.any():
        return mask, pose
    whole = mask & ~stray
    return whole, canonical.align(whole, volume.affine)


def _search_everywhere(volume: Volume, extractor: str, device: str) -> tuple[NDArray[np.bool_], canonical.Pose]:
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
    box = box_of(labels == 1 + np.bincount(labels.ravel())[1:].argmax(), 5)
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


def _check_pose(
    pose: canonical.Pose, faults: Sequence[str], allow_unusual: bool, region: str, extractor: str | None
) -> list[str]:
    """Refuse a mask that no brain fills, one that leaks into the orbits, say: it would keep what identifies.

    A head that lies otherwise than its header says looks the same. In the region "face" nothing is allowed: where the
    face is follows from the pose.
    """
    if faults and (region == "face" or not allow_unusual):
        look = "look at the mask, at the orientation in the header, and whether the scan holds a whole brain"
        if extractor:
            by = brain.extractor_name(extractor)
            look = (
                f"{by} may be wrong here: give a mask (--brain-mask) or another extractor (--brain-extractor); {look}"
            )
        allow = "and allow it (--allow-unusual-mask) if all are right"
        if region == "face":
            allow = "or replace all around the brain (--region nonbrain): where the face is cannot be told from it"
        raise BrainMaskError(f"{'; '.join(faults)}; {look}, {allow}")
    found = [
        f"{fault}; what it holds besides the brain is kept, a part of the face maybe: look at the result"
        for fault in faults
    ]
    if pose.rival:
        found.append(
            "the head is not upright in the world of its header; its pose was found from the brain, look at the result"
        )
    return found
