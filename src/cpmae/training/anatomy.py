"""What the labels of the training heads mean, and the compact form they are trained from.

The label values are SynthSeg's (github BBillot/SynthSeg, training_label_maps, Apache-2.0): FreeSurfer numbers in
the brain, 500 and upward outside it.

An *anatomy* is a uint8 volume on the canonical grid: 0 to `N_OUTSIDE - 1` are the `TISSUES` outside the brain, the
`BRAIN_STRUCTURES` follow, and two flags say whether the voxel lies in the brain mask and in the source's field of view.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae.errors import ScanError
from cpmae.models.tissue import TISSUES

IN_BRAIN_MASK = 64
OUT_OF_VIEW = 128
STRUCTURE = 63  # & this: which tissue or structure

_OUTSIDE = {
    0: "air",
    24: "csf",
    502: "blood",
    514: "blood",
    506: "eye",
    507: "soft tissue",
    508: "orbit",
    530: "orbit",
    509: "mucosa",
    511: "skin",
    512: "cord",
    515: "bone",
    516: "marrow",
}
# right-sided labels and the left-sided ones they share a tissue with
_LEFT_OF = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18}
_LEFT_OF |= {57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137}
_LEFT_OR_MIDDLE = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 25, 26, 28, 30, 72, 85, 136, 137)

N_OUTSIDE = len(TISSUES)
BRAIN_STRUCTURES = {value: N_OUTSIDE + i for i, value in enumerate(_LEFT_OR_MIDDLE)}  # label to anatomy value
BRAIN_LABELS = np.array(sorted([*_LEFT_OR_MIDDLE, *_LEFT_OF]))
_BRAIN_STEM = 16

# the tissue of each brain structure, for contrast: see contrast.TISSUE_PROPERTIES
STRUCTURE_TISSUE = {
    **dict.fromkeys([2, 7, 16, 28, 85], "white matter"),
    **dict.fromkeys([3, 8, 17, 18], "grey matter"),
    **dict.fromkeys([10, 11, 12, 13, 26], "deep grey matter"),
    **dict.fromkeys([4, 5, 14, 15, 72, 137], "csf"),
    25: "lesion",
    **dict.fromkeys([30, 136], "blood"),
}


def brain_mask(labels: NDArray) -> NDArray[np.bool_]:
    """The brain as an extractor would find it: the labelled brain with the CSF of its sulci, without holes.

    Args:
        labels: (X, Y, Z) integer label map at 1 mm.
    """
    brain = np.isin(labels, BRAIN_LABELS)
    where = ndimage.find_objects(brain.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in where)
    cut, cut_labels = brain[box], labels[box]
    reach = 4  # mm: bridges sulci, not the cisterns at the base
    near = ndimage.distance_transform_edt(~cut) <= reach
    closed = near & (ndimage.distance_transform_edt(near) > reach)
    closed &= cut | np.isin(cut_labels, [24, 502, 514])
    mask = brain.copy()
    mask[box] = ndimage.binary_fill_holes(closed | cut)
    return mask


def to_anatomy(labels: NDArray, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Compact form of a label map on any grid; see the module's first lines.

    Raises:
        ScanError: on a label that is not one of the 54.
    """
    table = np.full(600, 255, np.uint8)
    for value, name in _OUTSIDE.items():
        table[value] = TISSUES.index(name)
    for value, index in BRAIN_STRUCTURES.items():
        table[value] = index
    for right, left in _LEFT_OF.items():
        table[right] = BRAIN_STRUCTURES[left]
    unknown = set(np.unique(labels)) - set(np.flatnonzero(table != 255))
    if unknown:
        raise ScanError(f"labels {sorted(unknown)} are none of the 54 of SynthSeg's training maps, give these")
    return table[labels] | np.where(mask, IN_BRAIN_MASK, 0).astype(np.uint8)


def outside_tissue() -> NDArray[np.uint8]:
    """Look-up table, anatomy value & `STRUCTURE` to an index of `TISSUES`, as if nothing were brain.

    Where a brain mask leaves brain outside, the stem goes on as spinal cord and the rest counts as CSF.
    """
    table = np.full(STRUCTURE + 1, TISSUES.index("csf"), np.uint8)
    table[:N_OUTSIDE] = np.arange(N_OUTSIDE)
    table[BRAIN_STRUCTURES[_BRAIN_STEM]] = TISSUES.index("cord")
    return table
