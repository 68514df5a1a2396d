"""What beside the voxels may tell who was scanned, and its removal."""

from dataclasses import replace
from typing import Any, TypeVar

import nibabel as nib
import numpy as np

from cpmae.io.container import MGH_FOOTER_BYTES, MGH_HEAD_BYTES, MGH_HEADER_BYTES, Container, pair_header
from cpmae.io.header import best_affine
from cpmae.io.nifti import NiftiScan
from cpmae.io.run import NiftiRun

Image = TypeVar("Image", bound=NiftiScan | NiftiRun)

# Fields of NIfTI-1 and NIfTI-2 that no software needs to read the image, and that hold names, dates, paths and numbers
# of sessions in the wild. glmax and glmin are the extremes of the whole original, and so often are cal_max and cal_min,
# the range to display; all go to 0, "not set" (viewers then look at the voxels), and are not taken from the result: of
# a run, the header is written before the volumes are made, and nobody misses a range that fitted another image.
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
    "cal_max",
    "cal_min",
)
_NO_INTENT = ("intent_p1", "intent_p2", "intent_p3")  # numbers that mean something only under an intent code
_SAME_MM = 1e-2
_LATEST = 600  # of the header's units of time: what starts later than that is told by a clock
# The most that the footer of an MGH file may say: repetition time (ms), flip angle (radians), echo time, inversion time
# (ms), field of view (mm); and the least of what is not 0.
_MGH_MOST, _MGH_LEAST = np.array([1e6, 7.0, 1e6, 1e6, 1e4]), 1e-4

# The same of Analyze headers, whose names for these bytes are others. The extremes stay where the scaling follows from
# them: without it, the brain's intensities would not be what they were.
_ANALYZE_IDENTIFYING = (
    *("data_type", "db_name", "extents", "session_error", "regular", "hkey_un0", "cal_units", "unused1", "funused3"),
    *("compressed", "verified", "descrip", "aux_file", "generated", "scannum", "patient_id", "exp_date", "exp_time"),
    *("hist_un0", "views", "vols_added", "start_field", "field_skip", "omax", "omin", "smax", "smin"),
)
_ANALYZE_EXTREMES = ("glmax", "glmin", "cal_max", "cal_min")


def clean_nifti(scan: Image) -> Image:
    """The same image without text: identifying header fields empty, header extensions (DICOM, AFNI, XML ones) gone.

    Of a run from a pair or an MGH file, the file's own bytes around the voxels too.
    """
    header = _clean_header(scan.header)
    header["vox_offset"] = len(header.binaryblock) + len(NiftiScan.extensions)
    clean = replace(scan, header=header, extensions=NiftiScan.extensions)
    if isinstance(clean, NiftiRun) and clean.container:
        clean = replace(clean, container=clean_container(clean.container))
    return clean


def _clean_header(header: Any) -> Any:
    """A NIfTI header without text, extremes, the time of a clock, and numbers that belong to nothing."""
    clean = _emptied(header, _IDENTIFYING if int(header["intent_code"]) else (*_IDENTIFYING, *_NO_INTENT))
    if not abs(float(header["toffset"])) < _LATEST:  # NaN too; AFNI reads the seconds that a run was cut by
        clean["toffset"] = 0
    _clear_unused_axes(clean)
    _clear_unused_forms(clean)
    return clean


def _clear_unused_axes(header: Any) -> None:
    """Lengths of axes that the image does not have; in place. The fourth size of a 3-D image is its repetition time."""
    axes = int(header["dim"][0])
    if 1 <= axes <= 7:
        header["dim"][axes + 1 :] = 1
        sizes = header["pixdim"][max(axes, 4) + 1 :]
        sizes[(sizes != 0) & (sizes != 1)] = 0  # nibabel writes 1, others 0


def _clear_unused_forms(header: Any) -> None:
    """A form whose code says that it is not used, and that does not say the same as the affine; in place.

    Most files have the used one's twin there, and programs that do not look at codes may read it.
    """
    affine = best_affine(header, "the scan")
    if int(header["sform_code"]) <= 0 and not np.allclose(header.get_sform(), affine, atol=_SAME_MM):
        for row in ("srow_x", "srow_y", "srow_z"):
            header[row] = 0
    if int(header["qform_code"]) <= 0:
        rotation = header.copy()
        rotation["pixdim"][0] = rotation["pixdim"][0] or 1
        try:
            same = np.allclose(rotation.get_qform(), affine, atol=_SAME_MM)
        except (ValueError, nib.spatialimages.HeaderDataError):  # no rotation
            same = False
        if not same:
            for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
                header[field] = 0
            if abs(header["pixdim"][0]) > 1 or np.isnan(header["pixdim"][0]):  # which side the form is seen from
                header["pixdim"][0] = 1


def _emptied(header: Any, fields: tuple[str, ...]) -> Any:
    copy, empty = header.copy(), type(header)(endianness=header.endianness)
    for field in set(fields) & set(header.keys()):
        copy[field] = empty[field]
    return copy


def clean_container(container: Container) -> Container:
    """The bytes around the voxels without text: a pair's header as `clean_nifti` does, an MGH file without its tags."""
    if container.kind == "mgh":  # the tags after the footer hold command lines, paths and names
        head = container.head[:MGH_HEADER_BYTES].ljust(MGH_HEAD_BYTES, b"\0")
        return replace(container, head=head, after=_clean_footer(container.after[:MGH_FOOTER_BYTES]))
    header, rest = pair_header(container.head), b""
    if container.kind == "nifti":
        rest = bytes(4 if len(container.head) >= len(header.binaryblock) + 4 else 0)
        header = _clean_header(header)
    else:
        header = _clean_analyze(header)
    return replace(container, head=header.binaryblock + rest, before=bytes(len(container.before)))


def _clean_footer(raw: bytes) -> bytes:
    """The numbers of an MGH file's footer, big-endian float32, with 0 for those that can be none of a scan's."""
    numbers = np.frombuffer(raw[: len(raw) // 4 * 4], ">f4").copy()
    sizes = np.abs(numbers)
    numbers[~((sizes >= _MGH_LEAST) & (sizes <= _MGH_MOST[: len(sizes)]))] = 0  # NaN too
    return numbers.tobytes() + bytes(len(raw) % 4)


def _clean_analyze(header: Any) -> Any:
    clean = _emptied(header, _ANALYZE_IDENTIFYING)
    if bytes(header["vox_units"]).rstrip(b"\0 ") != b"mm":
        clean["vox_units"] = b""
    without = _emptied(clean, _ANALYZE_EXTREMES)
    if without.get_slope_inter() == header.get_slope_inter():  # where there is no slope, SPM2 makes one of them
        clean = without
    origin = header["origin"].copy()  # SPM's voxel at 0, 0, 0; elsewhere the same bytes are text
    clean["origin"] = 0
    if not np.array_equal(clean.get_best_affine(), header.get_best_affine()):
        clean["origin"][:3] = origin[:3]
    return clean
