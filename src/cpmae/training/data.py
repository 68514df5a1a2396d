"""Endless streams of training examples from a folder of anatomies (`cpmae train synth` makes one)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpmae.models.paint import paint_labels
from cpmae.training import anatomy
from cpmae.training.synth import scan

STANDARD_SHARE = 0.6  # of crops
# relative to the brain's median: air, csf, blood, eye, muscle, orbit, mucosa, skin, cord, bone, marrow, fat
STANDARD_PAINTS = (0.0, 0.3, 0.5, 0.3, 0.6, 1.1, 0.8, 1.4, 1.1, 0.12, 1.2, 1.4)


@dataclass  # not frozen: Fabric moves its tensors between devices
class Crop:
    """A crop of a head; volumes are (B, 1, X, Y, Z) float32."""

    image: Tensor  # noisy, random contrast; unit: the brain's median
    clean: Tensor  # the same without noise and bias
    outside: Tensor  # what e2 sees: `image`, or the anatomy in the one standard contrast that codes are made from later
    brain: Tensor
    in_view: Tensor
    start: tuple[int, int, int]
    tissue: Tensor | None = None  # (B, X, Y, Z) int64, index of TISSUES; None for a scan without labels
    paints: Tensor | None = None  # (len(PAINTS),) for a scan without labels


def brain_unit(image: Tensor, brain: Tensor) -> Tensor:
    """The median of the brain, or 1 where a crop holds too little of it; see `canonical.intensity_scale`."""
    inside = image[brain]
    return inside.median().clamp(min=0.05) if len(inside) > 1000 else image.new_tensor(0.7)


def standard_image(tissue: Tensor) -> Tensor:
    """The anatomy outside the brain in one contrast, no texture, no noise, so that codes differ by anatomy alone."""
    zero = torch.zeros(tissue.shape)
    return paint_labels(tissue, torch.tensor(STANDARD_PAINTS), zero, zero)


def crops(folder: Path, size: int, seed: int) -> Iterator[Crop]:
    """Crops of `size` cubed voxels from random anatomies, one at a time, around the head more often than beside it."""
    rng = np.random.default_rng(seed)
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise FileNotFoundError(f"no anatomies (*.npy) in {folder}; make some with `cpmae train synth`")
    while True:
        values = np.load(paths[rng.integers(len(paths))], mmap_mode="r")
        x, y, z = (int(rng.integers((n - size) // 16 + 1)) * 16 for n in values.shape)
        cut = np.ascontiguousarray(values[x : x + size, y : y + size, z : z + size])
        if ((cut & anatomy.STRUCTURE) > 0).mean() < 0.1:
            continue
        yield _to_crop(cut, rng, (x, y, z))


def _to_crop(cut: NDArray[np.uint8], rng: np.random.Generator, start: tuple[int, int, int]) -> Crop:
    head = scan(cut, rng)
    unit = brain_unit(head.image, head.brain)
    image = head.image / unit
    return Crop(
        image=image.clamp(max=6)[None, None],
        outside=(standard_image(head.tissue) if rng.random() < STANDARD_SHARE else image).clamp(max=6)[None, None],
        clean=(head.clean / unit).clamp(max=6)[None, None],
        tissue=head.tissue[None],
        brain=head.brain.float()[None, None],
        in_view=head.in_view.float()[None, None],
        start=start,
    )
