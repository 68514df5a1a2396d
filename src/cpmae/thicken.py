"""A head thicker than its brain asks for, here more and there less: so that its surface tells less of the brain."""

import torch
from torch import Tensor

from cpmae.canonical import control_points
from cpmae.models.field import smooth_noise, warp_volume

MEAN_MM, SD_MM = 1.5, 2.0
SIGMA_MM = 40.0  # over which thickness changes, and from where on it is seen: the brain lies nearer to the middle
RANGE_MM = (-1.0, 5.0)
_ASYMMETRY = 0.35  # share of what differs between left and right that is kept


def random_thickness(generator: torch.Generator) -> Tensor:
    """What a head is to be seen through, (3, *control_shape()) float32, mm: inward, away from its new surface."""
    noise = smooth_noise(lambda shape: torch.randn(shape, generator=generator).numpy(), 1, SIGMA_MM)
    noise = torch.lerp((noise + noise.flip(1)) / 2, noise, _ASYMMETRY)
    noise = noise / noise.std()
    points = control_points()
    inward = -points / points.norm(dim=0).clamp(min=SIGMA_MM)
    return inward * (MEAN_MM + SD_MM * noise).clamp(*RANGE_MM)


def thickened(field: Tensor, thickness: Tensor) -> Tensor:
    """A field into the atlas, (3, *control_shape()) mm, of a head that is thicker."""
    return thickness + warp_volume(field, thickness)
