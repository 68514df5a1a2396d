"""A new head around a brain: codes drawn, decoded to a field, and the atlas painted through it."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae import in_view
from cpmae.canonical import MODEL_SHAPE, Conformed
from cpmae.draws import Draws, SamplingSettings, no_codes, visible_codes
from cpmae.models.atlas import AIR, Atlas
from cpmae.models.field import GRID_SHAPE, dense, pull, sampling_grid, through, warp_volume
from cpmae.models.head import HeadModel
from cpmae.models.orbit import with_orbits
from cpmae.models.paint import paint_atlas, shares
from cpmae.models.palette import brain_depth, brain_profile
from cpmae.models.texture import texture
from cpmae.models.tissue import BRAIN, PAINTS, TISSUES
from cpmae.models.vqvae import FINE, STEP_MM
from cpmae.registration import fit_atlas
from cpmae.thicken import thickness
from cpmae.volume import box_of

INNER_TABLE_MM = 5.0  # of bone about every brain; chosen by deepbet's agreement between scans and results
STEM_MM = 10  # of the brain stem that no bone covers
# below the brain, where half of the signal is left: head coils do not reach far down the neck
COIL_REACH_MM = (50.0, 110.0)


def generate_field(
    model: HeadModel,
    brain: Conformed,
    kept: Conformed | None,
    scale: float,
    generator: torch.Generator,
    front: NDArray[np.float64] | None = None,
) -> Tensor:
    """Draw the shape of a head that fits a brain, and whose face is none that the model learnt from.

    A head whose face is like a known one, or like nobody's, is drawn again; of `MAX_DRAWS` such heads the one is taken
    that misses `UNLIKE` by least.

    Args:
        model: the trained model.
        brain: the brain alone.
        kept: what else is kept of the head, brain included, and makes codes visible; None draws them all.
        scale: how many mm of the person one canonical mm is, from the brain's pose.
        generator: on the CPU; codes come from it.
        front: from `in_view.front_of_view`, where faces have to end; None sets no bound.

    Returns:
        (3, *control_shape()) float32, mm: the field into the model's atlas; see `models.field`.
    """

    def drawn(coarse: Tensor, fine: Tensor | None) -> Tensor:
        return model.decode(coarse, fine, brain.mask)

    def seen(field: Tensor) -> Tensor:
        return field if front is None else in_view.kept_in(field, model.atlas.share(), front)

    draws = Draws(model, model.brain_condition(brain.data, brain.mask), generator, SamplingSettings())
    if kept is None:
        thicker = thickness(brain.mask, scale, generator)
        return draws.nobody(no_codes(), lambda coarse, fine: seen(through(drawn(coarse, fine), thicker)))
    fitted = fit_atlas(model.atlas, paints_for(model, brain), kept, brain)
    known = F.avg_pool3d(torch.from_numpy(kept.mask).float()[None, None], FINE // STEP_MM)[0, 0] == 1
    # up to 16 mm beside what is kept, and fading over as much, the new head is what was fitted, so that they meet
    near = F.max_pool3d(known.float()[None, None], 5, 1, 2)
    share = F.avg_pool3d(F.pad(near, [2] * 6, mode="replicate"), 5, 1)[0, 0]
    visible = visible_codes(model, fitted, known)
    return draws.nobody(visible, lambda coarse, fine: torch.lerp(seen(drawn(coarse, fine)), fitted, share))


def paint_head(
    model: HeadModel, field: Tensor, mask: NDArray[np.bool_], paints: Tensor, generator: torch.Generator
) -> Tensor:
    """The atlas in some colours, seen through a field, and the skull's inner side about the brain.

    Args:
        field: from `generate_field`.
        mask: the brain's, canonical.MODEL_SHAPE.
        paints: (len(PAINTS),), from `paints_for`.
        generator: on the CPU; texture comes from it.

    Returns:
        GRID_SHAPE float32 on the CPU: noise-free intensities in the brain's `Unit`, everywhere.
    """
    atlas, around = _as_painted(model.atlas)
    painted = paint_atlas(atlas, paints, *texture(atlas, generator))
    painted = F.pad(painted, around, value=float(paints[AIR]))
    head = warp_volume(painted[None], dense(field, GRID_SHAPE))[0].mul_(_coil(mask, GRID_SHAPE[2], generator))
    return head.lerp_(paints[PAINTS.index("bone")], beside_brain(mask, skin_of(model.atlas, field), GRID_SHAPE))


def paint_shares(
    model: HeadModel, field: Tensor, mask: NDArray[np.bool_], generator: torch.Generator, step: int = 1
) -> Iterator[Tensor]:
    """What each paint alone adds to `paint_head`, for heads that are to be painted many times.

    Args:
        step: voxels of the canonical grid that are averaged along each axis, 1 or 2.

    Yields:
        for each of `PAINTS`, (X / step, Y / step, Z / step) float32.
    """
    x, y, z = (n // step for n in GRID_SHAPE)
    atlas, around = _as_painted(model.atlas)
    around = tuple(n // step for n in around)
    into = sampling_grid(dense(field, (x, y, z)))
    beside = beside_brain(mask, skin_of(model.atlas, field), (x, y, z))
    painted = shares(atlas, *texture(atlas, generator, step))
    coil = _coil(mask, z, generator)
    for name, share in zip(PAINTS, painted, strict=True):
        whole = F.pad(share, around, value=float(name == TISSUES[AIR]))
        yield pull(whole[None], into)[0].mul_(coil).lerp_(torch.tensor(float(name == "bone")), beside)


def _coil(mask: NDArray[np.bool_], length: int, generator: torch.Generator) -> Tensor:
    """Share of the signal that the coil receives along the canonical z, (length,) float32: 1 beside the brain."""
    low, high = COIL_REACH_MM
    reach = low + (high - low) * float(torch.rand((), generator=generator))
    mm = (torch.arange(length) + 0.5) * (GRID_SHAPE[2] / length)
    bottom = float(box_of(mask)[2].start * STEP_MM)
    return 1 / (1 + ((bottom - mm).clamp(min=0) / reach) ** 2)


@lru_cache(maxsize=1)  # the same for all heads
def _as_painted(atlas: Atlas) -> tuple[Atlas, tuple[int, ...]]:
    """The atlas as it is painted, cropped: with orbits, and bone where it has a brain and the CSF about it.

    A head may be larger than its brain, and CSF between the two, bright in T2w, would be taken for brain; that of the
    sulci lies in the brain mask. The lowest part, about the brain stem, stays open.
    """
    tissue = with_orbits(atlas.tissue)
    above = tissue[:, :, box_of((atlas.tissue == BRAIN).numpy())[2].start + 2 * STEM_MM :]
    above[(above == BRAIN) | (above == TISSUES.index("csf"))] = TISSUES.index("bone")
    return atlas._replace(tissue=tissue).cropped()


def skin_of(atlas: Atlas, field: Tensor) -> Tensor:
    """Share of skin in a head, canonical.MODEL_SHAPE float32."""
    return warp_volume(_skin(atlas), dense(field, MODEL_SHAPE))[0]


@lru_cache(maxsize=1)
def _skin(atlas: Atlas) -> Tensor:
    return F.avg_pool3d(torch.where(atlas.tissue == TISSUES.index("skin"), atlas.share(), 0)[None], STEP_MM)


def beside_brain(mask: NDArray[np.bool_], skin: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """1 within `INNER_TABLE_MM` of the brain, 0 farther away, (X, Y, Z) float32 of the given shape.

    Masks of brain extractors reach to where the signal ends, at the dura and the skull. If anything else begins there,
    extractors and segmenters draw the brain of a result otherwise than that of the scan. Below, where the mask ends in
    the brain stem, the spinal canal stays open.

    Args:
        mask: canonical.MODEL_SHAPE.
        skin: from `skin_of`; it stays, however near it lies.
    """
    box = box_of(mask, int(INNER_TABLE_MM / STEP_MM) + 1)
    near = np.zeros(mask.shape, np.float32)
    near[box] = ndimage.distance_transform_edt(~mask[box], sampling=STEP_MM) <= INNER_TABLE_MM
    near[box] *= ~ndimage.binary_fill_holes(mask[box])  # ventricles that a mask leaves out are no bone
    near[:, :, : box_of(mask)[2].start + STEM_MM // STEP_MM] = 0
    beside = torch.from_numpy(near) * (1 - skin)
    return F.interpolate(beside[None, None], shape, mode="trilinear", align_corners=False)[0, 0]


def paints_for(model: HeadModel, brain: Conformed, fat_suppressed: bool = False) -> Tensor:
    """The colours that go with a brain's contrast, (len(PAINTS),) float32 on the CPU."""
    depth = brain_depth(brain.mask, [STEP_MM] * 3)
    return model.paints(brain_profile(brain.data[brain.mask], depth), fat_suppressed)
