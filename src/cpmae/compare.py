"""What a scan and its result show side by side: headers, numbers, and the tissue where a face would survive.

The measures follow the head as a viewer sees it: the face is what lies first on the way in from the front, below and
before the middle of the brain.
"""

import math
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from cpmae.io.nifti import NiftiScan
from cpmae.io.run import NiftiRun
from cpmae.metadata import clean_nifti
from cpmae.volume import Volume, closest_axis, voxel_volume_ml

# of the tissue about the face: new tissue meets old values by chance in a few percent of voxels; a quarter of what lies
# within 10 mm of a face is kept with `--region face`, and more with a margin of 15 mm
MAX_EQUAL = 0.5
MAX_CORRELATION = 0.98  # of either sign, as a negative shows a face as well; two heads that fit each other reach 0.9
MAX_DETAIL = 0.4  # two heads around one brain reach 0.26; moved copies 0.9, under noise of an eighth of the brain 0.7
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
class Places:
    """Where to look for what survived: found in the original, or in its mean volume. Masks are (X, Y, Z) bool.

    Attributes:
        brain, outside: the one is where the other is not.
        tissue: of the outside, what is not air.
        shell: of the outside, what is within `SHELL_MM` of the face.
        face: (N, 3) world coordinates of the face's surface, mm; empty where there is none in view.
        affine: (4, 4) of the grid.
    """

    brain: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    tissue: NDArray[np.bool_]
    shell: NDArray[np.bool_]
    face: NDArray[np.float64]
    affine: NDArray[np.float64]

    @property
    def has_face(self) -> bool:
        """Whether there is so much tissue about the face that it, and not all of the outside, is judged."""
        return int(np.count_nonzero(self.tissue & self.shell)) * voxel_volume_ml(self.affine) >= MIN_FACE_ML

    def face_distance_mm(self, after: Volume) -> float | None:
        """Median distance from the face to the head in a result; None where there is no face."""
        if not len(self.face):
            return None
        head = _head(after, self.brain, tissue_threshold(after.data[self.outside]))
        others = apply_affine(self.affine, _first_from_front(head, self.affine))
        return float(np.median(KDTree(others).query(self.face)[0]))


def places(before: Volume, brain_mask: NDArray[np.bool_]) -> Places:
    """Where to look in a result of `before`; `brain_mask` is (X, Y, Z) bool on its grid."""
    outside = ~brain_mask
    threshold = tissue_threshold(before.data[outside])
    shell, face = _face(before, brain_mask, threshold)
    return Places(brain_mask, outside, outside & (before.data > threshold), shell, face, before.affine)


def is_changed(equal: float | None, correlation: float | None, detail: float | None) -> bool:
    """Whether what was measured in the place that is judged shows another head; True where nothing was measured."""
    measured = ((equal, MAX_EQUAL), (correlation, MAX_CORRELATION), (detail, MAX_DETAIL))
    return all(abs(value or 0.0) <= most for value, most in measured)


def compared_frames(
    original: NiftiScan | NiftiRun, result: NiftiScan | NiftiRun, brain_mask: NDArray, separate_files: bool
) -> tuple[dict[str, bool], NDArray[np.bool_], list[str]]:
    """What is compared before any voxel: `same_header`, the mask as bool, and a sentence for each promise broken.

    Raises:
        ValueError: if the mask's shape is not that of the original, or of its volumes.
    """
    shape = original.shape if isinstance(original, NiftiRun) else original.stored.shape
    if brain_mask.shape != shape:
        raise ValueError(f"the brain mask has shape {brain_mask.shape}, the original {shape}")
    header = same_header(original, result)
    failures = [f"the result has another {name} than the original" for name, same in header.items() if not same]
    if not separate_files:
        failures.append("the result is the original file itself")
    return header, brain_mask != 0, failures


def same_header(original: NiftiScan | NiftiRun, result: NiftiScan | NiftiRun) -> dict[str, bool]:
    """For shape, dtype, affine, codes, scaling and units, whether two scans or runs have the same."""
    known = (original, clean_nifti(original))  # cleaning empties what no reader looks at, as the form that is not used
    same = {name: any(_same(one, result, fields) for one in known) for name, fields in _HEADER_FIELDS.items()}
    same["affine"] &= bool(np.array_equal(original.affine, result.affine))
    return same


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
    otsu = edges[1 + otsu_bin(counts, edges)]
    air, tissue = np.median(few[few < otsu]), np.median(few[few >= otsu])
    return float(air + TISSUE_LEVEL * (tissue - air))


def otsu_bin(counts: NDArray[np.intp], edges: NDArray[np.float64]) -> int:
    """Otsu's split (IEEE Trans. Syst. Man Cybern. 1979) of a histogram: the last bin of the darker class.

    Args:
        counts, edges: as of `np.histogram`; the first and the last bin are not empty.
    """
    middles = (edges[1:] + edges[:-1]) / 2
    number, total = np.cumsum(counts), np.cumsum(counts * middles)
    below, above = number[:-1], number[-1] - number[:-1]
    apart = total[:-1] / below - (total[-1] - total[:-1]) / above
    return int((below * above * apart**2).argmax())


def _face(
    before: Volume, brain_mask: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The shell about the face, (X, Y, Z), and the face's points in the world, (N, 3) mm."""
    shell, none = np.zeros(before.shape, bool), np.zeros((0, 3))
    if not brain_mask.any():
        return shell, none
    affine, sizes = before.affine, before.voxel_sizes
    points = _first_from_front(_head(before, brain_mask, threshold), affine)
    middle = apply_affine(affine, ndimage.center_of_mass(brain_mask))
    world = apply_affine(affine, points)
    face = (world[:, 1] > middle[1]) & (world[:, 2] < middle[2])
    points, world = points[face], world[face]
    if not len(points):
        return shell, none
    pad = np.ceil(SHELL_MM / sizes).astype(int)
    low, high = np.maximum(points.min(0) - pad, 0), np.minimum(points.max(0) + pad + 1, before.shape)
    away = np.ones(high - low, bool)
    away[tuple((points - low).T)] = False
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    shell[box] = (ndimage.distance_transform_edt(away, sampling=sizes) <= SHELL_MM) & ~brain_mask[box]
    return shell, world


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
    axis, forward = closest_axis(affine, 1)
    seen = np.flip(head, axis) if forward else head
    depth = seen.argmax(axis)
    rows, columns = np.nonzero(np.any(head, axis))
    first = depth[rows, columns]
    return np.insert(np.stack([rows, columns], 1), axis, head.shape[axis] - 1 - first if forward else first, axis=1)


def _same(original: NiftiScan | NiftiRun, result: NiftiScan | NiftiRun, fields: tuple[str, ...]) -> bool:
    """Whether header fields are equal, in whatever byte order; NaN equals NaN."""
    pairs = ([np.asarray(scan.header[field], np.float64) for scan in (original, result)] for field in fields)
    return all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)


def equal_voxels(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    """(X, Y, Z) bool: the same stored bits; the same number where the dtypes differ."""
    if one.dtype == other.dtype:
        bits = np.dtype(f"u{one.dtype.itemsize}")
        return np.asarray(one.view(bits) == other.view(bits))
    return np.asarray(one == other)


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Dice coefficient of two masks, 2 |a and b| / (|a| + |b|).

    Args:
        a, b: any shape, the same for both; nonzero is inside.

    Returns:
        0 to 1; nan where both masks are empty, since nothing was there to agree on.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = np.asarray(a) != 0, np.asarray(b) != 0
    if first.shape != second.shape:
        raise ValueError(f"both masks must lie on one grid, got shapes {first.shape} and {second.shape}")
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2.0 * np.count_nonzero(first & second) / total if total else math.nan


def share(equal: NDArray[np.bool_], where: NDArray[np.bool_]) -> float | None:
    count = np.count_nonzero(where)
    return float(np.count_nonzero(equal & where) / count) if count else None


def correlation(one: NDArray, other: NDArray, where: NDArray[np.bool_]) -> float | None:
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
