"""Finite scalar quantisation: a vector rounded on a small grid is its own code (Mentzer et al., ICLR 2024, arXiv
2309.15505).

Nothing to collapse: every channel is squashed into a few levels and rounded; the gradient passes straight through.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FiniteScalarQuantizer(nn.Module):
    """Rounds `len(levels)` channels to `levels` values each; `codebook_size` is their product.

    Codes are integers in 0..codebook_size - 1; `codebook_size` itself is the mask id of the masked autoencoder.
    """

    # not stored in weight files: they follow from the configuration
    _levels: Tensor
    _steps: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.codebook_size = math.prod(levels)
        steps = [math.prod(levels[:i]) for i in range(len(levels))]
        lengths = torch.tensor(levels, dtype=torch.float32)
        self.register_buffer("_levels", lengths.view(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("_steps", torch.tensor(steps).view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, X, Y, Z) to the quantised vectors, -1..1 and differentiable, and codes (B, X, Y, Z) int64."""
        z = z.float()
        # to 0..levels - 1, so that even and odd numbers of levels alike get evenly wide cells; sigmoid(1.7 z) is near
        # the normal distribution function, so that unit variance spreads over all levels
        bounded = torch.sigmoid(1.7 * z) * (self._levels - 1)
        digits = bounded.detach().round()
        codes = (digits.long() * self._steps).sum(dim=1)
        # half of the training heads pass unrounded, which teaches the decoder that neighbouring levels are alike
        # (as in Stable Audio Open, arXiv 2407.14358) and gives the encoder exact gradients
        rounds = torch.rand(len(z), 1, 1, 1, 1, device=z.device) < 0.5 if self.training else z.new_ones(1)
        rounded = bounded + rounds * (digits - bounded).detach()
        return rounded / (self._levels - 1) * 2 - 1, codes

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """(B, X, Y, Z) int64 to the vectors that are rounded to them, (B, C, X, Y, Z) float32 in -1..1."""
        digits = codes.unsqueeze(1) // self._steps % self._levels.long()
        return digits / (self._levels - 1) * 2 - 1
