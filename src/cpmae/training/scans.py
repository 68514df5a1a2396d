"""Real scans as training examples: a folder of NIfTI files or a BIDS data set, conformed once and kept.

They have no labels: the VQ-VAEs learn from their intensities. A scan's face or anything else that a publisher removed
counts as unknown where it is exactly the background's value in a connected piece that reaches the head.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cpmae import brain, canonical
from cpmae.errors import CpmaeError
from cpmae.io import nifti
from cpmae.models.palette import Palette, brain_profile
from cpmae.training.data import Crop

log = logging.getLogger(__name__)


def prepare_scans(source: Path, folder: Path, palette: Palette, extractor: str = "deepbet") -> int:
    """Conform every head under `source` into `folder`, one .npz each; what is there already stays.

    Files that are no head scans are logged and left out. Returns the number of examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted([*source.rglob("*.nii"), *source.rglob("*.nii.gz")]):
        target = folder / (path.name.removesuffix(".gz").removesuffix(".nii") + ".npz")
        if target.exists():
            continue
        try:
            scan = nifti.read(path)
            volume = scan.scaled()
            nifti.check_is_scan(volume, path.name)
            mask = brain.extract_brain(volume, extractor)
            brain.check_brain_mask(mask, scan.affine)
        except CpmaeError as error:
            log.warning("%s is left out: %s", path, error)
            continue
        pose = canonical.align(mask, scan.affine)
        unit = canonical.brain_unit(volume, mask)
        whole = canonical.conform(volume, np.ones_like(mask), pose, unit)
        inner = canonical.conform(volume, mask, pose, unit)
        with torch.inference_mode():
            profile = brain_profile(inner.data[::2, ::2, ::2], inner.mask[::2, ::2, ::2])
            paints = palette(torch.from_numpy(profile)[None])[0].numpy()
        known = whole.mask & (
            inner.mask | (whole.data != 0)
        )  # publishers set what they remove to 0, scanners leave noise
        partial = target.with_suffix(".partial.npz")
        np.savez_compressed(partial, image=whole.data.astype(np.float16), brain=inner.mask, known=known, paints=paints)
        partial.replace(target)
    return len(list(folder.glob("*.npz")))


def load_prepared(path: Path) -> dict[str, NDArray]:
    """`image` float16 in the brain's unit, `brain` and `known` bool, on the canonical grid, and `paints`."""
    with np.load(path) as file:
        return {name: file[name] for name in ("image", "brain", "known", "paints")}


def scan_crops(folder: Path, size: int, seed: int) -> Iterator[Crop]:
    """Crops of `size` cubed voxels from random prepared scans, one at a time."""
    rng = np.random.default_rng(seed)
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"no prepared scans (*.npz) in {folder}")
    while True:
        head = load_prepared(paths[rng.integers(len(paths))])
        for _ in range(4):  # a file takes longer to read than a crop to cut
            x, y, z = (int(rng.integers((n - size) // 16 + 1)) * 16 for n in head["image"].shape)
            box = (slice(x, x + size), slice(y, y + size), slice(z, z + size))
            known = head["known"][box]
            if known.mean() < 0.3:
                continue
            image = torch.from_numpy(head["image"][box].astype(np.float32)).clamp(0, 6)[None, None]
            yield Crop(
                image=image,
                clean=image,
                outside=image,
                brain=torch.from_numpy(head["brain"][box]).float()[None, None],
                in_view=torch.from_numpy(known).float()[None, None],
                start=(x, y, z),
                paints=torch.from_numpy(head["paints"]),
            )
