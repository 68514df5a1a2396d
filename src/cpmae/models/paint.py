"""Tissue shares to intensities: what the decoder says is there, in the colours the brain's contrast asks for.

Muscle and fat share the decoder's soft tissue: fat lies between muscles in thin sheets, here the zero surfaces of a
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
    sheets = random_field(shape, 12, generator).add_(random_field(shape, 5, generator), alpha=0.35)
    fat = sheets.mul_(1 / 0.18).square_().neg_().exp_()
    fat *= random_field(shape, 16, generator).mul_(1.5).sigmoid_()
    mottle = random_field(shape, 6, generator).add_(random_field(shape, 3, generator)).mul_(0.7)
    return fat, mottle


def mixes(paints: Tensor) -> Tensor:
    """Weights (3, len(TISSUES)) whose sums over tissue shares `blend` puts together.

    The rows: plain intensity; how much mottle changes it; how much fat changes it.

    Args:
        paints: (len(PAINTS),) intensities.
    """
    plain = paints[[PAINTS.index("muscle" if name == "soft tissue" else name) for name in TISSUES]]
    mottled = plain * plain.new_tensor([_MOTTLE.get(name, 0.0) for name in TISSUES])
    fat = torch.zeros_like(plain)
    fat[TISSUES.index("soft tissue")] = paints[PAINTS.index("fat")] - paints[PAINTS.index("muscle")]
    return torch.stack([plain, mottled, fat])


def blend(layers: Tensor, fat: Tensor, mottle: Tensor) -> Tensor:
    """Intensities (X, Y, Z) float32, 0 or more, from the sums (3, X, Y, Z) of `mixes` and `texture`'s fields."""
    value = torch.addcmul(layers[0].float(), layers[1].float(), mottle)
    return value.addcmul_(layers[2].float(), fat).clamp_(min=0)


def paint_labels(tissue: Tensor, paints: Tensor, fat: Tensor, mottle: Tensor) -> Tensor:
    """`blend` where every voxel is all of one tissue: `tissue` (X, Y, Z) int64, index of `TISSUES`."""
    plain, mottled, fatty = mixes(paints)
    return (plain[tissue] + mottled[tissue] * mottle + fatty[tissue] * fat).clamp_(min=0)
