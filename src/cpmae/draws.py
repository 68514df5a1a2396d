"""Codes drawn around a brain, until the face that they make is nobody's."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cpmae import faces
from cpmae.models.head import HeadModel
from cpmae.models.mae import known_coarse
from cpmae.models.vqvae import COARSE, FINE, code_shape
from cpmae.sampling import sample

KNOWN_STEP = 4  # voxels between the points of the model's known faces
# how far a face has to be from the nearest known one to be nobody's, and how far it may be without being a caricature,
# in units of the distance between the two known ones that are most alike
UNLIKE = (1.08, 1.6)
MAX_DRAWS = 24  # of a face, until it is within these
FACES_OF_A_HEAD = 4  # drawn one after the other, before the rest of the head, which may lead to no other face, goes too


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are drawn; see `sampling.sample`."""

    coarse_steps: int = 16
    face_steps: int = 6
    fine_steps: int = 4
    coarse_temperature: float = 0.9
    fine_temperature: float = 0.3


@dataclass(frozen=True)
class VisibleCodes:
    """Codes that are known beforehand, as where the cranium is kept; True in a `removed` grid is to be drawn."""

    coarse: Tensor  # (X/32, Y/32, Z/32) int64
    fine: Tensor  # (X/8, Y/8, Z/8) int64
    coarse_removed: Tensor  # bool
    fine_removed: Tensor  # bool


@dataclass(frozen=True)
class Draws:
    """Codes around the brain of `condition`, and the head of the first whose face is nobody's."""

    model: HeadModel
    condition: Tensor
    generator: torch.Generator
    settings: SamplingSettings

    def nobody(self, visible: VisibleCodes, field_of: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """The field of a head whose face is within `UNLIKE`, or else of the one that misses it by least.

        Coarse codes tell how near a face is to the known ones to within some hundredths, so fine ones are drawn for
        few of them; and where a face is refused, it alone is drawn again, a few times.

        Args:
            field_of: coarse codes, and fine ones or None, to a field.
        """
        known = self.model.known_faces.cpu().numpy()
        if len(known) < 2:
            coarse = self.head(visible)
            return field_of(coarse, self.fine(visible, coarse))
        solid, face = self.model.atlas.share(), visible.coarse_removed & face_blocks()
        least, most = (share * faces.least_apart(known) for share in UNLIKE)

        def misses(field: Tensor) -> float:
            apart = faces.nearest(field, solid, known)
            return max(least - apart, apart - most)

        missed: list[tuple[float, Tensor, Tensor | None]] = []
        for number in range(MAX_DRAWS):
            anew = number % FACES_OF_A_HEAD == 0
            coarse = self.head(visible) if anew else self.coarse(coarse, face, self.settings.face_steps)
            by, field = misses(field_of(coarse, None)), None
            if by <= 0:
                field = field_of(coarse, self.fine(visible, coarse))
                by = misses(field)
                if by <= 0:
                    return field
            missed.append((by, coarse, field))
        _, coarse, field = min(missed, key=lambda one: one[0])
        return field_of(coarse, self.fine(visible, coarse)) if field is None else field

    def head(self, visible: VisibleCodes) -> Tensor:
        """Coarse codes of a whole head."""
        return self.coarse(visible.coarse, visible.coarse_removed, self.settings.coarse_steps)

    def coarse(self, codes: Tensor, removed: Tensor, num_steps: int) -> Tensor:
        """Codes (X/32, ...) int64 where they are removed."""
        return sample(
            lambda codes, where: self.model.coarse_logits(codes, where, self.condition),
            codes,
            removed,
            mask_id=self.model.coarse.mask_id,
            num_steps=num_steps,
            temperature=self.settings.coarse_temperature,
            generator=self.generator,
        )

    def fine(self, visible: VisibleCodes, coarse: Tensor) -> Tensor:
        """Codes (X/8, ...) int64 that go with the coarse ones."""
        return sample(
            lambda codes, where: self.model.fine_logits(codes, where, coarse, self.condition),
            visible.fine,
            visible.fine_removed,
            mask_id=self.model.fine.mask_id,
            num_steps=self.settings.fine_steps,
            temperature=self.settings.fine_temperature,
            generator=self.generator,
        )


def face_blocks() -> Tensor:
    """True where coarse codes say what the face looks like, (X/32, ...) bool."""
    blocks = torch.zeros(code_shape(COARSE), dtype=torch.bool)
    blocks[tuple(slice(f.start // COARSE, f.stop and -(-f.stop // COARSE)) for f in faces.FACE)] = True
    return blocks


def no_codes() -> VisibleCodes:
    """Nothing is known: every code is to be drawn."""
    coarse = torch.zeros(code_shape(COARSE), dtype=torch.int64)
    fine = torch.zeros(code_shape(FINE), dtype=torch.int64)
    return VisibleCodes(
        coarse, fine, torch.ones_like(coarse, dtype=torch.bool), torch.ones_like(fine, dtype=torch.bool)
    )


def visible_codes(model: HeadModel, field: Tensor, known: Tensor) -> VisibleCodes:
    """Codes of a field where it is `known` (X/8, ...) bool; blocks next to unknown ones are to be drawn as well."""
    coarse, fine = model.encode_field(field, known)
    beside = F.max_pool3d((~known).float()[None, None], 3, 1, 1)[0, 0] > 0
    return VisibleCodes(coarse, fine, ~known_coarse(known[None])[0], beside)
