"""FACE MASK: the face blurred along its own surface, so that tissue stays and features go.

After Milchenko and Marcus, "Obscuring surface anatomy in volumetric imaging data", Neuroinformatics 2013
(normalised anterior filtering): a layer about the smoothed surface is flattened into a box, smoothed along the
box's plane, and brought back.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import canonical
from cpmae.region import FACE_CLEARANCE_MM, grow, protected_voxels
from cpmae.report.surface import head_surface
from cpmae.volume import Volume, voxel_sizes

SURFACE_SMOOTHING_MM = 12.0  # wider than a nose: features are then heights above the surface
BLUR_MM = 8.0  # along the surface
OUTWARD_MM, INWARD_MM = 24.0, 10.0  # how far the layer reaches
_BLEND_MM = 3.0


def face_mask(volume: Volume, brain: NDArray[np.bool_]) -> Volume:
    """Blur the face of a scan.

    Args:
        volume: (X, Y, Z), any orientation; the face is looked for along the array axis that is closest to the front.
        brain: (X, Y, Z) bool; the brain and `FACE_CLEARANCE_MM` around it stay as they are.

    Returns:
        float32, same grid. Voxels away from the face keep their values.
    """
    pose = canonical.align(brain, volume.affine)
    face = ~protected_voxels(brain, volume.affine, pose, "face", 0.0)
    data = np.nan_to_num(np.asarray(volume.data, np.float32))
    threshold = head_surface(volume).threshold
    sizes = voxel_sizes(volume.affine)
    axis = int(np.abs(volume.affine[1, :3] / sizes).argmax())
    forward = bool(volume.affine[1, axis] > 0)
    image, region, tissue = (_front_first(a, axis, forward) for a in (data, face, _head(data, brain, threshold)))
    step, plane = float(sizes[axis]), np.delete(sizes, axis)

    columns = np.asarray(region.any(axis=0) & tissue.any(axis=0))
    if not columns.any():
        return Volume(data, volume.affine)
    depth = _smoothed(tissue.argmax(axis=0).astype(np.float32), columns, SURFACE_SMOOTHING_MM / plane)
    layer = np.arange(-round(OUTWARD_MM / step), round(INWARD_MM / step) + 1, dtype=np.float32)
    rows = np.indices(depth.shape, np.float32)
    box = np.stack(
        [ndimage.map_coordinates(image, [depth + t, *rows], order=1, mode="nearest", output=np.float32) for t in layer]
    )
    flat = np.stack([_smoothed(plane_, columns, BLUR_MM / plane) for plane_ in box])
    # back: where a voxel lies in its column's layer
    place = np.arange(image.shape[0], dtype=np.float32)[:, None, None] - depth - layer[0]
    blurred = ndimage.map_coordinates(
        flat, [place, *np.broadcast_to(rows[:, None], (2, *image.shape))], order=1, mode="nearest", output=np.float32
    )
    inside = np.minimum(place, len(layer) - 1 - place) * step  # mm from the layer's ends
    weight = np.clip(inside / _BLEND_MM, 0, 1) * (region & columns)
    mixed = _front_last(image + weight * (blurred - image), axis, forward)
    kept = grow(brain, volume.affine, FACE_CLEARANCE_MM)
    return Volume(np.where(kept, data, mixed).astype(np.float32), volume.affine)


def _head(data: NDArray[np.float32], brain: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """Tissue in one piece with the brain, without speckle."""
    labels, _ = ndimage.label(ndimage.binary_opening(data > threshold) | brain)
    return labels == np.bincount(labels[brain]).argmax()


def _smoothed(values: NDArray[np.float32], where: NDArray[np.bool_], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian mean of an image over the columns that count, and into those that do not."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma, mode="constant", truncate=4)
    total = ndimage.gaussian_filter(np.where(where, values, 0), sigma, mode="constant", truncate=4)
    return total / np.maximum(weight, 1e-6)


def _front_first(array: NDArray, axis: int, forward: bool) -> NDArray:
    moved = np.moveaxis(array, axis, 0)
    return moved[::-1] if forward else moved


def _front_last(array: NDArray, axis: int, forward: bool) -> NDArray:
    return np.moveaxis(array[::-1] if forward else array, 0, axis)
