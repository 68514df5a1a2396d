"""Stage two: train the brain's and the non-brain VQ-VAE on crops of synthetic heads."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cpmae.models.tissue import TISSUES
from cpmae.models.vqvae import BrainVQVAE, NonBrainVQVAE

# small structures that make a face count more; air, of which there is most, counts less
TISSUE_WEIGHT = {"air": 0.7, "eye": 3.0, "orbit": 2.0, "blood": 0.7, "cord": 2.0, "skin": 1.5}


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of finite differences along the three axes."""
    return sum(((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (-3, -2, -1)), start=a.new_zeros(()))


def brain_loss(model: BrainVQVAE, image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Reconstruction of the brain: L1 alone collapses to black, so squared error leads and edges count."""
    vectors, _ = model.encode(image, mask)
    found = model.decode(vectors).float() * mask
    target = target * mask
    share = mask.mean().clamp(min=0.05)
    return (F.mse_loss(found, target) * 4 + 0.5 * gradient_l1(found, target) + 0.3 * F.l1_loss(found, target)) / share


def non_brain_loss(
    model: NonBrainVQVAE, image: Tensor, tissue: Tensor, brain: Tensor, in_view: Tensor, start: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the tissues outside the brain and within view; also returns the share of voxels, air apart,
    whose tissue gets more than half of the probability."""
    codes = model.encode(image * in_view, brain, start)
    logits = model.decode(codes.coarse, codes.fine, brain, start).float()
    counts = (brain[:, 0] == 0) & (in_view[:, 0] > 0)
    surprise = F.cross_entropy(logits, tissue, reduction="none")
    weight = torch.tensor([TISSUE_WEIGHT.get(name, 1.0) for name in TISSUES])
    # a surface is a face: voxels next to another tissue count more
    loss = surprise * weight[tissue] * (1 + _edges(tissue))
    sure = (surprise.detach() < math.log(2))[counts & (tissue != 0)].float().mean()
    return (loss * counts).sum() / counts.sum().clamp(min=1), sure


def _edges(tissue: Tensor) -> Tensor:
    """1 where the next voxel along some axis is of another tissue, else 0; (B, X, Y, Z) float32."""
    edge = torch.zeros(tissue.shape)
    for axis in (1, 2, 3):
        differs = (tissue.diff(dim=axis) != 0).float()
        n = tissue.shape[axis] - 1
        edge.narrow(axis, 0, n).add_(differs)
        edge.narrow(axis, 1, n).add_(differs)
    return edge.clamp_(max=1)
