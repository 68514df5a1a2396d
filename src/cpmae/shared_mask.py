"""A brain mask on the grid of another scan of the same world, or with other axes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from cpmae.brain import check_given_mask, open_mask
from cpmae.io import dicom_scan
from cpmae.io.dicom_volumes import Stack
from cpmae.io.nifti import NiftiScan
from cpmae.volume import same_grid, voxel_sizes


def mask_on(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], shape: tuple[int, int, int], new_affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """A mask on another grid of the same world: True where at least half of the voxel is in it.

    Args:
        mask: (X, Y, Z) bool with its `affine`, voxel to world, mm.
        shape, new_affine: the other grid.

    Returns:
        the mask itself if the grids are one.
    """
    if same_grid(mask.shape, affine, shape, new_affine):
        return mask
    to_old = np.linalg.inv(affine) @ new_affine
    steps = np.maximum(1, np.rint(voxel_sizes(to_old))).astype(int)
    source, total = mask.astype(np.float32), np.zeros(shape, np.float32)
    for shift in np.ndindex(*steps):
        offset = to_old[:3, :3] @ ((np.array(shift) + 0.5) / steps - 0.5) + to_old[:3, 3]
        total += ndimage.affine_transform(source, to_old[:3, :3], offset, shape, order=1, mode="constant")
    return total >= 0.5 * steps.prod()


def without_holes(
    scan: NiftiScan, mask: NDArray[np.bool_], stack: Stack, found: bool
) -> tuple[NiftiScan, NDArray[np.bool_]]:
    """`dicom_scan.without_holes`; of a mask that was found, without pieces that only a hole tied to the brain."""
    scan, mask = dicom_scan.without_holes(scan, mask, stack)
    if found and stack.holes and mask.any():
        from cpmae import canonical  # and with it torch, which most that use this file do without

        mask &= ~canonical.stray_pieces(mask, stack.affine, canonical.align(mask, stack.affine))
    return scan, mask


@dataclass(frozen=True)
class FoundBrain:
    """A brain of a world: its mask (X, Y, Z) bool, the affine of its grid, and `motion.middle` of that image."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    middle: NDArray[np.float64]


_Found = TypeVar("_Found", bound=FoundBrain)


def lender(found: Sequence[_Found], shape: tuple[int, int, int], affine: NDArray[np.float64]) -> _Found | None:
    """Which of the brains that were found in a world, in this order, lends its mask to an image on a grid.

    The last one on the same grid, since a phase lies where its magnitude does, or else the first, of the T1w.
    """
    on_grid = (f for f in reversed(found) if same_grid(f.mask.shape, f.affine, shape, affine))
    return next(on_grid, found[0] if found else None)


def given_mask(path: str | os.PathLike[str], scan: NiftiScan) -> NDArray[np.bool_]:
    """A mask whose file has the scan's grid, perhaps with its axes turned, as converters turn them.

    Raises:
        ScanError, BrainMaskError: as `brain.load_brain_mask`.
    """
    given = open_mask(path)
    change = ornt_transform(io_orientation(given.affine), io_orientation(scan.affine))
    turned = replace(
        given,
        stored=apply_orientation(given.stored, change),
        affine=given.affine @ inv_ornt_aff(change, given.stored.shape),
    )
    return check_given_mask(turned, Path(path).name, scan.stored.shape, scan.affine)
