"""Anatomies and scans of them: label maps in the canonical pose, and what a scanner would make of a head.

The idea of training on images generated from label maps with random contrast is SynthSeg's (Billot et al., Med Image
Anal 2023).
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae import canonical
from cpmae.models.paint import paint_labels
from cpmae.models.texture import random_field
from cpmae.models.tissue import TISSUES
from cpmae.training import anatomy
from cpmae.training.contrast import draw_contrast

_SHEET = 0.12  # half the thickness of a sheet of fat, in standard deviations of its field
_SKIN_MOTTLE = 0.4  # of what skin has deeper down: more would roughen faces
_SUBCUTANEOUS = 0.5  # share of fat in the soft tissue under the skin


def load_anatomy(path: Path) -> NDArray[np.uint8]:
    """A label map in the canonical pose, `canonical.GRID_SHAPE` uint8; see `anatomy`.

    Where the map's field of view ends in a neck, the neck goes on; where it ends in a face, what lies beyond is out
    of view.
    """
    image = nib.as_closest_canonical(nib.load(path))
    labels, affine = np.asarray(image.dataobj).astype(np.int16), image.affine
    mask = anatomy.brain_mask(labels)
    pose = canonical.align(mask, affine)
    where = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    bottom = where[2].start
    cut_face = bottom > 2  # maps with a complete head reach the lowest slices with their neck
    values = anatomy.to_anatomy(labels, mask)
    voxel = np.linalg.inv(affine) @ pose.matrix @ canonical.GRID_AFFINE
    grid = np.indices(canonical.GRID_SHAPE, np.float32).reshape(3, -1)
    index = np.round(voxel[:3, :3].astype(np.float32) @ grid + voxel[:3, 3:].astype(np.float32)).astype(np.int32)
    beyond = index[2] < bottom + 1
    if cut_face:
        beyond |= index[1] > where[1].stop - 2
    index[2] = np.maximum(index[2], bottom + 1)
    inside = np.all([(i >= 0) & (i < n) for i, n in zip(index, labels.shape, strict=True)], axis=0)
    out = np.where(inside, values[tuple(np.clip(i, 0, n - 1) for i, n in zip(index, labels.shape, strict=True))], 0)
    if cut_face:
        out[beyond] |= anatomy.OUT_OF_VIEW
    return out.reshape(canonical.GRID_SHAPE).astype(np.uint8)


@dataclass(frozen=True)
class SynthHead:
    """One image made from an anatomy; every array has the anatomy's shape."""

    image: Tensor  # float32, noisy; unit: the brightest brain tissue
    clean: Tensor  # float32, before bias and noise
    tissue: Tensor  # int64, index of TISSUES, everywhere
    brain: Tensor  # bool, the brain mask
    paints: Tensor  # (len(PAINTS),) float32


def scan(values: NDArray[np.uint8], rng: np.random.Generator, mask_jitter: float = 0.5) -> SynthHead:
    """Draw one scan of an anatomy, whole or a crop: contrast, texture, partial volume, bias, Rician noise."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    structure = torch.from_numpy(values & anatomy.STRUCTURE).long()
    tissue = torch.from_numpy(anatomy.outside_tissue())[structure].long()
    brain = torch.from_numpy((values & anatomy.IN_BRAIN_MASK) > 0)
    if rng.random() < mask_jitter:  # extractors differ in how much CSF they take along
        grown = F.max_pool3d((brain if rng.random() < 0.6 else ~brain).float()[None], 3, 1, 1)[0] > 0
        brain = grown if bool(grown[brain].all()) else ~grown
    brain_means, paints = (torch.from_numpy(a) for a in draw_contrast(rng))
    fat, mottle = _texture(tissue, generator)
    outside = paint_labels(tissue, paints, fat, mottle)
    is_brain = structure >= anatomy.N_OUTSIDE
    clean = torch.where(is_brain, brain_means[structure] * (1 + 0.04 * mottle), outside)
    clean = _blur(clean, float(rng.uniform(0.3, 0.8)))
    bias = torch.exp(0.12 * torch.from_numpy(np.array(rng.normal())) * _smooth_bias(values.shape, generator))
    sigma = float(rng.uniform(0.005, 0.05))
    noise = torch.randn((2, *values.shape), generator=generator) * sigma
    image = torch.sqrt((clean * bias + noise[0]) ** 2 + noise[1] ** 2).float()
    return SynthHead(image, clean, tissue, brain, paints)


def _texture(tissue: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Share of fat and mottle of any crop of a label map: simpler than `models.texture`; the palette learnt from it.

    Fat lies in thin sheets, here the zero surfaces of a random field, and in a layer under the skin.
    """
    x, y, z = (-(-n // 2) for n in tissue.shape)  # the fields are smooth, and so made at half resolution
    sheets = random_field((x, y, z), 6, generator).add_(random_field((x, y, z), 3, generator), alpha=0.35)
    gaps = random_field((x, y, z), 8, generator).mul_(3).sigmoid_()
    odd = F.pad(tissue == TISSUES.index("skin"), [p for n in reversed(tissue.shape) for p in (0, n % 2)])
    skin = F.avg_pool3d(odd.float()[None, None], 2)
    for axis in range(3):  # one axis after another takes an eighth of the time of all at once
        length, pad = ([n if a == axis else m for a in range(3)] for n, m in ((7, 1), (3, 0)))
        skin = F.avg_pool3d(skin, length, 1, pad)
    under_skin = skin[0, 0].mul_(5).clamp_(max=1).mul_(_SUBCUTANEOUS)
    mottle = random_field((x, y, z), 3, generator).add_(random_field((x, y, z), 2, generator)).mul_(0.7)
    fields = torch.stack([sheets, gaps.mul_(1 - under_skin), under_skin, mottle])
    fields = F.interpolate(fields[None], scale_factor=2, mode="trilinear")[0]
    x, y, z = tissue.shape
    sheets, gaps, under_skin, mottle = fields[:, :x, :y, :z]
    fat = sheets.mul_(1 / _SHEET).square_().neg_().exp_().mul_(gaps).add_(under_skin)
    in_skin = tissue == TISSUES.index("skin")
    fat = torch.where(in_skin, 0, fat)
    return fat, mottle * torch.where(in_skin, _SKIN_MOTTLE, 1 - fat)


def _blur(volume: Tensor, sd: float) -> Tensor:
    """Partial volume: a three-tap kernel of the given standard deviation (voxels) along each axis."""
    side = sd**2 / 2
    out = volume
    for axis in range(3):
        last = out.shape[axis] - 1
        beside = torch.cat([out.narrow(axis, 0, 1), out.narrow(axis, 0, last)], axis)
        beside += torch.cat([out.narrow(axis, 1, last), out.narrow(axis, last, 1)], axis)
        out = torch.lerp(out, beside / 2, 2 * side)
    return out


def _smooth_bias(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    nodes = torch.randn((1, 1, 4, 4, 4), generator=generator)
    return F.interpolate(nodes, shape, mode="trilinear", align_corners=True)[0, 0]
