"""What soft tissue is made of: fat in layers under the skin, and bundles of muscle with sheets of fat between them.

Label maps have one soft tissue for all of it. Layers lie as they do in anybody, and random fields say how thick they
are and where sheets run: they follow no one's anatomy, cost the codes nothing and give nobody away.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae.models.atlas import AIR, Atlas
from cpmae.models.tissue import FATTY, TISSUES

_HALF_MM = 2  # fields are smooth, and so made at half the resolution of 1 mm
# the layer of fat under the skin, mm: its mean thickness, how much that varies, its range, and how sharp its end is
_LAYER_MM, _LAYER_SD, _LAYER_RANGE, _LAYER_EDGE = 4.0, 2.5, (1.5, 11.0), 0.7
_SUBCUTANEOUS = 0.92  # share of fat in it
_BESIDE_BONE, _BESIDE_AIR = 4.0, 5.0  # neither bone's coat nor the skin itself is fat: how fast their share ends it
_MUSCLE_MM = 13.0  # from one sheet of fat to the next, below the skin
_WAVES = 0.5  # how much of that distance sheets rise and fall
# half the thickness of sheets, mm: its mean, how much that varies (below 0 there is none), how sharp they are
_SHEET_MM, _SHEET_SD, _SHEET_EDGE = 0.4, 0.8, 0.8
_SHEET_FAT = 0.7  # the most that a sheet holds
# between the bundles of a muscle: where a field of such spacing (half mm) is within +-width of 0, some fat
_BUNDLES, _BUNDLE_WIDTH, _BUNDLE_FAT = (2, 2, 8), 0.5, 0.4
# dark sheets of connective tissue in the fat, along the skin: from one to the next, how much of that they rise and
# fall, their half thickness in the same unit, and how dark they are, in mottle
_LAYERS_MM, _LAYER_WAVES, _LAYER_WIDTH, _LAYER_DARK = 4.0, 0.5, 0.25, 2.0
_SEPTA, _SEPTUM_WIDTH, _SEPTUM_DARK = 3, 0.5, 1.0  # and across them, as bundles are bounded
_MOTTLE_LIMIT = 3.0  # standard deviations
_EVEN_MM, _UNEVEN_MM = 2.0, 4.0  # below the surface: from where there is mottle, and all of it; it would roughen faces


def random_field(
    shape: tuple[int, int, int],
    spacing: int | tuple[int, int, int],
    generator: torch.Generator,
    rounded: bool = False,
) -> Tensor:
    """Smooth Gaussian field of unit variance, (X, Y, Z) float32; it changes over about `spacing` voxels.

    Linear between nodes that far apart; or else, `rounded`, without the edges which that gives to surfaces.
    """
    steps = [spacing] * 3 if isinstance(spacing, int) else list(spacing)
    if rounded:
        steps = [-(-s // 2) for s in steps]
    nodes = [-(-n // s) + 1 for n, s in zip(shape, steps, strict=True)]
    coarse = torch.randn((1, 1, *(n + 2 * rounded for n in nodes)), generator=generator)
    if rounded:
        coarse = F.avg_pool3d(coarse, 3, 1)
    size = [n * s for n, s in zip(nodes, steps, strict=True)]
    fine = F.interpolate(coarse, size, mode="trilinear", align_corners=False)
    fine = fine[0, 0, : shape[0], : shape[1], : shape[2]]
    return fine.div_(float(fine.numpy().std()))  # PyTorch's rounding depends on how many threads share a sum


def texture(atlas: Atlas, generator: torch.Generator, step: int = 1) -> tuple[Tensor, Tensor]:
    """Two fields to paint an atlas with: share of fat in skin and soft tissue, and mottle.

    Args:
        atlas: symmetric in x; its lengths are even, that of x a multiple of 4.
        generator: on the CPU.
        step: 1, or 2 for the fields at half resolution.

    Returns:
        both (X / step, Y / step, Z / step) float32: fat 0 to 1; mottle within `_MOTTLE_LIMIT`, 0 at surfaces,
        mean 0 and sd 0.4 to 0.7 in most tissues, -0.5 and 0.9 in fat, whose connective tissue is dark.
    """
    x, y, z = (n // _HALF_MM for n in atlas.tissue.shape)

    def noise(spacing: int | tuple[int, int, int], rounded: bool = True) -> Tensor:
        return random_field((x, y, z), spacing, generator, rounded)

    depth = _below_skin(atlas)
    layer = noise(12).mul_(_LAYER_SD).add_(_LAYER_MM).clamp_(*_LAYER_RANGE)
    share = layer.sub_(depth).div_(_LAYER_EDGE).sigmoid_()
    share *= _ends_of_fat(atlas)
    # muscles of neck and jaw run up and down more than across
    waves = noise((10, 10, 18)).add_(noise((4, 4, 8)), alpha=0.15).mul_(_WAVES)
    phase = waves.add_(depth, alpha=1 / _MUSCLE_MM)
    sheets = noise((9, 9, 12)).mul_(_SHEET_SD).add_(_SHEET_MM).masked_fill_(depth == 0, -1)
    bundles = _near_zero(noise(_BUNDLES), _BUNDLE_WIDTH).mul_(_BUNDLE_FAT).masked_fill_(depth == 0, 0)
    share = torch.maximum(share, bundles, out=share)
    mottle = noise(3, rounded=False).add_(noise(2, rounded=False)).mul_(0.5)
    mottle.add_(noise(1, rounded=False), alpha=0.4).sub_(_near_zero(noise(_SEPTA), _SEPTUM_WIDTH), alpha=_SEPTUM_DARK)
    mottle -= float(mottle.numpy().mean())
    below_air = _below_air(atlas)
    layers = noise(6).mul_(_LAYER_WAVES).add_(below_air, alpha=1 / _LAYERS_MM)
    within = ((below_air - _EVEN_MM) / (_UNEVEN_MM - _EVEN_MM)).clamp_(0, 1)
    fields = torch.stack([phase, sheets, share, mottle, layers, within])
    if step == 1:  # sheets are thinner than the voxels of half resolution
        fields = F.interpolate(fields[None], scale_factor=_HALF_MM, mode="trilinear")[0]
    phase, sheets, share, mottle, layers, within = fields
    away = phase.sub_(phase.round()).abs_()  # from the nearest sheet
    fat = sheets.sub_(away, alpha=_MUSCLE_MM).mul_(1 / _SHEET_EDGE).clamp_(0, _SHEET_FAT)
    fat = torch.maximum(fat, share, out=fat)
    layers = _near_zero(layers.sub_(layers.round()), _LAYER_WIDTH)
    mottle.addcmul_(layers, _fatty(atlas, step), value=-_LAYER_DARK)
    return fat, mottle.clamp_(-_MOTTLE_LIMIT, _MOTTLE_LIMIT).mul_(within)


def _near_zero(field: Tensor, width: float) -> Tensor:
    """1 where a field is 0, down to 0 at +-width; in place. Of smooth noise that is a net of sheets."""
    return field.abs_().mul_(-1 / width).add_(1).clamp_(min=0)


@lru_cache(maxsize=1)  # as the next ones, the same for all heads
def _ends_of_fat(atlas: Atlas) -> Tensor:
    """The most that the share of fat may be, at half resolution; (X / 2, Y / 2, Z / 2) float32."""
    ends = (atlas.tissue == TISSUES.index("bone")).float().mul_(_BESIDE_BONE).sub_(atlas.share(), alpha=_BESIDE_AIR)
    ends = F.avg_pool3d(F.avg_pool3d(ends[None], _HALF_MM), 3, 1, 1, count_include_pad=False)[0].add_(_BESIDE_AIR)
    return ends.neg_().add_(1).clamp_(0, _SUBCUTANEOUS)


@lru_cache(maxsize=1)
def _fatty(atlas: Atlas, step: int) -> Tensor:
    """How much of each voxel is painted as a mixture with fat, (X / step, Y / step, Z / step) float32."""
    fatty = torch.isin(atlas.tissue, torch.tensor([TISSUES.index(name) for name in FATTY], dtype=torch.uint8)).float()
    return F.avg_pool3d(fatty[None], step)[0] if step > 1 else fatty


@lru_cache(maxsize=1)
def _below_skin(atlas: Atlas) -> Tensor:
    """Distance to the skin, mm, at half resolution; (X / 2, Y / 2, Z / 2) float32, 0 in it."""
    return _distance(atlas.tissue == TISSUES.index("skin"))


@lru_cache(maxsize=1)
def _below_air(atlas: Atlas) -> Tensor:
    """Distance to the air about the head and in it, mm, at half resolution; as `_below_skin`."""
    return _distance(atlas.labels() == AIR)


def _distance(there: Tensor) -> Tensor:
    """To the nearest voxel that is there, mm, at half resolution; of what is symmetric in x, half is enough."""
    half = F.max_pool3d(there[: len(there) // 2].float()[None], _HALF_MM)[0]
    depth = torch.from_numpy(ndimage.distance_transform_edt(half.numpy() == 0, sampling=_HALF_MM).astype(np.float32))
    return torch.cat([depth, depth.flip(0)])
