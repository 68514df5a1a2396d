"""Where part of the head is kept, the new part goes on in its brightness.

Receive coils make one side of a scan brighter than another, and the colours that a palette derives from the brain
differ a little from those of the head at hand. Left alone, both would show as a border.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae.canonical import MODEL_SHAPE, Conformed
from cpmae.models.vqvae import STEP_MM

_REACH_MM = 20.0  # standard deviation of the Gaussian over which brightness is compared
_SIGNAL = 0.2  # of the brain's median: what is painted darker tells nothing
_DOUBT = 0.01  # weight of "just as bright", which wins some 40 mm from what is kept
_BRIGHTEST = 3.0  # beside metal, say
_LIMITS = (0.4, 2.5)


def gain(painted: Tensor, kept: Conformed, brain: Conformed) -> Tensor:
    """How much brighter than painted the kept part of a head is, carried on smoothly to where nothing is kept.

    The factor that fits best in a Gaussian window, by least squares.

    Args:
        painted: the new head before any noise, in the brain's `Unit`, of any resolution of the canonical grid.
        kept: what is kept of the head, brain included.
        brain: the brain alone; its contrast is not the atlas's, and so it is not compared.

    Returns:
        canonical.MODEL_SHAPE float32, near 1.
    """
    new = F.adaptive_avg_pool3d(painted[None], MODEL_SHAPE)[0].numpy()
    compared = (kept.mask & ~brain.mask & (new > _SIGNAL)).astype(np.float32)
    expected, seen = (_local_mean(compared * new * other) for other in (new, kept.data.clip(max=_BRIGHTEST)))
    return torch.from_numpy(((seen + _DOUBT) / (expected + _DOUBT)).clip(*_LIMITS))


def _local_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(values, _REACH_MM / STEP_MM, mode="constant", truncate=4)
