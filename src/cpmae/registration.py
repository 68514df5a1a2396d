"""Fit the smooth field through which a moving volume looks like a fixed one; see `models.field` for what fields are.

Cubic B-splines fitted by gradient descent from coarse to fine (Rueckert et al., IEEE TMI 1999), with the squared
difference as measure and the second differences of control points as penalty.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae.canonical import Conformed
from cpmae.models.atlas import Atlas
from cpmae.models.field import control_shape, dense, warp_volume
from cpmae.models.paint import paint_atlas
from cpmae.models.tissue import BRAIN
from cpmae.models.vqvae import STEP_MM

MOST = 0.6  # of the brain's median intensity; what is brighter counts as no more
# weights of air in the place of tissue and of the brain's edge, where a mismatch by the brain's median intensity has 1
AIR_COUNTS = BRAIN_COUNTS = 0.5
DARK = 0.1  # of the brain's median intensity: less than this is air, or bone
BONE_MM = 30  # no bone is farther from the brain and as thick as air is
BENDING = 5e-3
ATLAS_BENDING = 5e-4


def register(
    fixed: Tensor,
    moving: Tensor,
    weight: Tensor | None = None,
    start: Tensor | None = None,
    iterations: tuple[int, int] = (50, 8),
    bending: float = BENDING,
) -> Tensor:
    """The field that makes `moving(y + field(y))` like `fixed(y)`.

    Args:
        fixed, moving: (C, X, Y, Z) float32 over the whole canonical grid, alike in shape.
        weight: (C or 1, X, Y, Z), how much each voxel counts; all the same by default.
        start: a field to begin with; none is 0.
        iterations: at half the volumes' resolution, and at it.
        bending: weight of the mean squared second difference of control points (mm2).

    Returns:
        (3, *control_shape()) float32, mm.
    """
    field = torch.zeros(3, *control_shape()) if start is None else start.clone()
    weight = torch.ones_like(fixed[:1]) if weight is None else weight
    for pool, count in zip((2, 1), iterations, strict=True):
        target, source, counts = (F.avg_pool3d(x[None], pool)[0] if pool > 1 else x for x in (fixed, moving, weight))
        field = field.requires_grad_(True)
        optimizer = torch.optim.Adam([field], lr=0.5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count, eta_min=0.05)
        for _ in range(count):
            error = (warp_volume(source, dense(field, target.shape[1:])) - target) ** 2 * counts
            loss = error.sum(dim=0).mean() + bending * _bending(field)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        field = field.detach()
    return field


def fit_atlas(
    atlas: Atlas, paints: Tensor, known: Conformed, brain: Conformed, iterations: tuple[int, int] = (60, 20)
) -> Tensor:
    """The field through which the painted atlas looks like what is known of a head.

    All that is bright counts alike: how bright fat is depends on coil and sequence, where tissue ends does not. Air has
    a measure of its own, since there are contrasts where muscle is hardly brighter.

    Args:
        atlas: of GRID_SHAPE.
        paints: (len(PAINTS),) the head's contrast.
        known: what may be looked at, brain included.
        brain: the brain alone.
        iterations: as `register` takes them.

    Returns:
        (3, *control_shape()) float32, mm; smooth, and so wrong far from what is known.
    """
    flat = torch.zeros(atlas.tissue.shape)
    painted = paint_atlas(atlas, paints, flat, flat).clamp_(max=MOST)
    moving = F.avg_pool3d(torch.stack([painted, 1 - atlas.share(), (atlas.tissue == BRAIN).float()])[None], STEP_MM)
    inside = torch.from_numpy(brain.mask).float()
    air = torch.from_numpy(air_around(known, brain))
    fixed = torch.stack([torch.from_numpy(known.data).clamp(max=MOST), air, inside])
    # the brain's own intensities are no tissue's: only where its edge is counts there
    outside = torch.from_numpy(known.mask) * (1 - inside)
    counts = torch.stack([outside, AIR_COUNTS * outside, torch.full_like(inside, BRAIN_COUNTS)])
    return register(fixed, moving[0], counts, iterations=iterations, bending=ATLAS_BENDING)


def air_around(known: Conformed, brain: Conformed) -> NDArray[np.float32]:
    """Share of air, as far as it is known, canonical.MODEL_SHAPE.

    Dark voxels are air where they go on far from the brain, as bone does not; beside them voxels are air in part.
    """
    dark = known.mask & (known.data < DARK)
    cube = np.ones((3, 3, 3), bool)
    parts, _ = ndimage.label(ndimage.binary_erosion(dark, cube))
    far = ndimage.distance_transform_edt(~brain.mask, sampling=STEP_MM) > BONE_MM
    reaching = np.setdiff1d(parts[far], 0)
    air = ndimage.binary_dilation(np.isin(parts, reaching), cube) & dark
    beside = ndimage.binary_dilation(air, cube) & known.mask
    return np.where(beside, 1 - (known.data / MOST).clip(0, 1), 0).astype(np.float32)


def _bending(field: Tensor) -> Tensor:
    """Mean squared second difference along each axis, mm2."""
    return sum((field.diff(n=2, dim=d) ** 2).mean() for d in (1, 2, 3))  # type: ignore[return-value]
