"""The command line in process and as a process: what it refuses, what each option changes, what it leaves behind."""

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import put
from numpy.typing import NDArray
from scipy import ndimage
from typer.testing import CliRunner, Result

import cpmae
from cpmae.cli import app
from cpmae.cli_status import status
from cpmae.errors import OutputError
from cpmae.io.together import write_together
from cpmae.models import checkpoint

AFFINE = phantom.ras_affine()
DATA, BRAIN = phantom.head()
STORED = np.rint(DATA).astype(np.int16)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def stored(path: Path) -> NDArray:
    """A file's numbers without scaling."""
    return np.asarray(nib.load(path).dataobj.get_unscaled())  # type: ignore[attr-defined]


def contents(folder: Path) -> dict[str, str]:
    """Every path below a folder with a digest of what is in it."""
    files = {p: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in folder.rglob("*")}
    return {str(p.relative_to(folder)): digest for p, digest in files.items()}


def mask_bytes(mask: NDArray, affine: NDArray[np.float64] = AFFINE) -> bytes:
    return phantom.nifti_bytes_of(mask.astype(np.uint8), affine)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with scan.nii and mask.nii; at the end the system's temporary folder must be empty."""
    temporary = tmp_path / "system"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)  # asked again, so that TMPDIR counts
    work = tmp_path / "work"
    work.mkdir()
    put(work / "scan.nii", phantom.nifti_bytes())
    put(work / "mask.nii", mask_bytes(BRAIN))
    yield work
    left = [p.name for p in temporary.iterdir() if not p.name.startswith("torchinductor_")]  # torch's, holds no scan
    assert not left


def assert_refused(ran: Result, folder: Path, before: dict[str, str], *words: str, code: int = 1) -> None:
    assert ran.exit_code == code, ran.output
    assert ran.stdout == ""
    assert contents(folder) == before
    if code == 1:
        line = ran.stderr.rstrip("\n")
        assert line.startswith("cpmae: ") and "\n" not in line and "Traceback" not in line
        for word in words:
            assert word in line, f"{word!r} is not in {line!r}"


def edited(shape_or_data: NDArray, affine: NDArray[np.float64] = AFFINE, **fields: object) -> bytes:
    return phantom.nifti_bytes_of(shape_or_data, affine, **fields)  # type: ignore[arg-type]


def with_nan(share: float) -> NDArray:
    data = DATA.copy()
    inside = np.argwhere(BRAIN)
    data[tuple(inside[: int(share * len(inside))].T)] = np.nan
    return data


# name of the scan, its bytes, and what the message must hold: the offending value and what to do
BAD_SCANS: dict[str, tuple[str, Callable[[], bytes], tuple[str, ...]]] = {
    "truncated gzip": (
        "bad.nii.gz",
        lambda: gzip.compress(phantom.nifti_bytes(), 1)[:50_000],
        ("bad.nii.gz is truncated", "copy it again"),
    ),
    "gzip and more": (
        "bad.nii.gz",
        lambda: gzip.compress(phantom.nifti_bytes(), 1) + b"more",
        ("bad.nii.gz is truncated or damaged", "copy it again"),
    ),
    "truncated": ("bad.nii", lambda: phantom.nifti_bytes()[:50_000], ("truncated", "50000 bytes", "copy it again")),
    "empty file": ("bad.nii", lambda: b"", ("bad.nii is empty", "copy it again")),
    "not NIfTI": ("bad.dcm", lambda: b"DICM", ("bad.dcm is not a .nii", "convert")),
    "zeros": ("bad.nii", lambda: edited(np.zeros_like(STORED)), ("0 in every voxel", "give a scan")),
    "constant": ("bad.nii", lambda: edited(np.full_like(STORED, 7)), ("7 in every voxel", "give a scan")),
    "nothing finite": ("bad.nii", lambda: edited(np.full(STORED.shape, np.nan, "f4")), ("no finite value",)),
    "flat brain": (
        "bad.nii",
        lambda: edited(np.where(BRAIN, 90, STORED).astype("i2")),
        ("one and the same intensity",),
    ),
    "NaN in the brain": ("bad.nii", lambda: edited(with_nan(0.3)), ("30.0%", "NaN", "repair")),
    "2-D": ("bad.nii", lambda: edited(STORED[:, :, :1]), ("not 3-D", "(56, 72, 1)", "whole volume")),
    "4-D with NaN": ("bad.nii", lambda: edited(np.stack([with_nan(0.3)] * 2, axis=-1)), ("30.0%", "NaN", "repair")),
    "complex": ("bad.nii", lambda: edited(STORED.astype("c8")), ("complex64", "magnitude")),
    "RGB": ("bad.nii", lambda: edited(STORED.astype("u1"), datatype=128, bitpix=24), ("RGB", "magnitude")),
    "int64": ("bad.nii", lambda: edited(STORED.astype("i8")), ("64-bit", "int64", "store it as")),
    "uint64": ("bad.nii", lambda: edited(STORED.astype("u8")), ("64-bit", "uint64", "store it as")),
    "metres": ("bad.nii", lambda: edited(STORED, xyzt_units=1), ("metres", "millimetres")),
    "metres, unsaid": (
        "bad.nii",
        lambda: edited(STORED, np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE),
        ("0.003 x 0.0028 x 0.003 mm", "metres?"),
    ),
    "zoom of 0": ("bad.nii", lambda: edited(STORED, pixdim=[1, 3, 0, 3, 0, 0, 0, 0]), ("0.0", "pixdim", "set them")),
    "singular": ("bad.nii", lambda: edited(STORED, srow_x=[0, 0, 0, 5]), ("singular affine", "correct")),
}


@pytest.mark.parametrize("case", BAD_SCANS)
def test_bad_scans(folder: Path, case: str) -> None:
    name, make, words = BAD_SCANS[case]
    (folder / name).write_bytes(make())
    before = contents(folder)
    arguments = [folder / name, folder / "out.nii.gz", "--brain-mask", folder / "mask.nii", "--picture"]
    assert_refused(run("deidentify", *arguments, folder / "p.png"), folder, before, *words)


def test_a_header_that_asks_for_more_than_all_memory(folder: Path) -> None:
    put(folder / "bad.nii.gz", edited(STORED, dim=[4, 32767, 32767, 32767, 2, 1, 1, 1]))
    before = contents(folder)
    ran = run("deidentify", folder / "bad.nii.gz", folder / "out.nii.gz")
    assert_refused(ran, folder, before, "not enough memory", "check the dimensions")


def test_scans_that_are_no_file(folder: Path) -> None:
    (folder / "dicom").mkdir()
    before = contents(folder)
    missing = folder / "none.nii.gz"
    assert_refused(run("deidentify", missing, folder / "out.nii"), folder, before, str(missing), "does not exist")
    assert_refused(run("deidentify", folder / "dicom", folder / "out"), folder, before, "holds no files", "DICOM")
    assert_refused(run("verify", missing, folder / "scan.nii"), folder, before, str(missing), "does not exist")
    for words in (("deidentify", folder / "none", folder / "out"), ("verify", folder / "dicom", folder / "none")):
        assert_refused(run(*words), folder, before, "none does not exist")
    assert_refused(run("verify", folder / "dicom", folder / "scan.nii"), folder, before, "two files or two folders")
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM")
    (folder / "plain.nii.gz").write_bytes((folder / "scan.nii").read_bytes())
    put(folder / "dicom" / "dataset_description.json", b"{}")
    before = contents(folder)
    one = run("deidentify", folder / "IM0001", folder / "out.dcm")
    assert_refused(one, folder, before, "one DICOM file", "the folder of its series")
    named = run("deidentify", folder / "plain.nii.gz", folder / "out.nii")
    assert_refused(named, folder, before, "not compressed", "rename it to plain.nii")
    assert_refused(run("deidentify", folder / "dicom", folder / "out"), folder, before, "BIDS data set", "`cpmae bids`")


def leaking() -> NDArray[np.bool_]:
    """The brain and what lies before and below it: eyes, nose."""
    mask = BRAIN.copy()
    mask[22:40, 60:72, 10:40] = True
    return mask


def blurred(whole: float) -> np.ndarray:
    return np.rint(whole * ndimage.gaussian_filter(BRAIN.astype(np.float32), 1.5))


BAD_MASKS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "another shape": (lambda: mask_bytes(BRAIN[:-1]), ("(55, 72, 64)", "(56, 72, 64)", "resample")),
    "another place": (lambda: mask_bytes(BRAIN, AFFINE + np.eye(4, k=3) * 5), ("5 mm off", "resample")),
    "empty": (lambda: mask_bytes(BRAIN & False), ("mask.nii is empty", "give a mask")),
    "everything": (lambda: mask_bytes(BRAIN | True), ("covers all of the volume", "give a mask")),
    "tiny": (lambda: mask_bytes(ndimage.binary_erosion(BRAIN, iterations=10)), (" ml", "300 to 2500 ml")),
    "mostly cut off": (lambda: mask_bytes(np.roll(BRAIN, 30, 2) & (np.arange(64) > 30)), ("mask", "ml")),
    "leaking into the face": (lambda: mask_bytes(leaking()), ("where no brain reaches", "--allow-unusual-mask")),
    "damaged": (lambda: mask_bytes(BRAIN)[:9999], ("truncated", "9999")),
    "of a run": (lambda: mask_bytes(np.stack([BRAIN] * 2, 3)), ("holds 2 volumes", "3-D")),
    "probabilities": (
        lambda: phantom.nifti_bytes_of(BRAIN * np.linspace(0.1, 1, 64, dtype=np.float32), AFFINE),
        ("mask.nii holds fractions", "above a half"),
    ),
    "probabilities in bytes": (
        lambda: phantom.nifti_bytes_of(blurred(255).astype(np.uint8), AFFINE),
        ("mask.nii holds numbers up to 255, most of them that one", "above a half"),
    ),
    "probabilities in scaled bytes": (
        lambda: phantom.nifti_bytes_of(blurred(255).astype(np.uint8), AFFINE, slope=1 / 255),
        ("mask.nii holds fractions", "above a half"),
    ),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks(folder: Path, case: str) -> None:
    make, words = BAD_MASKS[case]
    (folder / "mask.nii").write_bytes(make())
    before = contents(folder)
    ran = run("deidentify", folder / "scan.nii", folder / "out.nii", "--brain-mask", folder / "mask.nii")
    assert_refused(ran, folder, before, *words)


def test_a_missing_mask_and_an_unknown_extractor(folder: Path) -> None:
    before, start = contents(folder), ("deidentify", folder / "scan.nii", folder / "out.nii")
    assert_refused(run(*start, "--brain-mask", folder / "no.nii"), folder, before, "no.nii", "does not exist")
    assert_refused(run(*start, "--brain-extractor", "bet"), folder, before, "'bet'", "deepbet, robex, hd-bet")
    assert_refused(run(*start, "--brain-extractor", "command:bet {input}"), folder, before, "bet {input}", "{mask}")
    tool = "command:sh -c 'echo no licence; exit 3' {input} {mask}"
    assert_refused(run(*start, "--brain-extractor", tool), folder, before, "exit code 3", "it said: no licence")


BAD_OUTPUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "the input": (("scan.nii", "--overwrite"), ("scan.nii is the input itself", "choose another")),
    "a link to the input": (("link.nii", "--overwrite"), ("is the input itself",)),
    "the mask": (("mask.nii", "--overwrite"), ("mask.nii is the input itself",)),
    "there already": (("there.nii",), ("there.nii exists already", "--overwrite")),
    "in a missing folder": (("none/out.nii",), ("none does not exist", "make it")),
    "not NIfTI": (("out.png",), ("out.png does not end in .nii", "choose")),
    "another form": (("out.mgz",), ("out.mgz does not end in .nii or .nii.gz", "choose")),
    "the mask of another form": (("out.nii", "--save-brain-mask", "out.mgz"), ("out.mgz does not end in .nii",)),
    "a folder": (("sub.nii", "--overwrite"), ("is a folder", "file name")),
    "mask there already": (("out.nii", "--save-brain-mask", "there.nii"), ("there.nii exists already",)),
    "mask over the input": (("out.nii", "--save-brain-mask", "scan.nii", "--overwrite"), ("is the input itself",)),
    "mask in the result's place": (("out.nii", "--save-brain-mask", "out.nii"), ("asked for twice",)),
    "picture not PNG": (("out.nii", "--picture", "scan.nii", "--overwrite"), ("does not end in .png",)),
    "picture in a missing folder": (("out.nii", "--picture", "none/p.png"), ("none does not exist", "make it")),
    "picture there already": (("out.nii", "--picture", "there.png"), ("there.png exists already", "--overwrite")),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_bad_outputs(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    arguments, words = BAD_OUTPUTS[case]
    (folder / "there.nii").write_bytes(b"kept")
    (folder / "there.png").write_bytes(b"kept")
    (folder / "link.nii").symlink_to(folder / "scan.nii")
    (folder / "sub.nii").mkdir()
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert_refused(run("deidentify", "scan.nii", *arguments, "--brain-mask", "mask.nii"), folder, before, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seed", "-1"),
        ("--seed", "one"),
        ("--margin-mm", "-1"),
        ("--margin-mm", "31"),
        ("--region", "ears"),
        ("--device", "tpu"),
        ("--brain-mask", "mask.nii", "--brain-extractor", "robex"),
        ("--no-such-option",),
    ],
)
def test_usage_errors_exit_with_2(folder: Path, arguments: tuple[str, ...]) -> None:
    before = contents(folder)
    ran = run("deidentify", folder / "scan.nii", folder / "out.nii", *arguments)
    assert_refused(ran, folder, before, code=2)
    assert arguments[0] in ran.stderr


def test_a_device_that_is_not_there(folder: Path) -> None:
    import torch

    device = "mps" if torch.cuda.is_available() else "cuda"  # no machine has both
    before = contents(folder)
    start = ("deidentify", folder / "scan.nii", folder / "out.nii", "--brain-mask", folder / "mask.nii")
    assert_refused(run(*start, "--device", device), folder, before, device)


@pytest.fixture
def weights(folder: Path) -> Path:
    """A copy of the packaged weights."""
    for name in ("head.safetensors", "head.json"):
        with resources.as_file(resources.files("cpmae") / "weights" / name) as path:
            shutil.copy(path, folder / name)
    return folder / "head.safetensors"


def damage(weights: Path) -> None:
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 1
    weights.write_bytes(raw)


def change_json(weights: Path, **entries: object) -> None:
    beside = weights.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | entries))


BAD_WEIGHTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "one bit flipped": (damage, ("damaged", "SHA-256")),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:1000]), ("damaged", "SHA-256")),
    "missing": (lambda path: path.unlink(), ("head.safetensors", "cannot read")),
    "no JSON": (lambda path: path.with_suffix(".json").unlink(), ("head.json", "cannot read")),
    "JSON is none": (lambda path: path.with_suffix(".json").write_text("{"), ("head.json", "not JSON")),
    "JSON is a list": (lambda path: path.with_suffix(".json").write_text("[]"), ("head.json",)),
    "another version": (
        lambda path: change_json(path, format=99),
        ("format 99", f"this version reads {checkpoint.FORMAT}"),
    ),
    "another model": (lambda path: change_json(path, config={"vqvae": {"x": 1}, "mae": {}}), ("head.json",)),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights(folder: Path, weights: Path, case: str) -> None:
    spoil, words = BAD_WEIGHTS[case]
    spoil(weights)
    before = contents(folder)
    start = ("deidentify", folder / "scan.nii", folder / "out.nii", "--brain-mask", folder / "mask.nii")
    assert_refused(run(*start, "--weights", weights), folder, before, *words)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_in_the_middle_leaves_nothing(folder: Path, number: int, code: int) -> None:
    started = folder / "started"
    tool = f"command:sh -c 'echo $$ > {started}.new; mv {started}.new {started}; sleep 600' {{input}} {{mask}}"
    command = [sys.executable, "-m", "cpmae", "deidentify", "scan.nii", "out.nii", "--brain-extractor", tool]
    before = contents(folder)
    heard = partial(signal.signal, number, signal.SIG_DFL)  # a test run in the background ignores SIGINT
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, preexec_fn=heard, **pipes) as process:
        for _ in range(1200):
            if started.exists():
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        assert list(Path(os.environ["TMPDIR"]).iterdir())  # the scan on its way to the tool
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # the tool ended too
        os.kill(int(started.read_text()), 0)
    started.unlink()
    assert contents(folder) == before


KILLED_WHILE_IT_WRITES = """
import sys, time
from pathlib import Path
from cpmae.files import deidentify_file
from cpmae.options import Options

def write(path):
    path.write_text("half")
    print(path, flush=True)
    time.sleep(600)

deidentify_file(Path("scan.nii"), Path("out.nii"), Options(), brain_mask=Path("mask.nii"), beside=[(Path("x"), write)])
"""


def test_the_next_run_removes_what_one_that_was_killed_while_it_wrote_left(folder: Path) -> None:
    before = contents(folder)
    command = [sys.executable, "-c", KILLED_WHILE_IT_WRITES]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        begun = folder / process.stdout.readline().strip()
        process.kill()
    assert begun.read_text() == "half" and begun.relative_to(folder).parts[0].startswith(".cpmae-")
    ran = run("deidentify", folder / "scan.nii", folder / "out.nii", "--brain-mask", folder / "mask.nii")
    assert ran.exit_code == 0, ran.output
    assert contents(folder).keys() - before.keys() == {"out.nii"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_stdout_is_told_of_and_the_result_is_there(base: Path, tmp_path: Path) -> None:
    out, mask = tmp_path / "out.nii", base / "mask.nii"
    command = [sys.executable, "-m", "cpmae", "deidentify", base / "scan.nii", out, "--brain-mask", mask, "--json"]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.startswith("cpmae: everything was written but this account of it")
    assert out.stat().st_size > 1000


def test_a_second_signal_does_not_disturb_the_cleaning_and_nohup_is_heeded() -> None:
    code = """
import os, signal, sys
from cpmae.stopping import exit_on_signals
exit_on_signals()
assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == (sys.argv[1] == "nohup")
try:
    os.kill(os.getpid(), signal.SIGHUP)
finally:
    os.kill(os.getpid(), signal.SIGHUP)
    print("cleaned", flush=True)
"""
    for how, heard, expected in (("terminal", signal.SIG_DFL, 129), ("nohup", signal.SIG_IGN, 0)):
        start = partial(signal.signal, signal.SIGHUP, heard)
        ran = subprocess.run([sys.executable, "-c", code, how], preexec_fn=start, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (expected, "cleaned\n"), ran.stderr


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit(143), KeyboardInterrupt()])
def test_files_appear_all_or_none(tmp_path: Path, error: BaseException) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    (tmp_path / "a").write_bytes(b"old")
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write_together([(tmp_path / "a", lambda path: path.write_bytes(b"new")), (tmp_path / "b", fail)])
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"
    if expected is OutputError:
        assert str(caught.value).startswith(f"{tmp_path / 'b'} cannot be written (No space left on device)")
    write_together([(tmp_path / n, lambda path: path.write_bytes(b"new")) for n in "ab"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"] and (tmp_path / "a").read_bytes() == b"new"


def test_what_a_killed_run_had_begun_beside_any_output_goes_with_the_next_run_there(tmp_path: Path) -> None:
    """The picture, which shows the original's face, lies in another folder than the result; no name can clash."""
    result, picture = tmp_path / "results" / "lease", tmp_path / "pictures" / "lease"
    code = """
import sys, time
from pathlib import Path
from cpmae.io.together import write_together

def stops(path):
    path.write_bytes(b"half a face")
    print(path, flush=True)
    time.sleep(600)

write_together([(Path(sys.argv[1]), lambda path: path.write_bytes(b"new"))], late=[(Path(sys.argv[2]), stops)])
"""
    for target in (result, picture):
        target.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, result, picture], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        begun = Path(process.stdout.readline().strip())
        process.kill()
    assert begun.read_bytes() == b"half a face" and begun.parents[2] == picture.parent
    assert len(list(result.parent.iterdir())) == 1
    write_together([(target, lambda path: path.write_bytes(b"new")) for target in (result, picture)])
    for target in (result, picture):
        assert list(target.parent.iterdir()) == [target] and target.read_bytes() == b"new"


@pytest.mark.parametrize("links", [True, False])
def test_what_another_run_wrote_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def other(path: Path) -> None:
        path.write_bytes(b"mine")
        (tmp_path / "b").write_bytes(b"another's")

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", none)
    with pytest.raises(OutputError, match="b cannot be written"):
        write_together(
            [(tmp_path / "a", lambda path: path.write_bytes(b"mine")), (tmp_path / "b", other)], overwrite=False
        )
    assert [p.name for p in tmp_path.iterdir()] == ["b"] and (tmp_path / "b").read_bytes() == b"another's"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scan.nii, mask.nii and plain.nii, the result of seed 3 without further options."""
    folder = tmp_path_factory.mktemp("base")
    put(folder / "scan.nii", phantom.nifti_bytes())
    put(folder / "mask.nii", mask_bytes(BRAIN))
    arguments = [folder / "scan.nii", folder / "plain.nii", "--brain-mask", folder / "mask.nii"]
    ran = run("deidentify", *arguments, "--seed", 3)
    assert ran.exit_code == 0, ran.output
    return folder


def again(base: Path, out: Path, *more: object) -> Result:
    """The command that made plain.nii with more options, or with others in place of its own."""
    own = {"--brain-mask": base / "mask.nii", "--seed": 3}
    if "--brain-extractor" in more:
        del own["--brain-mask"]
    arguments = [x for pair in own.items() if pair[0] not in more for x in pair]
    ran = run("deidentify", base / "scan.nii", out, *arguments, *more)
    assert ran.exit_code == 0, ran.output
    return ran


def test_the_brain_is_exact_and_the_rest_is_not(base: Path) -> None:
    before, after = stored(base / "scan.nii"), stored(base / "plain.nii")
    assert before.dtype == after.dtype
    assert np.array_equal(before[BRAIN], after[BRAIN])
    assert np.mean(before[~BRAIN] == after[~BRAIN]) < 0.5
    ran = run("verify", base / "scan.nii", base / "plain.nii", "--brain-mask", base / "mask.nii")
    assert ran.exit_code == 0, ran.output


def test_seed(base: Path, tmp_path: Path) -> None:
    plain = (base / "plain.nii").read_bytes()
    again(base, tmp_path / "same.nii")
    again(base, tmp_path / "other.nii", "--seed", 2)
    assert (tmp_path / "same.nii").read_bytes() == plain
    assert (tmp_path / "other.nii").read_bytes() != plain


def test_without_a_seed_it_is_another_head_each_time_and_the_seed_stays_secret(base: Path, tmp_path: Path) -> None:
    arguments = (
        "deidentify",
        base / "scan.nii",
        tmp_path / "out.nii",
        "--brain-mask",
        base / "mask.nii",
        "--overwrite",
    )
    results, accounts = [], []
    for _ in range(2):
        ran = run(*arguments, "--json")
        assert ran.exit_code == 0, ran.output
        accounts.append(json.loads(ran.stdout))
        results.append((tmp_path / "out.nii").read_bytes())
    assert results[0] != results[1]
    assert accounts[0] == accounts[1] and accounts[0]["seed"] == "secret"


def test_margin(base: Path, tmp_path: Path) -> None:
    again(base, tmp_path / "out.nii", "--margin-mm", 6)
    near = ndimage.distance_transform_edt(~BRAIN, sampling=phantom.VOXEL_MM) <= 6
    before, plain, after = (stored(p) for p in (base / "scan.nii", base / "plain.nii", tmp_path / "out.nii"))
    assert np.array_equal(before[near], after[near])
    assert not np.array_equal(before[near], plain[near])


def test_metadata(base: Path, tmp_path: Path) -> None:
    again(base, tmp_path / "kept.nii", "--metadata", "keep")
    text = b"unused field"  # in the phantom's db_name
    assert text in (base / "scan.nii").read_bytes() and text in (tmp_path / "kept.nii").read_bytes()
    assert text not in (base / "plain.nii").read_bytes()
    assert np.array_equal(stored(base / "plain.nii"), stored(tmp_path / "kept.nii"))


def test_region(base: Path, tmp_path: Path) -> None:
    again(base, tmp_path / "out.nii", "--region", "face")
    before, after = stored(base / "scan.nii"), stored(tmp_path / "out.nii")
    nose, back = (slice(25, 36), slice(62, 70), slice(20, 32)), (slice(None), slice(0, 12), slice(40, None))
    assert np.array_equal(before[BRAIN], after[BRAIN]) and np.array_equal(before[back], after[back])
    assert np.mean(before[nose] == after[nose]) < 0.5


def test_brain_mask_and_the_mask_that_is_saved(base: Path, tmp_path: Path) -> None:
    smaller = ndimage.binary_erosion(BRAIN)
    put(tmp_path / "small.nii.gz", mask_bytes(smaller))
    saved = tmp_path / "saved.nii.gz"
    again(base, tmp_path / "out.nii", "--brain-mask", tmp_path / "small.nii.gz", "--save-brain-mask", saved)
    before, after = stored(base / "scan.nii"), stored(tmp_path / "out.nii")
    assert np.array_equal(before[smaller], after[smaller]) and not np.array_equal(before[BRAIN], after[BRAIN])
    mask, scan = nib.load(saved), nib.load(base / "scan.nii")
    assert mask.get_data_dtype() == np.uint8 and np.array_equal(stored(saved), smaller)  # type: ignore[attr-defined]
    assert np.array_equal(mask.affine, scan.affine)  # type: ignore[attr-defined]
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[field] == scan.header[field]  # type: ignore[index]


def test_brain_extractor_and_its_name_without_its_path(base: Path, tmp_path: Path) -> None:
    put(tmp_path / "found.nii.gz", mask_bytes(BRAIN))
    tool = f"command:/bin/sh -c 'test -f {{input}} && cp {tmp_path / 'found.nii.gz'} {{mask}}'"
    ran = again(base, tmp_path / "out.nii", "--brain-extractor", tool, "--json")
    assert (tmp_path / "out.nii").read_bytes() == (base / "plain.nii").read_bytes()
    assert json.loads(ran.stdout)["brain_extractor"] == "command:sh"


def test_weights_and_device(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other.safetensors"
    with resources.as_file(resources.files("cpmae") / "weights") as packaged:
        tensors = load_file(packaged / "head.safetensors")
        about = json.loads((packaged / "head.json").read_text())
    save_file({name: -t if name.startswith("palette") else t for name, t in tensors.items()}, other)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    other.with_suffix(".json").write_text(json.dumps(about | {"sha256": digest}))
    ran = again(base, tmp_path / "out.nii", "--weights", other, "--device", "cpu", "--json")
    assert json.loads(ran.stdout)["weights_sha256"] == digest
    assert (tmp_path / "out.nii").read_bytes() != (base / "plain.nii").read_bytes()


def test_picture_json_and_overwrite(base: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.nii.gz", tmp_path / "both.png"
    out.write_bytes(b"old")
    picture.write_bytes(b"old")
    ran = again(base, out, "--picture", picture, "--json", "--overwrite")
    account = json.loads(ran.stdout)
    assert account["seed"] == 3 and account["protected_voxels"] == int(BRAIN.sum())
    assert gzip.decompress(out.read_bytes()) == (base / "plain.nii").read_bytes()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "out.nii.gz"]


SIDECAR = {"EchoTime": 0.003, "PatientName": "Doe^Jane", "Unknown": {"Name": "Doe"}, "Manufacturer": "Acme"}


def test_a_sidecar_comes_along_cleaned_and_marked(base: Path, tmp_path: Path) -> None:
    for name in ("scan.v2.nii", "mask.nii"):
        shutil.copy(base / name.replace(".v2", ""), tmp_path / name)
    (tmp_path / "scan.v2.json").write_text(json.dumps(SIDECAR), "utf-8-sig")  # a byte order mark is common
    arguments = ("--brain-mask", tmp_path / "mask.nii", "--seed", 3)
    (tmp_path / "out").mkdir()
    for name, more in {"clean": (), "kept": ("--metadata", "keep"), "left": ("--no-sidecar",)}.items():
        out = tmp_path / "out" / f"{name}.nii.gz"
        assert run("deidentify", tmp_path / "scan.v2.nii", out, *arguments, *more).exit_code == 0
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == ["clean.json", "clean.nii.gz", "kept.json", "kept.nii.gz", "left.nii.gz"]
    clean, kept = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("clean", "kept"))
    assert {k: clean.pop(k) for k in ("EchoTime", "Manufacturer")} == {"EchoTime": 0.003, "Manufacturer": "Acme"}
    assert clean.keys() == {"DeidentificationMethod", "DeidentificationMethodCodeSequence"}
    assert clean["DeidentificationMethod"][-1].startswith("cpmae ")
    assert clean["DeidentificationMethodCodeSequence"][-1]["CodeValue"] == "113102"
    assert SIDECAR.items() <= kept.items() and clean.items() <= kept.items()
    assert json.loads((tmp_path / "scan.v2.json").read_text("utf-8-sig")) == SIDECAR


BAD_SIDECARS: dict[str, tuple[bytes, str, tuple[str, ...], tuple[str, ...]]] = {
    "not JSON": (b"{", "out.nii", ("--overwrite",), ("scan.json is not JSON", "correct it")),
    "nested": (
        b'{"EchoTime": ' + b"[" * 500 + b"]" * 500 + b"}",
        "out.nii",
        ("--overwrite",),
        ("scan.json nests", "more than 50 levels deep", "correct it"),
    ),
    "no object": (b"[1]", "out.nii", ("--overwrite",), ("scan.json holds a list", "one JSON object")),
    "not UTF-8": (b"\xe9", "out.nii", ("--overwrite",), ("not UTF-8",)),
    "one is there": (b"{}", "out.nii", (), ("out.json exists already", "--overwrite")),
    "the scan's own": (b"{}", "scan.nii.gz", ("--overwrite",), ("scan.json is the input itself",)),
}


@pytest.mark.parametrize("case", BAD_SIDECARS)
def test_image_and_sidecar_are_written_both_or_none(folder: Path, case: str) -> None:
    raw, out, more, words = BAD_SIDECARS[case]
    (folder / "scan.json").write_bytes(raw)
    (folder / "out.json").write_text("precious")
    before = contents(folder)
    ran = run("deidentify", folder / "scan.nii", folder / out, "--brain-mask", folder / "mask.nii", *more)
    assert_refused(ran, folder, before, *words)


def test_a_sidecar_that_is_not_written_tells_of_the_fat_all_the_same(folder: Path) -> None:
    def result(name: str, *more: str) -> bytes:
        arguments = ("--brain-mask", folder / "mask.nii", "--seed", 3, *more)
        assert run("deidentify", folder / "scan.nii", folder / name, *arguments).exit_code == 0
        return (folder / name).read_bytes()

    (folder / "scan.json").write_text(json.dumps({"ScanOptions": "FS"}))
    suppressed = result("suppressed.nii")
    assert result("alone.nii", "--no-sidecar") == suppressed and not (folder / "alone.json").exists()
    (folder / "scan.json").write_text("{")
    assert result("bright.nii", "--no-sidecar", "--fat", "bright") != suppressed
    before = contents(folder)
    ran = run(
        "deidentify", folder / "scan.nii", folder / "out.nii", "--brain-mask", folder / "mask.nii", "--no-sidecar"
    )
    assert_refused(ran, folder, before, "scan.json is not JSON", "correct it, or say of the fat what it would (--fat)")


def test_folders_have_no_sidecars(folder: Path) -> None:
    before = contents(folder)
    ran = run("deidentify", folder, folder / "out", "--no-sidecar")
    assert_refused(ran, folder, before, code=2)
    assert "--no-sidecar is for files" in " ".join(ran.stderr.replace("│", " ").split())


def test_without_a_sidecar_of_its_own_a_scan_leaves_others_alone_and_says_so(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("of something else")
    ran = again(base, tmp_path / "out.nii")
    assert (tmp_path / "out.json").read_text() == "of something else"
    assert "out.json lies beside the result and is not of this run" in ran.stderr


def test_allow_unusual_mask_warns_on_stderr(base: Path, tmp_path: Path) -> None:
    put(tmp_path / "leak.nii", mask_bytes(leaking()))
    ran = again(base, tmp_path / "out.nii", "--brain-mask", tmp_path / "leak.nii", "--allow-unusual-mask")
    warnings = ran.stderr.splitlines()
    assert any("where no brain reaches" in line for line in warnings)
    assert all(line.startswith("cpmae: warning: ") for line in warnings)


@pytest.mark.parametrize(
    ("form", "names"), [("MGHImage", ["scan.mgz"]), ("Nifti1Pair", ["scan.hdr", "scan.img"])], ids=["mgz", "pair"]
)
def test_a_scan_comes_back_in_its_form(folder: Path, form: str, names: list[str]) -> None:
    image = getattr(nib, form)(STORED, AFFINE)
    image.to_filename(folder / names[-1])
    (folder / "out").mkdir()
    before, arguments = contents(folder), ("--brain-mask", folder / "mask.nii")
    assert_refused(run("deidentify", folder / names[0], folder / names[-1], "--overwrite", *arguments), folder, before)
    ran = run("deidentify", folder / names[0], folder / "out" / names[-1], "--seed", 3, *arguments)
    assert ran.exit_code == 0, ran.output
    raw = (folder / "out" / names[0]).read_bytes()
    mark = f"de-identified by cpmae {cpmae.__version__}\0".encode()
    assert gzip.decompress(raw).endswith(bytes([len(mark)]) + mark) if form == "MGHImage" else mark in raw
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    result = nib.load(folder / "out" / names[-1])
    assert type(result) is type(image) and np.array_equal(result.affine, nib.load(folder / names[-1]).affine)  # type: ignore[attr-defined]
    assert result.get_data_dtype().newbyteorder("=") == STORED.dtype  # type: ignore[attr-defined]
    assert np.array_equal(stored(folder / "out" / names[-1])[BRAIN], STORED[BRAIN])
    ran = run("verify", folder / names[0], folder / "out" / names[0], *arguments)
    assert ran.exit_code == 0, ran.output


@pytest.fixture
def pair(folder: Path) -> Path:
    """The folder with new.nii: the same brain in another head."""
    rng = np.random.default_rng(8)
    new = np.abs(ndimage.affine_transform(DATA, [0.93, 1.05, 0.97], [2, -3, 1], order=1) + rng.normal(0, 3, DATA.shape))
    put(folder / "new.nii", phantom.nifti_bytes_of(np.where(BRAIN, STORED, np.rint(new)).astype("i2"), AFFINE))
    return folder


def test_verify_says_what_it_found(pair: Path) -> None:
    arguments = ("verify", pair / "scan.nii", pair / "new.nii", "--brain-mask", pair / "mask.nii")
    ran = run(*arguments)
    assert ran.exit_code == 0, ran.output
    assert f"{int(BRAIN.sum()):,} voxels, 0 differ" in ran.stdout and ran.stdout.endswith("\nverified\n")
    assert json.loads(run(*arguments, "--json").stdout)["ok"] is True


def test_verify_exits_with_1_where_a_promise_is_broken(pair: Path) -> None:
    broken = stored(pair / "new.nii").copy()
    broken[tuple(np.argwhere(BRAIN)[100])] += 1
    put(pair / "broken.nii", phantom.nifti_bytes_of(broken, AFFINE))
    for name, words in (("broken.nii", "1 of "), ("scan.nii", "the original file itself")):
        ran = run("verify", pair / "scan.nii", pair / name, "--brain-mask", pair / "mask.nii")
        assert ran.exit_code == 1 and f"NOT verified: {words}" in ran.stdout.replace("the result is ", "")


def test_verify_of_a_pair_the_wrong_way_round(pair: Path) -> None:
    marked = phantom.nifti_bytes_of(stored(pair / "new.nii"), AFFINE, descrip=b"de-identified by cpmae 9.9")
    put(pair / "marked.nii", marked)
    ran = run("verify", pair / "marked.nii", pair / "scan.nii", "--brain-mask", pair / "mask.nii")
    assert ran.exit_code == 1 and "give the two the other way round" in ran.stdout
    assert run("verify", pair / "scan.nii", pair / "marked.nii", "--brain-mask", pair / "mask.nii").exit_code == 0


def test_verify_with_an_extractor(pair: Path) -> None:
    put(pair / "found.nii.gz", mask_bytes(BRAIN))
    tool = f"command:sh -c 'test -f {{input}} && cp {pair / 'found.nii.gz'} {{mask}}'"
    assert run("verify", pair / "scan.nii", pair / "new.nii", "--brain-extractor", tool).exit_code == 0


def test_verify_says_nothing_of_a_result_by_what_is_no_brain(pair: Path) -> None:
    put(pair / "found.nii.gz", mask_bytes(leaking()))
    tool = f"command:sh -c 'test -f {{input}} && cp {pair / 'found.nii.gz'} {{mask}}'"
    ran = run("verify", pair / "scan.nii", pair / "new.nii", "--brain-extractor", tool)
    assert ran.exit_code == 1 and not ran.stdout
    assert "command:sh found no plausible brain" in ran.stderr and "--brain-mask" in ran.stderr


@pytest.mark.thorough
def test_demo(tmp_path: Path) -> None:
    for _ in range(2):  # the second run replaces the files of the first
        ran = run("demo", tmp_path / "new" / "demo")
        assert ran.exit_code == 0, ran.output
    names = {"example_T1w.nii.gz", "deidentified_T1w.nii.gz", "before_after.png"}
    assert {p.name for p in (tmp_path / "new" / "demo").iterdir()} == names
    assert all(name in ran.stdout for name in names) and ran.stdout.endswith("\nverified\n")


def test_demo_in_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = contents(tmp_path)
    assert_refused(run("demo", tmp_path / "file"), tmp_path, before, "cannot be made", "choose another")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["series 5 (T1 [/CE])", "series 6 (MPRAGE [post])", "sub-01 [bold].nii"])
def test_names_of_series_and_files_are_shown_on_terminals_as_they_are(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    with status() as tell:
        tell(name)
    assert name in screen.getvalue()


def test_version() -> None:
    assert run("--version").stdout == f"cpmae {cpmae.__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    heavy = ["torch", "matplotlib", "nibabel", "scipy", "numpy"]
    code = (
        "import sys; from cpmae.cli import app\n"
        "try: app(sys.argv[1:])\n"
        f"except SystemExit: print([m for m in {heavy} if m in sys.modules])"
    )
    for arguments in (["--help"], ["deidentify", "--help"], ["train", "--help"], ["--version"]):
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines()[-1] == "[]"


def test_the_package_gives_what_it_names() -> None:
    for name in cpmae.__all__:
        assert getattr(cpmae, name) is not None
    with pytest.raises(AttributeError, match="anything"):
        _ = cpmae.anything
