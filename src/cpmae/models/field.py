"""Smooth displacement fields on the canonical grid: cubic B-splines, and volumes pulled through them.

A field says, for each point of a new head, how far away in the atlas its tissue is found: (3, *control_shape())
control points, mm. Control point `i` along an axis lies at the middle of block `i` of `SPACING` voxels, where the code
of that block is.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

SPACING = 8  # voxels of 1 mm
GRID_SHAPE = (192, 240, 256)
Part = tuple[slice, slice, slice]
WHOLE: Part = (slice(None), slice(None), slice(None))


def control_shape() -> tuple[int, int, int]:
    x, y, z = (n // SPACING for n in GRID_SHAPE)
    return x, y, z


def dense(field: Tensor, shape: tuple[int, ...], part: Part = WHOLE) -> Tensor:
    """Values of the splines at the middles of `shape` equal parts of the grid.

    Args:
        field: (..., 3, *control_shape()) float32, mm.
        shape: (X, Y, Z), divisors of the canonical grid's.
        part: of (X, Y, Z), if not all of it is wanted.

    Returns:
        (..., 3, X, Y, Z) float32, mm, or `part` of it.
    """
    x, y, z = (
        _basis(n, count)[wanted].to(field.device)
        for n, count, wanted in zip(shape, field.shape[-3:], part, strict=True)
    )
    field = torch.einsum("ai,...ijk->...ajk", x, field)
    field = torch.einsum("bj,...ajk->...abk", y, field)
    return torch.einsum("dk,...abk->...abd", z, field)


@cache
def _basis(samples: int, controls: int) -> Tensor:
    """(samples, controls) weights of the cubic B-splines; the outermost control points go on beyond the ends."""
    at = (torch.arange(samples, dtype=torch.float64) + 0.5) * controls / samples - 0.5
    first = at.floor()
    t = at - first
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1) / 6
    index = (first.long()[:, None] + torch.arange(-1, 3)).clamp(0, controls - 1)
    return torch.zeros(samples, controls, dtype=torch.float64).scatter_add_(1, index, weights).float()


def warp_volume(volume: Tensor, displacement: Tensor, mode: str = "bilinear") -> Tensor:
    """`volume` (C, X, Y, Z) at `y + displacement(y)`; both sample the whole canonical grid evenly.

    Args:
        displacement: (3, X', Y', Z') mm, of any resolution.
        mode: "bilinear" (trilinear in 3-D) or "nearest".

    Returns:
        (C, X', Y', Z'), the border's values beyond the grid.
    """
    return pull(volume, sampling_grid(displacement), mode)


def through(field: Tensor, displacement: Tensor) -> Tensor:
    """The field of a head that is seen through a displacement: first that, then the field; (3, *control_shape()) mm."""
    return displacement + warp_volume(field, displacement)


def sampling_grid(displacement: Tensor, shape: tuple[int, ...] | None = None, part: Part = WHOLE) -> Tensor:
    """A displacement as `pull` wants it, for volumes that are warped alike: (1, X', Y', Z', 3).

    Where it is `part` of one of `shape`, as `dense` gives it, it samples that part of the canonical grid.
    """
    shape = shape or displacement.shape[1:]
    grid = torch.empty(1, *displacement.shape[1:], 3, dtype=displacement.dtype, device=displacement.device)
    for axis, (n, length) in enumerate(zip(shape, GRID_SHAPE, strict=True)):
        middles = (torch.arange(n, dtype=displacement.dtype, device=displacement.device) + 0.5) * (2 / n) - 1
        place = middles[part[axis]].view([-1 if a == axis else 1 for a in range(3)])
        grid[0, ..., 2 - axis] = displacement[axis] * (2 / length) + place
    return grid


def pull(volume: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """`warp_volume`, by a grid of `sampling_grid`."""
    return F.grid_sample(volume[None], grid, mode=mode, padding_mode="border", align_corners=False)[0]


def smooth_noise(normal: Callable[[tuple[int, ...]], NDArray], channels: int, sigma_mm: float) -> Tensor:
    """Random values of the control points: white noise after a Gaussian, of unit standard deviation.

    Args:
        normal: shape to standard normal numbers.

    Returns:
        (channels, *control_shape()) float32.
    """
    sigma = sigma_mm / SPACING
    around = int(3 * sigma) + 1  # so that the edges are as the rest is
    white = normal((channels, *(n + 2 * around for n in control_shape())))
    inner = (slice(None), *[slice(around, -around)] * 3)
    smooth = ndimage.gaussian_filter(white, (0, sigma, sigma, sigma), mode="wrap")[inner]
    return torch.from_numpy((smooth / smooth.std()).astype(np.float32))
