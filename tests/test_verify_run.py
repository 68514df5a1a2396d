"""4-D files: an exact brain in other heads passes; one voxel, one volume or one field is enough to fail."""

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom
import pytest
from conftest import put
from numpy.typing import NDArray
from scipy import ndimage
from typer.testing import CliRunner

from cpmae.cli import app
from cpmae.errors import ScanError
from cpmae.io.run import open_run
from cpmae.verify import Verification, verify_files
from cpmae.verify_run import RunVerification, verify_run

COUNT = 4
DATA, BRAIN = phantom.head()
FADING = np.array([1.0, 0.9, 0.6, 0.3])


def other_head() -> NDArray:
    return np.abs(ndimage.affine_transform(phantom.head(seed=7)[0], [0.93, 1.05, 0.97], [2, -3, 1], order=1))


def series(head: NDArray, dtype: str, slope: float, inter: float, seed: int) -> NDArray:
    """The head in volumes that grow darker, each with its own noise; (X, Y, Z, COUNT) stored numbers."""
    rng = np.random.default_rng(seed)
    values = np.abs(head[..., None] * FADING + rng.normal(0, 3, (*head.shape, COUNT)))
    stored = (values - inter) / slope
    if dtype != "float32":
        stored = np.clip(np.rint(stored), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return stored.astype(dtype)


def arrays(storage: tuple[str, float, float] = phantom.STORAGES[1]) -> tuple[NDArray, NDArray]:
    """Stored numbers of an original and of a result with the same brain in another head."""
    original = series(DATA, *storage, seed=1)
    return original, np.where(BRAIN[..., None], original, series(other_head(), *storage, seed=2))


def files(
    folder: Path,
    storage: tuple[str, float, float] = phantom.STORAGES[1],
    change: Callable[[NDArray], None] = lambda stored: None,
    **fields: Any,
) -> tuple[Path, Path]:
    """a.nii and its result b.nii.gz, after `change` of the result's numbers and with other `fields` in its header."""
    original, result = arrays(storage)
    change(result)
    affine, scaling = phantom.ras_affine(), storage[1:]
    first = put(folder / "a.nii", phantom.nifti_bytes_of(original, affine, *scaling))
    return first, put(folder / "b.nii.gz", phantom.nifti_bytes_of(result, affine, *scaling, **fields))


def check(paths: tuple[Path, Path]) -> RunVerification:
    return verify_run(open_run(paths[0]), open_run(paths[1]), BRAIN)


def test_an_exact_brain_in_another_head_passes(tmp_path: Path, storage: tuple[str, float, float]) -> None:
    found = check(files(tmp_path, storage))
    assert found.ok and not found.failures and found.protected_differing == 0
    assert (found.volumes, found.protected_voxels) == (COUNT, int(BRAIN.sum()))
    for shares, most in ((found.outside_equal, 0.3), (found.face_equal, 0.3), (found.face_correlation, 0.95)):
        assert len(shares) == COUNT and all(s is not None and s < most for s in shares)
    assert found.face_distance_mm is not None and 1 < found.face_distance_mm < 20
    assert found.mean_correlation is not None and 0.3 < found.mean_correlation < 0.98


def test_one_voxel_of_one_volume_is_enough(tmp_path: Path) -> None:
    def change(stored: NDArray) -> None:
        stored[(*np.argwhere(BRAIN)[100], 2)] += 1

    found = check(files(tmp_path, change=change))
    assert not found.ok and found.protected_differing == 1 and found.differing_volumes == (2,)
    assert f"1 of {int(BRAIN.sum()) * COUNT} protected voxels" in found.failures[0]


@pytest.mark.parametrize("number", range(COUNT))
def test_one_volume_that_was_moved_is_enough(tmp_path: Path, number: int) -> None:
    original, _ = arrays()

    def change(stored: NDArray) -> None:
        stored[~BRAIN, number] = np.roll(original[..., number], 1, axis=0)[~BRAIN]

    found = check(files(tmp_path, change=change))
    assert found.unchanged_volumes == (number,) and not found.ok


@pytest.mark.parametrize("number", range(COUNT))
def test_one_volume_that_was_left_as_it_was_is_enough(tmp_path: Path, number: int) -> None:
    original, _ = arrays()

    def change(stored: NDArray) -> None:
        stored[..., number] = original[..., number]

    found = check(files(tmp_path, change=change))
    assert found.unchanged_volumes == (number,) and found.outside_equal[number] == 1
    assert f"still the original in 1 of {COUNT} volumes, first in {number}" in found.failures[0]


def test_a_copy_of_a_stripped_run_is_refused_and_an_empty_volume_is_not(tmp_path: Path) -> None:
    stripped = np.where(BRAIN[..., None], arrays()[0], 0)
    stripped[..., 2] = 0
    path = put(tmp_path / "a.nii", phantom.nifti_bytes_of(stripped, phantom.ras_affine()))
    found = check((path, put(tmp_path / "b.nii", path.read_bytes())))
    assert not found.ok and found.unchanged_volumes == (0, 1, 3)


def test_a_copy_of_a_stripped_run_with_a_nan_is_refused(tmp_path: Path) -> None:
    stripped = np.where(BRAIN[..., None], arrays()[0], 0).astype(np.float32)
    stripped[0, 0, 0] = np.nan
    path = put(tmp_path / "a.nii", phantom.nifti_bytes_of(stripped, phantom.ras_affine()))
    found = check((path, put(tmp_path / "b.nii", path.read_bytes())))
    assert not found.ok and found.unchanged_volumes == tuple(range(COUNT))


def test_a_rescaled_original_is_no_other_head(tmp_path: Path) -> None:
    original, _ = arrays()

    def change(stored: NDArray) -> None:
        stored[~BRAIN] = original[~BRAIN] * 1.2

    found = check(files(tmp_path, change=change))
    assert found.unchanged_volumes == tuple(range(COUNT))


def test_a_defaced_result_passes_and_of_a_stripped_original_a_copy_alone_is_refused(tmp_path: Path) -> None:
    def strip(stored: NDArray) -> None:
        stored[~BRAIN] = 0

    first, second = files(tmp_path, change=strip)
    assert check((first, second)).ok
    (tmp_path / "grey").mkdir()
    _, grey = files(tmp_path / "grey", change=lambda stored: stored.__setitem__(~BRAIN, 40))
    found = check((second, grey))
    assert found.ok and found.face_equal == (None,) * COUNT
    stripped = put(tmp_path / "c.nii", gzip.decompress(second.read_bytes()))
    assert not check((second, stripped)).ok


def test_floats_are_compared_by_their_bits(tmp_path: Path) -> None:
    storage = ("float32", 1.0, 0.0)
    original, result = arrays(storage)
    where = (*np.argwhere(BRAIN)[5], 1)
    for one, other, differing in ((np.nan, np.nan, 0), (0.0, -0.0, 1)):
        original[where], result[where] = one, other
        paths = [put(tmp_path / n, phantom.nifti_bytes_of(v, phantom.ras_affine())) for n, v in
                 (("a.nii", original), ("b.nii", result))]  # fmt: skip
        assert check((paths[0], paths[1])).protected_differing == differing


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("codes", {"sform_code": 1}),
        ("units", {"xyzt_units": 2}),
        ("scaling", {"scl_slope": 2.0}),
        ("affine", {"pixdim": [1, 3, 2.8, 3, 9, 0, 0, 0]}),
        ("shape", {"dim": [4, *phantom.SHAPE, COUNT - 1, 1, 1, 1]}),
        ("shape", {"dim": [5, *phantom.SHAPE, 1, COUNT, 1, 1]}),
    ],
)
def test_a_changed_header_fails(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    found = check(files(tmp_path, **fields))
    assert not found.ok and [n for n, same in found.header.items() if not same] == [name]
    assert (found.protected_differing is None) == (fields.get("dim", [4])[0] == 4 and name == "shape")


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    first, second = files(tmp_path)
    raw = bytearray(second.read_bytes())
    raw[-6] ^= 1  # in the checksum at the end
    second.write_bytes(raw)
    with pytest.raises(ScanError, match="truncated or damaged"):
        check((first, second))


def test_a_mask_of_another_shape_is_an_error(tmp_path: Path) -> None:
    run = open_run(files(tmp_path)[0])
    with pytest.raises(ValueError, match="mask has shape"):
        verify_run(run, run, BRAIN[1:])


def test_files_of_three_and_four_axes_go_the_right_way(tmp_path: Path) -> None:
    first, second = files(tmp_path)
    assert isinstance(verify_files(first, second, BRAIN), RunVerification)
    single = put(tmp_path / "c.nii", phantom.nifti_bytes())
    assert isinstance(verify_files(single, single, BRAIN), Verification)
    found = verify_files(single, second, BRAIN)
    assert isinstance(found, RunVerification) and "another shape" in found.failures[0]
    os.link(first, tmp_path / "same.nii")
    same = verify_files(first, tmp_path / "same.nii", BRAIN)
    assert not same.separate_files and "original file itself" in same.failures[0]


def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path: Path) -> None:
    peaks, (original, result) = [], arrays()
    for repeats in (1, 8):
        pair = [put(tmp_path / f"{n}.nii", phantom.nifti_bytes_of(np.tile(v, repeats), phantom.ras_affine()))
                for n, v in (("a", original), ("b", result))]  # fmt: skip
        tracemalloc.start()
        assert check((pair[0], pair[1])).volumes == COUNT * repeats
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < original[..., 0].nbytes


# the command


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["verify", *(str(a) for a in arguments)])


def test_the_command_prints_ranges_and_json(tmp_path: Path) -> None:
    paths = files(tmp_path)
    mask = put(tmp_path / "mask.nii", phantom.nifti_bytes_of(BRAIN.astype(np.uint8), phantom.ras_affine()))
    ran = run(*paths, "--brain-mask", mask)
    assert ran.exit_code == 0, ran.output
    assert f"{int(BRAIN.sum()):,} voxels in each of {COUNT} volumes, 0 differ" in ran.stdout
    assert "equal voxels: " in ran.stdout and ran.stdout.endswith("\nverified\n")
    said = json.loads(run(*paths, "--brain-mask", mask, "--json").stdout)
    assert set(said) == {"ok", *RunVerification.__dataclass_fields__} and said["ok"] is True
    assert len(said["face_equal"]) == COUNT
    ran = run(paths[0], paths[0], "--brain-mask", mask)
    assert ran.exit_code == 1 and "NOT verified: the result is the original file itself" in ran.stdout


def test_the_brain_is_searched_for_in_the_mean(tmp_path: Path) -> None:
    paths = files(tmp_path)
    put(tmp_path / "found.nii.gz", phantom.nifti_bytes_of(BRAIN.astype(np.uint8), phantom.ras_affine()))
    tool = f"command:sh -c 'cp {{input}} {tmp_path / 'mean'} && cp {tmp_path / 'found.nii.gz'} {{mask}}'"
    ran = run(*paths, "--brain-extractor", tool)
    assert ran.exit_code == 0, ran.output
    raw = (tmp_path / "mean").read_bytes()
    put(tmp_path / "mean.nii", gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    seen = open_run(tmp_path / "mean.nii").only().scaled().data
    assert np.allclose(seen, open_run(paths[0]).mean().data, atol=1e-3)
