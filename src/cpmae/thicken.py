"""How thick a head is about its brain, so that its surface tells less of the brain than a skull does.

A skull fits its brain, and so does a head that is drawn around one: whoever knows the brain would know the head's size
and proportions. Here it gets thicker where the brain is smaller than the template brain, at true size, and thinner
where the brain is larger, so that its outside is about where the average person's is; chance does the rest.
"""

from functools import cache
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cpmae.canonical import GRID_ORIGIN, MODEL_SHAPE, TEMPLATE_STEP, control_points, template_brain
from cpmae.models.field import GRID_SHAPE, smooth_noise

MEAN_MM = 2.5  # about a brain like the template
EVENED_MM = (-1.0, 7.0)  # about others
SD_MM = 2.0  # what chance adds
SIGMA_MM = 40.0  # over which chance changes, and from where on thickness is seen: the brain lies nearer to the middle
RANGE_MM = (-2.0, 9.0)  # of all together
_ASYMMETRY = 0.35  # share of the chance that differs between left and right that is kept
_DEGREE = 4  # of the polynomials of a direction that say how far a brain reaches
_RAYS, _RAY_MM = 1000, 120
_DOWN = -0.4  # rays that go down more steeply end in the brain stem, where the mask does


def thickness(brain: NDArray[np.bool_], scale: float, generator: torch.Generator) -> Tensor:
    """What a head is seen through: inward, away from its new surface; (3, *control_shape()) float32, canonical mm.

    Args:
        brain: the mask, canonical.MODEL_SHAPE.
        scale: how many mm of the person one canonical mm is.
        generator: on the CPU.
    """
    noise = smooth_noise(lambda shape: torch.randn(shape, generator=generator).numpy(), 1, SIGMA_MM)
    noise = torch.lerp((noise + noise.flip(1)) / 2, noise, _ASYMMETRY)
    points = control_points()
    radius = points.norm(dim=0)
    evened = (MEAN_MM + lacking(brain, scale, points / radius)).clamp(*EVENED_MM)
    mm = (evened + SD_MM * noise / noise.std()).clamp(*RANGE_MM)
    return -points / radius.clamp(min=SIGMA_MM) * mm


def lacking(brain: NDArray[np.bool_], scale: float, directions: Tensor) -> Tensor:
    """How much farther the template brain reaches than a brain of true size, smooth over directions.

    Args:
        brain, scale: as `thickness` takes them.
        directions: (3, ...) float32 unit vectors.

    Returns:
        (...) float32, canonical mm; below the brain what it is all around on average.
    """
    rays = _rays()
    voxel_mm = GRID_SHAPE[0] / MODEL_SHAPE[0]
    difference = _template_reach() / scale - _reach(brain.astype(np.float32), voxel_mm, (voxel_mm - 1) / 2)
    above = rays[2] > _DOWN
    difference = torch.where(above, difference, difference[above].mean())
    weights = torch.linalg.lstsq(_polynomials(rays), difference[:, None]).solution[:, 0]
    return (_polynomials(directions.double()) @ weights).float()


def _polynomials(directions: Tensor) -> Tensor:
    """(3, ...) to (..., n): those of degree `_DEGREE` and one less, which on a sphere span the lower ones too."""
    x, y, z = directions
    powers = [p for p in product(range(_DEGREE + 1), repeat=3) if _DEGREE - 1 <= sum(p) <= _DEGREE]
    return torch.stack([x**a * y**b * z**c for a, b, c in powers], dim=-1)


@cache
def _rays() -> Tensor:
    """Unit vectors that are spread evenly, (3, _RAYS) float64: a Fibonacci lattice."""
    number = torch.arange(_RAYS, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * number / _RAYS, torch.pi * (1 + 5**0.5) * number
    around = (1 - z**2).sqrt()
    return torch.stack([around * angle.cos(), around * angle.sin(), z])


@cache
def _template_reach() -> Tensor:
    return _reach(template_brain(), TEMPLATE_STEP, 0.0)


def _reach(share: NDArray[np.float32], voxel_mm: float, first: float) -> Tensor:
    """Where the brain ends along each ray from the middle of the canonical frame, (_RAYS,) float64, canonical mm.

    Holes, such as ventricles that a mask leaves out, do not count.

    Args:
        share: of brain, on a grid of the canonical frame.
        voxel_mm, first: its step, and where its first voxel lies on the canonical grid.
    """
    mm = np.arange(0.5, _RAY_MM)
    place = _rays().numpy()[:, :, None] * mm + np.array(GRID_ORIGIN)[:, None, None]
    inside = ndimage.map_coordinates(share, (place - first) / voxel_mm, order=1) > 0.5
    return torch.from_numpy((inside * mm).max(axis=1))
