"""Agreement of two segmentations of one grid: Dice and the 95th percentile Hausdorff distance."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from cpmae.volume import voxel_sizes


def label_dice(a: ArrayLike, b: ArrayLike) -> dict[int, float]:
    """Dice of every label that occurs in either label map, but for 0, the background.

    Args:
        a, b: integer label maps, any shape, the same for both; labels are not negative.

    Returns:
        label -> Dice, ascending by label; a label that only one map has gets 0.

    Raises:
        ValueError: the shapes differ, or a map is not of integers >= 0.
    """
    first, second = _same_shape(_labels(a), _labels(b))
    count = int(max(first.max(initial=0), second.max(initial=0))) + 1
    sizes = np.bincount(first.ravel(), minlength=count) + np.bincount(second.ravel(), minlength=count)
    common = np.bincount(first[first == second].ravel(), minlength=count)
    return {int(k): float(2.0 * common[k] / sizes[k]) for k in np.flatnonzero(sizes) if k}


def mean_dice(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of `label_dice` over the labels that occur in either map; nan where there are none."""
    values = list(label_dice(a, b).values())
    return float(np.mean(values)) if values else float("nan")


def hd95(a: ArrayLike, b: ArrayLike, affine: NDArray[np.float64]) -> float:
    """95th percentile Hausdorff distance between the surfaces of two masks, in mm.

    Surface voxels are inside voxels with a face neighbour outside; what lies past the field of view counts as outside.
    The result is the larger of the two directed 95th percentiles. Distances come from the lengths of the affine's
    columns: exact for rotated grids of any voxel size, approximate for sheared ones.

    Args:
        a, b: shape (X, Y, Z), nonzero is inside.
        affine: (4, 4), voxel to world, mm, RAS+.

    Returns:
        mm; 0 for two empty masks, inf where one is empty.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = _same_shape(np.asarray(a) != 0, np.asarray(b) != 0)
    if not first.any() or not second.any():
        return 0.0 if first.any() == second.any() else float("inf")
    box = ndimage.find_objects((first | second).view(np.uint8))[0]
    first, second = _surface(first[box]), _surface(second[box])
    edges = voxel_sizes(affine)
    to_first = ndimage.distance_transform_edt(~first, sampling=edges)
    to_second = ndimage.distance_transform_edt(~second, sampling=edges)
    return float(max(np.percentile(to_second[first], 95), np.percentile(to_first[second], 95)))


def _same_shape(a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    if a.shape != b.shape:
        raise ValueError(f"both segmentations must lie on one grid, got shapes {a.shape} and {b.shape}")
    return a, b


def _labels(a: ArrayLike) -> NDArray:
    labels = np.asarray(a)
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(
            f"a label map holds integers from 0 up, got {labels.dtype} with minimum {labels.min(initial=0)}"
        )
    return labels


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)
