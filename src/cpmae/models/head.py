"""The trained model as the pipeline uses it: brain in, the field and the tissues of a new head out.

Everything that needs PyTorch weights stands behind this class, so that another runtime can take its place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.errors import DeviceError
from cpmae.models.atlas import Atlas
from cpmae.models.field import GRID_SHAPE, control_shape
from cpmae.models.mae import BrainCondition, CoarseMAE, FineMAE, MAEConfig
from cpmae.models.palette import Palette, without_fat
from cpmae.models.precision import fast_autocast
from cpmae.models.vqvae import FINE, STEP_MM, BrainVQVAE, NonBrainVQVAE, VQVAEConfig


@dataclass(frozen=True)
class HeadConfig:
    """What a weight file needs to say of itself to be read again."""

    vqvae: VQVAEConfig = VQVAEConfig()
    mae: MAEConfig = MAEConfig()
    known_faces: tuple[int, ...] = (0, 0, 0)  # shape of what no drawn face may be like


class HeadModel(nn.Module):
    """e1, e2, d2 with its atlas, the masked autoencoder and the palette. Volumes that go in have `STEP_MM`."""

    half_tissue: Tensor  # (X / 2, Y, Z) of GRID_SHAPE, uint8, of the atlas; the other half mirrors it
    half_solid: Tensor
    known_faces: Tensor  # (N, X, Z) float32, mm: reliefs of the faces that shapes were learnt from, see `cpmae.faces`

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.sha256 = ""  # of the weight file it was read from
        self.trained_on = ""  # "scans" if on those of people, whose heads it may draw
        self.brain = BrainVQVAE(config.vqvae)
        self.non_brain = NonBrainVQVAE(config.vqvae)
        self.coarse = CoarseMAE(config.mae, config.vqvae)
        self.fine = FineMAE(config.mae, config.vqvae)
        self.palette = Palette()
        x, y, z = GRID_SHAPE
        for name in ("half_tissue", "half_solid"):
            self.register_buffer(name, torch.zeros(x // 2, y, z, dtype=torch.uint8))
        self.register_buffer("known_faces", torch.zeros(config.known_faces))
        del self.brain.decoder, self.brain.from_code  # d1 serves training alone

    @cached_property
    def atlas(self) -> Atlas:
        """The head that d2's fields lead to, GRID_SHAPE, on the CPU; the same tensors each time, for caches."""
        halves = (self.half_tissue.cpu(), self.half_solid.cpu())
        return Atlas(*(torch.cat([half, half.flip(0)]) for half in halves))

    def set_atlas(self, atlas: Atlas) -> None:
        """Keep one half of an atlas of GRID_SHAPE that is symmetric."""
        self.half_tissue.copy_(atlas.tissue[: len(self.half_tissue)])
        self.half_solid.copy_(atlas.solid[: len(self.half_solid)])
        self.__dict__.pop("atlas", None)

    @property
    def device(self) -> torch.device:
        return self.coarse.place.device

    @torch.inference_mode()
    def brain_condition(self, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> Tensor:
        """e1: conformed brain and mask to what the masked autoencoder sees of them, (1, C, X/8, Y/8, Z/8)."""
        brain = self._volume(mask)
        share = F.avg_pool3d(brain.cpu(), FINE // STEP_MM).to(self.device)  # some versions of PyTorch lack it on mps
        with self._running():
            vectors, _ = self.brain.encode(self._volume(image), brain)
        return BrainCondition(vectors, share).cat()

    @torch.inference_mode()
    def coarse_logits(self, codes: Tensor, where: Tensor, condition: Tensor) -> Tensor:
        """Masked autoencoder, coarse: codes (X/32, ...) with mask ids to logits (n, size) at flat positions (n,)."""
        with self._running():
            features = self.coarse.features(codes[None].to(self.device), condition)
            return self.coarse.head(features.flatten(0, 3)[where.to(self.device)]).float().cpu()

    @torch.inference_mode()
    def fine_logits(self, codes: Tensor, where: Tensor, coarse: Tensor, condition: Tensor) -> Tensor:
        """Masked autoencoder, fine: as `coarse_logits` at 1/8, given all coarse codes."""
        with self._running():
            features = self.fine.features(codes[None].to(self.device), coarse[None].to(self.device), condition)
            return self.fine.head(features.flatten(0, 3)[where.to(self.device)]).float().cpu()

    @torch.inference_mode()
    def encode_field(self, field: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """e2: codes of a field (3, X/8, ...) mm where `known` (X/8, ...) bool; (X/32, ...) and (X/8, ...) int64."""
        with self._running():
            codes = self.non_brain.encode(field[None].to(self.device), known[None, None].float().to(self.device))
        return codes.coarse_codes[0].cpu(), codes.fine_codes[0].cpu()

    @torch.inference_mode()
    def decode(self, coarse: Tensor, fine: Tensor | None, mask: NDArray[np.bool_]) -> Tensor:
        """d2: codes and the brain mask to the field into the atlas, (3, *control_shape()) float32 on the CPU, mm.

        Without fine codes their mean stands in: the head as far as coarse codes say how it is shaped.
        """
        quantizer = self.non_brain.fine_quantizer
        with self._running():
            field = self.non_brain.decode(
                self.non_brain.coarse_quantizer.codes_to_vectors(coarse[None].to(self.device)),
                torch.zeros(1, len(quantizer.levels), *control_shape(), device=self.device)
                if fine is None
                else quantizer.codes_to_vectors(fine[None].to(self.device)),
                self._volume(mask),
            )
        return field[0].cpu()

    @torch.inference_mode()
    def paints(self, profile: NDArray[np.float32], fat_suppressed: bool = False) -> Tensor:
        """Palette: a brain's profile to the paints, (len(PAINTS),) float32 on the CPU."""
        paints = self.palette(torch.from_numpy(profile).to(self.device)[None])[0].float().cpu()
        return without_fat(paints) if fat_suppressed else paints

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Fast arithmetic.

        Raises:
            DeviceError: PyTorch lacks a part of the networks on the device.
        """
        try:
            with fast_autocast(self.device):
                yield
        except NotImplementedError as error:
            raise DeviceError(
                f"PyTorch {torch.__version__} cannot run the networks on {self.device.type}, use --device cpu"
            ) from error

    def _volume(self, data: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(data, np.float32)).to(self.device)[None, None]
