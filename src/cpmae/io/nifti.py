"""NIfTI-1 and NIfTI-2 files, read and written so that not one stored number and not one header byte changes on the way.

The stored numbers are kept as the file holds them; scaling (`scl_slope`, `scl_inter`) is applied only in
`NiftiScan.scaled`.
"""

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae.errors import ScanError
from cpmae.io import header as headers
from cpmae.io.header import best_affine, check_grid, scaling, volume_shape
from cpmae.io.output import check_output, write_pieces
from cpmae.volume import Volume

SLAB_BYTES = 2**24  # handled at a time where a whole copy of the array would cost memory


@dataclass(frozen=True)
class NiftiScan:
    """A 3-D NIfTI image as its file holds it.

    Attributes:
        stored: (X, Y, Z), the file's numbers without scaling, in native byte order; do not write into it.
        slope, inter: stored * slope + inter gives the intensities; 1 and 0 where the file asks for no scaling.
        affine: (4, 4) float64, voxel to world, mm, RAS+.
        header: nibabel NIfTI-1 or NIfTI-2 header with the file's own bytes and byte order.
        extensions: the file's bytes between header and voxels.
    """

    stored: NDArray
    slope: float
    inter: float
    affine: NDArray[np.float64]
    header: nib.Nifti1Header
    extensions: bytes = bytes(4)

    def scaled(self) -> Volume:
        """The intensities, (X, Y, Z) float32; values beyond float32 become infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            data = self.stored.astype(np.float32)
            if (self.slope, self.inter) != (1.0, 0.0):
                data *= np.float32(self.slope)
                data += np.float32(self.inter)
        return Volume(data, self.affine)

    def unscaled(self, values: NDArray) -> NDArray:
        """Intensities to stored numbers; the inverse of `scaled`.

        Args:
            values: (X, Y, Z) float, in units of `scaled`.

        Returns:
            Same shape, dtype of `stored`. For integers rounded half to even, clipped to the dtype's range, NaN to 0.
        """
        out = np.empty(values.shape, self.stored.dtype, order="F")
        for part in _slabs(values.shape, 8):
            numbers = values[..., part].astype(np.float64)
            if (self.slope, self.inter) != (1.0, 0.0):
                numbers -= self.inter
                numbers /= self.slope
            if out.dtype.kind in "iu":
                np.copyto(numbers, 0, where=np.isnan(numbers))
                np.rint(numbers, out=numbers)
                np.clip(numbers, np.iinfo(out.dtype).min, np.iinfo(out.dtype).max, out=numbers)
            with np.errstate(over="ignore"):
                out[..., part] = numbers
        return out

    def with_stored(self, stored: NDArray) -> "NiftiScan":
        """A copy of the header around other numbers.

        Raises:
            ValueError: if shape or dtype are not the scan's.
        """
        if stored.shape != self.stored.shape or stored.dtype != self.stored.dtype:
            expected = f"{self.stored.dtype} {self.stored.shape}"
            raise ValueError(f"got {stored.dtype} {stored.shape} for a scan of {expected}")
        return replace(self, stored=stored, header=self.header.copy())

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return self.stored.dtype

    def marked(self, text: str) -> "NiftiScan":
        """The same scan with `text` as its description (`descrip`, cut to 79 ASCII characters)."""
        return replace(self, header=headers.marked(self.header, text))

    def to_bytes(self) -> Iterator[bytes]:
        """The uncompressed file, in pieces: header, extensions, voxels in the header's byte order."""
        yield self.header.binaryblock
        yield self.extensions
        yield from voxel_bytes(self.stored, self.stored.dtype.newbyteorder(self.header.endianness))

    def to_image(self) -> nib.Nifti1Image:
        """A nibabel image whose data are in memory."""
        kind = nib.Nifti2Image if len(self.header.binaryblock) == 540 else nib.Nifti1Image
        return kind.from_bytes(b"".join(self.to_bytes()))


ScanLike = NiftiScan | Volume | nib.spatialimages.SpatialImage


def from_volume(volume: Volume) -> NiftiScan:
    """A volume as a scan that holds the same numbers.

    Raises:
        ScanError: if its dtype or its affine is none of NIfTI's.
    """
    dtype = volume.data.dtype
    if dtype.name not in headers.STORED_DTYPES:
        raise ScanError(
            f"a volume of {dtype.name} is not a scan, convert it to one of {', '.join(headers.STORED_DTYPES)}"
        )
    if not np.isfinite(volume.affine).all() or np.linalg.matrix_rank(volume.affine[:3, :3]) < 3:
        raise ScanError(f"the affine {volume.affine[:3].tolist()} has NaN in it or is singular, correct it")
    return from_image(nib.Nifti1Image(volume.data, volume.affine))


def from_image(image: nib.spatialimages.SpatialImage) -> NiftiScan:
    """A nibabel image as a scan; the numbers of a file's image are taken without their scaling, if it has one for all.

    Raises:
        ScanError: as `read`.
    """
    name = "the image"  # for messages
    if image.affine is None:
        raise ScanError(f"{name} has no affine, which tells where its voxels lie; give it one")
    # other proxies, those of PAR/REC and AFNI files, scale each slice or volume by another factor
    proxy = image.dataobj if type(image.dataobj) is nib.arrayproxy.ArrayProxy else None
    stored = numbers_of(image, name, scaled=proxy is None)
    kind = nib.Nifti2Header if isinstance(image.header, nib.Nifti2Header) else nib.Nifti1Header
    header = kind.from_header(image.header, check=False)
    try:
        header.set_data_dtype(stored.dtype)
        header.set_data_shape(stored.shape)
    except nib.spatialimages.HeaderDataError as error:
        raise ScanError(f"{name} is {stored.dtype} {stored.shape}, which NIfTI does not hold; convert it") from error
    extensions = _extension_bytes(image.header, header.endianness)
    header.extensions.clear()  # or they would come back with the header of a result that was cleaned
    header["magic"] = header.default_structarr()["magic"]
    header["vox_offset"] = len(header.binaryblock) + len(extensions)
    header["scl_slope"], header["scl_inter"] = (1, 0) if proxy is None else (proxy.slope, proxy.inter)
    if not np.allclose(header.get_best_affine(), image.affine, atol=1e-4):  # an Analyze or MGH image has it elsewhere
        header.set_sform(image.affine, code="scanner")
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    shape, (slope, inter) = volume_shape(header, name), scaling(header, name)
    check_grid(header, name)
    return NiftiScan(native.reshape(shape, order="F"), slope, inter, best_affine(header, name), header, extensions)


def numbers_of(image: nib.spatialimages.SpatialImage, name: str, scaled: bool = True) -> NDArray:
    """The numbers of a nibabel image, in memory; `name` is for messages.

    Raises:
        ScanError: if its file cannot be read.
    """
    try:
        return np.asarray(image.dataobj if scaled else image.dataobj.get_unscaled())  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ScanError(f"the voxels of {name} cannot be read ({error}), copy its file again") from error


def _extension_bytes(header: nib.spatialimages.SpatialHeader, endianness: str) -> bytes:
    """The extensions of a nibabel header as a file holds them."""
    found = getattr(header, "extensions", None)  # formats other than NIfTI have none
    if not found:
        return NiftiScan.extensions
    file = io.BytesIO(b"\1\0\0\0")
    file.seek(0, io.SEEK_END)
    found.write_to(file, endianness != nib.volumeutils.native_code)
    return file.getvalue()


def check_is_scan(volume: Volume, name: str = "the scan") -> None:
    """Refuse an image with nothing in it.

    Raises:
        ScanError: if no value is finite, or all finite values are the same.
    """
    low, high = np.inf, -np.inf
    for part in _slabs(volume.shape, 4):
        numbers = volume.data[..., part]
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            low, high = min(low, finite.min()), max(high, finite.max())
    if low > high:
        raise ScanError(f"{name} holds no finite value, give the file it was made from")
    if low == high:
        raise ScanError(f"{name} is {float(low):g} in every voxel, give a scan with a head in it")


def write(path: str | os.PathLike[str], scan: NiftiScan, *, overwrite: bool = False) -> None:
    """Write a scan whole or not at all: to a temporary name in the same folder, then renamed.

    The same scan gives the same bytes: a gzip header holds neither time nor name. Nothing is left behind by an error
    or an interrupt.

    Raises:
        OutputError: if it cannot be written, a full disk included.
    """
    path = Path(path)
    check_output(None, path, overwrite=overwrite)
    write_pieces(path, scan.to_bytes())


def voxel_bytes(stored: NDArray, dtype: np.dtype) -> Iterator[bytes]:
    """The numbers of a (X, Y, Z) array as files hold them, first axis fastest, in pieces.

    Args:
        dtype: that of `stored`, in the file's byte order.
    """
    for part in _slabs(stored.shape, dtype.itemsize):
        yield stored[..., part].astype(dtype, copy=False).tobytes(order="F")


def _slabs(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """Slices of the last axis, each about `SLAB_BYTES` of a (X, Y, Z) array."""
    step = max(1, SLAB_BYTES // max(1, shape[0] * shape[1] * itemsize))
    return (slice(start, start + step) for start in range(0, shape[2], step))
