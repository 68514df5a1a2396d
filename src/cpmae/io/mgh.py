"""FreeSurfer's .mgh and .mgz: a head of 284 bytes, big-endian voxels, and a footer of scan parameters and text."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cpmae.errors import ScanError
from cpmae.io.container import MGH_FOOTER_BYTES, MGH_HEAD_BYTES, Container
from cpmae.io.header import MARK
from cpmae.io.run import NiftiRun, check_length, run_of
from cpmae.io.source import opened, skip

SUFFIXES = (".mgz", ".mgh")


def open_mgh(path: Path, checked: bool) -> NiftiRun:
    """Open an .mgh or .mgz file. Its `header` is what a NIfTI file would have.

    Raises:
        ScanError: if the file is missing or damaged, or not a scan that can be a head's.
    """
    name = path.name
    with opened(path) as file:
        head = file.read(MGH_HEAD_BYTES)
        if len(head) < MGH_HEAD_BYTES or head[:4] != b"\0\0\0\1":
            start = head[:4].hex() or "nothing"
            raise ScanError(f"{name} is not an MGH file of voxels (it starts with {start}), convert it to NIfTI first")
        own = nib.freesurfer.MGHImage.header_class(head, check=False)
        run = run_of(path, _as_nifti(own, name), MGH_HEAD_BYTES, checked=checked)
        check_length(run)
        voxels = math.prod(run.shape) * run.count * run.stored_dtype.itemsize
        skipped = skip(file, voxels)
        if skipped < voxels:
            found, need = MGH_HEAD_BYTES + skipped, MGH_HEAD_BYTES + voxels
            raise ScanError(f"{name} is truncated ({found} bytes of {need}), copy it again")
        after = file.read()
    if len(after) >= MGH_FOOTER_BYTES and run.count > 1:
        run.header["pixdim"][4] = np.frombuffer(after, ">f4", 1)[0] / 1000  # from milliseconds
    if (mark := after.rfind(MARK.encode())) >= 0:
        run.header["descrip"] = after[mark:].split(b"\0")[0][:79]
    return replace(run, container=Container("mgh", head, after=after))


def _as_nifti(own: Any, name: str) -> Any:
    """The NIfTI header that says what an MGH header says."""
    dims = [int(n) for n in own["dims"]]
    if min(dims) < 1 or max(dims) > 2**15 - 1:
        raise ScanError(f"{name} is not 3-D, its dimensions are {dims}; give a volume and not a surface map")
    try:
        dtype = own.get_data_dtype()
    except KeyError as error:
        raise ScanError(f"{name} holds voxels of MGH type {int(own['type'])}, convert it to NIfTI") from error
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    header.set_data_shape(dims if dims[3] > 1 else dims[:3])
    header["pixdim"][1:4] = own["delta"]
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = header.default_structarr()["magic"]
    header["vox_offset"] = len(header.binaryblock) + 4
    affine = own.get_affine()
    if not np.isfinite(affine).all():
        raise ScanError(f"{name} has an affine with NaN or infinity in it, {affine[:3].tolist()}, correct it")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm", "sec")
    return header
