"""Endless streams of training examples from a folder of drawn heads (`cpmae train synth` makes one)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae.errors import ScanError
from cpmae.io.output import whole_file
from cpmae.models.vqvae import FINE, MAX_INTENSITY, STEP_MM, code_shape
from cpmae.training import anatomy
from cpmae.training.population import DrawnHead
from cpmae.training.synth import scan

CUT_SHARE = 0.3  # of the heads: part of the field is unknown


@dataclass  # not frozen: Fabric moves its tensors between devices
class Heads:
    """A batch of heads; `image` and `clean` are the first one's, which is enough for the brain's VQ-VAE."""

    image: Tensor  # (1, 1, X/2, ...), the brain, noisy and in a random contrast; unit: its median
    clean: Tensor  # the same without noise and bias
    brain: Tensor  # (B, 1, X/2, ...), 1 in the brain mask
    field: Tensor  # (B, 3, X/8, ...) mm
    known: Tensor  # (B, 1, X/8, ...), 1 where the field is known
    weight: Tensor  # (B, 1, X/8, ...), how much the field counts there


def save_example(path: Path, head: DrawnHead) -> None:
    """A drawn head as the networks are trained on it: its anatomy at `STEP_MM` and its field."""
    with whole_file(path) as file:
        np.savez_compressed(file, anatomy=head.anatomy(STEP_MM), field=head.field.numpy().astype(np.float16))


def load_example(path: Path) -> tuple[NDArray[np.uint8], Tensor]:
    """The anatomy (X/2, Y/2, Z/2) uint8 and the field (3, X/8, ...) float32 in a file of `save_example`."""
    with np.load(path) as file:
        return file["anatomy"], torch.from_numpy(file["field"].astype(np.float32))


def head_files(folder: Path) -> list[Path]:
    """The drawn heads in a folder.

    Raises:
        ScanError: if there are none.
    """
    paths = sorted(folder.glob("head-*.npz"))
    if not paths:
        raise ScanError(f"no heads (head-*.npz) in {folder}; draw some with `cpmae train synth`")
    return paths


def brain_median(image: Tensor, brain: Tensor) -> Tensor:
    """The median of the brain, with a floor for one that is nearly black; see `canonical.brain_unit`."""
    return image[brain].median().clamp(min=0.05)


def random_order(seed: int, step: int) -> np.random.Generator:
    """What draws examples from a step on; another for each, so that a run that goes on does not begin again."""
    return np.random.default_rng([seed, step] if step else seed)


def batches(folder: Path, size: int, seed: int, step: int = 0) -> Iterator[Heads]:
    """Endless batches of random heads, others from each `step` on."""
    rng = random_order(seed, step)
    paths = head_files(folder)
    while True:
        yield to_batch([load_example(paths[i]) for i in rng.integers(len(paths), size=size)], rng)


def to_batch(heads: list[tuple[NDArray[np.uint8], Tensor]], rng: np.random.Generator) -> Heads:
    """Heads of `load_example` as one batch."""
    image, clean, brain = brain_scan(heads[0][0], rng)
    masks = [brain, *(torch.from_numpy((values & anatomy.IN_BRAIN_MASK) > 0) for values, _ in heads[1:])]
    known = [random_view(rng) if rng.random() < CUT_SHARE else torch.ones(code_shape(FINE)) for _ in heads]
    return Heads(
        image=image[None, None],
        clean=clean[None, None],
        brain=torch.stack(masks)[:, None].float(),
        field=torch.stack([field for _, field in heads]),
        known=torch.stack(known)[:, None],
        weight=torch.stack([field_weight(values) for values, _ in heads])[:, None],
    )


def brain_scan(values: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One scan of a head's brain: noisy and clean, in units of its median, and its mask; (X/2, Y/2, Z/2) float32."""
    where = ndimage.find_objects(((values & anatomy.IN_BRAIN_MASK) > 0).astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in where)  # room for a mask that is drawn a little larger
    head = scan(np.ascontiguousarray(values[box]), rng)
    unit = brain_median(head.image, head.brain)
    image, clean, brain = torch.zeros((3, *values.shape))
    brain[box] = head.brain.float()
    image[box] = head.image / unit * head.brain
    clean[box] = (head.clean / unit).clamp(max=MAX_INTENSITY) * head.brain
    return image, clean, brain


def field_weight(values: NDArray[np.uint8]) -> Tensor:
    """How much each block's displacement counts, (X/8, ...): most at the skin, next to nothing in the air."""
    solid = torch.from_numpy((values & (anatomy.STRUCTURE | anatomy.IN_BRAIN_MASK)) > 0).float()[None, None]
    solid = F.avg_pool3d(solid, FINE // STEP_MM)
    edge = F.max_pool3d(((solid > 0.02) & (solid < 0.98)).float(), 3, 1, 1)
    return (0.02 + (solid > 0) * (1 + 2 * edge))[0, 0]


def random_view(rng: np.random.Generator) -> Tensor:
    """Part of a field: 1 on one side of a random plane about the face, 0 beyond it, (X/8, Y/8, Z/8) float32."""
    shape = code_shape(FINE)
    axes = [torch.linspace(-1, 1, n).view([-1 if a == i else 1 for i in range(3)]) for a, n in enumerate(shape)]
    normal = rng.normal(0, [0.3, 1.0, 1.0])
    normal /= np.linalg.norm(normal)
    side = sum((float(c) * axis for c, axis in zip(normal, axes, strict=True)), start=torch.zeros(shape))
    return (side < rng.uniform(-0.2, 0.6)).float()
