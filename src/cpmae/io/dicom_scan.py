"""The way of a DICOM volume into a `NiftiScan` and back: stored integers on a regular grid.

A scan for the pipeline has no padding and no holes: both are filled, and left out again on the way back.
"""

from collections.abc import Mapping
from itertools import pairwise

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae.io import dicom, dicom_pixels
from cpmae.io.dicom import Series, quiet
from cpmae.io.dicom_mosaic import read_mosaic
from cpmae.io.dicom_volumes import Stack
from cpmae.io.nifti import NiftiScan

Pixels = Mapping[tuple[int, int], NDArray]  # (instance, frame or tile) to stored integers, (rows, columns)


@quiet()
def read_pixels(series: Series) -> dict[tuple[int, int], NDArray]:
    """The slices of a series as stored integers.

    Raises:
        ScanError, MissingExtraError: as `dicom_pixels.get_pixels` and `read_mosaic`.
    """
    found: dict[tuple[int, int], NDArray] = {}
    for n, instance in enumerate(series.instances):
        whole, name = dicom.read_whole(instance.path), instance.path.name
        planes, mosaic = dicom_pixels.get_pixels(whole, name), read_mosaic(whole, name)
        if mosaic:
            planes = mosaic.split(planes)
        found |= {(n, i): plane for i, plane in enumerate(planes)}
    return found


def to_scan(stack: Stack, pixels: Pixels, values: tuple[int, int], inverted: bool = False) -> NiftiScan:
    """A volume as a scan.

    Where slope and intercept are one for all slices the scan holds the stored integers, and else the intensities as
    float32. A hole holds the mean of its neighbours, padding what is nothing on a magnitude image.

    Args:
        stack: the volume.
        pixels: its slices.
        values: least and greatest integer.
        inverted: greater is darker (MONOCHROME1).
    """
    slope, inter = rescale(stack)
    dtype = pixels[stack.frames[0].instance, stack.frames[0].index].dtype
    if inverted:
        top = max(frame.slope * values[1] + frame.inter for frame in stack.frames)
        slope, inter = -slope, top - inter
    nothing = _nothing(slope, inter, values if one_rescale(stack) else None)
    stored = np.zeros(stack.shape, dtype if one_rescale(stack) else np.float32, order="F")
    for frame, slot in zip(stack.frames, stack.slots, strict=True):
        slice_ = pixels[frame.instance, frame.index].T
        if one_rescale(stack):
            plane = slice_
        else:
            plane = slice_ * np.float32(frame.slope) + np.float32(frame.inter)
        stored[:, :, slot] = (
            plane if frame.padding is None else np.where(_within(slice_, frame.padding), nothing, plane)
        )
    for before, after in pairwise(stack.slots):
        for slot in range(before + 1, after):
            share = (slot - before) / (after - before)
            plane = (1 - share) * stored[:, :, before] + share * stored[:, :, after]
            stored[:, :, slot] = np.rint(plane) if stored.dtype.kind in "iu" else plane
    header = nib.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_xyzt_units("mm")
    header["pixdim"][1:4] = np.linalg.norm(stack.affine[:3, :3], axis=0)
    header.set_sform(stack.affine, code="scanner")  # a quaternion cannot say that a grid is skew
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["vox_offset"] = len(header.binaryblock) + 4
    header["magic"] = header.default_structarr()["magic"]
    return NiftiScan(stored, slope, inter, stack.affine, header)


def without_holes(scan: NiftiScan, mask: NDArray[np.bool_], stack: Stack) -> tuple[NiftiScan, NDArray[np.bool_]]:
    """Scan and brain mask with holes that nothing outside the brain has an influence on.

    In a hole the brain is where both neighbours have it, and the rest holds nothing.

    Args:
        scan, mask: (X, Y, Z) on the grid of `stack`.
    """
    if not stack.holes:
        return scan, mask
    mask, stored = mask.copy(), scan.stored.copy(order="F")
    limits = np.iinfo(stored.dtype) if stored.dtype.kind in "iu" else None
    nothing = _nothing(scan.slope, scan.inter, (limits.min, limits.max) if limits else None)
    for before, after in pairwise(stack.slots):
        for slot in range(before + 1, after):
            mask[:, :, slot] = mask[:, :, before] & mask[:, :, after]
            stored[:, :, slot][~mask[:, :, slot]] = nothing
    return scan.with_stored(stored), mask


def _nothing(slope: float, inter: float, values: tuple[int, int] | None) -> float:
    """What is stored for an intensity of 0, or the nearest to it among the integers from `values[0]` to `values[1]`."""
    nothing = -inter / slope
    return nothing if values is None else float(np.clip(round(nothing), *values))


def from_scan(
    stack: Stack, result: NDArray, protected: NDArray[np.bool_], pixels: Pixels, values: tuple[int, int]
) -> dict[tuple[int, int], NDArray]:
    """The slices of a result; the inverse of `to_scan`.

    Protected integers are copied from `pixels`, padding too. The others are clipped to `values` and moved off the
    padding, so that no reader takes the new head for nothing.

    Args:
        stack, pixels, values: as for `to_scan`.
        result: (X, Y, Z), the numbers of a scan that `to_scan` made.
        protected: (X, Y, Z) bool.
    """
    found = {}
    for frame, slot in zip(stack.frames, stack.slots, strict=True):
        old = pixels[frame.instance, frame.index]
        new = result[:, :, slot].T.astype(np.float64)
        if not one_rescale(stack):
            new = np.rint((new - frame.inter) / frame.slope)
        new = np.clip(new, *values)
        if frame.padding is not None:
            low, high = frame.padding
            new[_within(new, frame.padding)] = high + 1 if high < values[1] else max(low - 1, values[0])
        found[frame.instance, frame.index] = np.where(protected[:, :, slot].T, old, new.astype(old.dtype))
    return found


def one_rescale(stack: Stack) -> bool:
    """True if all slices have the same slope and intercept."""
    return len({(frame.slope, frame.inter) for frame in stack.frames}) == 1


def rescale(stack: Stack) -> tuple[float, float]:
    """Slope and intercept of the scan, which holds intensities where the slices differ in them."""
    return (stack.frames[0].slope, stack.frames[0].inter) if one_rescale(stack) else (1.0, 0.0)


def _within(numbers: NDArray, span: tuple[int, int]) -> NDArray[np.bool_]:
    return (numbers >= span[0]) & (numbers <= span[1])
