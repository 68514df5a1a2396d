"""A small head that has two unequal sides, in several orientations and dtypes. Nobody's: ellipsoids and a nose."""

import tempfile
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from cpmae.io import forms
from cpmae.io.nifti import NiftiScan

SHAPE = (56, 72, 64)  # voxels, RAS
VOXEL_MM = (3.0, 2.8, 3.0)
ORIENTATIONS = ("RAS", "LAS", "LPS", "oblique")
# dtype, slope, intercept
STORAGES = (("uint8", 1.0, 0.0), ("int16", 1.0, 0.0), ("uint16", 0.25, -20.0), ("float32", 1.0, 0.0))


def head(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Intensities 0 to about 200 and the brain, both `SHAPE`, axes right, front, up."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[(np.arange(n) - n / 2) * s for n, s in zip(SHAPE, VOXEL_MM, strict=True)], indexing="ij")

    def ellipsoid(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> NDArray[np.bool_]:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    brain = ellipsoid(0, -4, 24, 58, 76, 50)
    brain |= ellipsoid(9, -4, 26, 56, 74, 48)  # the right side is the larger one
    brain &= z > 0.12 * y - 4  # the base of the frontal lobes
    brain |= ellipsoid(0, -42, -8, 46, 30, 26) | ellipsoid(3, -16, -22, 12, 14, 22)  # cerebellum and stem
    brain |= ellipsoid(36, 10, -6, 20, 28, 16) | ellipsoid(-34, 10, -6, 20, 28, 16)  # temporal lobes
    data = np.zeros(SHAPE)
    data[ellipsoid(2, 0, 20, 74, 88, 66)] = 150  # scalp
    data[ellipsoid(2, 20, -45, 48, 52, 48)] = 130  # jaw and neck
    data[ellipsoid(6, 84, -18, 10, 16, 14)] = 160  # nose, off the middle
    data[ellipsoid(-76, -6, 0, 6, 12, 18)] = 120  # one ear is larger
    data[ellipsoid(78, -6, 0, 5, 8, 12)] = 120
    data[ellipsoid(2, 0, 21, 67, 81, 59)] = 30  # skull
    data[brain] = 110 + 8 * np.sin(x / 9)[brain] + 6 * np.cos(y / 7)[brain]
    data[ellipsoid(-14, 5, 28, 8, 24, 12) | ellipsoid(16, 5, 28, 10, 26, 12)] = 45  # ventricles
    data[ellipsoid(-26, 62, -6, 11, 11, 10) | ellipsoid(34, 62, -6, 11, 11, 10)] = 60  # eyes
    noisy = np.hypot(data + rng.normal(0, 3, SHAPE), rng.normal(0, 3, SHAPE))
    return noisy.astype(np.float32), brain


def smooth_share(one: NDArray, other: NDArray, where: NDArray[np.bool_]) -> float:
    """How much of the difference of two volumes is left when it is smoothed: 0.08 of white noise, of shapes more."""
    difference = one.astype(np.float32) - other
    return float(np.abs(ndimage.gaussian_filter(difference, 1.5))[where].mean() / np.abs(difference)[where].mean())


def ras_affine() -> NDArray[np.float64]:
    affine = np.diag([*VOXEL_MM, 1.0])
    affine[:3, 3] = -np.array(SHAPE) / 2 * VOXEL_MM
    return affine


def turned(data: NDArray, orientation: str) -> tuple[NDArray, NDArray[np.float64]]:
    """A `SHAPE` array and its affine with the axes of `orientation`; the anatomy stays where it was in the world."""
    affine = ras_affine()
    if orientation == "oblique":
        a, b = np.deg2rad([12.0, -7.0])
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        affine[:3] = about_z @ about_x @ affine[:3]
        return data, affine
    change = ornt_transform(io_orientation(affine), axcodes2ornt(orientation))
    return apply_orientation(data, change), affine @ inv_ornt_aff(change, data.shape)


def nifti_bytes(orientation: str = "RAS", storage: tuple[str, float, float] = STORAGES[1], order: str = "<") -> bytes:
    """The head as the bytes of a NIfTI-1 file; `order` is the byte order, < little or > big."""
    dtype, slope, inter = storage
    data, affine = turned(head()[0], orientation)
    stored = (data - inter) / slope
    if dtype != "float32":
        stored = np.clip(np.rint(stored), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return nifti_bytes_of(stored.astype(dtype), affine, slope, inter, order)


def nifti_bytes_of(
    stored: NDArray,
    affine: NDArray[np.float64],
    slope: float = 1.0,
    inter: float = 0.0,
    order: str = "<",
    extension: bytes = b"",
    **fields: Any,
) -> bytes:
    """A NIfTI-1 file with exactly these stored numbers and something in every header field that files use.

    `fields` overwrite header fields at the end, unchecked: that is how damaged files are made.
    """
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header["pixdim"][1:4] = np.sqrt((affine[:3, :3] ** 2).sum(0))
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=2)
    header.set_xyzt_units("mm", "sec")
    header["intent_code"], header["intent_name"] = 1001, b"kept"
    header["cal_max"], header["cal_min"] = 180, 5
    header["descrip"], header["aux_file"], header["db_name"] = b"a phantom", b"none", b"unused field"
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["magic"] = b"n+1"
    between = bytes(4)
    if extension:
        size = (8 + len(extension) + 15) // 16 * 16
        code = "little" if order == "<" else "big"
        between = b"\1\0\0\0" + size.to_bytes(4, code) + (6).to_bytes(4, code) + extension.ljust(size - 8, b"\0")
    header["vox_offset"] = 348 + len(between)
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + between + stored.astype(stored.dtype.newbyteorder(order)).tobytes(order="F")


def parse(raw: bytes) -> NiftiScan:
    """The scan in the bytes of a file."""
    with tempfile.NamedTemporaryFile(suffix=".nii") as file:
        file.write(raw)
        file.flush()
        return forms.read(file.name, checked=False)
