"""4-D files come back byte for byte, a volume at a time; damaged ones get a sentence; output is whole or absent."""

import gzip
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import put
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cpmae import metadata
from cpmae.errors import OutputError, ScanError
from cpmae.io.run import open_run, write_run

SMALL = (16, 17, 18)
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 1) -> NDArray:
    """Any bits at all: NaN of every kind, infinities, -0 among the floats."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)


def run_bytes(stored: NDArray, **fields: Any) -> bytes:
    return phantom.nifti_bytes_of(stored, phantom.ras_affine(), **fields)


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_has_the_same_bytes(tmp_path: Path, dtype: str, order: str, suffix: str) -> None:
    stored = numbers(dtype, (*SMALL, 4))
    raw = run_bytes(stored, slope=0.5, inter=3.0, order=order, extension=b"<note>kept</note>")
    run = open_run(put(tmp_path / f"in{suffix}", raw))
    assert (run.shape, run.count, run.dtype, run.slope, run.inter) == (SMALL, 4, dtype, 0.5, 3.0)
    for _ in range(2):  # any number of passes
        found = list(run.stored_volumes())
        assert all(v.dtype.isnative and v.shape == SMALL for v in found)
        assert np.stack(found, 3).tobytes() == stored.tobytes()
    write_run(tmp_path / f"out{suffix}", run, run.stored_volumes())
    assert unpacked(tmp_path / f"out{suffix}") == raw


@pytest.mark.parametrize("more", [(), (1,), (3,), (1, 3), (2, 3), (1, 1, 1, 2)])
def test_axes_after_the_third_count_volumes(tmp_path: Path, more: tuple[int, ...]) -> None:
    stored = numbers("int16", (*SMALL, *more))
    raw = run_bytes(stored)
    run = open_run(put(tmp_path / "in.nii", raw))
    volumes = list(run.stored_volumes())
    assert run.count == len(volumes) == int(np.prod(more))
    flat = stored.reshape(*SMALL, -1, order="F")
    assert all(np.array_equal(v, flat[..., n]) for n, v in enumerate(volumes))
    write_run(tmp_path / "out.nii", run, volumes)
    assert (tmp_path / "out.nii").read_bytes() == raw


@settings(max_examples=40, deadline=None)
@given(data=st.data(), order=st.sampled_from("<>"), count=st.integers(1, 3), pad=st.integers(0, 3))
def test_any_numbers_and_any_array_layout_survive(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, order: str, count: int, pad: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    dtype = data.draw(st.sampled_from(DTYPES))
    few = data.draw(hnp.arrays(dtype, (2, 3, 1, count)))
    stored = np.tile(few, (8, 6, 16, 1))
    raw = run_bytes(stored, order=order, vox_offset=352 + 16 * pad)
    raw = raw[:352] + bytes(range(16 * pad)) + raw[352:]
    run = open_run(put(folder / "in.nii.gz", raw))
    layout = data.draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray, lambda v: v[::-1].copy()[::-1]]))
    write_run(folder / "out.nii.gz", run, (layout(v) for v in run.stored_volumes()))
    assert unpacked(folder / "out.nii.gz") == raw


def test_nifti_2_survives(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(numbers("int16", (*SMALL, 3)), phantom.ras_affine()), tmp_path / "in.nii")
    run = open_run(tmp_path / "in.nii")
    write_run(tmp_path / "out.nii", run, run.stored_volumes())
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()


def test_a_volume_is_the_scan_that_a_3d_file_would_give(
    tmp_path: Path, orientation: str, storage: tuple[str, float, float]
) -> None:
    dtype, slope, inter = storage
    data, affine = phantom.turned(phantom.head()[0], orientation)
    stored = np.stack([np.rint(data / 2), np.rint(data / 3)], 3).astype(dtype)
    path = put(tmp_path / "run.nii", phantom.nifti_bytes_of(stored, affine, slope, inter, order=">"))
    run, oracle = open_run(path), nib.load(path)
    for number, scan in enumerate(map(run.volume, run.stored_volumes())):
        again = phantom.parse(b"".join(scan.to_bytes()))  # its header is whole: it can be a file
        for found in (scan, again):
            assert np.array_equal(found.stored, stored[..., number]) and np.array_equal(found.affine, oracle.affine)
        expected = np.asarray(oracle.slicer[..., number].dataobj)  # type: ignore[attr-defined]
        assert np.allclose(scan.scaled().data, expected, rtol=1e-6, atol=1e-4)
        image = again.to_image()
        assert image.shape == phantom.SHAPE
        for field in ("qform_code", "sform_code", "xyzt_units", "scl_slope", "scl_inter", "datatype"):
            assert np.array_equal(image.header[field], oracle.header[field], equal_nan=True)  # type: ignore[index]
    assert np.allclose(run.mean().data, oracle.get_fdata().mean(3), rtol=1e-6, atol=1e-4)  # type: ignore[attr-defined]


def test_the_mean_of_one_volume_is_that_volume(tmp_path: Path) -> None:
    stored = np.random.default_rng(3).normal(0, 100, (9, 10, 11, 1)).astype(np.float32)
    stored[1, 1, 1] = np.inf
    run = open_run(put(tmp_path / "run.nii", run_bytes(stored, slope=0.3, inter=0.7)))
    assert run.mean().data.tobytes() == run.only().scaled().data.tobytes()


def test_the_mean_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    stored = np.full((*SMALL, 4), 2, np.float32)
    stored[1, 1, 1] = [np.nan, 6, np.inf, 2]
    stored[2, 2, 2] = np.nan
    mean = open_run(put(tmp_path / "run.nii", run_bytes(stored, slope=2.0, inter=1.0))).mean()
    assert mean.data.dtype == np.float32
    assert mean.data[1, 1, 1] == 9 and np.isnan(mean.data[2, 2, 2]) and mean.data[0, 0, 0] == 5
    assert np.isnan(mean.data).sum() == 1


def test_mark_and_cleaning_change_the_text_alone(tmp_path: Path) -> None:
    stored = numbers("int16", (*SMALL, 3))
    path = put(tmp_path / "in.nii", run_bytes(stored, extension=b"Doe^Jane", aux_file=b"Doe^Jane"))
    run = open_run(path)
    clean = metadata.clean_nifti(run).marked("cpmae 1.0 de-identified")
    write_run(tmp_path / "out.nii.gz", clean, run.stored_volumes())
    written = unpacked(tmp_path / "out.nii.gz")
    assert b"Doe" not in written and b"unused" not in written and b"cpmae 1.0 de-identified" in written
    found, before = nib.load(tmp_path / "out.nii.gz"), nib.load(path)
    assert np.array_equal(found.dataobj, stored) and np.array_equal(found.affine, before.affine)  # type: ignore[attr-defined]
    for field in ("dim", "pixdim", "datatype", "xyzt_units", "qform_code", "sform_code", "slice_code", "toffset"):
        assert np.array_equal(found.header[field], before.header[field]), field  # type: ignore[index]
    assert b"Doe" in path.read_bytes() and b"Doe" in run.extensions


def test_gzip_holds_neither_time_nor_name(tmp_path: Path) -> None:
    run = open_run(put(tmp_path / "in.nii", run_bytes(numbers("int16", (*SMALL, 2)))))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_run(tmp_path / name, run, run.stored_volumes())
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "b.nii.gz").read_bytes() and first[3:8] == bytes(5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_memory_holds_a_few_volumes_and_not_the_run(tmp_path: Path, dtype: str, suffix: str) -> None:
    shape, count = (48, 48, 40), 60
    volume = np.rint(np.random.default_rng(1).normal(0, 5, shape)).astype(dtype)
    path = put(tmp_path / f"in{suffix}", run_bytes(np.stack([volume] * count, 3), order=">"))
    run = open_run(path)
    mean_bytes = volume.size * (8 + 4 + 4)  # sum, counts, result

    def peak(work: Any) -> int:
        tracemalloc.start()
        work()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def copy() -> None:
        write_run(tmp_path / f"out{suffix}", run, (v + v.dtype.type(1) for v in run.stored_volumes()), overwrite=True)

    peak(copy)  # what is loaded once does not count
    assert peak(copy) < 6 * volume.nbytes + 2**20  # two on the way in, the changed one, two on the way out
    assert peak(run.mean) < mean_bytes + 3 * volume.nbytes + 2**20
    assert unpacked(tmp_path / f"out{suffix}")[:352] == unpacked(path)[:352]


BAD = {
    "2-D": (numbers("int16", (64, 64)), {}, "not 3-D.*64, 64"),
    "slices": (numbers("int16", (64, 64, 1, 3)), {}, "not 3-D.*64, 64, 1, 3"),
    "thin": (numbers("int16", (64, 64, 7, 2)), {}, r"\(64, 64, 7\).*at least 8"),
    "complex": (np.zeros((*SMALL, 2), np.complex64), {}, "complex64.*magnitude"),
    "RGB": (np.zeros((*SMALL, 2), np.uint8), {"datatype": 128}, "RGB"),
    "int64": (np.zeros((*SMALL, 2), np.int64), {}, "64-bit integers.*int64"),
    "metres": (numbers("int16", (*SMALL, 2)), {"xyzt_units": 9}, "metres"),
    "zoom 0": (numbers("int16", (*SMALL, 2)), {"pixdim": [1, 3, 0, 3, 2, 0, 0, 0]}, "voxel sizes.*0.0.*pixdim"),
    "singular": (numbers("int16", (*SMALL, 2)), {"srow_z": [0, 0, 0, 0]}, "singular affine"),
    "NaN affine": (numbers("int16", (*SMALL, 2)), {"srow_z": [0, 0, np.nan, 0]}, "NaN"),
    "huge voxels": (numbers("int16", (*SMALL, 2)), {"srow_x": [40, 0, 0, 0]}, "40 x"),
    "no intercept": (numbers("int16", (*SMALL, 2)), {"scl_inter": np.nan}, "intercept nan"),
    "dim": (numbers("int16", (*SMALL, 2)), {"dim": [4, *SMALL, 0, 1, 1, 1]}, "dim"),
    "offset": (numbers("int16", (*SMALL, 2)), {"vox_offset": np.nan}, "vox_offset nan"),
    "far offset": (numbers("int16", (*SMALL, 2)), {"vox_offset": 1e30}, "truncated"),
    "more volumes than there are": (numbers("int16", (*SMALL, 2)), {"dim": [4, *SMALL, 3, 1, 1, 1]}, "truncated"),
    "pair": (numbers("int16", (*SMALL, 2)), {"magic": b"ni1"}, "pair"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", BAD)
def test_bad_runs_are_refused(tmp_path: Path, case: str, suffix: str) -> None:
    stored, fields, message = BAD[case]
    path = put(tmp_path / f"run{suffix}", run_bytes(stored, **fields))
    with pytest.raises(ScanError, match=message) as caught:
        list(open_run(path).stored_volumes())
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 100, 400, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_runs_leave_no_output(tmp_path: Path, suffix: str, keep: float) -> None:
    path = put(tmp_path / f"in{suffix}", run_bytes(numbers("int16", (*SMALL, 5))))
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(ScanError, match="truncated|not a NIfTI|is empty"):
        run = open_run(path)
        write_run(tmp_path / f"out{suffix}", run, run.stored_volumes())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_flipped_bit_in_a_gzip_file_is_found(tmp_path: Path) -> None:
    path = put(tmp_path / "in.nii.gz", run_bytes(numbers("int16", (*SMALL, 5))))
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1  # in the checksum at the end
    path.write_bytes(raw)
    run = open_run(path)
    with pytest.raises(ScanError, match="truncated or damaged"):
        write_run(tmp_path / "out.nii.gz", run, run.stored_volumes())
    assert [p.name for p in tmp_path.iterdir()] == ["in.nii.gz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ScanError])
def test_an_error_among_the_volumes_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    run = open_run(put(tmp_path / "in.nii", run_bytes(numbers("int16", (*SMALL, 3)))))

    def failing() -> Iterator[NDArray]:
        yield from list(run.stored_volumes())[:2]
        assert len(list(tmp_path.iterdir())) == 2  # being written
        raise error("stop")

    with pytest.raises(error, match="stop"):
        write_run(tmp_path / "out.nii", run, failing())
    assert [p.name for p in tmp_path.iterdir()] == ["in.nii"]


def test_other_volumes_than_the_runs_are_refused(tmp_path: Path) -> None:
    run = open_run(put(tmp_path / "in.nii", run_bytes(numbers("int16", (*SMALL, 3)))))
    volumes = list(run.stored_volumes())
    for wrong, message in (
        (volumes[:2], "got 2 volumes for a run of 3"),
        ([], "got 0 volumes"),
        ([*volumes, volumes[0]], "more than 3"),
        ([v.astype(np.float32) for v in volumes], "float32"),
        ([v[1:] for v in volumes], r"\(15, 17, 18\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_run(tmp_path / "out.nii", run, wrong)
        assert [p.name for p in tmp_path.iterdir()] == ["in.nii"]


FULL_DISK = """
import resource, signal, sys
from cpmae.errors import OutputError
from cpmae.io.run import open_run, write_run
run = open_run(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    write_run(sys.argv[2], run, run.stored_volumes(), overwrite=True)
except OutputError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, suffix: str) -> None:
    source, folder = put(tmp_path / "in.nii", run_bytes(numbers("int16", (*SMALL, 9)))), tmp_path / "out"
    folder.mkdir()
    (folder / f"old{suffix}").write_bytes(b"precious")
    for name in (f"new{suffix}", f"old{suffix}"):
        command = [sys.executable, "-c", FULL_DISK, source, folder / name]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 7, ran.stderr
        assert "cannot be written" in ran.stdout
    assert [p.name for p in folder.iterdir()] == [f"old{suffix}"]
    assert (folder / f"old{suffix}").read_bytes() == b"precious"


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    run = open_run(put(tmp_path / "in.nii", run_bytes(numbers("int16", (*SMALL, 2)))))
    with pytest.raises(OutputError, match="exists already"):
        write_run(tmp_path / "in.nii", run, run.stored_volumes())
