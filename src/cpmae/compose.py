"""The generated non-brain meets the untouched brain.

Everything here looks at protected voxels alone: what joins the two, how strong the noise is, and what the brain's
own voxels are.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpmae.io.nifti import NiftiScan
from cpmae.volume import Volume

SEAM_VOXELS = 2  # of the canonical grid, over which the generated meets the known


def join(known: NDArray[np.float32], known_mask: NDArray[np.bool_], generated: Tensor) -> NDArray[np.float32]:
    """Known intensities where they are known, generated ones elsewhere, and a narrow ramp between the two.

    Outside, next to the seam, the local mean of the known voxels fades into the generated ones, as partial volume
    would.

    Args:
        known: (X, Y, Z) float32, canonical grid; looked at under `known_mask` alone.
        known_mask: (X, Y, Z) bool.
        generated: (X, Y, Z) float32 tensor in the same unit.
    """
    mask = torch.from_numpy(known_mask).float()[None, None]
    inside = torch.from_numpy(known)[None, None] * mask
    local = _box_mean(inside, SEAM_VOXELS) / _box_mean(mask, SEAM_VOXELS).clamp(min=1e-3)
    weight = _box_mean(mask, 1)  # 1/3 next to a flat seam, 0 beyond
    outside = torch.lerp(generated[None, None], local, weight)
    return torch.where(mask > 0, inside, outside)[0, 0].numpy()


def _box_mean(volume: Tensor, reach: int) -> Tensor:
    """Mean over the voxels within `reach` along each axis, (1, 1, X, Y, Z); one axis after the other is much faster."""
    for axis in range(3):
        size, pad = [1, 1, 1], [0, 0, 0]
        size[axis], pad[axis] = 2 * reach + 1, reach
        volume = F.avg_pool3d(volume, size, 1, pad)
    return volume


def noise_level(volume: Volume, brain: NDArray[np.bool_]) -> float:
    """Standard deviation of a scan's noise, from its brain.

    The median absolute value of the finest diagonal Haar coefficients, which hold little anatomy, over 0.6745 (Donoho
    and Johnstone, Biometrika 1994; for MRI Coupe et al., Med Image Anal 2010). Along an axis of thick slices
    neighbours differ by anatomy, so that axis is left out.

    Args:
        volume: intensities, looked at in `brain` alone.
        brain: (X, Y, Z) bool.
    """
    sizes = volume.voxel_sizes
    thin = sizes < 1.5 * sizes.min()
    where = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    box = tuple(slice(int(w[0]), int(w[0]) + (int(w[-1] - w[0]) + 1) // 2 * 2) for w in where)
    inside = brain[box] & np.isfinite(volume.data[box])
    detail = np.where(inside, volume.data[box], 0)
    for axis in np.flatnonzero(thin).tolist():
        first, second = _pairs(detail, axis), _pairs(inside, axis)
        detail = (first[0] - first[1]) / np.float32(np.sqrt(2))
        inside = second[0] & second[1]
    coefficients = detail[inside]
    return float(np.median(np.abs(coefficients)) / 0.6745) if coefficients.size else 0.0


def _pairs(data: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    n = data.shape[axis] // 2 * 2
    return data.take(range(0, n, 2), axis), data.take(range(1, n, 2), axis)


def with_noise(clean: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rician noise, as a magnitude image has it: Gaussian on both channels. Changes `clean` (X, Y, Z) in place."""
    if sigma > 0:
        for part in _slabs(clean.shape):
            real, imaginary = rng.standard_normal((2, *clean[part].shape), np.float32) * np.float32(sigma)
            np.hypot(np.maximum(clean[part], 0) + real, imaginary, out=clean[part])
    return clean


def compose(scan: NiftiScan, protected: NDArray[np.bool_], values: NDArray[np.float32]) -> NiftiScan:
    """The scan with new values, in its own dtype and scaling, wherever it is not protected.

    Stored numbers under `protected` (X, Y, Z) bool are copied, never computed.
    """
    stored = scan.unscaled(values)
    np.copyto(stored, scan.stored, where=protected)
    return scan.with_stored(stored)


def _slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, 2**22 // (shape[1] * shape[2]))
    return (slice(i, i + step) for i in range(0, shape[0], step))
