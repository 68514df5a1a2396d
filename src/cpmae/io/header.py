"""What a NIfTI header says, or the sentence why it cannot be used.

Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae.errors import ScanError
from cpmae.volume import voxel_sizes

_DTYPE_OF_CODE = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_REFUSED_CODE = {1: "1-bit", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128", 2048: "complex256"}
_REFUSED_CODE[2304] = "RGBA"


def parse_header(raw: bytes, name: str) -> Any:
    """The header over the file's own bytes. nibabel's checks are off: they mend fields in silence."""
    for order in "<>":
        for kind, size, magic in ((nib.Nifti1Header, 348, b"n+1\0"), (nib.Nifti2Header, 540, b"n+2\0\r\n\x1a\n")):
            if raw[:4] != size.to_bytes(4, "little" if order == "<" else "big") or len(raw) < size:
                continue
            header = kind(raw[:size], endianness=order, check=False)
            start = 344 if size == 348 else 4
            found = raw[start : start + len(magic)]
            if found == magic:
                return header
            if found[:3] in (b"ni1", b"ni2"):
                raise ScanError(f"{name} is one half of a header/image pair, convert the pair to a single .nii file")
    raise ScanError(
        f"{name} is not a NIfTI file (it starts with {raw[:4].hex() or 'nothing'}), convert it to NIfTI first"
    )


def volume_shape(header: Any, name: str) -> tuple[int, int, int]:
    """(X, Y, Z); further axes of length 1 are dropped."""
    dim = [int(n) for n in header["dim"]]
    full = tuple(dim[1 : dim[0] + 1])
    if not 1 <= dim[0] <= 7 or min(full) < 1:
        raise ScanError(f"{name} has a damaged header (dim {dim}), export the scan again")
    extra = [n for n in full[3:] if n > 1]
    if extra:
        axes = 5 if dim[0] > 4 and max(full[4:]) > 1 else 4
        raise ScanError(
            f"{name} is {axes}-D with shape {full}, which is not taken yet; split it into 3-D volumes, "
            "with nibabel.four_to_three or fslsplit"
        )
    shape = full[:3]
    if len(shape) < 3 or sum(n > 1 for n in shape) < 3:
        raise ScanError(f"{name} is not 3-D, its shape is {full}, give the whole volume and not a slice")
    return shape  # type: ignore[return-value]


def scaling(header: Any, name: str) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise ScanError(f"{name} has slope {slope:g} with intercept {inter:g}, set scl_inter to a number")
    return slope, inter


def best_affine(header: Any, name: str) -> NDArray[np.float64]:
    """The affine that the header's codes choose: sform, then qform, then voxel sizes alone."""
    zooms = np.asarray(header["pixdim"][1:4], np.float64)
    if not np.isfinite(zooms).all() or (zooms == 0).any():
        raise ScanError(f"{name} has voxel sizes {zooms.tolist()} (pixdim), set them to the real ones in millimetres")
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise ScanError(f"{name} has no usable orientation ({error}), correct its qform") from error
    if not np.isfinite(affine).all():
        raise ScanError(f"{name} has an affine with NaN or infinity in it, {affine[:3].tolist()}, correct it")
    # a skew grid's volume is less than the product of its edges; at a thousandth the axes lie in one plane
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * float(np.prod(voxel_sizes(affine))):
        raise ScanError(f"{name} has a singular affine, {affine[:3, :3].tolist()}, correct its sform or qform")
    return affine


def stored_dtype(header: Any, name: str) -> np.dtype:
    """The dtype of the stored numbers, in the file's byte order."""
    code = int(header["datatype"])
    if code not in _DTYPE_OF_CODE:
        kind = _REFUSED_CODE.get(code, "unknown")
        raise ScanError(f"{name} holds {kind} voxels (datatype {code}), give a magnitude image of real numbers")
    return np.dtype(_DTYPE_OF_CODE[code]).newbyteorder(header.endianness)
