"""A new head around a brain: codes drawn, decoded to a field, and the atlas painted through it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae import faces
from cpmae.canonical import MODEL_SHAPE, Conformed
from cpmae.models.atlas import Atlas
from cpmae.models.field import GRID_SHAPE, dense, pull, sampling_grid, warp_volume
from cpmae.models.head import HeadModel
from cpmae.models.mae import known_coarse
from cpmae.models.paint import paint_atlas, shares, texture
from cpmae.models.palette import brain_depth, brain_profile
from cpmae.models.tissue import PAINTS, TISSUES
from cpmae.models.vqvae import COARSE, FINE, STEP_MM, code_shape
from cpmae.registration import fit_atlas
from cpmae.sampling import sample

INNER_TABLE_MM = 5.0  # of bone about every brain; chosen by deepbet's agreement between scans and results
STEM_MM = 10  # of the brain stem that no bone covers
KNOWN_STEP = 4  # voxels between the points of the model's known faces
# distance of a face from the nearest known one, in units of how far the two of these that are most alike are from each
# other: nobody's, and no caricature; and how many heads are drawn for it
UNLIKE = (1.08, 1.8)
MAX_DRAWS = 8


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are drawn; see `sampling.sample`."""

    coarse_steps: int = 16
    fine_steps: int = 4
    coarse_temperature: float = 0.9
    fine_temperature: float = 0.3


@dataclass(frozen=True)
class VisibleCodes:
    """Codes that are known beforehand, as where the cranium is kept; True in a `removed` grid is to be drawn."""

    coarse: Tensor  # (X/32, Y/32, Z/32) int64
    fine: Tensor  # (X/8, Y/8, Z/8) int64
    coarse_removed: Tensor  # bool
    fine_removed: Tensor  # bool


def generate_field(
    model: HeadModel,
    brain: Conformed,
    kept: Conformed | None,
    generator: torch.Generator,
    settings: SamplingSettings | None = None,
) -> Tensor:
    """Draw the shape of a head that fits a brain, and whose face is none that the model learnt from.

    A head whose face is like a known one, or like nobody's, is drawn again; of `MAX_DRAWS` such heads the one is taken
    that misses `UNLIKE` by least.

    Args:
        model: the trained model.
        brain: the brain alone.
        kept: what else is kept of the head, brain included, and makes codes visible; None draws them all.
        generator: on the CPU; codes come from it.

    Returns:
        (3, *control_shape()) float32, mm: the field into the model's atlas; see `models.field`.
    """
    condition = model.brain_condition(brain.data, brain.mask)
    settings = settings or SamplingSettings()
    visible, fitted, share = no_codes(), torch.zeros(()), torch.zeros(())
    if kept is not None:
        fitted = fit_atlas(model.atlas, paints_for(model, brain), kept, brain)
        known = F.avg_pool3d(torch.from_numpy(kept.mask).float()[None, None], FINE // STEP_MM)[0, 0] == 1
        visible = visible_codes(model, fitted, known)
        # up to 16 mm beside what is kept, and fading over as much, the new head is what was fitted, so that they meet
        near = F.max_pool3d(known.float()[None, None], 5, 1, 2)
        share = F.avg_pool3d(F.pad(near, [2] * 6, mode="replicate"), 5, 1)[0, 0]

    def drawn() -> Tensor:
        codes = draw_codes(model, condition, visible, generator, settings)
        return torch.lerp(model.decode(*codes, brain.mask), fitted, share)

    return _unlike(model, drawn)


def _unlike(model: HeadModel, drawn: Callable[[], Tensor]) -> Tensor:
    """The first of some fields whose face is as `UNLIKE` wants it, or else the one that misses it by least."""
    known = model.known_faces.cpu().numpy()
    if len(known) < 2:
        return drawn()
    solid = model.atlas.share()
    least, most = (share * faces.least_apart(known) for share in UNLIKE)
    fields: list[tuple[float, Tensor]] = []
    while len(fields) < MAX_DRAWS:
        field = drawn()
        apart = faces.nearest(field, solid, known)
        fields.append((max(least - apart, apart - most), field))
        if fields[-1][0] <= 0:
            break
    return min(fields, key=lambda miss: miss[0])[1]


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
    atlas = model.atlas
    painted = paint_atlas(atlas, paints, *texture(atlas.tissue, generator))
    head = warp_volume(painted[None], dense(field, GRID_SHAPE))[0]
    return head.lerp_(paints[PAINTS.index("bone")], beside_brain(mask, skin_of(atlas, field), GRID_SHAPE))


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
    atlas, into = model.atlas, sampling_grid(dense(field, (x, y, z)))
    beside = beside_brain(mask, skin_of(atlas, field), (x, y, z))
    for name, share in zip(PAINTS, shares(atlas, *texture(atlas.tissue, generator, step)), strict=True):
        yield pull(share[None], into)[0].lerp_(torch.tensor(float(name == "bone")), beside)


def skin_of(atlas: Atlas, field: Tensor) -> Tensor:
    """Share of skin in a head, canonical.MODEL_SHAPE float32."""
    skin = F.avg_pool3d(((atlas.tissue == TISSUES.index("skin")) * atlas.share())[None], STEP_MM)
    return warp_volume(skin, dense(field, MODEL_SHAPE))[0]


def beside_brain(mask: NDArray[np.bool_], skin: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """1 within `INNER_TABLE_MM` of the brain, 0 farther away, (X, Y, Z) float32 of the given shape.

    Masks of brain extractors reach to where the signal ends, at the dura and the skull. If anything else begins there,
    extractors and segmenters draw the brain of a result otherwise than that of the scan. Below, where the mask ends in
    the brain stem, the spinal canal stays open.

    Args:
        mask: canonical.MODEL_SHAPE.
        skin: from `skin_of`; it stays, however near it lies.
    """
    where = ndimage.find_objects(mask.view(np.uint8))[0]
    margin = int(INNER_TABLE_MM / STEP_MM) + 1
    box = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in where)
    near = np.zeros(mask.shape, np.float32)
    near[box] = ndimage.distance_transform_edt(~mask[box], sampling=STEP_MM) <= INNER_TABLE_MM
    near[box] *= ~ndimage.binary_fill_holes(mask[box])  # ventricles that a mask leaves out are no bone
    near[:, :, : where[2].start + STEM_MM // STEP_MM] = 0
    beside = torch.from_numpy(near) * (1 - skin)
    return F.interpolate(beside[None, None], shape, mode="trilinear", align_corners=False)[0, 0]


def paints_for(model: HeadModel, brain: Conformed) -> Tensor:
    """The colours that go with a brain's contrast, (len(PAINTS),) float32 on the CPU."""
    depth = brain_depth(brain.mask, [STEP_MM] * 3)
    return model.paints(brain_profile(brain.data[brain.mask], depth))


def draw_codes(
    model: HeadModel, condition: Tensor, visible: VisibleCodes, generator: torch.Generator, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    """Coarse codes (X/32, ...) and fine ones (X/8, ...), int64, around the brain of `condition`."""
    coarse = sample(
        lambda codes, where: model.coarse_logits(codes, where, condition),
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
    coarse = torch.zeros(code_shape(COARSE), dtype=torch.int64)
    fine = torch.zeros(code_shape(FINE), dtype=torch.int64)
    return VisibleCodes(
        coarse, fine, torch.ones_like(coarse, dtype=torch.bool), torch.ones_like(fine, dtype=torch.bool)
    )


def visible_codes(model: HeadModel, field: Tensor, known: Tensor) -> VisibleCodes:
    """Codes of a field where it is `known` (X/8, ...) bool; blocks next to unknown ones are to be drawn as well."""
    coarse, fine = model.encode_field(field, known)
    beside = F.max_pool3d((~known).float()[None, None], 3, 1, 1)[0, 0] > 0
    return VisibleCodes(coarse, fine, ~known_coarse(known[None])[0], beside)
