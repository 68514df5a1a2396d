"""A brain mask as a NIfTI file on the grid of its scan."""

import numpy as np
from numpy.typing import NDArray

from cpmae.io.nifti import NiftiScan

_GRID_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def mask_scan(scan: NiftiScan, mask: NDArray[np.bool_]) -> NiftiScan:
    """The mask, uint8 0 and 1, with the scan's affine, codes, units and byte order.

    The header is a new one: text fields and extensions of the scan may say who was scanned.

    Args:
        mask: (X, Y, Z) bool on the scan's grid.
    """
    header = type(scan.header)(endianness=scan.header.endianness)
    header.set_data_dtype(np.uint8)
    for field in _GRID_FIELDS:
        header[field] = scan.header[field]
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"], header["cal_max"] = 0, 1
    header["descrip"] = b"brain mask"
    header["magic"] = scan.header["magic"]
    header["vox_offset"] = len(header.binaryblock) + 4
    return NiftiScan(np.asfortranarray(mask, np.uint8), 1.0, 0.0, scan.affine, header)
