"""The generated non-brain meets the untouched brain.

Everything here looks at protected voxels alone: how strong the noise is, and what the brain's own voxels are.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cpmae.io.nifti import NiftiScan
from cpmae.volume import Volume

_BLOCK = 4  # coefficients an edge
_LEAST_BLOCKS = 8


def noise_level(volume: Volume, brain: NDArray[np.bool_]) -> float:
    """Standard deviation of a scan's noise, from its brain.

    The median absolute value of the finest diagonal Haar coefficients, which hold little anatomy, over 0.6745 (Donoho
    and Johnstone, Biometrika 1994; for MRI Coupe et al., Med Image Anal 2010). It is taken block by block, and of the
    blocks the value below which a fifth of them lie, where white matter is all that a block holds. Along an axis of
    thick slices neighbours differ by anatomy, so that axis is left out.

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
    coefficients = _blocks(detail)[_blocks(inside).all(axis=1)]
    if len(coefficients) < _LEAST_BLOCKS:  # of voxels so coarse no block is white matter alone
        coefficients = detail[inside][None]
    if not coefficients.size:
        return 0.0
    return float(np.quantile(np.median(np.abs(coefficients), axis=1), 0.2) / 0.6745)


def _blocks(data: NDArray) -> NDArray:
    """(X, Y, Z) cut into blocks of `_BLOCK` voxels an edge, (N, voxels of a block); what is left over is dropped."""
    x, y, z = (n // _BLOCK for n in data.shape)
    cut = data[: x * _BLOCK, : y * _BLOCK, : z * _BLOCK].reshape(x, _BLOCK, y, _BLOCK, z, _BLOCK)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, _BLOCK**3)


def _pairs(data: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    n = data.shape[axis] // 2 * 2
    before = (slice(None),) * axis
    return data[*before, 0:n:2], data[*before, 1:n:2]


def with_noise(clean: NDArray[np.float32], sigma: float, generator: torch.Generator) -> NDArray[np.float32]:
    """Rician noise, as a magnitude image has it: Gaussian on both channels. Changes `clean` (X, Y, Z) in place."""
    if sigma > 0:
        for part in _slabs(clean.shape):
            values = clean[part]
            real, imaginary = torch.empty(2, *values.shape).normal_(0, sigma, generator=generator).numpy()
            real += np.maximum(values, 0, out=values)
            np.sqrt(np.square(real, out=real) + np.square(imaginary, out=imaginary), out=values)
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
