"""Which intensities the rest of the head should have, told from the brain alone.

A pulse sequence fixes the grey of fat, muscle and bone together with that of white and grey matter. The profile of
a brain's intensities, from its surface inward, is enough to tell sequences apart whatever the scale; a small network
trained on simulated sequences turns it into the paints.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor, nn

from cpmae.models.tissue import PAINTS
from cpmae.volume import box_of, quantiles

DEPTHS_MM = (0, 3, 8, 16, 200)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PROFILE_SIZE = (len(DEPTHS_MM) - 1) * len(QUANTILES)
WIDTH = 96  # of the network's hidden layers


def brain_depth(mask: NDArray[np.bool_], voxel_sizes: ArrayLike) -> NDArray[np.float32]:
    """How far below the brain's surface each of its voxels lies, mm; (n,) float32 in the order of `data[mask]`."""
    box = box_of(mask, 1)  # the rim of air keeps distances what they were
    depth = ndimage.distance_transform_edt(mask[box], sampling=voxel_sizes)
    return depth[mask[box]].astype(np.float32)


def brain_profile(values: NDArray[np.float32], depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quantiles of intensity in shells of depth below the brain's surface, (PROFILE_SIZE,) float32.

    Args:
        values: (n,), the brain's intensities; the unit is their median.
        depth: (n,), mm, from `brain_depth`.

    A shell that the brain does not have, a very small one's core, takes the values of the one above it.
    """
    profile = np.ones((len(DEPTHS_MM) - 1, len(QUANTILES)), np.float32)
    for i in range(len(DEPTHS_MM) - 1):
        inside = values[(depth > DEPTHS_MM[i]) & (depth <= DEPTHS_MM[i + 1])]
        if len(inside) > 50:
            profile[i] = quantiles(inside, QUANTILES)
        elif i:
            profile[i] = profile[i - 1]
    return np.clip(profile.ravel(), 0, 6)


# what suppression leaves of the signal, since it is never complete and nothing fatty is all fat, and at least of muscle
_LEFT = {"fat": (0.15, 0.4), "orbit": (0.2, 0.5), "marrow": (0.15, 0.3), "skin": (0.4, 0.9)}


def without_fat(paints: Tensor) -> Tensor:
    """The paints of the same sequence with fat suppression, which water, and so the brain, does not feel."""
    left, of_muscle = paints.new_tensor([_LEFT.get(name, (1.0, 0.0)) for name in PAINTS]).T
    return torch.minimum(paints, torch.maximum(left * paints, of_muscle * paints[PAINTS.index("muscle")]))


class Palette(nn.Module):
    """Profile (B, PROFILE_SIZE) to paints (B, len(PAINTS)), both in units of the brain's median."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(PROFILE_SIZE, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, len(PAINTS))
        )

    def forward(self, profile: Tensor) -> Tensor:
        return nn.functional.softplus(self.layers(profile - 1), beta=4)
