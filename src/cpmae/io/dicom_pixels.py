"""The stored integers of a DICOM image, read and written so that not one of them changes on the way.

Compressed files are read where the compression is lossless, and come back uncompressed (Explicit VR Little Endian).
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cpmae.errors import MissingExtraError, ScanError
from cpmae.io.dicom import DAMAGE, quiet

UNCOMPRESSED = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
LOSSLESS = (
    *(JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL),
    RLELossless,
)


def check_storage(header: Dataset, name: str) -> None:
    """Refuse pixels that are not integers as they were measured, before any is read.

    Raises:
        ScanError: for lossy compression, floats, cells of odd sizes, lookup tables.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if syntax not in (*UNCOMPRESSED, *LOSSLESS):
        raise ScanError(f"{name} is compressed with losses or in an unknown way ({syntax.name}), export it losslessly")
    if str(header.get("LossyImageCompression", "00") or "00") == "01":
        raise ScanError(f"{name} was compressed with losses before (LossyImageCompression 01), export the original")
    if not all(isinstance(header.get(keyword), int) and header[keyword].value > 0 for keyword in ("Rows", "Columns")):
        raise ScanError(f"{name} has {header.get('Rows')} rows and {header.get('Columns')} columns, export it again")
    cell, bits = header.get("BitsAllocated"), header.get("BitsStored")
    if cell not in (8, 16, 32) or not isinstance(bits, int) or not 2 <= bits <= cell:
        raise ScanError(f"{name} has {bits} bits in cells of {cell}, export it with 8, 16 or 32 bits a voxel")
    if header.get("HighBit", bits - 1) != bits - 1:
        raise ScanError(f"{name} has {bits} bits up to bit {header.HighBit}, export it with the lowest bits in use")
    if "ModalityLUTSequence" in header:
        raise ScanError(f"{name} has a lookup table in place of slope and intercept (ModalityLUTSequence), export it")


def value_range(header: Dataset) -> tuple[int, int]:
    """The least and the greatest integer that fit the stored bits, without the padding at their end."""
    bits = int(header.BitsStored)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if header.get("PixelRepresentation") == 1 else (0, (1 << bits) - 1)


def padding(header: Dataset) -> tuple[int, int] | None:
    """The values that mean "nothing was measured here", from ... to; None if there are none."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    other = limit if isinstance(limit, int) else value
    return min(value, other), max(value, other)


def get_pixels(whole: Dataset, name: str) -> NDArray:
    """The stored integers, (frames, rows, columns), of the dtype of the cell in native byte order.

    Raises:
        ScanError: if there are none, they are cut off or cannot be decoded.
        MissingExtraError: if their decoder is not installed.
    """
    if "PixelData" not in whole:
        raise ScanError(f"{name} has no pixels (PixelData), export it again")
    check_storage(whole, name)
    syntax = whole.file_meta.TransferSyntaxUID
    if syntax not in UNCOMPRESSED and not get_decoder(syntax).is_available:
        raise MissingExtraError(f"{name} is compressed ({syntax.name}), which needs pip install 'cpmae[jpeg]'")
    try:
        with quiet():  # of padding after the pixels, too
            found = pixel_array(whole, raw=True)
    except (*DAMAGE, RuntimeError, IndexError, OSError) as error:
        text = " ".join(str(error).split())
        raise ScanError(f"{name} has pixels that are cut off or cannot be decoded ({text}), copy it again") from error
    signed, cell, bits = whole.get("PixelRepresentation") == 1, int(whole.BitsAllocated), int(whole.BitsStored)
    found = found.astype(f"{'i' if signed else 'u'}{cell // 8}", copy=False)
    found = found.reshape(-1, int(whole.Rows), int(whole.Columns))
    if bits < cell:  # what is above the stored bits can be an overlay: it is no part of the number
        found = np.left_shift(found, cell - bits)
        found = np.right_shift(found, cell - bits)
    return found


def put_pixels(whole: Dataset, pixels: NDArray) -> None:
    """Put other integers into an image, (frames, rows, columns), in place; the inverse of `get_pixels`."""
    syntax = whole.file_meta.TransferSyntaxUID
    cell, bits = int(whole.BitsAllocated), int(whole.BitsStored)
    cells = pixels.view(f"u{cell // 8}") & np.array((1 << bits) - 1, f"u{cell // 8}")
    raw = cells.astype(cells.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    if syntax not in UNCOMPRESSED:
        whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    del whole["PixelData"]
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in whole:
            del whole[keyword]
    whole.add_new(
        "PixelData", "OW" if cell > 8 or syntax == ImplicitVRLittleEndian else "OB", raw + b"\0" * (len(raw) % 2)
    )
