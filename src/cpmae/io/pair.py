"""Pairs of a header file (.hdr) and a voxel file (.img): NIfTI's two-file form, and Analyze 7.5 with SPM's additions.

An Analyze header says nothing of left and right. As SPM and nibabel do, the first axis is taken to run from right to
left; the voxels stay as they are in any case.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cpmae.errors import ScanError
from cpmae.io.container import Container, pair_header
from cpmae.io.run import NiftiRun, check_length, run_of
from cpmae.io.source import opened, read_up_to

SUFFIXES = (".hdr", ".img", ".hdr.gz", ".img.gz")
_SPM_TYPES = {130: 256, 132: 512, 136: 768}  # int8, uint16, uint32


def pair_paths(path: Path) -> tuple[Path, Path]:
    """Names of the header file and of the voxel file, of which `path` is one."""
    name = path.name
    cut = len(name) - (7 if name.lower().endswith(".gz") else 4)
    stem, kind, rest = name[:cut], name[cut : cut + 4], name[cut + 4 :]
    names = (".HDR", ".IMG") if kind.isupper() else (".hdr", ".img")
    return path.with_name(stem + names[0] + rest), path.with_name(stem + names[1] + rest)


def open_pair(path: Path, checked: bool) -> NiftiRun:
    """Open a pair; `path` is either of its files. Its `header` is what a single NIfTI file would have.

    Raises:
        ScanError: if a file is missing or damaged, or the pair is not a scan that can be a head's.
    """
    header_path, image_path = pair_paths(path)
    with opened(header_path) as file:
        head = file.read()
    name = header_path.name
    try:
        own = pair_header(head)
    except ValueError as error:
        raise ScanError(
            f"{name} is not the header of a NIfTI or Analyze pair (it {error}), convert it to NIfTI"
        ) from error
    offset = _image_offset(own, name)
    if isinstance(own, nib.Nifti1Header):  # NIfTI-2 is a subclass
        header, after = own.copy(), head[len(own.binaryblock) :]
        header["magic"] = type(own).default_structarr()["magic"]
        extensions = after if len(after) >= 4 else bytes(4)
        kind = "nifti"
    else:
        header, extensions, kind = _as_nifti(own, header_path), bytes(4), "analyze"
    header["vox_offset"] = len(header.binaryblock) + len(extensions)
    run = run_of(image_path, header, offset, extensions, checked=checked)
    with opened(image_path) as file:
        before = bytes(read_up_to(file, offset))
    check_length(run)
    return replace(run, container=Container(kind, head, before))  # type: ignore[arg-type]


def _image_offset(own: Any, name: str) -> int:
    """Bytes before the voxels in the .img file."""
    offset = float(own["vox_offset"])
    if not 0 <= offset < 2**40:
        raise ScanError(f"{name} has a damaged header (vox_offset {offset:g}), export the scan again")
    return int(offset)


def _as_nifti(own: Any, path: Path) -> Any:
    """The NIfTI header that says what an Analyze header says."""
    if path.name.lower().endswith(".hdr") and path.with_suffix(".mat").exists():
        raise ScanError(
            f"{path.name} has {path.stem}.mat beside it, which may hold another orientation; "
            "convert the three to one NIfTI file, or move it away"
        )
    header = nib.Nifti1Header(endianness=own.endianness)
    code = int(own["datatype"])
    header["dim"], header["bitpix"] = own["dim"], own["bitpix"]
    header["datatype"] = _SPM_TYPES.get(code, code)
    header["pixdim"][1:] = np.abs(own["pixdim"][1:])
    slope, inter = own.get_slope_inter()
    header["scl_slope"], header["scl_inter"] = (1, 0) if slope is None else (slope, inter)
    header["magic"] = header.default_structarr()["magic"]
    affine = own.get_best_affine()
    # nothing is said of the axes but, in SPM's files, of the origin; sizes that are not finite are refused later
    if np.isfinite(affine).all() and not np.allclose(affine, header.get_best_affine()):
        header.set_sform(affine, code="aligned")
    header.set_xyzt_units("mm")
    header["descrip"] = own["descrip"]
    return header
