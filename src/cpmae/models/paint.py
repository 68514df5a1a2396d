"""Tissues to intensities: what the atlas says is there, in the colours the brain's contrast asks for.

Muscle and fat share the atlas's soft tissue: fat lies between muscles in thin sheets, here the zero surfaces of a
random field, as sheets that follow no one's anatomy cost the codes nothing and give nobody away.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cpmae.models.tissue import PAINTS, TISSUES

# how much each tissue's intensity varies from place to place, relative
_MOTTLE = {"marrow": 0.25, "skin": 0.2, "mucosa": 0.25, "orbit": 0.3, "soft tissue": 0.12, "bone": 0.3, "blood": 0.3}


def random_field(shape: tuple[int, int, int], spacing: int, generator: torch.Generator) -> Tensor:
    """Smooth Gaussian field of unit variance, (X, Y, Z) float32; it changes over about `spacing` voxels."""
    nodes = [-(-n // spacing) + 1 for n in shape]
    coarse = torch.randn((1, 1, *nodes), generator=generator)
    fine = F.interpolate(coarse, [n * spacing for n in nodes], mode="trilinear", align_corners=False)
    fine = fine[0, 0, : shape[0], : shape[1], : shape[2]]
    return fine.div_(fine.std())


def texture(shape: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two fields to paint with: share of fat in soft tissue (0 to 1), and mottle (mean 0, sd 1); (X, Y, Z) float32."""
    x, y, z = (-(-n // 2) for n in shape)  # nothing here changes within 2 voxels, so it is made at half resolution
    half = (x, y, z)
    sheets = random_field(half, 6, generator).add_(random_field(half, 3, generator), alpha=0.35)
    fat = sheets.mul_(1 / 0.18).square_().neg_().exp_()
    fat *= random_field(half, 8, generator).mul_(1.5).sigmoid_()
    mottle = random_field(half, 3, generator).add_(random_field(half, 2, generator)).mul_(0.7)
    both = torch.stack([fat, mottle])[None]
    fat, mottle = F.interpolate(both, scale_factor=2, mode="trilinear")[0, :, : shape[0], : shape[1], : shape[2]]
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


def soft_edges(volume: Tensor) -> Tensor:
    """Partial volume at the borders of labels: (X, Y, Z) smoothed by 1/4, 1/2, 1/4 along each axis."""
    out = F.pad(volume[None, None], [1] * 6, mode="replicate")
    for _ in range(2):  # two means of two neighbours
        out = F.avg_pool3d(out, 2, 1)
    return out[0, 0]
