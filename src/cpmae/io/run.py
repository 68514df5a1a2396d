"""4-D files, a volume at a time: functional runs, diffusion series, several echoes.

The stored numbers are handed on as the file holds them, in as many passes as are asked for, each from the start of the
file; each volume that is handed on is the caller's, and one more is in memory. A 3-D file is a run of one volume.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cpmae.errors import ScanError
from cpmae.io import header as headers
from cpmae.io.container import Container
from cpmae.io.nifti import NiftiScan, voxel_bytes
from cpmae.io.output import check_output, write_pieces
from cpmae.io.source import GZIPPED, opened, read_up_to, skip
from cpmae.volume import Volume


@dataclass(frozen=True)
class NiftiRun:
    """A NIfTI file of one or more volumes on one grid, of which the voxels stay in the file.

    Attributes:
        path: the file that holds the voxels; it must stay as it is while the run is used.
        offset: bytes before the first voxel, in the uncompressed file.
        stored_dtype: of the stored numbers, in the file's byte order.
        shape: (X, Y, Z), of each volume.
        count: how many volumes there are; all axes after the third count, the fourth fastest.
        slope, inter: stored * slope + inter gives the intensities of every volume.
        affine: (4, 4) float64, voxel to world, mm, RAS+.
        header: nibabel NIfTI-1 or NIfTI-2 header of the whole file, with the file's own bytes and byte order.
        extensions: the file's bytes between header and voxels.
        container: where the file is no single NIfTI file, its own bytes around the voxels; `header` then is a NIfTI
            header that says the same.
    """

    path: Path
    offset: int
    stored_dtype: np.dtype
    shape: tuple[int, int, int]
    count: int
    slope: float
    inter: float
    affine: NDArray[np.float64]
    header: nib.Nifti1Header
    extensions: bytes = bytes(4)
    container: Container | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of the arrays that come and go: that of the stored numbers, in native byte order."""
        return self.stored_dtype.newbyteorder("=")

    def stored_volumes(self) -> Iterator[NDArray]:
        """One pass: each volume's stored numbers, (X, Y, Z), native byte order, read-only.

        After the last one the file is read to its end, where a gzip file's checksum is.

        Raises:
            ScanError: if the file is cut short or damaged. Up to there all has been handed on.
        """
        size = math.prod(self.shape) * self.stored_dtype.itemsize
        with opened(self.path) as file:
            file.seek(self.offset)
            for number in range(self.count):
                raw = read_up_to(file, size)
                if len(raw) < size:
                    place = f"volume {number + 1} of {self.count}"
                    raise ScanError(f"{self.path.name} is truncated in {place}, copy it again")
                stored = np.frombuffer(raw, self.stored_dtype).reshape(self.shape, order="F")
                stored = stored.astype(self.dtype, order="F", copy=False)
                stored.flags.writeable = False
                del raw
                yield stored
                del stored  # before the next one is read
            skip(file)

    def volume(self, stored: NDArray) -> NiftiScan:
        """One volume as a scan of its own, with a 3-D header, for the pipeline.

        Args:
            stored: (X, Y, Z), of `dtype`.

        Raises:
            ValueError: if shape or dtype are not the run's.
        """
        self._check(stored)
        header = self.header.copy()
        header["dim"] = [3, *self.shape, 1, 1, 1, 1]
        header["magic"] = header.default_structarr()["magic"]
        header["vox_offset"] = len(header.binaryblock) + len(NiftiScan.extensions)
        return NiftiScan(stored, self.slope, self.inter, self.affine, header)

    def only(self) -> NiftiScan:
        """The one volume of a 3-D file, under the file's own header and extensions.

        Raises:
            ScanError: if there are more; otherwise as `stored_volumes`.
        """
        headers.volume_shape(self.header, self.path.name)
        (stored,) = self.stored_volumes()
        return NiftiScan(stored, self.slope, self.inter, self.affine, self.header.copy(), self.extensions)

    def mean(self) -> Volume:
        """The mean intensity over the volumes, (X, Y, Z) float32, in one pass.

        What is not finite is left out; where no volume is finite, the mean is NaN. That of one volume is the volume
        itself, to the last bit. Raises as `stored_volumes`.
        """
        if self.count == 1:
            return self.only().scaled()
        total = RunMean(self)
        for stored in self.stored_volumes():
            total.add(stored)
        return total.mean()

    def marked(self, text: str) -> "NiftiRun":
        """The same run with `text` as its description (`descrip`, cut to 79 ASCII characters)."""
        container = self.container and self.container.marked(text)
        return replace(self, header=headers.marked(self.header, text), container=container)

    def to_bytes(self, volumes: Iterable[NDArray]) -> Iterator[bytes]:
        """An uncompressed file with this run's header and other numbers, in pieces.

        Args:
            volumes: `count` arrays, (X, Y, Z), of `dtype`; taken one by one as the pieces are.

        Raises:
            ValueError: if one of them has another shape or dtype, or there are more or fewer.
        """
        yield self.header.binaryblock
        yield self.extensions
        yield from self.voxels_to_bytes(volumes)

    def voxels_to_bytes(self, volumes: Iterable[NDArray]) -> Iterator[bytes]:
        """The voxels of `to_bytes`."""
        number = 0
        for number, stored in enumerate(volumes, 1):
            if number > self.count:
                raise ValueError(f"got more than {self.count} volumes for a run of {self.count}")
            self._check(stored)
            yield from voxel_bytes(stored, self.stored_dtype)
            del stored  # before the next one is made
        if number < self.count:
            raise ValueError(f"got {number} volumes for a run of {self.count}")

    def _check(self, stored: NDArray) -> None:
        if stored.shape != self.shape or stored.dtype != self.dtype:
            expected = f"{self.dtype} {self.shape}"
            raise ValueError(f"got {stored.dtype} {stored.shape} for a run of volumes of {expected}")


class RunMean:
    """The mean of a run's volumes, which are added one by one; where a pass has more to do than `NiftiRun.mean`."""

    def __init__(self, run: NiftiRun) -> None:
        self._run = run
        self._total = np.zeros(run.shape, np.float64, order="F")
        self._counts = np.zeros(run.shape if run.dtype.kind == "f" else (), np.int32, order="F")

    def add(self, stored: NDArray) -> None:
        """Another volume, (X, Y, Z), stored numbers; what is not finite is left out."""
        finite = np.isfinite(stored) if self._counts.shape else True
        with np.errstate(over="ignore", invalid="ignore"):
            np.add(self._total, stored, out=self._total, where=finite)
        np.add(self._counts, 1, out=self._counts, where=finite)

    def added(self, volumes: Iterable[NDArray]) -> Iterator[NDArray]:
        """The same volumes, each added while it is taken."""
        for stored in volumes:
            self.add(stored)
            yield stored
            del stored  # before the next one is made

    def mean(self) -> Volume:
        """Of the intensities of what was added so far, (X, Y, Z) float32; NaN where nothing was finite."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            mean = self._total / self._counts
            mean *= self._run.slope
            mean += self._run.inter
            return Volume(mean.astype(np.float32), self._run.affine)


def open_run(path: str | os.PathLike[str], *, checked: bool = True) -> NiftiRun:
    """Open a .nii or .nii.gz file that can be a head's: its header is read and checked.

    Args:
        checked: refuse what cannot be a head scan by its grid, units and dtype.

    Raises:
        ScanError: if the file is missing, damaged, or not such a run. That a gzip file is cut short shows only when
            its volumes are read.
    """
    path = Path(path)
    with opened(path) as file:
        raw = file.read(540)
        header = headers.parse_header(raw, path.name)
        size, offset = len(header.binaryblock), headers.data_offset(header, path.name)
        raw += read_up_to(file, max(0, offset - len(raw)))
    if len(raw) < offset:
        raise ScanError(f"{path.name} is truncated ({len(raw)} bytes before the voxels at {offset}), copy it again")
    found = run_of(path, header, offset, raw[size:offset], checked=checked)
    check_length(found)
    return found


def run_of(
    path: Path, header: nib.Nifti1Header, offset: int, extensions: bytes = bytes(4), *, checked: bool = True
) -> NiftiRun:
    """The run in a file of which the NIfTI header is known; see `NiftiRun` and `open_run`.

    Raises:
        ScanError: if the header is not one that a head can have.
    """
    name = path.name
    (shape, count), dtype = headers.run_shape(header, name), headers.stored_dtype(header, name)
    (slope, inter), affine = headers.scaling(header, name), headers.best_affine(header, name)
    if checked:
        headers.check_grid(header, name)
    return NiftiRun(path, offset, dtype, shape, count, slope, inter, affine, header, extensions)


def check_length(run: NiftiRun) -> None:
    """Refuse an uncompressed file that is too short; how long a compressed one is, its reading shows."""
    if run.path.name.lower().endswith(GZIPPED):
        return
    need = run.offset + math.prod(run.shape) * run.count * run.stored_dtype.itemsize
    size = os.stat(run.path).st_size
    if size < need:
        raise ScanError(f"{run.path.name} is truncated ({size} bytes of {need}), copy it again")


def write_run(
    path: str | os.PathLike[str], run: NiftiRun, volumes: Iterable[NDArray], *, overwrite: bool = False
) -> None:
    """Write a run's header with other numbers, whole or not at all, while they are made; as `nifti.write` does.

    Args:
        volumes: as for `NiftiRun.to_bytes`. What they raise leaves no file.

    Raises:
        OutputError: if it cannot be written, a full disk included.
        ValueError: if the volumes are not those of the run.
    """
    check_output(None, path, overwrite=overwrite)
    write_pieces(path, run.to_bytes(volumes))
