"""Siemens mosaics: a classic MR image for each volume, in whose picture all slices are tiled.

How many slices there are and which way they follow each other stands in private elements alone, of which what a reader
needs is written afresh.
"""

import math
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cpmae.errors import ScanError
from cpmae.io.dicom import DAMAGE, ENHANCED, image_type, number_of

_MR, _CSA = (0x0019, "SIEMENS MR HEADER"), (0x0029, "SIEMENS CSA HEADER")
_IMAGE_HEADER = 0x10  # (0029,xx10)
_COUNT = 0x0A
# Elements (0019,xx..): VR, how many numbers, name in the CSA header. The count is no more than the picture shows, and
# the diffusion weighting is in PS3.15, Table E.3.10-1, of safe private attributes.
_SAFE = {
    _COUNT: ("US", 1, "NumberOfImagesInMosaic"),
    0x0C: ("IS", 1, "B_value"),
    0x0E: ("FD", 3, "DiffusionGradientDirection"),
    0x27: ("FD", 6, "B_matrix"),
}


@dataclass(frozen=True)
class Mosaic:
    """How the slices of a volume are tiled, row by row, and what a reader needs beside the picture.

    Attributes:
        rows, columns: of one slice.
        gap: from slice to slice, mm.
        normal: from slice to slice, (3,) float64, LPS+; None where it is not said, and is the cross product of the
            directions of rows and columns.
        numbers: elements of SIEMENS MR HEADER that are safe to keep.
    """

    rows: int
    columns: int
    gap: float
    normal: NDArray[np.float64] | None
    numbers: dict[int, list[float]]

    @property
    def count(self) -> int:
        """Slices."""
        return int(self.numbers[_COUNT][0])

    @property
    def side(self) -> int:
        """Tiles in a row, and in a column."""
        return _side(self.count)

    def positions(
        self, corner: NDArray[np.float64], across: NDArray[np.float64], down: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Centres of the first voxels of the slices, (count, 3), mm, LPS+.

        Args:
            corner: ImagePositionPatient, which puts a slice of the size of the mosaic around the first slice's centre.
            across, down: steps to the next column and row, (3,), mm, LPS+.
        """
        first = corner + (across * self.columns + down * self.rows) * (self.side - 1) / 2
        step = np.cross(across, down)
        step *= self.gap / np.linalg.norm(step)
        if self.normal is not None and self.normal @ step < 0:
            step = -step
        return first + np.arange(self.count)[:, None] * step

    def split(self, picture: NDArray) -> NDArray:
        """The slices, (count, rows, columns), of a picture; the tiles after the last slice hold nothing."""
        tiles = picture.reshape(self.side, self.rows, self.side, self.columns).swapaxes(1, 2)
        return tiles.reshape(-1, self.rows, self.columns)[: self.count]

    def join(self, slices: NDArray) -> NDArray:
        """The picture of slices, 0 where there is none; the inverse of `split`."""
        tiles = np.zeros((self.side**2, self.rows, self.columns), slices.dtype)
        tiles[: self.count] = slices
        tiles = tiles.reshape(self.side, self.side, self.rows, self.columns).swapaxes(1, 2)
        return tiles.reshape(self.side * self.rows, self.side * self.columns)

    def put(self, whole: Dataset) -> None:
        """Write the private elements that a reader needs, in place; a CSA header that is still there stays."""
        block = whole.private_block(*_MR, create=True)
        for offset, numbers in self.numbers.items():
            vr = _SAFE[offset][0]
            values = numbers if vr == "FD" else [round(v) for v in numbers]
            block.add_new(offset, vr, values if len(values) > 1 else values[0])
        if self.normal is not None:
            block = whole.private_block(*_CSA, create=True)
            if _IMAGE_HEADER not in block:
                tags = {_SAFE[_COUNT][2]: ("US", [f"{self.count}"])}
                tags["SliceNormalVector"] = ("FD", [f"{v:.8f}" for v in self.normal])
                block.add_new(_IMAGE_HEADER, "OB", _csa_bytes(tags))


def read_mosaic(header: Dataset, name: str) -> Mosaic | None:
    """How a mosaic is tiled; None for other images.

    Args:
        header: with private elements.
        name: for messages.

    Raises:
        ScanError: if the header does not say how many slices there are or how far apart, if the picture is no square
            of them, or the CSA header is damaged.
    """
    if "MOSAIC" not in image_type(header):
        return None
    advice = "export single slices"
    if header.SOPClassUID in ENHANCED:
        raise ScanError(f"{name} is a mosaic of slices in an enhanced object, {advice}")
    csa, numbers = _csa(header, name), {}
    for offset, (_, size, called) in _SAFE.items():
        found = _numbers(csa.get(called), size) or _numbers(_element(header, _MR, offset), size)
        if found:
            numbers[offset] = found
    count = numbers.get(_COUNT, [0])[0]
    if count < 1 or count % 1:
        where = "(0019,100A) or the CSA header, which are private and may have been removed"
        raise ScanError(f"{name} is a mosaic and does not say of how many slices ({where}), {advice}")
    rows, columns, side = int(header.Rows), int(header.Columns), _side(int(count))
    if rows % side or columns % side:
        raise ScanError(f"{name} is a mosaic of {count:g} slices in {rows} rows and {columns} columns, {advice}")
    gap = number_of(header, "SpacingBetweenSlices")
    if not 0 < gap < math.inf:
        raise ScanError(
            f"{name} is a mosaic and does not say how far apart slices are (SpacingBetweenSlices), {advice}"
        )
    normal = _numbers(csa.get("SliceNormalVector"), 3)
    return Mosaic(rows // side, columns // side, gap, None if normal is None else np.array(normal), numbers)


def _side(count: int) -> int:
    return math.isqrt(count - 1) + 1


def _element(header: Dataset, block: tuple[int, str], offset: int) -> Any:
    try:
        return header.private_block(*block)[offset].value
    except DAMAGE:  # a KeyError, if there is none
        return None


def _csa(header: Dataset, name: str) -> dict[str, Any]:
    """The values of the CSA image header by their names; none if there is no such header."""
    raw = _element(header, _CSA, _IMAGE_HEADER)
    if not isinstance(raw, bytes) or not raw.strip(b"\0 "):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its readers of DICOM experimental
        from nibabel.nicom import csareader
    try:
        return {tag: found["items"] for tag, found in csareader.read(raw)["tags"].items()}
    except (csareader.CSAError, AssertionError, *DAMAGE) as error:
        raise ScanError(f"{name} has a damaged CSA header ({error or type(error).__name__}), copy it again") from error


def _numbers(values: Any, size: int) -> list[float] | None:
    """Exactly so many finite numbers, or None: text and bytes are none."""
    try:
        found = np.array([float(v) for v in np.atleast_1d(values) if not isinstance(v, bytes)])
    except (TypeError, ValueError):
        return None
    return found.tolist() if found.size == size and np.isfinite(found).all() else None


def _csa_bytes(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """A CSA header of format 2, as `csareader` reads it, of these names with VR and values."""
    raw = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, (vr, values) in tags.items():
        raw += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 6, len(values), 77)
        for item in (value.encode() + b"\0" for value in values):
            raw += struct.pack("<4i", len(item), len(item), 77, len(item)) + item + bytes(-len(item) % 4)
    return raw
