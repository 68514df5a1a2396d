"""Iterative masked decoding: fill in masked codes over a few steps (MaskGIT, Chang et al., CVPR 2022).

Polarity as everywhere: True in `removed` is masked, to be generated. Two departures from MaskGIT: positions are filled
in a low-discrepancy order that is fixed beforehand (as in Besnier et al., 2025), since the most confident first fills
air before anything else and eats the face; and so logits are needed only where a step fills in.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

LogitsFn = Callable[[Tensor, Tensor], Tensor]


def sample(
    logits_fn: LogitsFn,
    codes: Tensor,
    removed: Tensor,
    *,
    mask_id: int,
    num_steps: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw the removed codes given the others.

    Args:
        logits_fn: from codes, (X, Y, Z) int64 with `mask_id` where not yet known, and positions in the flattened grid,
            (n,) int64, to logits (n, codebook_size).
        codes: (X, Y, Z) int64; what stands under `removed` is not looked at.
        removed: (X, Y, Z) bool, True where codes are to be drawn.
        num_steps: at most so many calls of `logits_fn`; how many codes each draws follows a cosine, few at first.
        temperature: 1 samples the model's distribution, 0 takes its most likely code.

    Returns:
        (X, Y, Z) int64 without `mask_id`.
    """
    codes = torch.where(removed, mask_id, codes)
    order = spread_order(tuple(codes.shape), generator)
    order = order[removed.flatten()[order]]
    for begin, end in _steps(len(order), num_steps):
        where = order[begin:end]
        logits = logits_fn(codes, where).float()
        if temperature > 0:
            # the largest of logits plus Gumbel noise is a draw from their softmax, without the softmax
            noise = torch.rand(logits.shape, generator=generator).clamp_(min=1e-20).log_().neg_().log_().neg_()
            logits = logits / temperature + noise
        codes.view(-1)[where] = logits.argmax(dim=1)
    return codes


def spread_order(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """All positions of a grid, flattened, each far from those just before it.

    A randomly shifted additive recurrence, whose steps are powers of the generalised golden ratio (Roberts, 2018).
    """
    count, axes = math.prod(shape), len(shape)
    ratio = 2.0
    for _ in range(40):  # the root of x^(d + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (axes + 1))
    steps = ratio ** -np.arange(1, axes + 1)
    shift = torch.rand(axes, generator=generator, dtype=torch.float64).numpy()
    points = (shift + np.arange(4 * count)[:, None] * steps) % 1
    index = np.ravel_multi_index(tuple((points * np.array(shape)).astype(np.int64).T), shape)
    _, first = np.unique(index, return_index=True)
    order = index[np.sort(first)]
    missed = np.setdiff1d(np.arange(count), order)
    return torch.from_numpy(np.concatenate([order, missed]))


def _steps(count: int, num_steps: int) -> list[tuple[int, int]]:
    """Cut `count` positions into at most `num_steps` runs; what stays masked after step t is cos(pi t / 2 T) of all."""
    known = [count - round(count * math.cos(math.pi / 2 * t / num_steps)) for t in range(num_steps)] + [count]
    return [(a, b) for a, b in zip(known[:-1], known[1:], strict=True) if b > a]
