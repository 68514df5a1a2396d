"""What a NIfTI header says, or the sentence why it cannot be used.

Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

import math
from typing import TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae.errors import ScanError
from cpmae.volume import grid_distance_mm, voxel_sizes

_Header = TypeVar("_Header", bound=nib.analyze.AnalyzeHeader)  # NIfTI's are subclasses
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
VOXEL_RANGE_MM = (0.1, 10.0)
# voxels along each axis, slices of DICOM too. At the largest voxels, 7 are shorter than any brain; of localizers, DICOM
# has 3 to 5 a direction. Between 8 and a whole brain, the checks of the brain mask decide.
MIN_AXIS = 8
STORED_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
FORMS_APART_MM = 2.0  # between corners, as sform and qform place them, worth a warning
MARK = "de-identified by cpmae"  # begins the description of every result
_UNITS = {1: "metres", 3: "micrometres"}


def parse_header(raw: bytes, name: str) -> nib.Nifti1Header:
    """The header over the file's own bytes. nibabel's checks are off: they mend fields in silence."""
    if not raw:
        raise ScanError(f"{name} is empty, copy it again")
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
    if raw[:2] == b"\x1f\x8b":
        raise ScanError(f"{name} is compressed with gzip, rename it to {name}.gz")
    raise ScanError(f"{name} is not a NIfTI file (it starts with {raw[:4].hex()}), convert it to NIfTI first")


def run_shape(header: nib.Nifti1Header, name: str) -> tuple[tuple[int, int, int], int]:
    """(X, Y, Z) and how many such volumes follow each other; all axes after the third count volumes."""
    dim = [int(n) for n in header["dim"]]
    full = tuple(dim[1 : dim[0] + 1])
    if not 1 <= dim[0] <= 7 or min(full) < 1:
        raise ScanError(f"{name} has a damaged header (dim {dim}), export the scan again")
    if len(full) < 3 or min(full[:3]) == 1:
        raise ScanError(f"{name} is not 3-D, its shape is {full}, give the whole volume and not a slice")
    return full[:3], math.prod(full[3:])  # type: ignore[return-value]


def volume_shape(header: nib.Nifti1Header, name: str) -> tuple[int, int, int]:
    """(X, Y, Z) where there is one volume; further axes of length 1 are dropped."""
    shape, count = run_shape(header, name)
    if count > 1:
        full = tuple(int(n) for n in header["dim"][1 : header["dim"][0] + 1])
        axes = 5 if len(full) > 4 and max(full[4:]) > 1 else 4
        raise ScanError(
            f"{name} is {axes}-D with shape {full}, which has no single volume; give the file to `cpmae deidentify`, "
            "or open it with cpmae.io.forms.open_scan for deidentify_run"
        )
    return shape


def data_offset(header: nib.Nifti1Header, name: str) -> int:
    """Where the voxels of a single file start; 0 is found in the wild and read as the least there can be."""
    offset = float(header["vox_offset"])
    if not math.isfinite(offset):
        raise ScanError(f"{name} has a damaged header (vox_offset {offset}), export the scan again")
    return max(int(offset), len(header.binaryblock) + 4)


def scaling(header: nib.Nifti1Header, name: str) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise ScanError(f"{name} has slope {slope:g} with intercept {inter:g}, set scl_inter to a number")
    return slope, inter


def best_affine(header: nib.Nifti1Header, name: str) -> NDArray[np.float64]:
    """The affine that the header's codes choose: sform, then qform, then voxel sizes alone."""
    zooms = np.asarray(header["pixdim"][1:4], np.float64)
    if not np.isfinite(zooms).all() or (zooms == 0).any():
        raise ScanError(f"{name} has voxel sizes {zooms.tolist()} (pixdim), set them to the real ones in millimetres")
    try:
        affine = np.asarray(_with_qfac(header).get_best_affine(), np.float64)
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise ScanError(f"{name} has no usable orientation ({error}), correct its qform") from error
    if not np.isfinite(affine).all():
        raise ScanError(f"{name} has an affine with NaN or infinity in it, {affine[:3].tolist()}, correct it")
    # a skew grid's volume is less than the product of its edges; at a thousandth the axes lie in one plane
    if abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * float(np.prod(voxel_sizes(affine))):
        raise ScanError(f"{name} has a singular affine, {affine[:3, :3].tolist()}, correct its sform or qform")
    return affine


def _with_qfac(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header for reading its qform: a qfac of 0 stands for 1, and stays 0 in files."""
    if header["pixdim"][0] == 0:
        header = header.copy()
        header["pixdim"][0] = 1
    return header


def is_marked(header: nib.Nifti1Header) -> bool:
    """Whether it is the header of a result."""
    return header["descrip"].item().startswith(MARK.encode())


def doubts(header: nib.Nifti1Header) -> list[str]:
    """What a user should know of a header that can be used."""
    found = []
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        letters = "".join(nib.orientations.aff2axcodes(header.get_best_affine()))  # LAS: nibabel's way, as in Analyze
        found.append(
            f"the header does not say how the head lies; its axes are taken as {letters} (L: towards the left)"
        )
    found += _contradiction(header)
    if is_marked(header):
        found.append("the header says that this scan was de-identified already; is it the right file?")
    return found


def _contradiction(header: nib.Nifti1Header) -> list[str]:
    """A warning where sform and qform cannot both be right. With two codes they are of two worlds, but not mirrored."""
    codes = int(header["sform_code"]), int(header["qform_code"])
    if min(codes) <= 0:
        return []
    try:
        sform, qform = header.get_sform(), _with_qfac(header).get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):  # no qform that could be right
        return []
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        how = "are mirror images of each other: one of them has left and right the wrong way round"
    elif codes[0] == codes[1] and (apart := grid_distance_mm(run_shape(header, "")[0], sform, qform)) > FORMS_APART_MM:
        how = f"place the scan {apart:.0f} mm apart"
    else:
        return []
    return [f"sform and qform of the header {how}; the sform counts here, see whether it is right"]


def stored_dtype(header: nib.Nifti1Header, name: str) -> np.dtype:
    """The dtype of the stored numbers, in the file's byte order."""
    code = int(header["datatype"])
    if code not in _DTYPE_OF_CODE:
        kind = _REFUSED_CODE.get(code, "unknown")
        raise ScanError(f"{name} holds {kind} voxels (datatype {code}), give a magnitude image of real numbers")
    return np.dtype(_DTYPE_OF_CODE[code]).newbyteorder(header.endianness)


def check_grid(header: nib.Nifti1Header, name: str) -> None:
    """Refuse a grid that no head is scanned on: by its dtype, units, voxel sizes and number of voxels."""
    dtype, shape = stored_dtype(header, name), run_shape(header, name)[0]
    if dtype.name not in STORED_DTYPES:
        allowed = ", ".join(STORED_DTYPES)
        raise ScanError(f"{name} holds 64-bit integers ({dtype.name}), store it as one of {allowed}")
    units = int(header["xyzt_units"]) & 7
    if units in _UNITS:
        raise ScanError(
            f"{name} gives its lengths in {_UNITS[units]} (xyzt_units {units}), convert them to millimetres"
        )
    sizes = voxel_sizes(best_affine(header, name))
    low, high = VOXEL_RANGE_MM
    if (sizes < low).any() or (sizes > high).any():
        text = " x ".join(f"{s:.4g}" for s in sizes)
        hint = "are they metres? " if sizes.max() < low else ""
        raise ScanError(
            f"{name} has voxels of {text} mm, {hint}correct pixdim and the affine to {low:g} to {high:g} mm"
        )
    if min(shape) < MIN_AXIS:
        raise ScanError(
            f"{name} has shape {shape}, a head scan has at least {MIN_AXIS} voxels along each axis; "
            "give the whole 3-D volume"
        )


def marked(header: _Header, text: str) -> _Header:
    """A copy with `text` as the description (`descrip`, cut to 79 ASCII characters)."""
    copy = header.copy()
    copy["descrip"] = text.encode("ascii", "replace")[:79]
    return copy
