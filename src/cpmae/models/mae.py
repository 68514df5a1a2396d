"""The masked autoencoder over codes: what non-brain belongs around this brain (CP-MAE, arXiv 2310.15778, section 2).

Two networks. The coarse one, a transformer over the blocks of 32 mm, looks at the whole head at once and says how it is
shaped; the fine one, convolutions over the blocks of 8 mm, adds what is local. Both see all brain codes and the brain
mask. True in `removed` is masked, to be generated; the mask id is the codebook size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.layers import Down, ResidualBlock, Up
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.vqvae import COARSE, FINE, VQVAEConfig, code_shape, pad_to_coarse


@dataclass(frozen=True)
class MAEConfig:
    """Sizes of both networks."""

    coarse_width: int = 224
    coarse_layers: int = 6
    coarse_heads: int = 7
    fine_width: int = 48


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
    """Logits of the coarse codes, at 1/32, given the brain."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        w = config.coarse_width
        self.quantizer = FiniteScalarQuantizer(vqvae.coarse_levels)
        self.mask_id = self.quantizer.codebook_size
        self.brain = nn.Sequential(Down(len(vqvae.brain_levels) + 1, 64), nn.SiLU(), Down(64, w))
        self.stem = nn.Linear(len(vqvae.coarse_levels) + 1, w)
        x, y, z = code_shape(COARSE)
        self.place = nn.Parameter(torch.randn(1, x * y * z, w) * 0.02)
        self.attention = nn.Sequential(*(AttentionBlock(w, config.coarse_heads) for _ in range(config.coarse_layers)))
        self.head = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, self.mask_id))

    def features(self, codes: Tensor, brain: Tensor) -> Tensor:
        """codes (B, X/32, ...) with mask ids; brain: `BrainCondition.cat()`. Returns (B, X/32, ..., width)."""
        seen = visible_vectors(codes, self.quantizer, self.mask_id).flatten(2).transpose(1, 2)
        around = self.brain(pad_to_coarse(brain)).flatten(2).transpose(1, 2)
        tokens = self.attention(self.stem(seen) + around + self.place)
        return tokens.view(*codes.shape, -1)


class FineMAE(nn.Module):
    """Logits of the fine codes, at 1/8, given all coarse codes and the brain."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        w = config.fine_width
        self.coarse_quantizer = FiniteScalarQuantizer(vqvae.coarse_levels)
        self.quantizer = FiniteScalarQuantizer(vqvae.fine_levels)
        self.mask_id = self.quantizer.codebook_size
        self.place = nn.Parameter(torch.randn(1, 16, *code_shape(COARSE)) * 0.02)
        self.from_coarse = nn.Sequential(
            nn.Conv3d(len(vqvae.coarse_levels) + 16, 2 * w, 3, padding=1), ResidualBlock(2 * w), Up(2 * w, w), Up(w, w)
        )
        self.stem = nn.Conv3d(len(vqvae.fine_levels) + 1 + len(vqvae.brain_levels) + 1, w, 3, padding=1)
        self.blocks = nn.Sequential(ResidualBlock(w), ResidualBlock(w))
        self.head = nn.Sequential(nn.LayerNorm(w), nn.Linear(w, 2 * w), nn.GELU(), nn.Linear(2 * w, self.mask_id))

    def features(self, codes: Tensor, coarse_codes: Tensor, brain: Tensor) -> Tensor:
        """codes (B, X/8, ...) with mask ids, coarse_codes (B, X/32, ...) without. Returns (B, X/8, ..., width)."""
        coarse = self.coarse_quantizer.codes_to_vectors(coarse_codes)
        place = self.place.expand(codes.shape[0], -1, -1, -1, -1)
        x, y, z = codes.shape[1:]
        context = self.from_coarse(torch.cat([coarse, place], dim=1))[:, :, :x, :y, :z]
        seen = visible_vectors(codes, self.quantizer, self.mask_id)
        return self.blocks(self.stem(torch.cat([seen, brain], dim=1)) + context).permute(0, 2, 3, 4, 1)


def known_coarse(known: Tensor) -> Tensor:
    """(B, X/8, ...) bool to (B, X/32, ...): True where all of a coarse block is known."""
    gone = pad_to_coarse((~known).float()[:, None])
    return F.max_pool3d(gone, COARSE // FINE)[:, 0] == 0


def visible_vectors(codes: Tensor, quantizer: FiniteScalarQuantizer, mask_id: int) -> Tensor:
    """Vectors of the visible codes, 0 under the mask, and a last channel that is 1 there: (B, C + 1, X, Y, Z)."""
    masked = codes == mask_id
    vectors = quantizer.codes_to_vectors(codes.masked_fill(masked, 0))
    return torch.cat([vectors.masked_fill(masked.unsqueeze(1), 0.0), masked.unsqueeze(1).float()], dim=1)
