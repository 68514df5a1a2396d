"""What is said of a result: the account, for users and for records, and the mark in its header."""

from typing import TYPE_CHECKING

from cpmae import __version__, brain
from cpmae.io import header
from cpmae.io.nifti import NiftiScan
from cpmae.io.run import NiftiRun
from cpmae.options import Options
from cpmae.volume import voxel_sizes, voxel_volume_ml

if TYPE_CHECKING:  # both come with torch
    from cpmae.brain_search import Found
    from cpmae.models.head import HeadModel

MARK = f"{header.MARK} {__version__}"
TRAINED_ON_SCANS = (
    "the weights were trained on scans of people and may draw heads like theirs; show results to nobody who may not "
    "see those scans"
)


def account_of(
    scan: NiftiScan | NiftiRun, found: "Found", options: Options, mask_given: bool, model: "HeadModel"
) -> dict:
    """What was found and done, in plain figures and words, and all warnings; a secret seed is not in it."""
    of_weights = [TRAINED_ON_SCANS] if model.trained_on == "scans" else []
    return {
        "version": __version__,
        "shape": list(found.mask.shape),
        "dtype": str(scan.dtype),
        "voxel_sizes_mm": [round(float(s), 4) for s in voxel_sizes(scan.affine)],
        "brain_ml": round(float(found.mask.sum()) * voxel_volume_ml(scan.affine), 1),
        "template_overlap": round(found.pose.overlap, 3),
        "protected_voxels": int(found.protected.sum()),
        "replaced_voxels": int(found.protected.size - found.protected.sum()),
        "brain_extractor": "given mask" if mask_given else brain.extractor_name(options.brain_extractor),
        "region": options.region,
        "margin_mm": options.margin_mm,
        "fat": "suppressed" if options.fat_suppressed else "bright",
        "metadata": "basic" if options.clean_metadata else "keep",
        "seed": "secret" if options.seed is None else options.seed,
        "weights_sha256": model.sha256,
        "warnings": found.warnings + of_weights,
    }
