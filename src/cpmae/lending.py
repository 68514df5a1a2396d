"""Whether a brain mask that comes from another image is this one's: headers may be wrong, and people move.

deepbet looks for the brain here, whichever extractor is asked for: it takes seconds, and works on many contrasts. Where
it finds nothing of a brain's shape, in part of a head or in a contrast that it does not know, it is no witness.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import brain, brain_search, compare
from cpmae.errors import BrainMaskError, ScanError
from cpmae.io.nifti import NiftiScan
from cpmae.options import Options
from cpmae.shared_mask import FoundBrain, mask_on
from cpmae.volume import Volume

# Dice of such a mask with the brain that is seen. Of one head's scans 0.96 and more, half a head 0.86; a mask 10 mm off
# has 0.87, 20 mm off 0.74 to 0.81, one on the neck 0.35 to 0.45
MIN_AGREEMENT = 0.85
SURE_AGREEMENT = 0.94
# by which a mask agrees better when it is moved to where the brain is seen, if somebody moved; 0.04 is some 4 mm
MAX_GAIN = 0.04


def lent_mask_fits(volume: Volume, mask: NDArray[np.bool_]) -> tuple[bool, str | None]:
    """Whether a brain mask that another scan lends is this scan's brain, and what to tell the user, if anything.

    Where nobody sees a brain to compare it with, the mask is taken.

    Args:
        volume: (X, Y, Z) intensities, the mean volume of a run.
        mask: same shape, True in the brain.

    Raises:
        MissingExtraError: if deepbet is not installed.
    """
    try:
        own = brain.extract_brain(volume)
        dice = compare.dice(own, mask)
        if dice >= SURE_AGREEMENT:
            return True, None
        gain = compare.dice(own, _moved_onto(mask, own)) - dice
        if dice >= MIN_AGREEMENT and gain < MAX_GAIN:
            return True, f"the brain mask of another scan and the brain that is seen differ (Dice {dice:.2f})"
        if dice + gain < SURE_AGREEMENT:  # or else the same brain is seen, in another place
            brain_search.find(volume, own, Options(), "cpu", None)
    except (BrainMaskError, ScanError):
        return True, "no brain was found to compare the brain mask of another scan with, see whether it fits"
    return False, (
        f"the brain mask of another scan does not fit (Dice {dice:.2f} with the brain that is seen); "
        "the headers may be wrong, or somebody moved"
    )


def taken_over(lent: FoundBrain, scan: NiftiScan, compared: bool) -> tuple[NDArray[np.bool_] | None, str | None]:
    """A brain's mask on the grid of a scan of its world, None if it does not fit; and what to tell the user.

    Args:
        compared: see whether it fits.
    """
    mask = mask_on(lent.mask, lent.affine, scan.stored.shape, scan.affine)
    if not compared:
        return mask, None
    fits, doubt = lent_mask_fits(scan.scaled(), mask)
    return mask if fits else None, doubt


def _moved_onto(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask, by whole voxels, to where the middle of the other is."""
    if not mask.any():
        return mask
    shift = np.subtract(ndimage.center_of_mass(other), ndimage.center_of_mass(mask))
    return ndimage.shift(mask, np.rint(shift).astype(int), order=0)
