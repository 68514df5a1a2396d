"""The plan: a third level of codes above the coarse ones, one a block of 64 voxels cubed, 48 for a whole head.

Coarse codes drawn place by place agree with their neighbours but not with the other half of the face. A plan of the
whole head, drawn first, settles what has to agree over distance; given it, coarse codes have little left to choose.
The encoder that makes plans is trained with the coarse network, whose only use for them is to predict coarse codes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.layers import Down, ResidualBlock, ToCode
from cpmae.models.mae import AttentionBlock, MAEConfig, visible_vectors
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.vqvae import VQVAEConfig


class PlanEncoder(nn.Module):
    """Coarse codes to the plan."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        w = config.plan_encoder_width
        self.coarse_quantizer = FiniteScalarQuantizer(vqvae.coarse_levels)
        self.quantizer = FiniteScalarQuantizer(config.plan_levels)
        self.encoder = nn.Sequential(
            nn.Conv3d(len(vqvae.coarse_levels) + 1, w // 2, 3, padding=1),
            nn.SiLU(),
            Down(w // 2, w),
            ResidualBlock(w),
            Down(w, w),
        )
        self.to_code = ToCode(w, len(config.plan_levels))

    def forward(self, coarse_codes: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse codes (B, X/16, ...), not looked at where `known` (same shape, bool) is False.

        Returns vectors (B, C, ceil(X/64), ...) and codes (B, ceil(X/64), ...).
        """
        known = known.unsqueeze(1).float()
        x = torch.cat([self.coarse_quantizer.codes_to_vectors(coarse_codes) * known, known], dim=1)
        return self.quantizer(self.to_code(self.encoder(pad_to_blocks(x))))


class PlanMAE(nn.Module):
    """Logits of the plan's codes, given the brain."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        w = config.plan_width
        self.quantizer = FiniteScalarQuantizer(config.plan_levels)
        self.mask_id = self.quantizer.codebook_size
        self.grid = tuple(-(-n // 64) for n in vqvae.grid_shape)
        self.brain = nn.Sequential(
            Down(len(vqvae.brain_levels) + 1, 32), nn.SiLU(), Down(32, 64), nn.SiLU(), Down(64, w)
        )
        self.stem = nn.Linear(len(config.plan_levels) + 1, w)
        self.place = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1] * self.grid[2], w) * 0.02)
        self.attention = nn.Sequential(*(AttentionBlock(w, config.plan_heads) for _ in range(config.plan_layers)))
        self.head = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, w), nn.GELU(), nn.Linear(w, self.mask_id))

    def features(self, codes: Tensor, brain: Tensor) -> Tensor:
        """codes (B, X/64, ...) with mask ids; brain: `BrainCondition.cat()`. Returns (B, X/64, ..., width)."""
        seen = visible_vectors(codes, self.quantizer, self.mask_id).flatten(2).transpose(1, 2)
        around = self.brain(pad_to_blocks(brain, 8)).flatten(2).transpose(1, 2)
        tokens = self.attention(self.stem(seen) + around + self.place)
        return tokens.view(*codes.shape, -1)


def pad_to_blocks(x: Tensor, size: int = 4) -> Tensor:
    """Zeros at the far ends of (B, C, X, Y, Z), up to the next multiple of `size`."""
    return F.pad(x, [n for length in reversed(x.shape[2:]) for n in (0, -length % size)])


def whole_blocks(known: Tensor) -> Tensor:
    """(B, X/16, ...) bool to (B, ceil(X/64), ...): True where every coarse code of a block is known."""
    gone = pad_to_blocks((~known).unsqueeze(1).float())
    return F.max_pool3d(gone, 4)[:, 0] == 0
