"""Tissues to intensities: what an atlas says is there, in the colours the brain's contrast asks for.

Skin and soft tissue are painted as mixtures with fat; `texture` says how much of it lies where.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from cpmae.models.atlas import AIR, Atlas
from cpmae.models.tissue import BRAIN, FATTY, PAINTS, TISSUES

# how much each tissue's intensity varies from place to place, relative; soft tissue more mottled than this is taken for
# grey and white matter by MeshNet
_MOTTLE = {
    "marrow": 0.25,
    "skin": 0.2,
    "mucosa": 0.2,
    "orbit": 0.1,
    "soft tissue": 0.04,
    "bone": 0.3,
    "blood": 0.3,
    "fat": 0.3,
}


def paint_labels(tissue: Tensor, paints: Tensor, fat: Tensor, mottle: Tensor) -> Tensor:
    """Intensities (X, Y, Z) float32, 0 or more.

    Args:
        tissue: (X, Y, Z), integer index of `TISSUES`; `BRAIN` is painted as CSF.
        paints: (len(PAINTS),) intensities.
        fat: (X, Y, Z), share of fat in skin and soft tissue.
        mottle: (X, Y, Z), mean 0 and sd 1.
    """
    names = (*TISSUES, "csf")
    plain = paints[[PAINTS.index("muscle" if name == "soft tissue" else name) for name in names]]
    mottled = plain * plain.new_tensor([_MOTTLE.get(name, 0.0) for name in names])
    fatty = plain.new_tensor([float(name in FATTY) for name in names])
    index = tissue.int().flatten()
    plain, mottled, fatty = (of.index_select(0, index).view(tissue.shape) for of in (plain, mottled, fatty))
    lean = plain.addcmul_(mottled, mottle)
    of_fat = mottled.copy_(mottle).mul_(_MOTTLE["fat"]).add_(1).mul_(paints[PAINTS.index("fat")])
    return lean.lerp_(of_fat, fatty.mul_(fat)).clamp_(min=0)


def paint_atlas(atlas: Atlas, paints: Tensor, fat: Tensor, mottle: Tensor) -> Tensor:
    """`paint_labels` of an atlas, whose surfaces fade into air; (X, Y, Z) float32."""
    painted = paint_labels(atlas.tissue, paints, fat, mottle)
    return painted.sub_(paints[AIR]).mul_(atlas.share()).add_(paints[AIR])


def shares(atlas: Atlas, fat: Tensor, mottle: Tensor) -> Iterator[Tensor]:
    """What each of `PAINTS` adds to a head: these volumes, times the paints, sum up to `paint_atlas`.

    Args:
        fat, mottle: (X / step, Y / step, Z / step), fields of `texture`; with a step of 2, voxels are averaged in
            blocks.

    Yields:
        for each of `PAINTS`, (X / step, Y / step, Z / step) float32.
    """
    step = atlas.tissue.shape[0] // fat.shape[0]
    tissue = torch.where(atlas.tissue == BRAIN, TISSUES.index("csf"), atlas.tissue)
    solid = atlas.share()
    for paint in PAINTS:
        name = "soft tissue" if paint == "muscle" else paint
        if paint == TISSUES[AIR]:
            amount = _block_means(1 - solid, step)
        elif paint == "fat":
            of = torch.tensor([TISSUES.index(name) for name in FATTY], dtype=tissue.dtype)
            amount = _block_means(solid * torch.isin(tissue, of), step).mul_(fat)
        else:
            amount = _block_means(solid * (tissue == TISSUES.index(name)), step)
        if name in FATTY:
            amount *= 1 - fat
        if name in _MOTTLE:
            amount *= torch.add(torch.ones(()), mottle, alpha=_MOTTLE[name]).clamp_(min=0)
        yield amount


def _block_means(volume: Tensor, step: int) -> Tensor:
    return F.avg_pool3d(volume[None], step)[0] if step > 1 else volume
