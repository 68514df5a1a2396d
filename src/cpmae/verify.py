"""Check a result against its original: is the brain exact, and what of the rest survived.

The measures of the rest follow the head as a viewer sees it: the face is what lies first on the way in from the front,
below and before the middle of the brain.
"""

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from cpmae.io.nifti import NiftiScan, read
from cpmae.volume import Volume, voxel_sizes, voxel_volume_ml

MAX_EQUAL = 0.5  # of the tissue about the face; new tissue meets old values by chance in a few percent of voxels
MAX_CORRELATION = 0.98  # two heads that fit each other well reach 0.9
SHELL_MM = 10.0  # on either side of the face
MIN_FACE_ML = 5.0  # less tissue than that about the face is no face: then the rule is for all the tissue outside
PIECE_MM = 2.0  # the step at which pieces of the head are told apart
TISSUE_LEVEL = 0.25  # of the way from the air's median to the tissue's; skin is dim on some contrasts
_HEADER_FIELDS = {
    "shape": ("dim",),
    "dtype": ("datatype", "bitpix"),
    "affine": ("pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    + ("srow_x", "srow_y", "srow_z"),
    "codes": ("qform_code", "sform_code"),
    "scaling": ("scl_slope", "scl_inter"),
    "units": ("xyzt_units",),
}


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
        face_distance_mm: median distance from the original's face to the result's, mm.
        changed: False if the result's outside is still the original's. This is so if, in the tissue about the face,
            more than `MAX_EQUAL` of the stored numbers are equal, or the shell's correlation is above
            `MAX_CORRELATION`. Where there is no face in view, both are taken over all of the outside. Where the
            original has no tissue outside the brain (skull-stripped), there is nothing to change and this is True;
            and where nothing was measured.
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
    original: str | os.PathLike[str], result: str | os.PathLike[str], brain_mask: NDArray[np.bool_]
) -> Verification:
    """`verify` on two files.

    Raises:
        ScanError: if one of them cannot be read whole.
        ValueError: if the mask's shape is not the original's.
    """
    first, second = read(original), read(result)
    return verify(first, second, brain_mask, separate_files=not os.path.samefile(Path(original), Path(result)))


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
        brain_mask: (X, Y, Z) bool on the original's grid, True where the result has to be exact.
        separate_files: whether they are two files.
        measure: False leaves out what is measured outside the brain and the rule on it, which takes most of the time.

    Raises:
        ValueError: if the mask's shape is not the original's.
    """
    shape = original.stored.shape
    if brain_mask.shape != shape:
        raise ValueError(f"the brain mask has shape {brain_mask.shape}, the original {shape}")
    header = {name: _same(original, result, fields) for name, fields in _HEADER_FIELDS.items()}
    header["affine"] &= bool(np.array_equal(original.affine, result.affine))
    inside = int(np.count_nonzero(brain_mask))
    failures = [f"the result has another {name} than the original" for name, same in header.items() if not same]
    if not separate_files:
        failures.append("the result is the original file itself")
    differing, measures = None, _Measures()
    if result.stored.shape == shape:
        equal = _equal(original.stored, result.stored)
        differing = int(np.count_nonzero(~equal & brain_mask))
        if differing:
            failures.append(f"{differing} of {inside} protected voxels differ from the original")
        if measure:
            measures = _measure(original, result, brain_mask, equal)
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
    face_distance_mm: float | None = None
    changed: bool = True


def _measure(
    original: NiftiScan, result: NiftiScan, brain_mask: NDArray[np.bool_], equal: NDArray[np.bool_]
) -> _Measures:
    before, after, outside = original.scaled(), result.scaled(), ~brain_mask
    threshold = tissue_threshold(before.data[outside])
    tissue = outside & (before.data > threshold)
    tissue_equal = _share(equal, tissue)
    correlation = _correlation(before.data, after.data, outside)
    shell, distance = _face(before, after, brain_mask, threshold)
    face_tissue = tissue & shell
    count = int(np.count_nonzero(face_tissue))
    face_equal, face_correlation = _share(equal, face_tissue), _correlation(before.data, after.data, shell)
    judged = tissue_equal, correlation if tissue.any() else None
    if count * voxel_volume_ml(original.affine) >= MIN_FACE_ML:
        judged = face_equal, face_correlation
    return _Measures(
        outside_equal=_share(equal, outside & (original.stored != _most_common(original.stored[outside]))),
        outside_correlation=correlation,
        tissue_equal=tissue_equal,
        face_tissue_voxels=count,
        face_equal=face_equal,
        face_correlation=face_correlation,
        face_distance_mm=distance,
        changed=(judged[0] or 0.0) <= MAX_EQUAL and (judged[1] or 0.0) <= MAX_CORRELATION,
    )


def tissue_threshold(values: NDArray) -> float:
    """The intensity between air and tissue: Otsu's two classes, then `TISSUE_LEVEL` of the way between their medians.

    Args:
        values: intensities outside the brain, any shape; infinity where there are fewer than two different ones.
    """
    few = values.ravel()[:: max(1, values.size // 2**18)].astype(np.float64)
    few = few[np.isfinite(few)]
    if not few.size or few.min() == few.max():
        return math.inf
    few = np.minimum(few, np.percentile(few, 99.5))  # bright vessels and fat would draw the classes apart
    if few.min() == few.max():
        return float(few.min())
    counts, edges = np.histogram(few, 256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = np.maximum(below[-1] - below, 1)
    between = below * above * (total / np.maximum(below, 1) - (total[-1] - total) / above) ** 2
    otsu = edges[1 + int(between[:-1].argmax())]
    air, tissue = np.median(few[few < otsu]), np.median(few[few >= otsu])
    return float(air + TISSUE_LEVEL * (tissue - air))


def _face(
    before: Volume, after: Volume, brain_mask: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.bool_], float | None]:
    """The shell about the original's face, (X, Y, Z), and the face's median distance to the result's head, mm."""
    shell = np.zeros(before.shape, bool)
    if not brain_mask.any():
        return shell, None
    affine, sizes = before.affine, before.voxel_sizes
    points = _first_from_front(_head(before, brain_mask, threshold), affine)
    middle = _world(np.array([ndimage.center_of_mass(brain_mask)]), affine)[0]
    world = _world(points, affine)
    face = (world[:, 1] > middle[1]) & (world[:, 2] < middle[2])
    points, world = points[face], world[face]
    if not len(points):
        return shell, None
    pad = np.ceil(SHELL_MM / sizes).astype(int)
    low, high = np.maximum(points.min(0) - pad, 0), np.minimum(points.max(0) + pad + 1, before.shape)
    away = np.ones(high - low, bool)
    away[tuple((points - low).T)] = False
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    shell[box] = (ndimage.distance_transform_edt(away, sampling=sizes) <= SHELL_MM) & ~brain_mask[box]
    others = _first_from_front(_head(after, brain_mask, tissue_threshold(after.data[~brain_mask])), affine)
    return shell, float(np.median(KDTree(_world(others, affine)).query(world)[0]))


def _head(volume: Volume, brain_mask: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """Tissue and brain in one piece, (X, Y, Z) bool; what floats in the air is left out."""
    head = (volume.data > threshold) | brain_mask
    step = tuple(slice(None, None, max(1, round(PIECE_MM / s))) for s in volume.voxel_sizes)
    labels, _ = ndimage.label(head[step])
    largest = labels == 1 + np.bincount(labels.ravel())[1:].argmax() if labels.any() else labels > 0
    near = ndimage.binary_dilation(largest, np.ones((3, 3, 3), bool))
    for axis, part in enumerate(step):
        near = near.repeat(part.step, axis).take(range(head.shape[axis]), axis)
    return head & near


def _first_from_front(head: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.intp]:
    """The head's voxels that are met first on the way in from the front, (N, 3) indices.

    The way is along the array axis that is closest to the world's y, so oblique grids need no resampling.
    """
    axis = int(np.abs(affine[1, :3] / voxel_sizes(affine)).argmax())
    forward = affine[1, axis] > 0
    seen = np.flip(head, axis) if forward else head
    depth = seen.argmax(axis)
    rows, columns = np.nonzero(np.any(head, axis))
    first = depth[rows, columns]
    return np.insert(np.stack([rows, columns], 1), axis, head.shape[axis] - 1 - first if forward else first, axis=1)


def _world(indices: NDArray, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return indices @ affine[:3, :3].T + affine[:3, 3]


def _same(original: NiftiScan, result: NiftiScan, fields: tuple[str, ...]) -> bool:
    """Whether header fields are equal, in whatever byte order; NaN equals NaN."""
    return all(np.array_equal(*_numbers(original, result, field), equal_nan=True) for field in fields)


def _numbers(original: NiftiScan, result: NiftiScan, field: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(original.header[field], np.float64), np.asarray(result.header[field], np.float64)


def _equal(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    """(X, Y, Z) bool: the same stored bits; the same number where the dtypes differ."""
    if one.dtype == other.dtype:
        bits = np.dtype(f"u{one.dtype.itemsize}")
        return np.asarray(one.view(bits) == other.view(bits))
    return np.asarray(one == other)


def _most_common(values: NDArray) -> Any:
    """The background of a masked or zero-padded scan; of a thinned copy, for speed."""
    found, counts = np.unique(values[:: max(1, values.size // 2**16)], return_counts=True)
    return found[counts.argmax()] if found.size else 0


def _share(equal: NDArray[np.bool_], where: NDArray[np.bool_]) -> float | None:
    count = np.count_nonzero(where)
    return float(np.count_nonzero(equal & where) / count) if count else None


def _correlation(one: NDArray, other: NDArray, where: NDArray[np.bool_]) -> float | None:
    """Pearson correlation of finite values; None where one of the two is constant."""
    x, y = one[where].astype(np.float64), other[where].astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if x.size < 2:
        return None
    x -= x.mean()
    y -= y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else None
