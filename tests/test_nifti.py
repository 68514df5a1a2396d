"""Files come back with every stored number and header byte; bad ones get one sentence; output is whole or absent."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import put, refused_to_nobody
from hypothesis import given, settings
from hypothesis import strategies as st

from cpmae.errors import OutputError, ScanError
from cpmae.io import forms, nifti
from cpmae.io.output import whole_file
from cpmae.metadata import clean_nifti
from cpmae.volume import Volume

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
SMALL = (16, 17, 18)


def numbers(dtype: str, shape: tuple[int, ...] = SMALL, seed: int = 1) -> np.ndarray:
    """All over the dtype's range."""
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return rng.normal(0, 1e3, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def scan_of(stored: np.ndarray, slope: float = 1.0, inter: float = 0.0, **fields: Any) -> nifti.NiftiScan:
    return phantom.parse(phantom.nifti_bytes_of(stored, phantom.ras_affine(), slope, inter, **fields))


# reading


def test_stored_numbers_are_the_files(
    scan_file: Callable[..., Path], orientation: str, storage: tuple[str, float, float]
) -> None:
    path = scan_file(orientation=orientation, storage=storage)
    scan, oracle = forms.read(path), nib.load(path)
    assert scan.stored.dtype == storage[0]
    assert np.array_equal(scan.stored, oracle.dataobj.get_unscaled())
    assert np.allclose(scan.scaled().data, oracle.get_fdata(dtype=np.float32), rtol=1e-6, atol=1e-4)
    assert np.array_equal(scan.affine, oracle.affine)
    assert (scan.slope, scan.inter) == storage[1:]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_has_the_same_bytes(tmp_path: Path, dtype: str, order: str, suffix: str) -> None:
    raw = phantom.nifti_bytes_of(
        numbers(dtype), phantom.ras_affine(), 0.5, 3.0, order=order, extension=b"<note>kept</note>"
    )
    scan = forms.read(put(tmp_path / f"in{suffix}", raw))
    assert scan.stored.dtype.isnative
    nifti.write(tmp_path / f"out{suffix}", scan)
    written = (tmp_path / f"out{suffix}").read_bytes()
    assert (gzip.decompress(written) if suffix == ".nii.gz" else written) == raw


def test_nifti_2_survives(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(numbers("int16"), phantom.ras_affine()), tmp_path / "in.nii")
    nifti.write(tmp_path / "out.nii", forms.read(tmp_path / "in.nii"))
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()


def test_a_fourth_axis_of_one_is_kept_in_the_header(tmp_path: Path) -> None:
    raw = phantom.nifti_bytes_of(numbers("int16", (*SMALL, 1)), phantom.ras_affine())
    scan = forms.read(put(tmp_path / "in.nii", raw))
    assert scan.stored.shape == SMALL
    nifti.write(tmp_path / "out.nii", scan)
    assert (tmp_path / "out.nii").read_bytes() == raw


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_no_slope_means_no_scaling(slope: float) -> None:
    stored = numbers("int16")
    scan = scan_of(stored, slope, 7.0)
    assert np.array_equal(scan.scaled().data, stored.astype(np.float32))


def test_gzip_holds_neither_time_nor_name(tmp_path: Path, scan_file: Callable[..., Path]) -> None:
    scan = forms.read(scan_file())
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(tmp_path / name, scan)
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "b.nii.gz").read_bytes()
    assert first[3:8] == bytes(5)  # no flags, so no name; time 0


def test_mark_changes_the_description_alone() -> None:
    scan = scan_of(numbers("uint8"))
    marked = scan.marked("cpmae 1.0 de-identified" + "x" * 90)
    assert bytes(marked.header["descrip"]).startswith(b"cpmae 1.0 de-identified")
    assert bytes(scan.header["descrip"]).rstrip(b"\0") == b"a phantom"
    before, after = scan.header.binaryblock, marked.header.binaryblock
    assert before[:148] == after[:148] and before[228:] == after[228:]


# scaling and its inverse


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    slope=st.floats(1e-3, 1e3).map(lambda v: float(np.float32(v))),
    offset=st.floats(-50, 50),
    sign=st.sampled_from([-1, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_unscaled_is_the_inverse_of_scaled(dtype: str, slope: float, offset: float, sign: int, seed: int) -> None:
    stored = numbers(dtype, seed=seed)
    if dtype in ("int32", "uint32"):
        stored = stored % 2**20  # float32 holds no more
    scan = scan_of(stored.astype(dtype), sign * slope, float(np.float32(offset * slope)))
    back = scan.unscaled(scan.scaled().data)
    assert back.dtype == dtype
    if dtype.startswith("float"):
        assert np.allclose(back, stored, rtol=1e-5, atol=1e-3)
    else:
        assert np.array_equal(back, stored)


def test_unscaled_rounds_clips_and_has_an_answer_for_nan() -> None:
    scan = scan_of(numbers("uint8"))
    values = np.full(SMALL, 0.0)
    values[0, 0, :8] = [0.5, 1.5, 2.5, -3, 300, np.nan, np.inf, -np.inf]
    assert scan.unscaled(values)[0, 0, :8].tolist() == [0, 2, 2, 0, 255, 0, 255, 0]


def test_with_stored_wants_the_same_grid() -> None:
    scan = scan_of(numbers("uint8"))
    with pytest.raises(ValueError, match="int16"):
        scan.with_stored(scan.stored.astype(np.int16))


# nibabel images


def test_from_image_takes_a_files_numbers_unscaled(scan_file: Callable[..., Path]) -> None:
    path = scan_file(storage=("uint16", 0.25, -20.0))
    scan, direct = nifti.from_image(nib.load(path)), forms.read(path)
    assert np.array_equal(scan.stored, direct.stored) and (scan.slope, scan.inter) == (0.25, -20.0)
    assert np.array_equal(scan.affine, direct.affine)


def test_from_image_and_back_in_memory() -> None:
    data = numbers("int16")
    image = nib.Nifti1Image(data, phantom.ras_affine())
    back = nifti.from_image(image).to_image()
    assert np.array_equal(np.asarray(back.dataobj), data) and np.allclose(back.affine, image.affine, atol=1e-4)


NIBABELS = Path(nib.__file__).parent / "tests" / "data"


def one_volume_of(par: Path, folder: Path) -> Path:
    """A PAR/REC pair of three volumes cut to its first one; each slice has its own scaling."""
    lines = par.read_text("latin-1").splitlines(keepends=True)
    kept = [line for line in lines if line[:1] in "#." or line.split()[2:3] in ([], ["1"])]
    text = "".join(kept).replace("dynamics            :   3", "dynamics            :   1")
    (folder / "one.PAR").write_text(text, "latin-1")
    (folder / "one.REC").write_bytes(par.with_suffix(".REC").read_bytes()[: 64 * 64 * 9 * 2])
    return folder / "one.PAR"


@pytest.mark.parametrize("name", ["phantom_varscale.PAR", "scaled+tlrc.HEAD"])
def test_from_image_scales_where_a_file_has_several_scalings(tmp_path: Path, name: str) -> None:
    path = NIBABELS / name
    image = nib.load(one_volume_of(path, tmp_path) if name.endswith(".PAR") else path)
    scan = nifti.from_image(image)
    expected = image.get_fdata(dtype=np.float32).reshape(image.shape[:3])  # type: ignore[attr-defined]
    np.testing.assert_allclose(scan.scaled().data, expected, rtol=1e-5, atol=1e-4)
    assert np.allclose(scan.affine, image.affine, atol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("order", ["<", ">"])
def test_from_image_keeps_extensions_and_they_can_be_cleaned(tmp_path: Path, order: str) -> None:
    name = b"<name>Doe^Jane</name>"
    raw = phantom.nifti_bytes_of(numbers("int16"), phantom.ras_affine(), order=order, extension=name)
    scan = nifti.from_image(nib.load(put(tmp_path / "in.nii", raw)))
    assert b"".join(scan.to_bytes()) == raw
    clean = clean_nifti(scan)
    assert name not in b"".join(clean.to_bytes())
    assert name not in nib.Nifti1Image(clean.stored, clean.affine, clean.header).to_bytes()


def test_from_image_refuses_what_a_file_would() -> None:
    with pytest.raises(ScanError, match="64-bit"):
        nifti.from_image(nib.Nifti1Image(numbers("int16").astype(np.int64), np.eye(4), dtype=np.int64))


def test_a_qfac_of_zero_stands_for_one_and_stays_in_the_file() -> None:
    one = scan_of(numbers("int16"), sform_code=0)
    sizes = [0.0, *one.header["pixdim"][1:]]
    zero = scan_of(numbers("int16"), sform_code=0, pixdim=sizes)
    assert np.array_equal(zero.affine, one.affine)
    assert zero.header["pixdim"][0] == 0


# bad input: one sentence, with the value and what to do

BAD = {
    "2-D": (numbers("int16", (64, 64)), {}, "not 3-D.*64, 64"),
    "one slice": (numbers("int16", (64, 64, 1)), {}, "not 3-D.*64, 64, 1"),
    "4-D": (numbers("int16", (*SMALL, 3)), {}, "4-D.*no single volume"),
    "5-D": (numbers("int16", (*SMALL, 1, 3)), {}, "5-D.*no single volume"),
    "thin": (numbers("int16", (64, 64, 7)), {}, "64, 64, 7.*at least 8"),
    "complex": (np.zeros(SMALL, np.complex64), {}, "complex64.*magnitude"),
    "RGB": (np.zeros(SMALL, np.uint8), {"datatype": 128}, "RGB"),
    "longdouble": (np.zeros(SMALL, np.uint8), {"datatype": 1536}, "float128"),
    "int64": (np.zeros(SMALL, np.int64), {}, "64-bit integers.*int64"),
    "uint64": (np.zeros(SMALL, np.uint64), {}, "64-bit integers.*uint64"),
    "unknown type": (np.zeros(SMALL, np.uint8), {"datatype": 77}, "datatype 77"),
    "metres": (numbers("int16"), {"xyzt_units": 1}, "metres"),
    "micrometres": (numbers("int16"), {"xyzt_units": 3}, "micrometres"),
    "zoom 0": (numbers("int16"), {"pixdim": [1, 3, 0, 3, 0, 0, 0, 0]}, "voxel sizes.*0.0.*pixdim"),
    "zoom NaN": (numbers("int16"), {"pixdim": [1, 3, np.nan, 3, 0, 0, 0, 0]}, "nan.*pixdim"),
    "singular": (numbers("int16"), {"srow_z": [0, 0, 0, 0]}, "singular affine"),
    "NaN affine": (numbers("int16"), {"srow_z": [0, 0, np.nan, 0]}, "NaN"),
    "huge voxels": (numbers("int16"), {"srow_x": [40, 0, 0, 0]}, "40 x"),
    "small as metres": (numbers("int16"), {"sform_code": 0, "pixdim": [1, 1e-3, 1e-3, 1e-3, 0, 0, 0, 0]}, "metres\\?"),
    "bad quaternion": (numbers("int16"), {"sform_code": 0, "quatern_b": 5}, "orientation"),
    "no intercept": (numbers("int16"), {"scl_inter": np.nan}, "intercept nan"),
    "dim": (numbers("int16"), {"dim": [3, -4, 17, 18, 1, 1, 1, 1]}, "dim"),
    "pair": (numbers("int16"), {"magic": b"ni1"}, "pair"),
    "analyze": (numbers("int16"), {"magic": b""}, "not a NIfTI"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_scans_are_refused(tmp_path: Path, case: str) -> None:
    stored, fields, message = BAD[case]
    affine = phantom.ras_affine()
    path = put(tmp_path / "scan.nii.gz", phantom.nifti_bytes_of(stored, affine, **fields))
    with pytest.raises(ScanError, match=message) as caught:
        forms.read(path)
    assert "scan.nii.gz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 3, 100, 400, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_files_are_refused(scan_file: Callable[..., Path], suffix: str, keep: float) -> None:
    path = scan_file(f"scan{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(ScanError, match="truncated|not a NIfTI|is empty"):
        forms.read(path)


def test_a_flipped_bit_in_a_gzip_file_is_found(scan_file: Callable[..., Path]) -> None:
    path = scan_file("scan.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1  # in the checksum at the end
    path.write_bytes(raw)
    with pytest.raises(ScanError, match="truncated or damaged"):
        forms.read(path)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="missing.nii does not exist"):
        forms.read(tmp_path / "missing.nii")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "annex" / "gone.nii.gz")
    with pytest.raises(ScanError, match="link.nii.gz is a link to a file that is not there, fetch it"):
        forms.read(tmp_path / "link.nii.gz")
    for name in ("empty.nii", "empty.nii.gz"):
        (tmp_path / name).touch()
        with pytest.raises(ScanError, match=f"{name} is empty, copy it again"):
            forms.read(tmp_path / name)
    with pytest.raises(ScanError, match="is a folder"):
        forms.read(tmp_path)
    (tmp_path / "scan.par").write_bytes(b"x")
    with pytest.raises(ScanError, match="scan.par.*convert"):
        forms.read(tmp_path / "scan.par")
    (tmp_path / "plain.nii.gz").write_bytes(b"not gzip at all")
    with pytest.raises(ScanError, match="is not compressed"):
        forms.read(tmp_path / "plain.nii.gz")
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(phantom.nifti_bytes()))
    with pytest.raises(ScanError, match="zipped.nii is compressed with gzip, rename it to zipped.nii.gz"):
        forms.read(tmp_path / "zipped.nii")
    (tmp_path / "text.nii").write_bytes(b"text" * 200)
    with pytest.raises(ScanError, match="not a NIfTI"):
        forms.read(tmp_path / "text.nii")


@pytest.mark.parametrize(("value", "message"), [(0.0, "is 0 in"), (7.5, "is 7.5 in"), (np.nan, "no finite")])
def test_a_constant_is_no_scan(value: float, message: str) -> None:
    data = np.full(SMALL, value, np.float32)
    data[0, 0, 0] = np.nan
    with pytest.raises(ScanError, match=message):
        nifti.check_is_scan(Volume(data, np.eye(4)))


def test_nan_and_infinity_in_a_scan_are_allowed() -> None:
    data = numbers("float32")
    data[0], data[1] = np.nan, np.inf
    nifti.check_is_scan(Volume(data, np.eye(4)))


# output


def test_output_questions(tmp_path: Path, scan_file: Callable[..., Path]) -> None:
    source = scan_file("in.nii")
    nifti.check_output(source, tmp_path / "new.nii.gz")
    (tmp_path / "link.nii").symlink_to(source)
    os.link(source, tmp_path / "hard.nii")
    for same in ("in.nii", "link.nii", "hard.nii"):
        with pytest.raises(OutputError, match="is the input itself"):
            nifti.check_output(source, tmp_path / same, overwrite=True)
    (tmp_path / "there.nii").write_bytes(b"")
    with pytest.raises(OutputError, match="exists already"):
        nifti.check_output(source, tmp_path / "there.nii")
    nifti.check_output(source, tmp_path / "there.nii", overwrite=True)
    with pytest.raises(OutputError, match="missing does not exist"):
        nifti.check_output(source, tmp_path / "missing" / "out.nii")
    with pytest.raises(OutputError, match="out.mgz does not end"):
        nifti.check_output(source, tmp_path / "out.mgz")
    with pytest.raises(OutputError, match="is a folder"):
        nifti.check_output(source, tmp_path, overwrite=True)
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(OutputError, match="is a pipe or a device"):
        nifti.check_output(source, tmp_path / "pipe.nii", overwrite=True)


def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    ask = partial(nifti.check_output, None, Path("closed") / "out.nii")
    assert refused_to_nobody(ask, tmp_path, OutputError, "closed is not writable")


def test_write_refuses_to_replace_unless_asked(tmp_path: Path, scan_file: Callable[..., Path]) -> None:
    scan = forms.read(scan_file("in.nii"))
    (tmp_path / "out.nii").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        nifti.write(tmp_path / "out.nii", scan)
    assert (tmp_path / "out.nii").read_bytes() == b"precious"
    nifti.write(tmp_path / "out.nii", scan, overwrite=True)
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "in.nii").read_bytes()


FULL_DISK = """
import resource, signal, sys
from cpmae.errors import OutputError
from cpmae.io import forms, nifti
scan = forms.read(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    nifti.write(sys.argv[2], scan, overwrite=True)
except OutputError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, scan_file: Callable[..., Path], suffix: str) -> None:
    source, folder = scan_file("in.nii"), tmp_path / "out"
    folder.mkdir()
    (folder / f"old{suffix}").write_bytes(b"precious")
    for name in (f"new{suffix}", f"old{suffix}"):
        ran = subprocess.run(
            [sys.executable, "-c", FULL_DISK, source, folder / name], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 7, ran.stderr
        assert "cannot be written" in ran.stdout
    assert [p.name for p in folder.iterdir()] == [f"old{suffix}"]
    assert (folder / f"old{suffix}").read_bytes() == b"precious"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, interrupt: type[BaseException]) -> None:
    with pytest.raises(interrupt), whole_file(tmp_path / "out.nii") as file:
        file.write(b"original pixels")
        assert len(list(tmp_path.iterdir())) == 1
        raise interrupt
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_was_writing_goes_with_the_next_file(tmp_path: Path) -> None:
    kills = f"""
import os, pathlib
from cpmae.io.output import whole_file
with whole_file(pathlib.Path({str(tmp_path / "out.nii")!r})) as file:
    file.write(b"original pixels")
    file.flush()
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", kills], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".cpmae-unfinished-")
    with whole_file(tmp_path / "other.nii") as file:
        file.write(b"new pixels")
    assert [path.name for path in tmp_path.iterdir()] == ["other.nii"]


def test_reading_leaves_the_input_alone(scan_file: Callable[..., Path]) -> None:
    path = scan_file("in.nii")
    before, time = path.read_bytes(), path.stat().st_mtime_ns
    scan = forms.read(path)
    scan.unscaled(scan.scaled().data)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, time)
    with pytest.raises(ValueError, match="read-only"):
        scan.stored[0, 0, 0] = 1
