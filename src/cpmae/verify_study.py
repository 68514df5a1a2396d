"""Check a de-identified DICOM folder against its original: series by series, volume by volume, as `verify` does.

Series are found again by number and geometry, since all UIDs are new.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpmae import motion
from cpmae.errors import CpmaeError, ScanError
from cpmae.io import dicom, dicom_pixels, dicom_scan
from cpmae.io.dicom import Series, t1w_score
from cpmae.io.dicom_volumes import Stack, frames_of, stacks_of
from cpmae.io.nifti import NiftiScan
from cpmae.metadata_dicom import pictures_of
from cpmae.shared_mask import FoundBrain, given_mask, lender, without_holes
from cpmae.verify import Verification, verify


@dataclass(frozen=True)
class SeriesCheck:
    """What two series show: a `Verification` for each volume, and a sentence for each promise that does not hold."""

    name: str
    instances: int
    volumes: tuple[Verification, ...]
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, booleans, lists and None."""
        volumes = [volume.to_json() for volume in self.volumes]
        return {
            "ok": self.ok,
            "name": self.name,
            "instances": self.instances,
            "failures": list(self.failures),
            "volumes": volumes,
        }


def verify_study(original: Path, result: Path, brain_mask: Path | None, extractor: str) -> list[SeriesCheck]:
    """Compare each series of MR images in `result` with the one in `original` it was made from.

    Args:
        original, result: folders.
        brain_mask: NIfTI file on the grid of the T1w; without one the brain is searched for in the original again.
        extractor: what searches, as for `brain.extract_brain`.

    Raises:
        ScanError: if one of the folders holds no series, or cannot be read.
    """
    from cpmae import brain_search, lending  # and with it torch, which other commands do not wait for

    (before, _), (after, foreign) = (dicom.find_series(folder) for folder in (original, result))
    if not after:
        raise ScanError(f"{result} holds no MR series, give the folder that cpmae made")
    pairs = [(_original_of(new, before), new) for new in after]
    if brain_mask and len({old.world for old, _ in pairs if old}) > 1:
        raise ScanError(f"{original} holds several frames of reference, and {brain_mask} is for one T1w")
    brains: dict[tuple[str, str], list[FoundBrain]] = {}
    checks = []
    if foreign:
        names = f"{foreign[0].name}{' and more' if len(foreign) > 1 else ''}"
        text = f"the result holds what cpmae did not make: {names}"
        checks.append(SeriesCheck("files beside the series", sum(item.count for item in foreign), (), (text,)))
    for old, new in sorted(pairs, key=lambda pair: t1w_score(pair[0]) if pair[0] else -np.inf, reverse=True):
        if old is None:
            failure = "there is no such series in the original (number, instances, positions)"
            checks.append(SeriesCheck(new.name, len(new.instances), (), (failure,)))
            continue
        volumes, failures, own, in_world = [], _same_study(old, new), None, brains.setdefault(old.world, [])
        for (scan, stack), (other, _) in zip(_scans(old), _scans(new), strict=True):
            lent = own or lender(in_world, stack.shape, stack.affine)
            middle = motion.middle(scan.stored, scan.slope, stack.affine)
            compared = own is None or motion.has_moved(own.middle, middle)  # all as `study` did
            mask = lending.taken_over(lent, scan, compared)[0] if lent else None
            is_own, given = mask is None, brain_mask if mask is None and not lent else None
            if given:
                mask = given_mask(given, scan)
            elif mask is None:
                mask = brain_search.brain_to_compare(scan.scaled(), extractor)
            scan, mask = without_holes(scan, mask, stack, found=not given)
            other, _ = without_holes(other, mask, stack, found=False)
            if own is None:
                own = FoundBrain(mask, stack.affine, middle)
                in_world += [own] if is_own else []
            volumes.append(verify(scan, other, mask))
        failures += [text for volume in volumes for text in volume.failures]
        checks.append(SeriesCheck(old.name, len(new.instances), tuple(volumes), tuple(dict.fromkeys(failures))))
    return checks


def _original_of(new: Series, candidates: list[Series]) -> Series | None:
    """The series in the same places; of several, as patients of one protocol may have them, that of the same brain."""
    places = _places(new)
    same = [old for old in candidates if old.number == new.number and _places(old) == places] if places else []
    if len(same) < 2:
        return same[0] if same else None
    pixels = dicom_scan.read_pixels(new)
    return max(same, key=lambda old: _equal(old, pixels))


def _equal(old: Series, pixels: dicom_scan.Pixels) -> int:
    """How many voxels of a series are those of another one in the same places; -1 if it cannot be read.

    Instances are compared in their order, which is that of their numbers in both.
    """
    try:
        found = dicom_scan.read_pixels(old)
    except CpmaeError:
        return -1
    shared = [key for key in found if key in pixels and found[key].shape == pixels[key].shape]
    return sum(int(np.count_nonzero(found[key] == pixels[key])) for key in shared)


def _places(series: Series) -> list[tuple[Any, ...]] | None:
    """Class, storage and position of every slice, in an order of its own; None where it is no series of slices."""
    try:
        frames = frames_of(series)
    except CpmaeError:  # such a series is not in a result, and is no series that a result was made from
        return None
    kind = series.instances[0].header.SOPClassUID
    numbers = ((*f.position, *f.across, *f.down, f.slope, f.inter) for f in frames)
    return sorted((kind, f.storage, f.number, *n) for f, n in zip(frames, numbers, strict=True))


@dicom.quiet()
def _same_study(old: Series, new: Series) -> list[str]:
    """What is wrong with the new headers."""
    uids = {str(i.header.SOPInstanceUID) for i in old.instances}
    failures = []
    if any(str(i.header.SOPInstanceUID) in uids for i in new.instances):
        failures.append("instances have the UIDs of the original")
    marked = alone = True
    names: set[str] = set()
    before = {k: {str(i.header.get(k, "")) for i in old.instances} - {""} for k in ("PatientName", "PatientID")}
    for whole in (dicom.read_whole(i.path) for i in new.instances):
        marked, alone = marked and _marked(whole), alone and not pictures_of(whole)
        # an ID that somebody gave, and may have had before, makes the name as well
        given = str(whole.get("PatientName", "")) == f"Deidentified^{whole.get('PatientID', '')}"
        if whole.get("PatientIdentityRemoved") == "YES" and not given:
            names |= {keyword for keyword, said in before.items() if str(whole.get(keyword, "")) in said}
    if not marked:
        failures.append("instances lack the mark of recognizable features removed (0012,0064) or (0028,0302)")
    if not alone:
        failures.append("instances hold pictures, or room for one, beside the pixels of (7FE0,0010)")
    if names:
        failures.append(
            f"instances say that the identity was removed and have the original's {', '.join(sorted(names))}"
        )
    return failures


def _marked(whole: Any) -> bool:
    codes = {str(code.get("CodeValue")) for code in whole.get("DeidentificationMethodCodeSequence") or []}
    return "113102" in codes and whole.get("RecognizableVisualFeatures") == "NO"


def _scans(series: Series) -> list[tuple[NiftiScan, Stack]]:
    pixels = dicom_scan.read_pixels(series)
    found = []
    for stack in stacks_of(frames_of(series), series.name)[0]:
        header = series.instances[stack.frames[0].instance].header
        inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
        found.append((dicom_scan.to_scan(stack, pixels, dicom_pixels.value_range(header), inverted), stack))
    return found
