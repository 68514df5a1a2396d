"""`verify` for 4-D files: every volume against its original, a volume at a time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae.compare import Places, compared_frames, correlation, equal_voxels, is_changed, places, share
from cpmae.detail import surviving_detail
from cpmae.io.run import NiftiRun, RunMean
from cpmae.volume import Volume, most_common, voxel_sizes

Shares = tuple[float | None, ...]


@dataclass(frozen=True)
class RunVerification:
    """What two 4-D files show; see `Verification`. Volumes are counted from 0.

    Where tissue and face are is found in the mean of the original's volumes. What is None was not measured.

    Attributes:
        header: for shape, dtype, affine, codes, scaling and units, whether the result's equals the original's.
        separate_files: the result is another file than the original.
        volumes: how many the original has.
        protected_voxels: of the brain, in one volume.
        protected_differing: of the brain, in all volumes, those whose stored number is another.
        differing_volumes: where they are.
        outside_voxels: outside the brain, in one volume.
        outside_equal: for each volume, the share of them with the same stored number, not counting the volume's most
            common one (the background).
        face_equal: for each volume, the same in the tissue about the face, or where there is no face in view, in all
            the tissue outside.
        face_correlation: for each volume, Pearson in the shell about the face, or where there is none, outside.
        face_detail: for each volume, correlation of the fine detail there, see `Verification`.
        mean_correlation: Pearson of the two mean volumes, outside.
        face_distance_mm: median distance from the face to the result's, between the mean volumes, mm.
        unchanged_volumes: those whose outside is still the original's, by the rule of `Verification`.
        failures: a sentence for each promise that does not hold.
    """

    header: dict[str, bool]
    separate_files: bool
    volumes: int
    protected_voxels: int
    protected_differing: int | None
    differing_volumes: tuple[int, ...]
    outside_voxels: int
    outside_equal: Shares
    face_equal: Shares
    face_correlation: Shares
    face_detail: Shares
    mean_correlation: float | None
    face_distance_mm: float | None
    unchanged_volumes: tuple[int, ...]
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Brain and header are the original's, the file is another one, and no volume's outside is the original's."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, booleans, lists and None."""
        return {"ok": self.ok} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class _OfVolume:
    """See `RunVerification`."""

    differing: int
    copied: bool
    outside_equal: float | None
    face_equal: float | None
    face_correlation: float | None
    face_detail: float | None


def verify_run(
    original: NiftiRun,
    result: NiftiRun,
    brain_mask: NDArray[np.bool_],
    *,
    mean: Volume | None = None,
    separate_files: bool = True,
) -> RunVerification:
    """Compare a 4-D result with its original, in one pass over both (and one more over the original for its mean).

    Args:
        original, result: as opened by `forms.open_scan`.
        brain_mask: (X, Y, Z) on the original's grid, not 0 where the result has to be exact in every volume.
        mean: the original's mean volume, where it is known already.
        separate_files: whether they are two files.

    Raises:
        ScanError: if one of the files is cut short or damaged.
        ValueError: if the mask's shape is not that of the original's volumes.
    """
    header, brain_mask, failures = compared_frames(original, result, brain_mask, separate_files)
    inside = int(np.count_nonzero(brain_mask))
    found: list[_OfVolume] = []
    unchanged: tuple[int, ...] = ()
    mean_correlation = distance = None
    if (original.shape, original.count) == (result.shape, result.count):
        before = mean or original.mean()
        where, total = places(before, brain_mask), RunMean(result)
        found = list(_compared(original, result, where, total))
        after = total.mean()
        mean_correlation = correlation(before.data, after.data, where.outside)
        distance = where.face_distance_mm(after)
        unchanged = tuple(
            n
            for n, v in enumerate(found)
            if v.copied or not is_changed(v.face_equal, v.face_correlation, v.face_detail)
        )
    differing = tuple(n for n, v in enumerate(found) if v.differing)
    if differing:
        count, first = sum(v.differing for v in found), f"{len(differing)} volumes, first in {differing[0]}"
        failures.append(f"{count} of {inside * original.count} protected voxels differ from the original, in {first}")
    if unchanged:
        which = f"{len(unchanged)} of {original.count} volumes, first in {unchanged[0]}"
        failures.append(f"outside the brain the result is still the original in {which}")
    return RunVerification(
        header=header,
        separate_files=separate_files,
        volumes=original.count,
        protected_voxels=inside,
        protected_differing=sum(v.differing for v in found) if found else None,
        differing_volumes=differing,
        outside_voxels=brain_mask.size - inside,
        outside_equal=tuple(v.outside_equal for v in found),
        face_equal=tuple(v.face_equal for v in found),
        face_correlation=tuple(v.face_correlation for v in found),
        face_detail=tuple(v.face_detail for v in found),
        mean_correlation=mean_correlation,
        face_distance_mm=distance,
        unchanged_volumes=unchanged,
        failures=tuple(failures),
    )


def _compared(original: NiftiRun, result: NiftiRun, where: Places, total: RunMean) -> Iterator[_OfVolume]:
    """One pass over both; the result's volumes are added to `total` on the way."""
    tissue, shell = (where.tissue & where.shell, where.shell) if where.has_face else (where.tissue, where.outside)
    looked_at, sizes = shell if where.has_face else tissue, voxel_sizes(where.affine)
    for one, other in zip(original.stored_volumes(), result.stored_volumes(), strict=True):
        total.add(other)
        equal = equal_voxels(one, other)
        shown = where.outside & (one != most_common(one[where.outside]))
        # correlations are blind to slope and intercept, so the stored numbers will do
        yield _OfVolume(
            differing=int(np.count_nonzero(~equal & where.brain)),
            # of a skull-stripped run nothing else can be measured
            copied=bool(equal.all() and np.fmin.reduce(one, None) < np.fmax.reduce(one, None)),
            outside_equal=share(equal, shown),
            face_equal=share(equal, tissue & shown),
            face_correlation=correlation(one, other, shell) if (tissue & shown).any() else None,
            face_detail=surviving_detail(one, other, looked_at, equal, sizes),
        )
