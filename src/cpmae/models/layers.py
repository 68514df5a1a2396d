"""Blocks that the networks share. Tensors are (B, C, X, Y, Z), channels last in memory where that is faster."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.precision import full_precision


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions around which the input passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class ToCode(nn.Module):
    """Features to the channels that are quantised, whitened: mean 0, variance 1, uncorrelated over the training data.

    Without that all channels soon say the same, whether there is tissue or air, each sits at its lowest or highest
    level, and thirty codes of a thousand are used. Whitening uses running moments in training too, so that a crop of
    air and one of a face are treated alike, and no gradient goes through them.
    """

    mean: Tensor  # (C,)
    covariance: Tensor  # (C, C)

    def __init__(self, channels: int, code_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, code_channels)
        self.register_buffer("mean", torch.zeros(code_channels))
        self.register_buffer("covariance", torch.eye(code_channels) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(self.norm(x.permute(0, 2, 3, 4, 1))).float()
        with full_precision(z.device):
            if self.training:
                self._follow(z.detach().reshape(-1, z.shape[-1]))
            return ((z - self.mean) @ self._whitening()).permute(0, 4, 1, 2, 3)

    def _follow(self, z: Tensor) -> None:
        """Move the running moments a little towards those of (N, C)."""
        self.mean.lerp_(z.mean(dim=0), 0.02)
        centred = z - self.mean
        self.covariance.lerp_(centred.T @ centred / len(z), 0.02)

    def _whitening(self) -> Tensor:
        """Inverse square root of the covariance; what is nearly constant is not blown up."""
        values, vectors = torch.linalg.eigh(self.covariance.cpu())  # of a few numbers, and mps lacks it
        return ((vectors * (values + 1e-3 * values.mean()).rsqrt()) @ vectors.T).to(self.covariance.device)


def space_to_channels(x: Tensor, factor: int) -> Tensor:
    """(B, C, X, Y, Z) to (B, C * factor**3, X / factor, Y / factor, Z / factor)."""
    b, c, *xyz = x.shape
    x = x.reshape(b, c, xyz[0] // factor, factor, xyz[1] // factor, factor, xyz[2] // factor, factor)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * factor**3, *(n // factor for n in xyz)).contiguous(memory_format=torch.channels_last_3d)


def channels_to_space(x: Tensor, factor: int) -> Tensor:
    """The inverse of `space_to_channels`."""
    b, c, *xyz = x.shape
    x = x.reshape(b, c // factor**3, factor, factor, factor, *xyz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c // factor**3, *(n * factor for n in xyz))


class Down(nn.Module):
    """Half the resolution."""

    def __init__(self, channels: int, new_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, new_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Twice the resolution, by a sub-pixel rearrangement."""

    def __init__(self, channels: int, new_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, new_channels * 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return channels_to_space(self.conv(x), 2).contiguous(memory_format=torch.channels_last_3d)
