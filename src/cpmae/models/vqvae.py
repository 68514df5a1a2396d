"""The two VQ-VAEs: e1, d1 for the brain, e2, d2 for everything else (CP-MAE, arXiv 2310.15778, section 2).

Both keep one code for each block of 8 mm cubed. The brain's sees intensities. The non-brain one does not draw voxels: a
head is an atlas of tissues seen through a smooth field (`field`), and the field is what e2 encodes and d2 decodes. What
no code can spoil are closed surfaces, two eyes and a mouth; what codes decide is whose they are. A second level lies
above, as in VQ-VAE-2 (Razavi et al., 2019): a coarse code a block of 32 mm says how the head is shaped, a fine code
what the coarse ones leave out, since a prior over few codes learns to keep a head's parts together. d2 also sees the
brain mask, which is known whenever it is used, so that the atlas fits around the brain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cpmae.models.field import GRID_SHAPE
from cpmae.models.layers import Down, ResidualBlock, ToCode, Up, channels_to_space, space_to_channels
from cpmae.models.precision import full_precision
from cpmae.models.quantizer import FiniteScalarQuantizer

STEP_MM = 2  # of the voxels that the networks see
FINE, COARSE = 8, 32  # mm, edges of the blocks that have a code
MAX_INTENSITY = 6.0  # that e1 sees, in medians of the brain: one spike must not outweigh all else
FIELD_UNIT_MM = 5.0  # about how far heads lie from the atlas


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of both VQ-VAEs."""

    brain_levels: tuple[int, ...] = (8, 5, 5, 5)
    coarse_levels: tuple[int, ...] = (8, 5, 5, 5)
    fine_levels: tuple[int, ...] = (5, 5, 5)
    width: int = 32


def code_shape(block: int) -> tuple[int, int, int]:
    """How many blocks of `block` mm the canonical grid has along each axis; the last ones may be part empty."""
    x, y, z = (-(-n // block) for n in GRID_SHAPE)
    return x, y, z


class BrainVQVAE(nn.Module):
    """e1 and d1."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        w = config.width
        self.quantizer = FiniteScalarQuantizer(config.brain_levels)
        self.encoder = nn.Sequential(nn.Conv3d(2 * 64, w, 1), ResidualBlock(w), ResidualBlock(w))
        self.to_code = ToCode(w, len(config.brain_levels))
        self.from_code = nn.Conv3d(len(config.brain_levels), w, 1)
        self.decoder = nn.Sequential(ResidualBlock(w), ResidualBlock(w), nn.Conv3d(w, 64, 1))

    def encode(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """e1. image, mask (B, 1, X/2, ...), 0 outside the brain, to vectors (B, C, X/8, ...), codes (B, X/8, ...)."""
        x = space_to_channels(torch.cat([image.clamp(0, MAX_INTENSITY) * mask, mask], dim=1), FINE // STEP_MM)
        return self.quantizer(self.to_code(self.encoder(x)))

    def decode(self, vectors: Tensor) -> Tensor:
        """d1. Vectors to the brain's intensities, (B, 1, X/2, ...)."""
        return channels_to_space(self.decoder(self.from_code(vectors)), FINE // STEP_MM)


class NonBrainVQVAE(nn.Module):
    """e2 and d2."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        w = config.width
        self.coarse_quantizer = FiniteScalarQuantizer(config.coarse_levels)
        self.fine_quantizer = FiniteScalarQuantizer(config.fine_levels)
        self.to_eighth = nn.Sequential(nn.Conv3d(4, w, 3, padding=1), ResidualBlock(w))
        self.to_coarse = nn.Sequential(
            Down(w, 2 * w),
            ResidualBlock(2 * w),
            Down(2 * w, 2 * w),
            ResidualBlock(2 * w),
            ToCode(2 * w, len(config.coarse_levels)),
        )
        # anatomy is where it is: a bias for each place of the canonical grid spares the codes from saying it
        self.place = nn.Parameter(torch.zeros(1, 16, *code_shape(COARSE)))
        self.from_coarse = nn.Sequential(
            nn.Conv3d(len(config.coarse_levels) + 16, 2 * w, 1),
            ResidualBlock(2 * w),
            Up(2 * w, 2 * w),
            ResidualBlock(2 * w),
            Up(2 * w, w),
        )
        self.to_fine = nn.Sequential(nn.Conv3d(2 * w, w, 1), ResidualBlock(w), ToCode(w, len(config.fine_levels)))
        self.from_fine = nn.Conv3d(len(config.fine_levels), w, 1)
        self.from_brain = nn.Conv3d(64, w, 1)
        self.decoder = nn.Sequential(ResidualBlock(w), ResidualBlock(w), nn.GroupNorm(8, w), nn.SiLU())
        self.to_field = nn.Conv3d(w, 3, 3, padding=1)

    def encode(self, field: Tensor, known: Tensor) -> "NonBrainCodes":
        """e2.

        Args:
            field: (B, 3, X/8, Y/8, Z/8), mm.
            known: (B, 1, X/8, Y/8, Z/8), 1 where the field is known; it is not looked at elsewhere.
        """
        eighth = self.to_eighth(torch.cat([field / FIELD_UNIT_MM * known, known], dim=1))
        coarse, coarse_codes = self.coarse_quantizer(self.to_coarse(pad_to_coarse(eighth)))
        context = self._context(coarse)
        fine, fine_codes = self.fine_quantizer(self.to_fine(torch.cat([eighth, context], dim=1)))
        return NonBrainCodes(coarse, fine, coarse_codes, fine_codes)

    def decode(self, coarse: Tensor, fine: Tensor, brain: Tensor) -> Tensor:
        """d2. Vectors of both levels and the brain mask (B, 1, X/2, ...) to the field (B, 3, X/8, ...) float32, mm."""
        x = self._context(coarse) + self.from_fine(fine) + self.from_brain(space_to_channels(brain, FINE // STEP_MM))
        x = self.decoder(x).float()
        with full_precision(x.device):  # bfloat16 would tell 15 mm from 15.06 and no finer
            return self.to_field(x) * FIELD_UNIT_MM

    def _context(self, coarse: Tensor) -> Tensor:
        place = self.place.expand(coarse.shape[0], -1, -1, -1, -1)
        x, y, z = code_shape(FINE)
        return self.from_coarse(torch.cat([coarse, place], dim=1))[:, :, :x, :y, :z]


def pad_to_coarse(x: Tensor) -> Tensor:
    """Zeros at the far ends of (B, C, X/8, ...), up to a multiple of what a coarse block holds."""
    n = COARSE // FINE
    return nn.functional.pad(x, [p for length in reversed(x.shape[2:]) for p in (0, -length % n)])


@dataclass(frozen=True)
class NonBrainCodes:
    """What e2 says of a field: vectors for d2 and integer codes for the masked autoencoder, at 1/32 and 1/8."""

    coarse: Tensor
    fine: Tensor
    coarse_codes: Tensor
    fine_codes: Tensor
