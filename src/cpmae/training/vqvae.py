"""Stage two: train the brain's and the non-brain VQ-VAE on heads at 2 mm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.field import dense
from cpmae.models.vqvae import BrainVQVAE, NonBrainVQVAE, VQVAEConfig
from cpmae.training.data import Heads

BRAIN_EVERY = 3  # steps: the brain's VQ-VAE, which only has to be recognised by the masked autoencoder, needs fewer
NO_FINE = 0.25  # share of the heads decoded from coarse codes alone, which so carry all that they can
SMALL_MM = 1.0  # errors of the field below that are as good as none


class VQVAEs(nn.Module):
    """Both VQ-VAEs, trained side by side; forward gives the losses of a batch of heads."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.brain = BrainVQVAE(config)
        self.non_brain = NonBrainVQVAE(config)
        self._calls = 0

    def forward(self, batch: Heads) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls % BRAIN_EVERY == 0:
            brain = brain_loss(self.brain, batch) * BRAIN_EVERY
        else:  # all processes of a distributed run need a gradient for every parameter
            brain = sum((p.sum() for p in self.brain.parameters()), start=batch.image.new_zeros(())) * 0
        outside, error_mm, used = field_loss(self.non_brain, batch)
        return {"_error_mm": error_mm, "_used": used, "brain": brain, "non_brain": outside}


def brain_loss(model: BrainVQVAE, batch: Heads) -> Tensor:
    """Reconstruction of the first head's brain: L1 alone collapses to black, so squared error leads and edges count."""
    vectors, _ = model.encode(batch.image, batch.brain[:1])
    found = model.decode(vectors).float() * batch.brain[:1]
    share = batch.brain[:1].mean().clamp(min=0.05)
    squared, absolute = F.mse_loss(found, batch.clean), F.l1_loss(found, batch.clean)
    return (squared * 4 + 0.5 * gradient_l1(found, batch.clean) + 0.3 * absolute) / share


def field_loss(model: NonBrainVQVAE, batch: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Distance between the decoded and the true field, where it is known.

    Also returns the weighted mean distance in mm and the number of different coarse codes.
    """
    codes = model.encode(batch.field, batch.known)
    with_fine = (torch.rand(len(codes.fine), 1, 1, 1, 1, device=codes.fine.device) >= NO_FINE).float()
    field = model.decode(codes.coarse, codes.fine * with_fine, batch.brain)
    blocks = field.shape[2:]
    apart = torch.linalg.vector_norm(dense(field - batch.field, blocks), dim=1, keepdim=True)
    weight = batch.weight * batch.known
    weight = weight / weight.sum()
    loss = (F.smooth_l1_loss(apart, torch.zeros_like(apart), reduction="none", beta=SMALL_MM) * weight).sum()
    used = torch.tensor(float(len(codes.coarse_codes.unique())))
    return loss, (apart.detach() * weight).sum(), used


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of finite differences along the three axes."""
    return sum(((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (-3, -2, -1)), start=a.new_zeros(()))
