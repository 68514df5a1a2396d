"""The whole way of a scan, on one screen."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from cpmae import __version__, brain, canonical, compose, metadata, verify
from cpmae.errors import BrainMaskError, DeviceError, ScanError
from cpmae.generate import generate_field, paint_head
from cpmae.io import nifti
from cpmae.io.nifti import NiftiScan
from cpmae.models import checkpoint
from cpmae.models.head import HeadModel
from cpmae.region import protected_voxels
from cpmae.volume import Volume, voxel_sizes, voxel_volume_ml

MIN_OVERLAP = (
    0.75  # Dice of a smoothed brain mask with the template brain; label maps and scans of adults reach 0.9 to 0.97
)
MAX_NOT_FINITE = 0.01  # of the brain
MAX_STRAY_ML = 15.0  # of the mask where no brain reaches; real masks have 3 to 6, with both orbits 16 and more


@dataclass(frozen=True)
class Deidentified:
    """A result.

    Attributes:
        image: the new scan; its geometry, dtype and scaling are the input's, its `descrip` the tool's mark.
        brain_mask: (X, Y, Z) bool, as given or found.
        protected: (X, Y, Z) bool, where stored numbers equal the input's.
        account: what was done, as plain numbers and strings for JSON; a seed is in it only if it was given.
        warnings: sentences for the user.
    """

    image: NiftiScan
    brain_mask: NDArray[np.bool_]
    protected: NDArray[np.bool_]
    account: dict[str, Any]
    warnings: list[str]


def deidentify(
    scan: "NiftiScan | Volume | Any",
    *,
    brain_mask: NDArray | None = None,
    brain_extractor: str = "deepbet",
    margin_mm: float = 0.0,
    region: str = "nonbrain",
    clean_metadata: bool = True,
    seed: int | None = None,
    device: str = "auto",
    weights: str | Path | HeadModel | None = None,
    allow_unusual_mask: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Deidentified:
    """Put a head that nobody has around the brain of a scan.

    Given the brain mask, the seed and the grid, the result is a function of the protected voxels alone.

    Args:
        scan: a head; a `NiftiScan`, a nibabel image, or a `Volume` (shape (X, Y, Z), affine voxel to world in mm,
            RAS+).
        brain_mask: (X, Y, Z), nonzero in the brain; found by `brain_extractor` if None.
        brain_extractor: "deepbet", "robex", "hd-bet", or "command:TOOL {input} {mask}".
        margin_mm: how far around the brain voxels are kept too.
        region: "nonbrain" replaces everything outside the brain, "face" face and ears alone.
        clean_metadata: empty header fields and drop header extensions that may tell who was scanned.
        seed: 0 or more; the same gives the same result on the same machine. By default a secret one is drawn.
        device: "auto", "cpu", "cuda" or "mps".
        weights: a weight file or a model from `checkpoint.load`; the package's own if None.
        allow_unusual_mask: warn of a mask whose place or shape no template brain has, instead of refusing it.
        progress: called with the name of each stage.

    Raises:
        ScanError, BrainMaskError, WeightsError, DeviceError, MissingExtraError: see `cpmae.errors`.
        ValueError: for an argument out of range.
    """
    tell = progress or (lambda stage: None)
    scan = _as_scan(scan)
    rng, generator = _generators(seed)
    device = _device(device)
    volume = scan.scaled()
    nifti.check_is_scan(volume)

    tell("finding the brain")
    mask = _brain_mask(brain_mask, volume, brain_extractor, device)
    warnings = brain.check_brain_mask(mask, scan.affine) + _check_intensities(volume, mask)
    pose = canonical.align(mask, scan.affine)
    warnings += _check_pose(pose, allow_unusual_mask)
    protected = protected_voxels(mask, scan.affine, pose, region, margin_mm)

    tell("generating a head")
    model = weights if isinstance(weights, HeadModel) else checkpoint.load(weights, device)
    unit = canonical.brain_unit(volume, mask)
    conformed = canonical.conform(volume, mask, pose, unit)
    kept = conformed if protected is mask else canonical.conform(volume, protected, pose, unit)
    field = generate_field(model, conformed, kept if region == "face" else None, generator)
    head = paint_head(model, field, conformed, generator)

    tell("putting it around the brain")
    values = canonical.resample_like(head.numpy(), pose, scan.stored.shape, scan.affine)
    values = compose.with_noise(values, compose.noise_level(volume, mask) / unit.scale, rng)
    result = compose.compose(scan, protected, unit.unscale(values))
    result = metadata.clean_nifti(result) if clean_metadata else result
    result = result.marked(f"de-identified by cpmae {__version__}")

    tell("checking the result")
    check = verify.verify(scan, result, protected, measure=False)
    if not check.ok:
        raise ScanError(f"the result failed its own check and was dropped: {'; '.join(check.failures)}")
    account = _account(scan, mask, protected, pose) | {
        "brain_extractor": brain_extractor if brain_mask is None else "given mask",
        "region": region,
        "margin_mm": margin_mm,
        "metadata": "basic" if clean_metadata else "keep",
        "seed": "secret" if seed is None else seed,
        "weights_sha256": model.sha256,
        "warnings": warnings,
    }
    return Deidentified(result, mask, protected, account, warnings)


def _as_scan(scan: Any) -> NiftiScan:
    if isinstance(scan, NiftiScan):
        return scan
    if isinstance(scan, Volume):
        return nifti.from_image(nib.Nifti1Image(scan.data, scan.affine))
    if isinstance(scan, nib.spatialimages.SpatialImage):
        return nifti.from_image(scan)
    raise TypeError(
        f"a scan is a NiftiScan, a nibabel image or a Volume, not {type(scan).__name__}; read files with read()"
    )


def _generators(seed: int | None) -> tuple[np.random.Generator, torch.Generator]:
    """For the noise and for the head. Without a seed, from the system's secure source, and then forgotten."""
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"the seed is {seed}, choose 0 to 2^63 - 1")
    noise, head = np.random.SeedSequence(secrets.randbits(128) if seed is None else seed).spawn(2)
    return np.random.default_rng(noise), torch.Generator().manual_seed(int(head.generate_state(1, np.uint64)[0] >> 1))


def _device(name: str) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(n for n in ("cuda", "mps", "cpu") if there[n])
    if not there.get(name):
        usable = ", ".join(n for n, yes in there.items() if yes)
        raise DeviceError(f"there is no device {name!r} here, choose auto or one of {usable}")
    return name


def _brain_mask(given: NDArray | None, volume: Volume, extractor: str, device: str) -> NDArray[np.bool_]:
    if given is None:
        return brain.extract_brain(volume, extractor, device)
    mask = np.asarray(given) != 0
    if mask.shape != volume.shape:
        raise BrainMaskError(
            f"the brain mask has shape {mask.shape}, the scan {volume.shape}; give one on the scan's grid"
        )
    return mask


def _check_intensities(volume: Volume, mask: NDArray[np.bool_]) -> list[str]:
    """Refuse a brain without intensities; warn of a scan without a head around it."""
    inside = volume.data[mask]
    bad = 1 - float(np.isfinite(inside).mean())
    if bad > MAX_NOT_FINITE:
        raise ScanError(
            f"{bad:.1%} of the brain is NaN or infinite, at most {MAX_NOT_FINITE:.0%} may be; repair the scan"
        )
    if not np.ptp(inside[np.isfinite(inside)]) > 0:
        raise ScanError("all of the brain has one and the same intensity; give the scan itself, not a mask")
    found = [f"{bad:.2%} of the brain is NaN or infinite; these voxels are kept as they are"] if bad else []
    if brain.looks_stripped(volume, mask):
        found.append("there is next to nothing around the brain: the scan seems to be skull-stripped already")
    return found


def _check_pose(pose: canonical.Pose, allow_unusual: bool) -> list[str]:
    """Refuse a mask that no brain fills, one that leaks into the orbits, say: it would keep what identifies."""
    found = []
    if pose.overlap < MIN_OVERLAP:
        share = f"overlap with a template {pose.overlap:.2f}, at least {MIN_OVERLAP}"
        found.append(f"the brain mask has the shape of no brain ({share})")
    if pose.stray_ml > MAX_STRAY_ML:
        found.append(
            f"{pose.stray_ml:.0f} ml of the brain mask lie where no brain reaches (at most {MAX_STRAY_ML:.0f} ml)"
        )
    if found and not allow_unusual:
        raise BrainMaskError(
            f"{'; '.join(found)}; look at the mask, and allow it (--allow-unusual-mask) if it is right"
        )
    return found


def _account(
    scan: NiftiScan, mask: NDArray[np.bool_], protected: NDArray[np.bool_], pose: canonical.Pose
) -> dict[str, Any]:
    """What was found and done, in figures."""
    return {
        "version": __version__,
        "shape": list(scan.stored.shape),
        "dtype": str(scan.stored.dtype),
        "voxel_sizes_mm": [round(float(s), 4) for s in voxel_sizes(scan.affine)],
        "brain_ml": round(float(mask.sum()) * voxel_volume_ml(scan.affine), 1),
        "template_overlap": round(pose.overlap, 3),
        "protected_voxels": int(protected.sum()),
        "replaced_voxels": int(protected.size - protected.sum()),
    }
