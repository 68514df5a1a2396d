"""Stage two: train the brain's and the non-brain VQ-VAE on crops of heads."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.paint import mixes
from cpmae.models.tissue import TISSUES
from cpmae.models.vqvae import BrainVQVAE, NonBrainVQVAE, VQVAEConfig
from cpmae.training.data import Crop

# small structures that make a face count more; air, of which there is most, counts less
TISSUE_WEIGHT = {"air": 0.7, "eye": 3.0, "orbit": 2.0, "blood": 0.7, "cord": 2.0, "skin": 1.5}
BRAIN_EVERY = 3  # steps: the brain's VQ-VAE, which only has to be recognised by the masked autoencoder, needs fewer


class VQVAEs(nn.Module):
    """Both VQ-VAEs, trained side by side; forward gives the losses of a crop."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.brain = BrainVQVAE(config)
        self.non_brain = NonBrainVQVAE(config)
        self._calls = 0

    def forward(self, crop: Crop) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls % BRAIN_EVERY == 0 and crop.brain.mean() > 0.05:
            brain = brain_loss(self.brain, crop)
        else:  # all processes of a distributed run need a gradient for every parameter
            brain = sum((p.sum() for p in self.brain.parameters()), start=crop.image.new_zeros(())) * 0
        if crop.tissue is None:
            return {"brain": brain, "non_brain": scan_loss(self.non_brain, crop)}
        outside, sure, used = tissue_loss(self.non_brain, crop)
        return {"_sure": sure, "_used": used, "brain": brain, "non_brain": outside}


def brain_loss(model: BrainVQVAE, crop: Crop) -> Tensor:
    """Reconstruction of the brain: L1 alone collapses to black, so squared error leads and edges count."""
    vectors, _ = model.encode(crop.image * crop.brain, crop.brain)
    found = model.decode(vectors).float() * crop.brain
    target = crop.clean * crop.brain
    share = crop.brain.mean().clamp(min=0.05)
    return (F.mse_loss(found, target) * 4 + 0.5 * gradient_l1(found, target) + 0.3 * F.l1_loss(found, target)) / share


def tissue_loss(model: NonBrainVQVAE, crop: Crop) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of the tissues outside the brain and within view, for synthetic heads.

    Also returns the share of voxels, air apart, whose tissue gets more than half of the probability, and the number
    of different fine codes.
    """
    assert crop.tissue is not None
    codes = model.encode(crop.outside * crop.in_view, crop.brain, crop.start)
    logits = model.decode(codes.coarse, codes.fine, crop.brain, crop.start).float()
    counts = (crop.brain[:, 0] == 0) & (crop.in_view[:, 0] > 0)
    surprise = F.cross_entropy(logits, crop.tissue, reduction="none")
    weight = torch.tensor([TISSUE_WEIGHT.get(name, 1.0) for name in TISSUES], device=surprise.device)
    # a surface is a face: voxels next to another tissue count more
    loss = surprise * weight[crop.tissue] * (1 + _edges(crop.tissue))
    sure = (surprise.detach() < math.log(2))[counts & (crop.tissue != 0)].float().mean()
    used = torch.tensor(float(len(codes.fine_codes.unique())))
    return (loss * counts).sum() / counts.sum().clamp(min=1), sure, used


def scan_loss(model: NonBrainVQVAE, crop: Crop) -> Tensor:
    """Intensities outside the brain and within view, for scans without labels: tissues painted by the palette."""
    assert crop.paints is not None
    counts = (1 - crop.brain) * crop.in_view
    codes = model.encode(crop.outside * crop.in_view, crop.brain, crop.start)
    layers = model.decode_mixed(codes.coarse, codes.fine, crop.brain, mixes(crop.paints), crop.start).float()
    found, target = layers[:, :1] * counts, crop.outside * counts
    share = counts.mean().clamp(min=0.05)
    return (F.mse_loss(found, target) * 2 + gradient_l1(found, target) + F.l1_loss(found, target)) / share


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of finite differences along the three axes."""
    return sum(((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (-3, -2, -1)), start=a.new_zeros(()))


def _edges(tissue: Tensor) -> Tensor:
    """1 where the next voxel along some axis is of another tissue, else 0; (B, X, Y, Z) float32."""
    edge = torch.zeros(tissue.shape, device=tissue.device)
    for axis in (1, 2, 3):
        differs = (tissue.diff(dim=axis) != 0).float()
        n = tissue.shape[axis] - 1
        edge.narrow(axis, 0, n).add_(differs)
        edge.narrow(axis, 1, n).add_(differs)
    return edge.clamp_(max=1)
