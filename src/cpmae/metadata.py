"""What beside the voxels may tell who was scanned, and its removal."""

from dataclasses import replace
from typing import TypeVar

from cpmae.io.nifti import NiftiScan
from cpmae.io.run import NiftiRun

Image = TypeVar("Image", NiftiScan, NiftiRun)

# Fields of NIfTI-1 and NIfTI-2 that no software needs to read the image, and that hold names, dates, paths and numbers
# of sessions in the wild; glmax and glmin are the extremes of the whole original.
_IDENTIFYING = (
    "descrip",
    "aux_file",
    "db_name",
    "intent_name",
    "data_type",
    "unused_str",
    "extents",
    "session_error",
    "regular",
    "glmax",
    "glmin",
)


def clean_nifti(scan: Image) -> Image:
    """The same image without text: identifying header fields empty, header extensions (DICOM, AFNI, XML ones) gone."""
    header = scan.header.copy()
    empty = type(header)(endianness=header.endianness)
    for field in set(_IDENTIFYING) & set(header.keys()):
        header[field] = empty[field]
    header["vox_offset"] = len(header.binaryblock) + len(NiftiScan.extensions)
    return replace(scan, header=header, extensions=NiftiScan.extensions)
