"""When a scan has the brain mask of another one of its session: the rule, and the mask on its grid.

A mask is taken over from a scan of the same session if
- the two have the same grid (shape, and corners within 0.1 mm), or
- their headers give places in the same frame (the affine in use has the same code: scanner, Talairach, MNI), and at
  least half of the brain lies in the other's field of view. Codes 2 and 5, aligned to something and another template,
  say not to which; two scans that have them may lie anywhere to each other.
Otherwise each scan finds its own. Headers may be wrong: `bids.work` compares what is taken over with the image.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae import volume
from cpmae.compare import dice
from cpmae.io import forms
from cpmae.io.header import best_affine, parse_header
from cpmae.io.source import opened
from cpmae.shared_mask import mask_on
from cpmae.volume import voxel_volume_ml

MIN_COVERED = 0.5
MIN_DICE = 0.95  # of one brain's masks, brought from grid to grid; 3 mm off it is 0.95
_ONE_FRAME = (1, 3, 4)  # codes of NIfTI that stand for one frame in all scans of a session


@dataclass(frozen=True)
class Grid:
    """The first three axes of an image, 3-D or more.

    Attributes:
        shape: (X, Y, Z).
        affine: (4, 4), voxel to world, mm, RAS+.
        code: of the affine, as NIfTI counts them; 0 is none, 1 the scanner's frame.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    code: int


def grid_of(path: Path) -> Grid:
    """What the header of a NIfTI file says; its voxels are not read.

    Raises:
        ScanError: if there is no such header.
    """
    with opened(path) as file:
        raw = file.read(540)
    header = parse_header(raw, path.name)
    shape = tuple(int(n) for n in header["dim"][1:4])
    code = int(header["sform_code"]) or int(header["qform_code"])
    return Grid(shape, best_affine(header, path.name), code)  # type: ignore[arg-type]


def same_frame(grid: Grid, other: Grid) -> bool:
    """Whether two scans of one session give places in the same frame, by the rule."""
    return same_grid(grid, other) or (grid.code == other.code and grid.code in _ONE_FRAME)


def same_grid(grid: Grid, other: Grid) -> bool:
    """Whether each voxel of one is a voxel of the other, in the same place."""
    return volume.same_grid(grid.shape, grid.affine, other.shape, other.affine)


def mask_for(grid: Grid, other: Grid, mask: Path) -> NDArray[np.bool_] | None:
    """The brain mask of another scan on this one's grid, (X, Y, Z) bool, or None if the rule says that it is not one's.

    Args:
        grid: of the scan that wants a mask.
        other, mask: grid and mask file of the scan that has one.

    Raises:
        ScanError: if the mask cannot be read.
    """
    if not same_frame(grid, other):
        return None
    found = forms.read(mask, checked=False).stored != 0
    if same_grid(grid, other):
        return found
    brain = mask_on(found, other.affine, grid.shape, grid.affine)
    covered = brain.sum() * voxel_volume_ml(grid.affine) / max(1e-9, found.sum() * voxel_volume_ml(other.affine))
    return brain if covered >= MIN_COVERED else None


def agree(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether two masks on one grid are of one brain in one place."""
    return dice(mask, other) >= MIN_DICE


def write_mask(path: Path, mask: NDArray[np.bool_], grid: Grid) -> Path:
    """A mask as a file, for whoever takes files; returns the path."""
    nib.Nifti1Image(mask.astype(np.uint8), grid.affine).to_filename(path)
    return path
