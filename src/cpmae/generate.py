"""A new head around a brain: codes drawn, decoded and painted, on the canonical grid."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpmae import canonical
from cpmae.canonical import Conformed
from cpmae.models.head import HeadModel, SamplingSettings, VisibleCodes
from cpmae.models.paint import blend, mixes, texture
from cpmae.models.palette import brain_profile


def generate_head(
    model: HeadModel,
    brain: Conformed,
    kept: Conformed | None,
    generator: torch.Generator,
    settings: SamplingSettings | None = None,
) -> Tensor:
    """Draw a head that fits a brain.

    Args:
        model: the trained model.
        brain: the brain alone.
        kept: what else is kept of the head, brain included, and makes codes visible; None draws them all.
        generator: on the CPU; codes and texture come from it.

    Returns:
        `canonical.GRID_SHAPE` float32 on the CPU: noise-free intensities in the brain's `Unit`, everywhere.
    """
    condition = model.brain_condition(brain.data, brain.mask)
    visible = None if kept is None else visible_codes(model, brain.mask, kept)
    coarse, fine = model.sample_codes(condition, generator, settings or SamplingSettings(), visible)
    paints = model.paints(brain_profile(brain.data[::2, ::2, ::2], brain.mask[::2, ::2, ::2]))
    layers = model.decode(coarse, fine, brain.mask, mixes(paints))
    return blend(layers, *texture(canonical.GRID_SHAPE, generator))


def visible_codes(model: HeadModel, brain: NDArray[np.bool_], kept: Conformed) -> VisibleCodes:
    """Codes of what is kept; blocks that hold anything else, or are next to such a block, are to be drawn."""
    coarse, fine = model.encode_non_brain(kept.data, brain)
    gone = torch.from_numpy(~kept.mask).float()[None, None]
    coarse_removed = F.max_pool3d(gone, 16)[0, 0] > 0
    fine_removed = F.max_pool3d(F.max_pool3d(gone, 8), 3, 1, 1)[0, 0] > 0
    return VisibleCodes(coarse, fine, coarse_removed, fine_removed)
