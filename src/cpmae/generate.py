"""A new head around a brain: codes drawn, decoded and painted, on the canonical grid."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpmae import canonical
from cpmae.canonical import Conformed
from cpmae.models.head import HeadModel
from cpmae.models.paint import blend, mixes, texture
from cpmae.models.palette import brain_profile
from cpmae.sampling import sample


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are drawn; see `sampling.sample`."""

    plan_steps: int = 24
    coarse_steps: int = 12
    fine_steps: int = 4
    plan_temperature: float = 0.7
    coarse_temperature: float = 0.3
    fine_temperature: float = 0.1


@dataclass(frozen=True)
class VisibleCodes:
    """Codes that are known beforehand, as where the cranium is kept; True in a `removed` grid is to be drawn."""

    coarse: Tensor  # (X/16, Y/16, Z/16) int64
    fine: Tensor  # (X/8, Y/8, Z/8) int64
    coarse_removed: Tensor  # bool
    fine_removed: Tensor  # bool


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
    visible = no_codes() if kept is None else visible_codes(model, brain.mask, kept)
    coarse, fine = draw_codes(model, condition, visible, generator, settings or SamplingSettings())
    paints = model.paints(brain_profile(brain.data[::2, ::2, ::2], brain.mask[::2, ::2, ::2]))
    layers = model.decode(coarse, fine, brain.mask, mixes(paints))
    return blend(layers, *texture(canonical.GRID_SHAPE, generator))


def draw_codes(
    model: HeadModel, condition: Tensor, visible: VisibleCodes, generator: torch.Generator, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    """A plan, then coarse codes (X/16, ...) and fine ones (X/8, ...), int64, around the brain of `condition`."""
    plan, plan_removed = model.encode_plan(visible.coarse, ~visible.coarse_removed)
    plan = sample(
        lambda codes, where: model.plan_logits(codes, where, condition),
        plan,
        plan_removed,
        mask_id=model.plan.mask_id,
        num_steps=settings.plan_steps,
        temperature=settings.plan_temperature,
        generator=generator,
    )
    coarse = sample(
        lambda codes, where: model.coarse_logits(codes, where, plan, condition),
        visible.coarse,
        visible.coarse_removed,
        mask_id=model.coarse.mask_id,
        num_steps=settings.coarse_steps,
        temperature=settings.coarse_temperature,
        generator=generator,
    )
    fine = sample(
        lambda codes, where: model.fine_logits(codes, where, coarse, condition),
        visible.fine,
        visible.fine_removed,
        mask_id=model.fine.mask_id,
        num_steps=settings.fine_steps,
        temperature=settings.fine_temperature,
        generator=generator,
    )
    return coarse, fine


def no_codes() -> VisibleCodes:
    """Nothing is known: every code is to be drawn."""
    coarse = torch.zeros([n // 16 for n in canonical.GRID_SHAPE], dtype=torch.int64)
    fine = torch.zeros([n // 8 for n in canonical.GRID_SHAPE], dtype=torch.int64)
    return VisibleCodes(
        coarse, fine, torch.ones_like(coarse, dtype=torch.bool), torch.ones_like(fine, dtype=torch.bool)
    )


def visible_codes(model: HeadModel, brain: NDArray[np.bool_], kept: Conformed) -> VisibleCodes:
    """Codes of what is kept; blocks that hold anything else, or are next to such a block, are to be drawn."""
    coarse, fine = model.encode_non_brain(kept.data, brain)
    gone = torch.from_numpy(~kept.mask).float()[None, None]
    coarse_removed = F.max_pool3d(gone, 16)[0, 0] > 0
    fine_removed = F.max_pool3d(F.max_pool3d(gone, 8), 3, 1, 1)[0, 0] > 0
    return VisibleCodes(coarse, fine, coarse_removed, fine_removed)
