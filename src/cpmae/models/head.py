"""The trained model as the pipeline uses it: brain in, the tissues of a new head out.

Everything that needs PyTorch weights stands behind this class, so that another runtime can take its place.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.models.mae import BrainCondition, CoarseMAE, FineMAE, MAEConfig
from cpmae.models.palette import Palette
from cpmae.models.plan import PlanEncoder, PlanMAE, whole_blocks
from cpmae.models.precision import fast_autocast
from cpmae.models.vqvae import BrainVQVAE, NonBrainVQVAE, VQVAEConfig

SHARPNESS = 2.0  # of d2's tissue logits: crisper edges, judged by eye


@dataclass(frozen=True)
class HeadConfig:
    """What a weight file needs to say of itself to be read again."""

    vqvae: VQVAEConfig = VQVAEConfig()
    mae: MAEConfig = MAEConfig()


class HeadModel(nn.Module):
    """e1, e2, d2, the masked autoencoder and the palette."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.sha256 = ""  # of the weight file it was read from
        self.brain = BrainVQVAE(config.vqvae)
        self.non_brain = NonBrainVQVAE(config.vqvae)
        self.plan_encoder = PlanEncoder(config.mae, config.vqvae)
        self.plan = PlanMAE(config.mae, config.vqvae)
        self.coarse = CoarseMAE(config.mae, config.vqvae)
        self.fine = FineMAE(config.mae, config.vqvae)
        self.palette = Palette()
        del self.brain.decoder, self.brain.from_code  # d1 serves training alone

    @property
    def device(self) -> torch.device:
        return self.coarse.place.device

    @torch.inference_mode()
    def brain_condition(self, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> Tensor:
        """e1: conformed brain and mask to what the masked autoencoder sees of them, (1, C, X/8, Y/8, Z/8)."""
        brain = self._volume(mask)
        with fast_autocast(self.device):
            vectors, _ = self.brain.encode(self._volume(image), brain)
        return BrainCondition(vectors, F.avg_pool3d(brain, 8)).cat()

    @torch.inference_mode()
    def encode_plan(self, coarse: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse codes (X/16, ...) where `known` to plan codes (X/64, ...) and where they have to be drawn (bool)."""
        with fast_autocast(self.device):
            _, codes = self.plan_encoder(coarse[None].to(self.device), known[None].to(self.device))
        return codes[0].cpu(), ~whole_blocks(known[None])[0]

    @torch.inference_mode()
    def plan_logits(self, codes: Tensor, where: Tensor, condition: Tensor) -> Tensor:
        """Masked autoencoder, plan: codes (X/64, ...) with mask ids to logits (n, size) at flat positions (n,)."""
        with fast_autocast(self.device):
            features = self.plan.features(codes[None].to(self.device), condition)
            return self.plan.head(features.flatten(0, 3)[where.to(self.device)]).float().cpu()

    @torch.inference_mode()
    def coarse_logits(self, codes: Tensor, where: Tensor, plan: Tensor, condition: Tensor) -> Tensor:
        """Masked autoencoder, coarse: as `plan_logits` at 1/16, given the whole plan."""
        with fast_autocast(self.device):
            vectors = self.plan.quantizer.codes_to_vectors(plan[None].to(self.device))
            features = self.coarse.features(codes[None].to(self.device), vectors, condition)
            return self.coarse.head(features.flatten(0, 3)[where.to(self.device)]).float().cpu()

    @torch.inference_mode()
    def fine_logits(self, codes: Tensor, where: Tensor, coarse: Tensor, condition: Tensor) -> Tensor:
        """Masked autoencoder, fine: as `plan_logits` at 1/8, given all coarse codes."""
        with fast_autocast(self.device):
            features = self.fine.features(codes[None].to(self.device), coarse[None].to(self.device), condition)
            return self.fine.head(features.flatten(0, 3)[where.to(self.device)]).float().cpu()

    @torch.inference_mode()
    def encode_non_brain(self, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """e2: codes of a conformed non-brain volume, unknown voxels 0; (X/16, ...) and (X/8, ...) int64."""
        with fast_autocast(self.device):
            codes = self.non_brain.encode(self._volume(image), self._volume(mask))
        return codes.coarse_codes[0].cpu(), codes.fine_codes[0].cpu()

    @torch.inference_mode()
    def decode(self, coarse: Tensor, fine: Tensor, mask: NDArray[np.bool_], mixes: Tensor) -> Tensor:
        """d2: codes and the brain mask to sums of tissue shares with the weights `mixes` (R, tissues), (R, *grid)."""
        with fast_autocast(self.device):
            layers = self.non_brain.decode_mixed(
                self.non_brain.coarse_quantizer.codes_to_vectors(coarse[None].to(self.device)),
                self.non_brain.fine_quantizer.codes_to_vectors(fine[None].to(self.device)),
                self._volume(mask),
                mixes.to(self.device),
                sharpness=SHARPNESS,
            )
        return layers[0].cpu()

    @torch.inference_mode()
    def paints(self, profile: NDArray[np.float32]) -> Tensor:
        """Palette: a brain's profile to the paints, (len(PAINTS),) float32 on the CPU."""
        return self.palette(torch.from_numpy(profile).to(self.device)[None])[0].float().cpu()

    def _volume(self, data: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(data, np.float32)).to(self.device)[None, None]
