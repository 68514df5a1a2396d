"""Tissues to intensities: what an atlas says is there, in the colours the brain's contrast asks for.

Muscle and fat share the atlas's soft tissue: fat lies between muscles in thin sheets, here the zero surfaces of a
random field, as sheets that follow no one's anatomy cost the codes nothing and give nobody away.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from cpmae.models.atlas import AIR, Atlas
from cpmae.models.tissue import BRAIN, PAINTS, TISSUES

# how much each tissue's intensity varies from place to place, relative; soft tissue more mottled than this is taken for
# grey and white matter by MeshNet
_MOTTLE = {"marrow": 0.25, "skin": 0.08, "mucosa": 0.2, "orbit": 0.3, "soft tissue": 0.04, "bone": 0.3, "blood": 0.3}
_SHEET = 0.12  # half the thickness of a sheet of fat, in standard deviations of its field
_SUBCUTANEOUS = 0.5  # share of fat in the soft tissue under the skin


def random_field(shape: tuple[int, int, int], spacing: int, generator: torch.Generator) -> Tensor:
    """Smooth Gaussian field of unit variance, (X, Y, Z) float32; it changes over about `spacing` voxels."""
    nodes = [-(-n // spacing) + 1 for n in shape]
    coarse = torch.randn((1, 1, *nodes), generator=generator)
    fine = F.interpolate(coarse, [n * spacing for n in nodes], mode="trilinear", align_corners=False)
    fine = fine[0, 0, : shape[0], : shape[1], : shape[2]]
    return fine.div_(fine.std())


def texture(tissue: Tensor, generator: torch.Generator, step: int = 1) -> tuple[Tensor, Tensor]:
    """Two fields to paint with: share of fat in soft tissue (0 to 1), and mottle (mean 0, sd 1).

    Fat lies in sheets between muscles, and in a layer of some mm under the skin.

    Args:
        tissue: (X, Y, Z), even lengths, integer index of `TISSUES` or `BRAIN`.
        step: 1, or 2 for the fields at half resolution.

    Returns:
        both (X / step, Y / step, Z / step) float32.
    """
    x, y, z = (n // 2 for n in tissue.shape)  # the fields are smooth, and so made at half resolution
    sheets = random_field((x, y, z), 6, generator).add_(random_field((x, y, z), 3, generator), alpha=0.35)
    gaps = random_field((x, y, z), 8, generator).mul_(3).sigmoid_()
    skin = F.avg_pool3d((tissue == TISSUES.index("skin")).float()[None, None], 2)
    for axis in range(3):  # one axis after another takes an eighth of the time of all at once
        length, pad = ([n if a == axis else m for a in range(3)] for n, m in ((7, 1), (3, 0)))
        skin = F.avg_pool3d(skin, length, 1, pad)
    under_skin = skin[0, 0].mul_(5).clamp_(max=1).mul_(_SUBCUTANEOUS)
    mottle = random_field((x, y, z), 3, generator).add_(random_field((x, y, z), 2, generator)).mul_(0.7)
    fields = torch.stack([sheets, gaps.mul_(1 - under_skin), under_skin, mottle])
    if step == 1:  # the sheets are thinner than the voxels of half resolution
        fields = F.interpolate(fields[None], scale_factor=2, mode="trilinear")[0]
    sheets, gaps, under_skin, mottle = fields
    fat = sheets.mul_(1 / _SHEET).square_().neg_().exp_().mul_(gaps).add_(under_skin)
    return fat, mottle


def paint_labels(tissue: Tensor, paints: Tensor, fat: Tensor, mottle: Tensor) -> Tensor:
    """Intensities (X, Y, Z) float32, 0 or more.

    Args:
        tissue: (X, Y, Z), integer index of `TISSUES`; `BRAIN` is painted as CSF.
        paints: (len(PAINTS),) intensities.
        fat, mottle: fields of `texture`, (X, Y, Z).
    """
    names = (*TISSUES, "csf")
    plain = paints[[PAINTS.index("muscle" if name == "soft tissue" else name) for name in names]]
    mottled = plain * plain.new_tensor([_MOTTLE.get(name, 0.0) for name in names])
    fatty = torch.zeros_like(plain)
    fatty[TISSUES.index("soft tissue")] = paints[PAINTS.index("fat")] - paints[PAINTS.index("muscle")]
    index = tissue.int()
    value = torch.addcmul(plain[index], mottled[index], mottle)
    return value.addcmul_(fatty[index], fat).clamp_(min=0)


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
    air = _block_means(1 - solid, step)
    for paint in PAINTS:
        if paint == TISSUES[AIR]:
            yield air
            continue
        name = "soft tissue" if paint in ("muscle", "fat") else paint
        amount = _block_means(solid * (tissue == TISSUES.index(name)), step)
        if paint == "fat":
            amount *= fat
        elif name in _MOTTLE:
            weight = torch.add(1 - fat if paint == "muscle" else 1, mottle, alpha=_MOTTLE[name])
            amount *= weight.clamp_(min=0)
        yield amount


def _block_means(volume: Tensor, step: int) -> Tensor:
    return F.avg_pool3d(volume[None], step)[0] if step > 1 else volume
