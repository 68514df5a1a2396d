"""Stage three: train the masked autoencoder on the codes of many heads.

Each head's codes are made once: e2 encodes its clean anatomy in one standard contrast, so that codes differ by
anatomy alone, while e1 encodes the brain of a noisy scan in a random contrast, as it will have to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.mae import BrainCondition, CoarseMAE, FineMAE, MAEConfig
from cpmae.models.plan import PlanEncoder, PlanMAE, whole_blocks
from cpmae.models.precision import fast_autocast
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.vqvae import BrainVQVAE, NonBrainVQVAE, VQVAEConfig
from cpmae.training import anatomy
from cpmae.training.data import brain_unit, standard_image
from cpmae.training.synth import scan


@dataclass  # not frozen: Fabric moves its tensors between devices
class HeadCodes:
    """The codes of one head, or of a batch of them with a first axis more."""

    brain: Tensor  # (X/8, Y/8, Z/8) int64
    share: Tensor  # (X/8, Y/8, Z/8) float32, share of brain
    coarse: Tensor  # (X/16, ...) int64
    fine: Tensor  # (X/8, ...) int64
    known: Tensor  # (X/8, ...) bool, the block lies in the source's field of view


def encode_head(values: NDArray[np.uint8], e1: BrainVQVAE, e2: NonBrainVQVAE, rng: np.random.Generator) -> HeadCodes:
    """Codes of a whole anatomy."""
    where = ndimage.find_objects(((values & anatomy.IN_BRAIN_MASK) > 0).astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in where)  # room for a mask that is drawn a little larger
    head = scan(np.ascontiguousarray(values[box]), rng)
    brain, image = torch.zeros((2, *values.shape))
    brain[box] = head.brain.float()
    image[box] = head.image / brain_unit(head.image, head.brain)
    tissue = torch.from_numpy(anatomy.outside_tissue())[torch.from_numpy(values & anatomy.STRUCTURE).long()].long()
    in_view = torch.from_numpy((values & anatomy.OUT_OF_VIEW) == 0).float()
    return _encode(image, standard_image(tissue) * in_view, brain, in_view, e1, e2)


def encode_scan(prepared: dict[str, NDArray], e1: BrainVQVAE, e2: NonBrainVQVAE) -> HeadCodes:
    """Codes of a prepared scan; see `scans.load_prepared`."""
    image = torch.from_numpy(prepared["image"].astype(np.float32)).clamp(0, 6)
    brain, in_view = (torch.from_numpy(prepared[name]).float() for name in ("brain", "known"))
    return _encode(image, image * in_view, brain, in_view, e1, e2)


def _encode(
    image: Tensor, outside: Tensor, brain: Tensor, in_view: Tensor, e1: BrainVQVAE, e2: NonBrainVQVAE
) -> HeadCodes:
    """Codes of what e1 and e2 see, all (X, Y, Z) float32."""
    mask = brain[None, None]
    with torch.inference_mode(), fast_autocast(torch.device("cpu")):
        _, brain_codes = e1.encode(image[None, None] * mask, mask)
        codes = e2.encode(outside[None, None], mask)
    share = F.avg_pool3d(mask, 8)[0, 0]
    known = F.avg_pool3d(in_view[None, None], 8)[0, 0] > 0.98
    return HeadCodes(brain_codes[0], share, codes.coarse_codes[0], codes.fine_codes[0], known)


def save_codes(path: Path, codes: HeadCodes) -> None:
    np.savez_compressed(
        path,
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


def batches(folder: Path, size: int, seed: int) -> Iterator[HeadCodes]:
    """Endless batches of the codes in a folder, all kept in memory (0.2 MB a head)."""
    heads = [load_codes(path) for path in sorted(folder.glob("*.npz"))]
    if not heads:
        raise FileNotFoundError(f"no codes (*.npz) in {folder}")
    rng = np.random.default_rng(seed)
    while True:
        chosen = [heads[i] for i in rng.integers(len(heads), size=size)]
        yield HeadCodes(*(torch.stack([getattr(c, n) for c in chosen]) for n in HeadCodes.__annotations__))


class MaskedAutoencoder(nn.Module):
    """All networks, trained side by side."""

    def __init__(self, config: MAEConfig, vqvae: VQVAEConfig) -> None:
        super().__init__()
        self.plan_encoder = PlanEncoder(config, vqvae)
        self.plan = PlanMAE(config, vqvae)
        self.coarse = CoarseMAE(config, vqvae)
        self.fine = FineMAE(config, vqvae)
        self.brain_quantizer = FiniteScalarQuantizer(vqvae.brain_levels)

    def forward(self, batch: HeadCodes) -> dict[str, Tensor]:
        """Cross-entropy of the removed codes that are known, at mask ratios as sampling meets them."""
        brain, known = self.condition(batch), known_coarse(batch)
        plan_vectors, plan_codes = self.plan_encoder(batch.coarse, known)
        plan = plan_loss(self.plan, plan_codes, whole_blocks(known), brain)
        removed = random_mask(batch.coarse.shape) | ~known
        masked = batch.coarse.masked_fill(removed, self.coarse.mask_id)
        features = self.coarse.features(masked, plan_vectors, brain)
        counts = removed & known
        coarse = _surprise(self.coarse.head(features[counts]), batch.coarse[counts])
        # one head a step is enough for the fine network, which has eight times the positions
        removed = random_mask(batch.fine[:1].shape) | ~batch.known[:1]
        masked = batch.fine[:1].masked_fill(removed, self.fine.mask_id)
        features = self.fine.features(masked, batch.coarse[:1], brain[:1])
        counts = removed & batch.known[:1]
        fine = _surprise(self.fine.head(features[counts]), batch.fine[:1][counts])
        return {"plan": plan, "coarse": coarse, "fine": fine}

    def condition(self, batch: HeadCodes) -> Tensor:
        return BrainCondition(self.brain_quantizer.codes_to_vectors(batch.brain), batch.share[:, None]).cat()


class PlanPrior(nn.Module):
    """The plan's network alone, once plans no longer change: it is small, and learns them in thousands of quick steps.

    A few levels of the training heads' plans move by one and the brains get noise, so that it learns them by heart
    later. With some hundred heads it does so all the same.
    """

    def __init__(self, trained: MaskedAutoencoder, jitter: float = 0.05, brain_noise: float = 0.15) -> None:
        super().__init__()
        self.trained = trained.requires_grad_(False).eval()
        self.plan = trained.plan.requires_grad_(True).train()
        self.jitter, self.brain_noise = jitter, brain_noise

    def forward(self, batch: HeadCodes) -> dict[str, Tensor]:
        brain, known = self.trained.condition(batch), known_coarse(batch)
        vectors, _ = self.trained.plan_encoder(batch.coarse, known)
        step = 2 / (vectors.new_tensor(self.plan.quantizer.levels).view(1, -1, 1, 1, 1) - 1)
        move = (torch.rand_like(vectors) < self.jitter) * torch.randn_like(vectors).sign()
        codes = self.plan.quantizer.vectors_to_codes((vectors + move * step).clamp(-1, 1))
        noisy = brain + self.brain_noise * torch.randn_like(brain)
        return {"plan": plan_loss(self.plan, codes, whole_blocks(known), noisy)}


def known_coarse(batch: HeadCodes) -> Tensor:
    """(B, X/16, ...) bool, True where all of a block lies in the source's field of view."""
    return F.avg_pool3d(batch.known.float()[:, None], 2)[:, 0] == 1


def plan_loss(model: PlanMAE, codes: Tensor, known: Tensor, brain: Tensor) -> Tensor:
    """Cross-entropy of the removed plan codes, (B, X/64, ...), that are known."""
    removed = random_mask(codes.shape) | ~known
    features = model.features(codes.masked_fill(removed, model.mask_id), brain)
    counts = removed & known
    return _surprise(model.head(features[counts]), codes[counts])


def _surprise(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy of (N, size) logits and (N,) codes; 0 where a crop of the view or a draw left N = 0."""
    return F.cross_entropy(logits.float(), codes, reduction="sum") / max(len(codes), 1)


def random_mask(shape: torch.Size) -> Tensor:
    """True where removed: of each head a share cos(pi u / 2), u uniform, as in sampling's schedule."""
    ratio = torch.cos(torch.rand(shape[0]) * math.pi / 2).clamp(min=0.02)
    return torch.rand(shape) < ratio.view(-1, *[1] * (len(shape) - 1))
