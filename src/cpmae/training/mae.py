"""Stage three: train the masked autoencoder on the codes of many heads.

Each head's codes are made once: e2 encodes its field, while e1 encodes the brain of a noisy scan in a random contrast,
as it will have to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.errors import ScanError
from cpmae.io.output import whole_file
from cpmae.models.mae import BrainCondition, CoarseMAE, FineMAE, MAEConfig, known_coarse
from cpmae.models.precision import fast_autocast
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.vqvae import FINE, STEP_MM, BrainVQVAE, NonBrainVQVAE, VQVAEConfig
from cpmae.training.data import brain_scan, random_order

FINE_EVERY = 4  # steps


@dataclass  # not frozen: Fabric moves its tensors between devices
class HeadCodes:
    """The codes of one head, or of a batch of them with a first axis more."""

    brain: Tensor  # (X/8, Y/8, Z/8) int64
    share: Tensor  # (X/8, Y/8, Z/8) float32, share of brain
    coarse: Tensor  # (X/32, ...) int64
    fine: Tensor  # (X/8, ...) int64
    known: Tensor  # (X/8, ...) bool, the block lies in the source's field of view


def encode_head(
    values: NDArray[np.uint8], field: Tensor, e1: BrainVQVAE, e2: NonBrainVQVAE, rng: np.random.Generator
) -> HeadCodes:
    """Codes of a drawn head, from its anatomy (X/2, Y/2, Z/2) and its field (3, X/8, ...)."""
    image, _, brain = brain_scan(values, rng)
    return encode(image, brain, field, torch.ones(field.shape[1:]), e1, e2)


def encode(image: Tensor, brain: Tensor, field: Tensor, known: Tensor, e1: BrainVQVAE, e2: NonBrainVQVAE) -> HeadCodes:
    """Codes of a brain, `image` and mask `brain` (X/2, Y/2, Z/2), and of a field where `known` (X/8, ...)."""
    mask = brain[None, None]
    with torch.inference_mode(), fast_autocast(torch.device("cpu")):
        _, brain_codes = e1.encode(image[None, None], mask)
        codes = e2.encode(field[None], known[None, None])
    share = F.avg_pool3d(mask, FINE // STEP_MM)[0, 0]
    return HeadCodes(brain_codes[0], share, codes.coarse_codes[0], codes.fine_codes[0], known > 0)


def save_codes(path: Path, codes: HeadCodes) -> None:
    with whole_file(path) as file:
        np.savez_compressed(
            file,
            brain=codes.brain.numpy().astype(np.uint16),
            share=np.round(codes.share.numpy() * 255).astype(np.uint8),
            coarse=codes.coarse.numpy().astype(np.uint16),
            fine=codes.fine.numpy().astype(np.uint16),
            known=codes.known.numpy(),
        )


def load_codes(path: Path) -> HeadCodes:
    with np.load(path) as file:
        return HeadCodes(
            torch.from_numpy(file["brain"].astype(np.int64)),
            torch.from_numpy(file["share"].astype(np.float32) / 255),
            torch.from_numpy(file["coarse"].astype(np.int64)),
            torch.from_numpy(file["fine"].astype(np.int64)),
            torch.from_numpy(file["known"]),
        )


def batches(folder: Path, size: int, seed: int, step: int = 0) -> Iterator[HeadCodes]:
    """Endless batches of the codes in a folder, all kept in memory (0.2 MB a head); others from each `step` on."""
    heads = [load_codes(path) for path in sorted(folder.glob("*.npz"))]
    if not heads:
        raise ScanError(f"no codes (*.npz) in {folder}; give examples with heads")
    rng = random_order(seed, step)
    while True:
        chosen = [heads[i] for i in rng.integers(len(heads), size=size)]
        yield HeadCodes(*(torch.stack([getattr(c, n) for c in chosen]) for n in HeadCodes.__annotations__))


class MaskedAutoencoder(nn.Module):
    """Both networks, trained side by side."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        self.coarse = CoarseMAE(config, vqvae)
        self.fine = FineMAE(config, vqvae)
        self.brain_quantizer = FiniteScalarQuantizer(vqvae.brain_levels)
        self._calls = 0

    def forward(self, batch: HeadCodes) -> dict[str, Tensor]:
        """Cross-entropy of the removed codes that are known, at mask ratios as sampling meets them."""
        brain = BrainCondition(self.brain_quantizer.codes_to_vectors(batch.brain), batch.share[:, None]).cat()
        known = known_coarse(batch.known)
        removed = random_mask(batch.coarse.shape, known.device) | ~known
        features = self.coarse.features(batch.coarse.masked_fill(removed, self.coarse.mask_id), brain)
        counts = removed & known
        coarse = _surprise(self.coarse.head(features[counts]), batch.coarse[counts])
        return {"coarse": coarse, "fine": self._fine(batch, brain)}

    def _fine(self, batch: HeadCodes, brain: Tensor) -> Tensor:
        """One head every few steps is enough for the fine network, which has sixty times the positions."""
        self._calls += 1
        if self._calls % FINE_EVERY:  # all processes of a distributed run need a gradient for every parameter
            return sum((p.sum() for p in self.fine.parameters()), start=brain.new_zeros(())) * 0
        removed = random_mask(batch.fine[:1].shape, brain.device) | ~batch.known[:1]
        masked = batch.fine[:1].masked_fill(removed, self.fine.mask_id)
        features = self.fine.features(masked, batch.coarse[:1], brain[:1])
        counts = removed & batch.known[:1]
        return _surprise(self.fine.head(features[counts]), batch.fine[:1][counts]) * FINE_EVERY


def _surprise(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of (N, size) logits and (N,) codes; 0 where a crop of the view or a draw left N = 0."""
    return F.cross_entropy(logits.float(), codes, reduction="sum") / max(len(codes), 1)


def random_mask(shape: torch.Size, device: torch.device) -> Tensor:
    """True where removed: of each head a share cos(pi u / 2), u uniform, as in sampling's schedule."""
    ratio = torch.cos(torch.rand(shape[0]) * math.pi / 2).clamp(min=0.02)
    return (torch.rand(shape) < ratio.view(-1, *[1] * (len(shape) - 1))).to(device)
