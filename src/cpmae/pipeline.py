"""The whole way of a scan, on one screen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from cpmae import brain_search, brightness, canonical, compose, drawn_head, metadata, verify
from cpmae.account import MARK, account_of
from cpmae.brain import MaskLike
from cpmae.drawn_head import Head
from cpmae.errors import ScanError
from cpmae.generate import paint_head, paints_for
from cpmae.io import header, nifti
from cpmae.io.nifti import NiftiScan, ScanLike
from cpmae.models.checkpoint import load_model
from cpmae.models.device import usable_device
from cpmae.models.head import HeadModel
from cpmae.options import Options
from cpmae.volume import Volume


@dataclass(frozen=True)
class Deidentified:
    """A result.

    Attributes:
        image: the new scan; its geometry, dtype and scaling are the input's, its `descrip` the tool's mark.
        brain_mask: (X, Y, Z) bool, as given or found.
        protected: (X, Y, Z) bool, where stored numbers equal the input's.
        account: what was done, as plain numbers and strings for JSON; a seed is in it only if it was given.
        warnings: sentences for the user.
        head: what was drawn.
    """

    image: NiftiScan
    brain_mask: NDArray[np.bool_]
    protected: NDArray[np.bool_]
    account: dict[str, Any]
    warnings: list[str]
    head: Head


def deidentify(
    scan: ScanLike,
    *,
    brain_mask: MaskLike | None = None,
    brain_extractor: str = "deepbet",
    margin_mm: float = 0.0,
    region: str = "nonbrain",
    clean_metadata: bool = True,
    seed: int | None = None,
    device: str = "auto",
    weights: str | Path | HeadModel | None = None,
    allow_unusual_mask: bool = False,
    noise_number: int = 0,
    fat: str = "auto",
    head: Head | None = None,
    progress: Callable[[str], None] | None = None,
) -> Deidentified:
    """Put a head that nobody has around the brain of a scan.

    Given the brain mask, the seed and the grid, the result is a function of the protected voxels alone (and of `head`,
    if there is one: of those of the scan that it was drawn for).

    Args:
        scan: a head; a `NiftiScan`, a nibabel image, or a `Volume` (shape (X, Y, Z), affine voxel to world in mm,
            RAS+).
        brain_mask: (X, Y, Z), nonzero in the brain: an array, or as `scan`; found by `brain_extractor` if None.
        brain_extractor: "deepbet", "robex", "hd-bet", or "command:TOOL {input} {mask}".
        margin_mm: how far around the brain voxels are kept too.
        region: "nonbrain" replaces everything outside the brain, "face" face and ears alone.
        clean_metadata: empty header fields and drop header extensions that may tell who was scanned.
        seed: 0 or more; the same gives the same result on the same machine. By default a secret one is drawn.
        device: "auto", "cpu", "cuda" or "mps".
        weights: a weight file or a model from `checkpoint.load`; the package's own if None.
        allow_unusual_mask: warn of a mask whose place or shape no template brain has, instead of refusing it.
        noise_number: another one for each of a person's scans with the same seed and head, so that their noise differs.
        fat: "suppressed" for sequences that take away its signal, which the brain does not show; "bright", or "auto",
            for others. ("auto" is for those who have a header to ask, `Options.for_sequence`.)
        head: of the result of another scan of the same person, whose head this one shall have as well; in another world
            frame, `head.elsewhere()`.
        progress: called with the name of each stage.

    Raises:
        ScanError, BrainMaskError, WeightsError, DeviceError, MissingExtraError: see `cpmae.errors`.
        ValueError: for an argument out of range.
    """
    options = Options(
        brain_extractor=brain_extractor,
        margin_mm=margin_mm,
        region=region,
        clean_metadata=clean_metadata,
        seed=seed,
        device=device,
        allow_unusual_mask=allow_unusual_mask,
        noise_number=noise_number,
        fat=fat,
    )
    return deidentify_scan(
        _as_scan(scan), options, brain_mask=brain_mask, weights=weights, head=head, progress=progress
    )


def deidentify_scan(
    scan: NiftiScan,
    options: Options,
    *,
    brain_mask: MaskLike | None = None,
    weights: str | Path | HeadModel | None = None,
    head: Head | None = None,
    progress: Callable[[str], None] | None = None,
) -> Deidentified:
    """`deidentify` for whoever has `Options`; arguments and errors are the same."""
    tell = progress or (lambda stage: None)
    noise, generator, texture = drawn_head.generators(options.seed, options.noise_number)
    device = usable_device(options.device)
    header.check_grid(scan.header, "the scan")
    volume = scan.scaled()
    nifti.check_is_scan(volume)

    model = load_model(weights, device)

    tell("finding the brain")
    there = head.pose if head else None
    found = brain_search.find(volume, brain_mask, options, device, there, header.doubts(scan.header))

    tell("generating a head")
    looked = drawn_head.look_at_brain(volume, found, options.region)
    head = drawn_head.draw(model, found, looked, generator, head)
    paints = paints_for(model, looked.conformed, options.fat_suppressed)
    painted = paint_head(model, head.field, looked.conformed.mask, paints, texture)
    if looked.kept is not None:
        factor = brightness.gain(painted, looked.kept, looked.conformed)
        painted *= F.interpolate(factor[None, None], painted.shape, mode="trilinear", align_corners=False)[0, 0]

    tell("putting it around the brain")
    values = canonical.resample_like(painted.numpy(), found.pose, scan.stored.shape, scan.affine)
    sigma = compose.noise_level(volume, found.mask) / looked.unit.scale
    values = compose.with_noise(values, sigma, noise)
    result = compose.compose(scan, found.protected, looked.unit.unscale(values))
    result = metadata.clean_nifti(result) if options.clean_metadata else result
    result = result.marked(MARK)

    tell("checking the result")
    check = verify.verify(scan, result, found.protected, measure=False)
    if not check.ok:
        raise ScanError(f"the result failed its own check and was dropped: {'; '.join(check.failures)}")
    account = account_of(scan, found, options, brain_mask is not None, model)
    return Deidentified(result, found.mask, found.protected, account, account["warnings"], head)


def _as_scan(scan: ScanLike) -> NiftiScan:
    if isinstance(scan, NiftiScan):
        return scan
    if isinstance(scan, Volume):
        return nifti.from_volume(scan)
    if isinstance(scan, nib.spatialimages.SpatialImage):
        return nifti.from_image(scan)
    raise TypeError(
        f"a scan is a NiftiScan, a nibabel image or a Volume, not {type(scan).__name__}; read files with read()"
    )
