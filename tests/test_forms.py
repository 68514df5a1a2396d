"""Pairs and FreeSurfer's files come back in their own form: numbers and geometry as they were, names gone."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import put
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cpmae import metadata
from cpmae.errors import OutputError, ScanError
from cpmae.io import forms, header
from cpmae.io.together import write_together

SMALL = (16, 17, 18)
NAME = b"Doe^Jane"
MGH_CODES = {"uint8": 0, "int32": 1, "float32": 3, "int16": 4, "uint16": 10}
ANALYZE_CODES = {"uint8": 2, "int16": 4, "int32": 8, "float32": 16, "float64": 64, "int8": 130, "uint16": 132}
NIFTI_DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def numbers(dtype: str, shape: tuple[int, ...], seed: int = 1) -> NDArray:
    """Any bits at all."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)


def in_order(stored: NDArray, order: str) -> bytes:
    return stored.astype(stored.dtype.newbyteorder(order)).tobytes(order="F")


def mgh_bytes(stored: NDArray, affine: NDArray[np.float64], tags: bytes = b"", **fields: Any) -> bytes:
    """An MGH file, its footer and then tags; `fields` overwrite header fields."""
    shape = (*stored.shape, 1)[:4]
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(0))
    values = {
        "version": 1,
        "dims": shape,
        "type": MGH_CODES[stored.dtype.name],
        "dof": 7,
        "goodRASFlag": 1,
        "delta": sizes,
        "Mdc": (affine[:3, :3] / sizes).T,
        "Pxyz_c": (affine @ [*(np.array(shape[:3]) / 2), 1])[:3],
    } | fields
    head = np.zeros((), nib.freesurfer.mghformat.header_dtype)
    for field, value in values.items():
        head[field] = value
    return (
        head.tobytes() + NAME * 2 + bytes(178) + in_order(stored, ">") + struct.pack(">5f", 2000, 0.1, 3, 4, 5) + tags
    )


def mgh_tags() -> bytes:
    """A command line and the path of a transform, each with a name in it."""
    command, path = b"mri_convert " + NAME + b"\0", b"/data/" + NAME + b"/talairach.xfm\0"
    return struct.pack(">iq", 3, len(command)) + command + struct.pack(">iq", 31, len(path)) + path


def put_pair(folder: Path, head: bytes, image: bytes, name: str = "scan", suffix: str = "") -> Path:
    """Both files; the path of the header."""
    put(folder / f"{name}.img{suffix}", image)
    return put(folder / f"{name}.hdr{suffix}", head)


def analyze_head(stored: NDArray, order: str, **fields: Any) -> bytes:
    """A header with a name wherever there is room for one; `fields` overwrite fields at the end."""
    header = nib.Spm2AnalyzeImage.header_class(endianness=order, check=False)
    raw, dtype = bytearray(header.binaryblock), header.template_dtype
    for field, (kind, offset) in ((n, dtype.fields[n][:2]) for n in dtype.names):
        if kind.kind == "S" and field not in ("regular", "orient"):
            raw[offset : offset + kind.itemsize] = (NAME * 10)[: kind.itemsize]
    header = type(header)(bytes(raw), endianness=order, check=False)
    header["dim"] = [4, *stored.shape, *[1] * (7 - stored.ndim)]
    header["datatype"], header["bitpix"] = ANALYZE_CODES[stored.dtype.name], stored.dtype.itemsize * 8
    header["pixdim"][1:4] = [3, 2.8, 3]
    header["glmax"], header["glmin"] = 12345, -678
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock


def nifti_pair(stored: NDArray, order: str = "<", pad: int = 0, **fields: Any) -> tuple[bytes, bytes]:
    raw = phantom.nifti_bytes_of(
        stored, phantom.ras_affine(), 0.5, 3.0, order=order, magic=b"ni1", vox_offset=pad, **fields
    )
    between = len(raw) - stored.nbytes
    return raw[:between], bytes(range(pad)) + raw[between:]


def rewrite(source: Path, output: Path, change: Callable[[Any], Any] = lambda run: run) -> None:
    """Read a scan and write it again, all its files or none."""
    run = forms.open_scan(source)
    write_together(forms.writers(output, change(run), run.stored_volumes()))


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix in (".gz", ".mgz") else path.read_bytes()


# a copy has the same bytes


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("dtype", MGH_CODES)
def test_mgh(tmp_path: Path, dtype: str, frames: int, suffix: str) -> None:
    stored = numbers(dtype, (*SMALL, frames)[: 3 + (frames > 1)])
    raw = mgh_bytes(stored, phantom.ras_affine(), mgh_tags())
    path = tmp_path / f"in{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix == ".mgz" else raw)
    run, oracle = forms.open_scan(path), nib.load(path)
    assert (run.shape, run.count, run.dtype, run.slope, run.inter) == (SMALL, frames, dtype, 1, 0)
    found = np.stack(list(run.stored_volumes()), 3)
    assert found.tobytes() == stored.tobytes()
    assert np.asarray(oracle.dataobj).astype(dtype).tobytes() == stored.tobytes()  # type: ignore[attr-defined]
    assert np.allclose(run.affine, oracle.affine, atol=1e-5)  # type: ignore[attr-defined]
    rewrite(path, tmp_path / f"out{suffix}")
    assert unpacked(tmp_path / f"out{suffix}") == raw
    if suffix == ".mgz":
        assert (tmp_path / "out.mgz").read_bytes()[3:8] == bytes(5)  # neither time nor name


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ANALYZE_CODES)
def test_analyze(tmp_path: Path, dtype: str, order: str, suffix: str) -> None:
    stored = numbers(dtype, (*SMALL, 2))
    head, image = analyze_head(stored, order, vox_offset=16), b"x" * 16 + in_order(stored, order)
    path = put_pair(tmp_path, head, image, suffix=suffix)
    run = forms.open_scan(path)
    assert (run.shape, run.count, run.dtype) == (SMALL, 2, dtype)
    assert np.stack(list(run.stored_volumes()), 3).tobytes() == stored.tobytes()
    if ANALYZE_CODES[dtype] < 128:
        oracle = nib.load(path)
        assert oracle.dataobj.get_unscaled().astype(dtype).tobytes() == stored.tobytes()  # type: ignore[attr-defined]
        assert np.allclose(run.affine, oracle.affine)  # type: ignore[attr-defined]
    rewrite(tmp_path / f"scan.img{suffix}", tmp_path / f"out.hdr{suffix}")
    assert unpacked(tmp_path / f"out.hdr{suffix}") == head and unpacked(tmp_path / f"out.img{suffix}") == image


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pad", [0, 16])
@pytest.mark.parametrize("dtype", NIFTI_DTYPES)
def test_nifti_pairs(tmp_path: Path, dtype: str, pad: int, order: str) -> None:
    stored = numbers(dtype, (*SMALL, 2))
    head, image = nifti_pair(stored, order, pad, extension=b"<note>kept</note>")
    path = put_pair(tmp_path, head, image)
    run, oracle = forms.open_scan(path), nib.load(path)
    assert (run.slope, run.inter) == (0.5, 3.0) and np.array_equal(run.affine, oracle.affine)  # type: ignore[attr-defined]
    assert np.stack(list(run.stored_volumes()), 3).tobytes() == stored.tobytes()
    rewrite(path, tmp_path / "out.img")
    assert (tmp_path / "out.hdr").read_bytes() == head and (tmp_path / "out.img").read_bytes() == image
    rewrite(path, tmp_path / "out.nii.gz")  # a single file with all the pair says
    single = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(single.affine, oracle.affine)  # type: ignore[attr-defined]
    found = single.dataobj.get_unscaled()  # type: ignore[attr-defined]
    assert found.astype(dtype).tobytes() == stored.tobytes()
    assert [e.get_content() for e in single.header.extensions] == [b"<note>kept</note>"]  # type: ignore[attr-defined]


def test_nifti_2_pairs_and_headers_without_an_extender(tmp_path: Path) -> None:
    stored = numbers("int16", SMALL)
    nib.save(nib.Nifti2Pair(stored, phantom.ras_affine()), tmp_path / "two.img")
    head, image = nifti_pair(stored)
    put_pair(tmp_path, head[:348], image, "short")
    for name in ("two", "short"):
        rewrite(tmp_path / f"{name}.hdr", tmp_path / "out.hdr")
        for kind in ("hdr", "img"):
            assert (tmp_path / f"out.{kind}").read_bytes() == (tmp_path / f"{name}.{kind}").read_bytes()


def test_upper_case_names(tmp_path: Path) -> None:
    head, image = nifti_pair(numbers("int16", SMALL))
    (tmp_path / "A.HDR").write_bytes(head)
    (tmp_path / "A.IMG").write_bytes(image)
    rewrite(tmp_path / "A.IMG", tmp_path / "B.IMG")
    assert (tmp_path / "B.HDR").read_bytes() == head and (tmp_path / "B.IMG").read_bytes() == image


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(*[st.integers(16, 20)] * 3, st.integers(1, 3)),
    tags=st.binary(max_size=60),
    footer=st.integers(0, 20),
)
def test_any_mgh_footer_survives(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shape: tuple[int, ...], tags: bytes, footer: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    raw = mgh_bytes(numbers("int16", shape, seed), phantom.ras_affine(), tags)
    raw = raw if tags else raw[: len(raw) - 20 + footer]
    (folder / "in.mgz").write_bytes(gzip.compress(raw, 1))
    rewrite(folder / "in.mgz", folder / "out.mgh")
    assert (folder / "out.mgh").read_bytes() == raw


# geometry


def test_the_head_lies_where_it_was(tmp_path: Path, orientation: str) -> None:
    data, affine = phantom.turned(np.rint(phantom.head()[0]).astype(np.int16), orientation)
    (tmp_path / "scan.mgh").write_bytes(mgh_bytes(data, affine))
    raw = phantom.nifti_bytes_of(data, affine, magic=b"ni1", vox_offset=0)
    put_pair(tmp_path, raw[:352], raw[352:])
    for name, again in (
        ("scan.mgh", "out.mgh"),
        ("scan.hdr", "out.hdr"),
        ("scan.mgh", "o.nii"),
        ("scan.hdr", "o2.nii"),
    ):
        scan = forms.read(tmp_path / name)
        assert np.allclose(scan.affine, affine, atol=1e-4)
        rewrite(tmp_path / name, tmp_path / again)
        found = forms.read(tmp_path / again)
        assert np.array_equal(found.affine, scan.affine) and np.array_equal(found.stored, data)
        assert np.allclose(nib.load(tmp_path / again).affine, affine, atol=1e-4)  # type: ignore[attr-defined]


def test_analyze_runs_from_right_to_left_about_spms_origin(tmp_path: Path) -> None:
    stored = numbers("int16", SMALL)
    for origin in ([0] * 5, [8, 9, 7, 0, 0]):
        path = put_pair(tmp_path, analyze_head(stored, "<", origin=origin), in_order(stored, "<"))
        scan, oracle = forms.read(path), nib.load(path)
        assert scan.affine[0, 0] == -3 and np.allclose(scan.affine, oracle.affine)  # type: ignore[attr-defined]
        told = any("axes are taken as LAS" in doubt for doubt in header.doubts(scan.header))
        assert told == (not any(origin))  # somebody has looked at what has an origin


def test_an_mgh_file_without_orientation_is_taken_as_freesurfer_does(tmp_path: Path) -> None:
    (tmp_path / "a.mgh").write_bytes(mgh_bytes(numbers("int16", SMALL), phantom.ras_affine(), goodRASFlag=0))
    scan = forms.read(tmp_path / "a.mgh")
    assert np.allclose(scan.affine, nib.load(tmp_path / "a.mgh").affine)  # type: ignore[attr-defined]
    rewrite(tmp_path / "a.mgh", tmp_path / "b.mgh")
    assert (tmp_path / "a.mgh").read_bytes() == (tmp_path / "b.mgh").read_bytes()


@pytest.mark.parametrize("kind", ["mgz", "nifti", "analyze"])
def test_a_result_is_known_as_one_in_every_form(tmp_path: Path, kind: str) -> None:
    stored = numbers("int16", SMALL)
    if kind == "mgz":
        source = put(tmp_path / "a.mgz", gzip.compress(mgh_bytes(stored, phantom.ras_affine(), mgh_tags())))
    else:
        pair = nifti_pair(stored) if kind == "nifti" else (analyze_head(stored, "<"), in_order(stored, "<"))
        source = put_pair(tmp_path, *pair)
    result = tmp_path / f"result{source.suffix}"
    rewrite(source, result, clean)
    assert [header.is_marked(forms.open_scan(path).header) for path in (source, result)] == [False, True]


# names


def clean(run: Any) -> Any:
    return metadata.clean_nifti(run).marked("de-identified by cpmae 1.0")


def assert_no_name(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        raw = unpacked(path)
        for part in (NAME, NAME[:4], NAME[4:], b"/data"):
            assert part not in raw, (path.name, raw.index(part))


def test_no_planted_name_survives_in_mgh(tmp_path: Path) -> None:
    stored = numbers("uint8", SMALL) // 8  # below the letters
    raw = mgh_bytes(stored, phantom.ras_affine(), mgh_tags())
    (tmp_path / "in.mgh").write_bytes(raw)
    rewrite(tmp_path / "in.mgh", tmp_path / "out.mgz", clean)
    assert_no_name(tmp_path, "out.*")
    found, end = unpacked(tmp_path / "out.mgz"), 284 + stored.size
    assert found[:90] == raw[:90] and found[284 : end + 20] == raw[284 : end + 20]
    tag, length = struct.unpack(">iq", found[end + 20 : end + 32])
    assert (tag, found[end + 32 :]) == (3, b"de-identified by cpmae 1.0\0") and length == len(found) - end - 32
    before, after = nib.load(tmp_path / "in.mgh"), nib.load(tmp_path / "out.mgz")
    assert before.header == after.header and np.array_equal(before.dataobj, after.dataobj)  # type: ignore[attr-defined]


@pytest.mark.parametrize("order", ["<", ">"])
def test_no_planted_name_survives_in_a_nifti_pair(tmp_path: Path, order: str) -> None:
    stored = numbers("uint8", SMALL) // 8
    text = {"descrip": NAME, "aux_file": NAME, "db_name": NAME, "intent_name": NAME, "data_type": NAME}
    head, image = nifti_pair(stored, order, extension=NAME, **text)
    put_pair(tmp_path, head, NAME * 2 + image, "in")
    head = bytearray(head)
    head[108:112] = struct.pack(order + "f", 16)  # vox_offset
    (tmp_path / "in.hdr").write_bytes(head)
    rewrite(tmp_path / "in.hdr", tmp_path / "out.hdr", clean)
    rewrite(tmp_path / "in.hdr", tmp_path / "single.nii.gz", clean)
    assert_no_name(tmp_path, "out.*")
    assert_no_name(tmp_path, "single.*")
    before, after = nib.load(tmp_path / "in.hdr"), nib.load(tmp_path / "out.hdr")
    assert np.array_equal(before.get_fdata(), after.get_fdata())  # type: ignore[attr-defined]
    assert np.array_equal(before.affine, after.affine)  # type: ignore[attr-defined]
    assert bytes(after.header["descrip"]).rstrip(b"\0") == b"de-identified by cpmae 1.0"  # type: ignore[index]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("origin", [None, [8, 9, 7, 0, 0]])
def test_no_planted_name_survives_in_analyze(tmp_path: Path, origin: list[int] | None, order: str) -> None:
    stored = numbers("uint8", SMALL) // 8
    fields = {} if origin is None else {"origin": origin}
    head = bytearray(analyze_head(stored, order, cal_max=321, cal_min=-5, **fields))
    if origin is None:
        head[253:263] = b"Doe^Jane A"  # originator, where SPM has the origin
    assert head.count(b"Doe") > 8
    put_pair(tmp_path, bytes(head) + NAME, in_order(stored, order), "in")
    rewrite(tmp_path / "in.hdr", tmp_path / "out.hdr", clean)
    assert_no_name(tmp_path, "out.*")
    before, after = nib.load(tmp_path / "in.hdr"), nib.load(tmp_path / "out.hdr")
    assert np.array_equal(before.affine, after.affine)  # type: ignore[attr-defined]
    assert np.array_equal(before.get_fdata(), after.get_fdata())  # type: ignore[attr-defined]
    for field, value in after.header.items():  # type: ignore[attr-defined]
        kept = {"dim", "datatype", "bitpix", "pixdim", "sizeof_hdr", "scl_slope", "scl_inter"}
        assert not np.any(value) or field in kept | {"origin", "descrip", "orient", "vox_offset"}, field


def test_extremes_stay_where_they_are_the_scaling(tmp_path: Path) -> None:
    stored = numbers("int16", SMALL)
    head = analyze_head(stored, "<", scl_slope=0, glmax=100, glmin=0, cal_max=50, cal_min=10)
    put_pair(tmp_path, head, in_order(stored, "<"), "in")
    rewrite(tmp_path / "in.hdr", tmp_path / "out.hdr", clean)
    before, after = nib.load(tmp_path / "in.hdr").get_fdata(), nib.load(tmp_path / "out.hdr").get_fdata()  # type: ignore[attr-defined]
    assert np.array_equal(before, after) and np.allclose(
        forms.read(tmp_path / "in.hdr").scaled().data, before[..., 0], rtol=1e-5
    )


# bad input and output

INT16 = numbers("int16", SMALL)
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "mgh: empty": ({"a.mgh": b""}, "a.mgh is not an MGH"),
    "mgh: not MGH": ({"a.mgh": b"text" * 200}, "not an MGH.*74657874"),
    "mgh: a warp": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine(), version=257)}, "not an MGH file of voxels"),
    "mgh: cut short": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine())[:5000]}, "truncated.*5000 bytes"),
    "mgz: cut short": ({"a.mgz": gzip.compress(mgh_bytes(INT16, phantom.ras_affine()))[:5000]}, "truncated"),
    "mgz: short inside": ({"a.mgz": gzip.compress(mgh_bytes(INT16, phantom.ras_affine())[:5000])}, "truncated"),
    "mgz: not gzip": ({"a.mgz": mgh_bytes(INT16, phantom.ras_affine())}, "is not compressed"),
    "mgh: type": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine(), type=2)}, "MGH type 2"),
    "mgh: dims": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine(), dims=[163842, 1, 1, 1])}, "163842.*surface"),
    "mgh: no dims": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine(), dims=[16, 0, 18, 1])}, "16, 0, 18"),
    "mgh: zoom 0": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine(), delta=[3, 0, 3])}, "voxel sizes|singular"),
    "mgh: NaN": ({"a.mgh": mgh_bytes(INT16, phantom.ras_affine(), Pxyz_c=[np.nan, 0, 0])}, "NaN"),
    "mgh: metres": ({"a.mgh": mgh_bytes(INT16, np.diag([1e-3, 1e-3, 1e-3, 1]))}, "metres"),
    "pair: no image": ({"a.hdr": nifti_pair(INT16)[0]}, "a.img does not exist"),
    "pair: image cut": ({"a.hdr": nifti_pair(INT16)[0], "a.img": nifti_pair(INT16)[1][:99]}, "a.img is truncated.*99"),
    "pair: header cut": ({"a.hdr": nifti_pair(INT16)[0][:99], "a.img": nifti_pair(INT16)[1]}, "a.hdr is not the head"),
    "pair: no header": ({"a.hdr": b"Interfile" * 99, "a.img": b""}, "a.hdr is not the header.*496e7465"),
    "pair: offset": ({"a.hdr": analyze_head(INT16, "<", vox_offset=np.nan), "a.img": b""}, "vox_offset nan"),
    "analyze: RGB": ({"a.hdr": analyze_head(INT16, "<", datatype=128), "a.img": b""}, "RGB"),
    "analyze: zoom NaN": ({"a.hdr": analyze_head(INT16, "<", pixdim=np.nan), "a.img": b""}, "nan.*pixdim"),
    "analyze: a .mat": (
        {"a.hdr": analyze_head(INT16, "<"), "a.img": in_order(INT16, "<"), "a.mat": b"MATLAB 5.0"},
        "a.mat beside it.*convert",
    ),
    "analyze: one slice": ({"a.hdr": analyze_head(numbers("int16", (64, 64, 1)), "<"), "a.img": b""}, "not 3-D"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_scans_are_refused(tmp_path: Path, case: str) -> None:
    files, message = BAD[case]
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(ScanError, match=message) as caught:
        forms.read(tmp_path / next(iter(files)))
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for name in ("no.mgz", "no.hdr", "no.img.gz", "no.nii"):
        with pytest.raises(ScanError, match="does not exist"):
            forms.open_scan(tmp_path / name)
    with pytest.raises(ScanError, match="is a folder"):
        forms.open_scan(tmp_path)
    with pytest.raises(ScanError, match="is not a .nii"):
        forms.open_scan(tmp_path / "scan.mnc")
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(ScanError, match="is a pipe"):
        forms.open_scan(tmp_path / "pipe.nii")


@pytest.mark.parametrize(
    ("input", "output", "files"),
    [
        ("a.mgz", "b.mgz", ["b.mgz"]),
        ("a.mgz", "b.mgh", ["b.mgh"]),
        ("a.mgz", "b.nii.gz", ["b.nii.gz"]),
        ("a.img", "b.hdr", ["b.hdr", "b.img"]),
        ("a.hdr", "b.img.gz", ["b.hdr.gz", "b.img.gz"]),
        ("a.hdr", "b.nii", ["b.nii"]),
        ("a.nii", "b.mgz", None),
        ("a.nii.gz", "b.img", None),
        ("a.hdr", "b.mgz", None),
        ("a.mgz", "b.img", None),
        ("a.mgz", "b", None),
    ],
)
def test_a_result_has_the_form_of_its_scan_or_is_nifti(input: str, output: str, files: list[str] | None) -> None:
    if files is None:
        with pytest.raises(OutputError, match=rf"{output} does not end in .*\.nii or \.nii\.gz, choose"):
            forms.result_files(Path(input), Path(output))
    else:
        assert [p.name for p in forms.result_files(Path(input), Path(output))] == files


def test_both_files_of_a_pair_or_none(tmp_path: Path) -> None:
    head, image = nifti_pair(INT16)
    source, folder = put_pair(tmp_path, head, image), tmp_path / "out"
    folder.mkdir()
    (folder / "a.hdr").write_bytes(b"precious")
    run = forms.open_scan(source)

    def failing() -> Any:
        assert len(list(folder.iterdir())) == 2
        raise ScanError("stop")
        yield

    with pytest.raises(ScanError, match="stop"):
        write_together(forms.writers(folder / "a.img", run, failing()))
    assert [p.name for p in folder.iterdir()] == ["a.hdr"] and (folder / "a.hdr").read_bytes() == b"precious"
