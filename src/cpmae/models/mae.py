"""The masked autoencoder over codes: what non-brain belongs around this brain (CP-MAE, arXiv 2310.15778, section 2).

Networks from coarse to fine. A plan comes first (see `plan`). Given it, the coarse network looks at the whole head at
once (attention over blocks of 32 voxels) and says what is where at 1/16; the fine one refines it at 1/8 and needs to
look only nearby. All see all brain codes and the brain mask. True in `removed` is masked, to be generated; the mask id
is the codebook size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.layers import Down, ResidualBlock, Up, space_to_channels
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.vqvae import VQVAEConfig


@dataclass(frozen=True)
class MAEConfig:
    """Sizes of both networks."""

    coarse_width: int = 96
    attention_width: int = 192
    attention_layers: int = 4
    attention_heads: int = 6
    fine_width: int = 64
    plan_levels: tuple[int, ...] = (8, 5, 5, 5)
    plan_encoder_width: int = 64
    plan_width: int = 96
    plan_layers: int = 4
    plan_heads: int = 4


@dataclass(frozen=True)
class BrainCondition:
    """What is known of the brain, at 1/8: e1's vectors (B, C, ...) and the share of brain in each block (B, 1, ...)."""

    vectors: Tensor
    share: Tensor

    def cat(self) -> Tensor:
        return torch.cat([self.vectors, self.share * 2 - 1], dim=1)


class AttentionBlock(nn.Module):
    """A transformer layer over all positions of a small grid."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:  # (B, N, C)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norm2(x))


class CoarseMAE(nn.Module):
    """Logits of the coarse codes, at 1/16, given the plan (see `plan`)."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        w, a = config.coarse_width, config.attention_width
        self.quantizer = FiniteScalarQuantizer(vqvae.coarse_levels)
        self.plan_quantizer = FiniteScalarQuantizer(config.plan_levels)
        self.mask_id = self.quantizer.codebook_size
        grid = [n // 16 for n in vqvae.grid_shape]
        self.place = nn.Parameter(torch.randn(1, 32, *grid) * 0.02)
        brain_channels = 8 * (len(vqvae.brain_levels) + 1)
        self.stem = nn.Conv3d(len(vqvae.coarse_levels) + 1 + brain_channels + 32, w, 3, padding=1)
        self.before = ResidualBlock(w)
        self.down = Down(w, a)
        self.from_plan = Up(len(config.plan_levels), a)
        half = [-(-n // 2) for n in grid]
        self.token_place = nn.Parameter(torch.randn(1, half[0] * half[1] * half[2], a) * 0.02)
        self.attention = nn.Sequential(
            *(AttentionBlock(a, config.attention_heads) for _ in range(config.attention_layers))
        )
        self.up = Up(a, w)
        self.after = nn.Sequential(ResidualBlock(w), ResidualBlock(w))
        self.head = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, 2 * w), nn.GELU(), nn.Linear(2 * w, self.mask_id))

    def features(self, codes: Tensor, plan: Tensor, brain: Tensor) -> Tensor:
        """Features of every coarse code, (B, X, Y, Z, width).

        Args:
            codes: (B, X, Y, Z) with mask ids.
            plan: (B, C, ceil(X / 4), ...) vectors.
            brain: `BrainCondition.cat()`.
        """
        seen = visible_vectors(codes, self.quantizer, self.mask_id)
        brain = space_to_channels(brain, 2)
        place = self.place.expand(codes.shape[0], -1, -1, -1, -1)
        x = self.before(self.stem(torch.cat([seen, brain, place], dim=1)))
        odd = [n % 2 for n in codes.shape[1:]]
        y = self.down(F.pad(x, [0, odd[2], 0, odd[1], 0, odd[0]]))
        y = y + self.from_plan(plan)[:, :, : y.shape[2], : y.shape[3], : y.shape[4]]
        tokens = y.flatten(2).transpose(1, 2) + self.token_place
        y = self.attention(tokens).transpose(1, 2).reshape(y.shape)
        x = x + self.up(y)[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]
        return self.after(x).permute(0, 2, 3, 4, 1)


class FineMAE(nn.Module):
    """Logits of the fine codes, at 1/8, given all coarse codes."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        w = config.fine_width
        self.coarse_quantizer = FiniteScalarQuantizer(vqvae.coarse_levels)
        self.quantizer = FiniteScalarQuantizer(vqvae.fine_levels)
        self.mask_id = self.quantizer.codebook_size
        grid = [n // 16 for n in vqvae.grid_shape]
        self.place = nn.Parameter(torch.randn(1, 16, *grid) * 0.02)
        self.from_coarse = nn.Sequential(
            nn.Conv3d(len(vqvae.coarse_levels) + 16, w, 3, padding=1), ResidualBlock(w), Up(w, w)
        )
        self.stem = nn.Conv3d(len(vqvae.fine_levels) + 1 + len(vqvae.brain_levels) + 1, w, 3, padding=1)
        self.before = ResidualBlock(w)
        self.middle = nn.Sequential(Down(w, w), ResidualBlock(w), ResidualBlock(w), Up(w, w))
        self.after = ResidualBlock(w)
        self.head = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, 2 * w), nn.GELU(), nn.Linear(2 * w, self.mask_id))

    def features(self, codes: Tensor, coarse_codes: Tensor, brain: Tensor) -> Tensor:
        """codes (B, X, Y, Z) with mask ids, coarse_codes (B, X/2, Y/2, Z/2) without. Returns (B, X, Y, Z, width)."""
        coarse = self.coarse_quantizer.codes_to_vectors(coarse_codes)
        place = self.place.expand(codes.shape[0], -1, -1, -1, -1)
        context = self.from_coarse(torch.cat([coarse, place], dim=1))
        seen = visible_vectors(codes, self.quantizer, self.mask_id)
        x = self.before(self.stem(torch.cat([seen, brain], dim=1)) + context)
        x = x + self.middle(x)
        return self.after(x).permute(0, 2, 3, 4, 1)


def visible_vectors(codes: Tensor, quantizer: FiniteScalarQuantizer, mask_id: int) -> Tensor:
    """Vectors of the visible codes, 0 under the mask, and a last channel that is 1 there: (B, C + 1, X, Y, Z)."""
    masked = codes == mask_id
    vectors = quantizer.codes_to_vectors(codes.masked_fill(masked, 0))
    return torch.cat([vectors.masked_fill(masked.unsqueeze(1), 0.0), masked.unsqueeze(1).float()], dim=1)
