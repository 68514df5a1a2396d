"""Real scans as training examples: a folder of NIfTI files or a BIDS data set, fitted once and kept.

They have no labels: the atlas, in the paints that the palette tells for each scan, is registered to what is known of
the head, and the networks learn from these fields. What a publisher removed counts as unknown: it is exactly 0, where
scanners leave noise.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpmae import brain, canonical
from cpmae.canonical import Conformed, Pose, Unit
from cpmae.errors import CpmaeError, ScanError
from cpmae.generate import paints_for
from cpmae.io import forms, nifti
from cpmae.io.output import make_folder, whole_file
from cpmae.io.source import scans_below
from cpmae.models.head import HeadModel
from cpmae.models.vqvae import FINE, MAX_INTENSITY, STEP_MM
from cpmae.registration import fit_atlas
from cpmae.training.data import Heads, random_order
from cpmae.volume import Volume

log = logging.getLogger(__name__)


def prepare_scans(source: Path, folder: Path, model: HeadModel, part: int = 0, parts: int = 1) -> None:
    """Fit the model's atlas to every head under `source`, one .npz each in `folder`; what is there already stays.

    Files that are no head scans are logged and left out. Of several `parts`, which processes do side by side, this is
    one.
    """
    make_folder(folder)
    for path in scan_files(source)[part::parts]:
        place = path.relative_to(source)  # scans of several people often have one name
        digest = hashlib.sha256(place.as_posix().encode()).hexdigest()[:8]
        target = folder / f"{'_'.join(place.parts).removesuffix('.gz').removesuffix('.nii')}-{digest}.npz"
        if target.exists():
            continue
        try:
            scan = forms.read(path)
            volume = scan.scaled()
            nifti.check_is_scan(volume, path.name)
            mask = brain.extract_brain(volume)
            brain.check_brain_mask(mask, scan.affine)
        except CpmaeError as error:
            log.warning("%s is left out: %s", path, error)
            continue
        pose = canonical.align(mask, scan.affine)
        unit = canonical.brain_unit(volume, mask)
        whole = canonical.conform(volume, np.ones_like(mask), pose, unit)
        inner = canonical.conform(volume, mask, pose, unit)
        known = whole.mask & (inner.mask | not_removed(volume, pose))
        paints = paints_for(model, inner)
        field = fit_atlas(model.atlas, paints, Conformed(whole.data, known), inner)
        image = inner.data.astype(np.float16)
        with whole_file(target) as file:
            np.savez_compressed(file, image=image, brain=inner.mask, field=field.numpy(), known=known)


def scan_files(folder: Path) -> list[Path]:
    """The scans below a folder, which may be a BIDS data set."""
    return sorted([*scans_below(folder, "*.nii"), *scans_below(folder, "*.nii.gz")])


def not_removed(volume: Volume, pose: Pose) -> NDArray[np.bool_]:
    """Where a scan is not 0 as it is stored, MODEL_SHAPE; in units of the brain 0 may be another number."""
    return canonical.conform(volume, np.ones(volume.shape, bool), pose, Unit(0.0, 1.0)).data != 0


def load_prepared(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A file of `prepare_scans`.

    Returns:
        image and brain mask (X/2, Y/2, Z/2) float32, field (3, X/8, ...) float32 in mm, and (X/8, ...) float32, 1 where
        all of a block is known.
    """
    with np.load(path) as file:
        image, brain_mask, known = (torch.from_numpy(file[n].astype(np.float32)) for n in ("image", "brain", "known"))
        blocks = (F.avg_pool3d(known[None, None], FINE // STEP_MM)[0, 0] > 0.98).float()
        return image, brain_mask, torch.from_numpy(file["field"]), blocks


def scan_batches(folder: Path, size: int, seed: int, step: int = 0) -> Iterator[Heads]:
    """Endless batches of random prepared scans, others from each `step` on.

    Raises:
        ScanError: if there are none.
    """
    rng = random_order(seed, step)
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise ScanError(f"no prepared scans (*.npz) in {folder}; give a folder with head scans (.nii, .nii.gz)")
    while True:
        heads = [load_prepared(paths[i]) for i in rng.integers(len(paths), size=size)]
        image, brain_mask, field, known = (torch.stack(parts) for parts in zip(*heads, strict=True))
        first = image[:1, None]
        yield Heads(
            first,
            first.clamp(0, MAX_INTENSITY),
            brain_mask[:, None],
            field,
            known[:, None],
            torch.ones_like(known)[:, None],
        )
