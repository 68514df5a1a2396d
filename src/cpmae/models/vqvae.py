"""The two VQ-VAEs: e1, d1 for the brain, e2, d2 for everything else (CP-MAE, arXiv 2310.15778, section 2).

The brain's is plain: one code a block of 8 voxels cubed. The non-brain one has two levels, as in VQ-VAE-2 (Razavi et
al., 2019): a coarse code a block of 16 says what is where, a fine code a block of 8 refines it; a prior over few
coarse codes is easier to learn than one over many fine ones. d2 tells tissues, not intensities: `paint` does the
rest. It sees the brain mask, which is known whenever it is used, so that its meninges fit the brain to the voxel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cpmae.models.layers import Down, ResidualBlock, ToCode, Up, channels_to_space, space_to_channels
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.tissue import TISSUES

LOGIT_LIMIT = 40.0  # exp of it and sums of such fit in bfloat16


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of both VQ-VAEs."""

    brain_levels: tuple[int, ...] = (8, 5, 5, 5)
    coarse_levels: tuple[int, ...] = (8, 5, 5, 5)
    fine_levels: tuple[int, ...] = (8, 5, 5, 5)
    grid_shape: tuple[int, int, int] = (192, 240, 256)
    width: int = 48


class BrainVQVAE(nn.Module):
    """e1 and d1."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        w = config.width
        self.quantizer = FiniteScalarQuantizer(config.brain_levels)
        self.encoder = nn.Sequential(
            nn.Conv3d(2 * 64, w, 1), ResidualBlock(w), Down(w, 2 * w), ResidualBlock(2 * w), ResidualBlock(2 * w)
        )
        self.to_code = ToCode(2 * w, len(config.brain_levels))
        self.from_code = nn.Conv3d(len(config.brain_levels), 2 * w, 1)
        self.decoder = nn.Sequential(
            ResidualBlock(2 * w), ResidualBlock(2 * w), Up(2 * w, w), ResidualBlock(w), nn.Conv3d(w, 64, 1)
        )

    def encode(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """e1. image, mask (B, 1, X, Y, Z), 0 outside the brain, to vectors (B, C, X/8, ...), codes (B, X/8, ...)."""
        x = space_to_channels(torch.cat([image * mask, mask], dim=1), 4)
        return self.quantizer(self.to_code(self.encoder(x)))

    def decode(self, vectors: Tensor) -> Tensor:
        """d1. Vectors to the brain's intensities, (B, 1, X, Y, Z)."""
        return channels_to_space(self.decoder(self.from_code(vectors)), 4)


class NonBrainVQVAE(nn.Module):
    """e2 and d2."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        w = config.width
        self.coarse_quantizer = FiniteScalarQuantizer(config.coarse_levels)
        self.fine_quantizer = FiniteScalarQuantizer(config.fine_levels)
        self.to_eighth = nn.Sequential(
            nn.Conv3d(2 * 64, w, 1), ResidualBlock(w), Down(w, 2 * w), ResidualBlock(2 * w), ResidualBlock(2 * w)
        )
        self.to_sixteenth = nn.Sequential(Down(2 * w, 2 * w), ResidualBlock(2 * w), ResidualBlock(2 * w))
        self.to_coarse = ToCode(2 * w, len(config.coarse_levels))
        # anatomy is where it is: a bias for each place of the canonical grid spares the codes from saying it
        self.place = nn.Parameter(torch.zeros(1, 16, *(n // 16 for n in config.grid_shape)))
        self.from_coarse = nn.Sequential(
            nn.Conv3d(len(config.coarse_levels) + 16, 2 * w, 1), ResidualBlock(2 * w), Up(2 * w, 2 * w)
        )
        self.to_fine = nn.Sequential(
            nn.Conv3d(4 * w, 2 * w, 1), ResidualBlock(2 * w), ToCode(2 * w, len(config.fine_levels))
        )
        self.from_fine = nn.Conv3d(len(config.fine_levels), 2 * w, 1)
        self.mask_eighth = nn.Conv3d(512, 2 * w, 1)
        self.mask_quarter = nn.Conv3d(64, w, 1)
        self.mask_half = nn.Conv3d(8, w // 2, 1)
        self.decoder_eighth = nn.Sequential(ResidualBlock(2 * w), ResidualBlock(2 * w), Up(2 * w, w))
        self.decoder_quarter = nn.Sequential(ResidualBlock(w), ResidualBlock(w), Up(w, w // 2))
        self.decoder_half = nn.Sequential(ResidualBlock(w // 2), nn.Conv3d(w // 2, 8 * len(TISSUES), 1))

    def encode(self, image: Tensor, brain: Tensor, start: tuple[int, int, int] = (0, 0, 0)) -> "NonBrainCodes":
        """e2.

        Args:
            image: (B, 1, X, Y, Z), the unit as in `conform`; what is unknown is 0.
            brain: same shape, 1 in the brain mask, whose intensities are not looked at.
            start: voxel of the canonical grid at which a crop begins, multiples of 16.
        """
        x = space_to_channels(torch.cat([image * (1 - brain), brain], dim=1), 4)
        eighth = self.to_eighth(x)
        coarse, coarse_codes = self.coarse_quantizer(self.to_coarse(self.to_sixteenth(eighth)))
        context = self._context(coarse, start)
        fine, fine_codes = self.fine_quantizer(self.to_fine(torch.cat([eighth, context], dim=1)))
        return NonBrainCodes(coarse, fine, coarse_codes, fine_codes)

    def decode(self, coarse: Tensor, fine: Tensor, brain: Tensor, start: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
        """d2. Vectors of both levels and the brain mask to logits of the tissues, (B, len(TISSUES), X, Y, Z)."""
        return channels_to_space(self._decode_half(coarse, fine, brain, start), 2)

    def decode_mixed(
        self,
        coarse: Tensor,
        fine: Tensor,
        brain: Tensor,
        mixes: Tensor,
        start: tuple[int, int, int] = (0, 0, 0),
        sharpness: float = 1.0,
    ) -> Tensor:
        """d2, its tissue shares summed with the weights `mixes` (R, len(TISSUES)): (B, R, X, Y, Z).

        The same as weighting the softmax of `decode`, without ever holding all tissues at full resolution. Logits
        times a `sharpness` above 1 leave less of a voxel undecided between tissues.
        """
        packed = self._decode_half(coarse, fine, brain, start).permute(0, 2, 3, 4, 1)
        # softmax over tissues that lie 8 channels apart is slow; exponentials, then one product that also sums them
        shares = packed.mul(sharpness).clamp_(-LOGIT_LIMIT, LOGIT_LIMIT).exp_()
        rows = torch.cat([mixes, mixes.new_ones(1, len(TISSUES))])
        # for the eight voxels of a packed position: block j takes the shares of voxel j
        weights = torch.kron(rows.T.contiguous(), torch.eye(8, device=mixes.device)).to(shares.dtype)
        sums = (shares @ weights).unflatten(-1, (len(rows), 8))
        layers = (sums[..., :-1, :] / sums[..., -1:, :]).flatten(-2)
        return channels_to_space(layers.permute(0, 4, 1, 2, 3), 2)

    def _decode_half(self, coarse: Tensor, fine: Tensor, brain: Tensor, start: tuple[int, int, int]) -> Tensor:
        x = self._context(coarse, start) + self.from_fine(fine) + self.mask_eighth(space_to_channels(brain, 8))
        x = self.decoder_eighth(x) + self.mask_quarter(space_to_channels(brain, 4))
        x = self.decoder_quarter(x) + self.mask_half(space_to_channels(brain, 2))
        return self.decoder_half(x)

    def _context(self, coarse: Tensor, start: tuple[int, int, int]) -> Tensor:
        begin = [s // 16 for s in start]
        x, y, z = (slice(b, b + n) for b, n in zip(begin, coarse.shape[2:], strict=True))
        place = self.place[:, :, x, y, z].expand(coarse.shape[0], -1, -1, -1, -1)
        return self.from_coarse(torch.cat([coarse, place], dim=1))


@dataclass(frozen=True)
class NonBrainCodes:
    """What e2 says of a volume: vectors for d2 and integer codes for the masked autoencoder, at 1/16 and 1/8."""

    coarse: Tensor
    fine: Tensor
    coarse_codes: Tensor
    fine_codes: Tensor
