"""Check a result against its original: is the brain exact, and what of the rest survived."""

import math
import os
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae.brain import MaskLike, check_given_mask
from cpmae.compare import compared_frames, correlation, equal_voxels, is_changed, places, share
from cpmae.detail import surviving_detail
from cpmae.io import forms
from cpmae.io.container import Container, pair_header
from cpmae.io.header import MARK, is_marked
from cpmae.io.nifti import NiftiScan
from cpmae.io.run import NiftiRun
from cpmae.io.source import opened, skip
from cpmae.metadata import clean_container
from cpmae.verify_run import RunVerification, verify_run
from cpmae.volume import Volume, most_common

_MARKED = re.compile(rb"%s [\w.+-]{1,20}" % MARK.encode())


@dataclass(frozen=True)
class Verification:
    """What two files show. Shares and correlations are None where there is nothing to measure.

    Attributes:
        header: for shape, dtype, affine, codes, scaling and units, whether the result's equals the original's.
        separate_files: the result is another file than the original.
        protected_voxels, protected_differing: voxels of the brain, and those whose stored number is another.
        outside_voxels: voxels outside the brain.
        outside_equal: share of them with the same stored number, not counting the most common one (the background).
        outside_correlation: Pearson, all finite voxels outside the brain.
        tissue_equal: share of equal stored numbers in the original's tissue outside the brain.
        face_tissue_voxels, face_equal, face_correlation: the same in a shell of `SHELL_MM` about the original's face.
        face_detail: correlation of the fine detail of that shell, equal voxels left out, at the shift of a few voxels
            where it is highest; see `detail.surviving_detail`. Without a face in view, of all tissue outside the brain.
        face_distance_mm: median distance from the original's face to the result's, mm.
        changed: False if the result's outside is still the original's. This is so if, in the tissue about the face,
            more than `MAX_EQUAL` of the stored numbers are equal, the shell's correlation is above `MAX_CORRELATION`,
            or that of the detail above `MAX_DETAIL`. Where there is no face in view, all of the outside counts. Where
            the original has no tissue outside the brain (skull-stripped), this is so if every number is equal. True
            where nothing was measured.
        failures: a sentence for each promise that does not hold.
    """

    header: dict[str, bool]
    separate_files: bool
    protected_voxels: int
    protected_differing: int | None
    outside_voxels: int
    outside_equal: float | None
    outside_correlation: float | None
    tissue_equal: float | None
    face_tissue_voxels: int
    face_equal: float | None
    face_correlation: float | None
    face_detail: float | None
    face_distance_mm: float | None
    changed: bool
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Brain and header are the original's, the file is another one, and its outside is not the original's."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, booleans, lists and None."""
        return {"ok": self.ok, **asdict(self), "failures": list(self.failures)}


def verify_files(
    original: str | os.PathLike[str],
    result: str | os.PathLike[str],
    brain_mask: MaskLike,
    mean: Volume | None = None,
) -> Verification | RunVerification:
    """`verify` on two files of any form; on 4-D ones, `verify_run`, which `mean` is for.

    Args:
        brain_mask: (X, Y, Z) on the original's grid, as `pipeline.deidentify` takes it.

    Raises:
        ScanError: if one of them cannot be read whole.
        BrainMaskError: if the mask is on another grid, empty, or all of the volume.
    """
    first, second = forms.open_scan(original), forms.open_scan(result)
    brain_mask = check_given_mask(brain_mask, "the brain mask", first.shape, first.affine)
    separate = not os.path.samefile(first.path, second.path)
    done: Verification | RunVerification
    if first.count == second.count == 1:
        done = verify(first.only(), second.only(), brain_mask, separate_files=separate)
    else:
        done = verify_run(first, second, brain_mask, mean=mean, separate_files=separate)
    if is_marked(first.header) and not is_marked(second.header):
        text = "the original is a result of cpmae and the result is none, give the two the other way round"
        done = replace(done, failures=(*done.failures, text))
    return replace(done, failures=(*done.failures, *_beside_voxels(first, second)))


def _beside_voxels(original: NiftiRun, result: NiftiRun) -> list[str]:
    """A sentence for each place beside the voxels that holds what neither the original nor cpmae put there."""
    failures = []
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        before, text = (side.header[field].item() if field in side.header else b"" for side in (original, result))
        ours = field == "descrip" and _MARKED.fullmatch(text)
        if text and not ours and text != before:
            failures.append(f"the result's header has a text of its own ({field})")
    if result.extensions.strip(b"\0") and result.extensions != original.extensions:
        failures.append("the result's header has an extension of its own")
    if result.container and not _container_known(original.container, result.container):
        failures.append(f"{result.path.name} holds what neither the original nor cpmae put around the voxels")
    if not (result.container and result.container.kind == "mgh"):  # where a footer belongs there
        with opened(result.path) as file:
            skip(file, result.offset + math.prod(result.shape) * result.count * result.stored_dtype.itemsize)
            more = skip(file)
        if more:
            failures.append(f"{more} bytes follow the voxels of the result")
    return failures


def _container_known(original: Container | None, result: Container) -> bool:
    """Whether the bytes around a result's voxels are the original's, cleaned or not, with cpmae's mark or without."""
    if original is None:
        return False
    said = result.after[:-1] if result.kind == "mgh" else pair_header(result.head)["descrip"].item()
    mark = re.search(_MARKED.pattern + rb"\Z", said)
    known = [original, clean_container(original)]
    return result in known or (mark is not None and result in [one.marked(mark[0].decode()) for one in known])


def verify(
    original: NiftiScan,
    result: NiftiScan,
    brain_mask: NDArray[np.bool_],
    *,
    separate_files: bool = True,
    measure: bool = True,
) -> Verification:
    """Compare a result with its original.

    Args:
        original, result: as read from their files, (X, Y, Z).
        brain_mask: (X, Y, Z) on the original's grid, not 0 where the result has to be exact.
        separate_files: whether they are two files.
        measure: False leaves out what is measured outside the brain and the rule on it, which takes most of the time.

    Raises:
        ValueError: if the mask's shape is not the original's.
    """
    header, brain_mask, failures = compared_frames(original, result, brain_mask, separate_files)
    inside = int(np.count_nonzero(brain_mask))
    differing, measures = None, _Measures()
    if result.stored.shape == original.stored.shape:
        equal = equal_voxels(original.stored, result.stored)
        differing = int(np.count_nonzero(~equal & brain_mask))
        if differing:
            failures.append(f"{differing} of {inside} protected voxels differ from the original")
        if measure:
            measures = _measure(original, result, brain_mask, equal)
            if equal.all():  # of a skull-stripped scan nothing else can be measured
                measures = replace(measures, changed=False)
        if not measures.changed:
            failures.append("outside the brain the result is still the original")
    return Verification(
        header=header,
        separate_files=separate_files,
        protected_voxels=inside,
        protected_differing=differing,
        outside_voxels=brain_mask.size - inside,
        failures=tuple(failures),
        **asdict(measures),
    )


@dataclass(frozen=True)
class _Measures:
    """See `Verification`."""

    outside_equal: float | None = None
    outside_correlation: float | None = None
    tissue_equal: float | None = None
    face_tissue_voxels: int = 0
    face_equal: float | None = None
    face_correlation: float | None = None
    face_detail: float | None = None
    face_distance_mm: float | None = None
    changed: bool = True


def _measure(
    original: NiftiScan, result: NiftiScan, brain_mask: NDArray[np.bool_], equal: NDArray[np.bool_]
) -> _Measures:
    before, after = original.scaled(), result.scaled()
    where = places(before, brain_mask)
    face_tissue = where.tissue & where.shell
    tissue_equal, face_equal = share(equal, where.tissue), share(equal, face_tissue)
    outside_correlation = correlation(before.data, after.data, where.outside)
    face_correlation = correlation(before.data, after.data, where.shell)
    judged = tissue_equal, outside_correlation if where.tissue.any() else None
    if where.has_face:
        judged = face_equal, face_correlation
    looked_at = where.shell if where.has_face else where.tissue
    detail = surviving_detail(before.data, after.data, looked_at, equal, before.voxel_sizes)
    background = most_common(original.stored[where.outside])
    return _Measures(
        outside_equal=share(equal, where.outside & (original.stored != background)),
        outside_correlation=outside_correlation,
        tissue_equal=tissue_equal,
        face_tissue_voxels=int(np.count_nonzero(face_tissue)),
        face_equal=face_equal,
        face_correlation=face_correlation,
        face_detail=detail,
        face_distance_mm=where.face_distance_mm(after),
        changed=is_changed(*judged, detail),
    )
