"""The head that is drawn around a brain: how it is drawn, from which random numbers, and how it is kept."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpmae import canonical, in_view
from cpmae.brain_search import Found, find
from cpmae.generate import generate_field
from cpmae.io import nifti
from cpmae.models import checkpoint
from cpmae.models.device import usable_device
from cpmae.models.head import HeadModel
from cpmae.options import Options
from cpmae.volume import Volume

# how sums are split among threads changes their rounding, and so which codes are drawn: always the same number
DRAWING_THREADS = 2


@dataclass(frozen=True)
class Head:
    """A head that was drawn around a brain; other scans of that person can be given it too.

    Attributes:
        pose: where the brain lies; None if each scan's own brain has to tell.
        field: (3, X/8, ...) float32, mm, into the model's atlas; see `models.field`.
    """

    pose: canonical.Pose | None
    field: Tensor

    def elsewhere(self) -> "Head":
        """The same head for scans in another world frame, of another session, say."""
        return replace(self, pose=None)


def save_head(path: Path, head: Head) -> None:
    """Write a head that has a pose to an .npz file. It follows from seed and brain; it is nothing to be shared."""
    if head.pose is None:
        raise ValueError("a head for scans elsewhere is not kept, save the one it comes from")
    np.savez(path, field=head.field.numpy(), **asdict(head.pose))


def load_head(path: Path) -> Head:
    """The inverse of `save_head`."""
    with np.load(path, allow_pickle=False) as file:
        pose = canonical.Pose(file["matrix"], *(float(file[k]) for k in ("overlap", "stray_ml", "rival")))
        return Head(pose, torch.from_numpy(file["field"]))


def generators(seed: int | None, noise_number: int = 0) -> tuple[torch.Generator, torch.Generator, torch.Generator]:
    """For the noise, the head and its texture. Without a seed, from the system's secure source, and then forgotten.

    PyTorch's generators take 32 bits each. The texture has its own, so that a head has the same one whether it was just
    drawn or is given again. Each `noise_number` has other noise, and the same head and texture.
    """
    parts = np.random.SeedSequence(secrets.randbits(128) if seed is None else seed).spawn(3)
    if noise_number:
        parts[0] = np.random.SeedSequence(parts[0].entropy, spawn_key=(*parts[0].spawn_key, noise_number))
    noise, head, texture = (
        torch.Generator().manual_seed(int(part.generate_state(1, np.uint64)[0] >> 1)) for part in parts
    )
    return noise, head, texture


@dataclass(frozen=True)
class Brain:
    """A brain as the networks see it.

    Attributes:
        unit: of its intensities.
        kept: in the region "face", all that is kept.
        front: of the field of view, see `in_view`.
    """

    unit: canonical.Unit
    conformed: canonical.Conformed
    kept: canonical.Conformed | None
    front: NDArray[np.float64]


def look_at_brain(volume: Volume, found: Found, region: str) -> Brain:
    """The brain, and what else a region keeps, in the canonical frame."""
    unit = canonical.brain_unit(volume, found.mask)
    kept = canonical.conform(volume, found.protected, found.pose, unit) if region == "face" else None
    front = in_view.front_of_view(found.pose, volume.shape, volume.affine)
    return Brain(unit, canonical.conform(volume, found.mask, found.pose, unit), kept, front)


def draw(
    model: HeadModel,
    found: Found,
    looked: Brain,
    generator: torch.Generator,
    given: Head | None = None,
) -> Head:
    """A head around a brain and what else is kept, or the one that is given, here."""
    if given is not None:
        return Head(found.pose, given.field)
    with _threads(DRAWING_THREADS):
        scale, front = found.pose.scale, looked.front
        return Head(found.pose, generate_field(model, looked.conformed, looked.kept, scale, generator, front))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch computes with `count` threads in the block, whatever the machine, its user or a batch gives it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw_head(volume: Volume, options: Options, weights: "str | Path | HeadModel | None", name: str) -> Head:
    """The head that `pipeline.deidentify` would draw for a scan: a function of options, with their seed, and brain.

    Args:
        volume: a scan, or the mean volume of a run.
        name: of the scan, for messages.

    Raises:
        ScanError, BrainMaskError, WeightsError, DeviceError, MissingExtraError: as `pipeline.deidentify`.
    """
    _, generator, _ = generators(options.seed)
    device = usable_device(options.device)
    nifti.check_is_scan(volume, name)
    found = find(volume, None, options, device, None)
    return draw(checkpoint.load_model(weights, device), found, look_at_brain(volume, found, options.region), generator)
