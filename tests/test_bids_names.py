"""BIDS names come back as they were, filters and labels choose among them, and masks are taken over by the rule."""

import os
from functools import partial
from pathlib import Path, PurePosixPath

import bids_data
import nibabel as nib
import numpy as np
import pytest
from conftest import refused_to_nobody

from cpmae.bids import plan
from cpmae.bids.dataset import dated_labels
from cpmae.bids.session_mask import Grid, mask_for, same_frame
from cpmae.errors import ScanError
from cpmae.io import bids

COUNT = 12  # scans in the data set


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[bids.Scan, ...]:
    root = tmp_path_factory.mktemp("bids")
    bids_data.make(root)
    return bids.find(root).scans


GRID = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]), 1)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]), 0), 1000),  # the same grid, whatever the code
        (Grid((40, 20, 20), np.diag([1.0, 2, 2, 1]), 1), 500),  # half the size along x, the same frame
        (Grid((40, 20, 20), np.diag([1.0, 2, 2, 1]), 4), None),  # another frame
        (Grid((40, 20, 20), np.diag([1.0, 2, 2, 1]), 0), None),  # no frame
        (Grid((20, 20, 20), np.array([[2.0, 0, 0, 30], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), 1), None),  # cut
    ],
)
def test_a_mask_is_taken_over_by_the_rule(tmp_path: Path, other: Grid, expected: int | None) -> None:
    mask = np.zeros(other.shape, np.uint8)
    mask[5:15, 5:15, 5:15] = 1
    nib.Nifti1Image(mask, other.affine).to_filename(tmp_path / "mask.nii")
    found = mask_for(GRID, other, tmp_path / "mask.nii")
    assert (None if found is None else int(found.sum())) == expected


@pytest.mark.parametrize(("code", "one"), [(1, True), (2, False), (3, True), (4, True), (5, False)])
def test_a_code_is_a_frame_if_it_says_which(code: int, one: bool) -> None:
    """Two files that are aligned (2), or in another template's space (5), may be so to two things."""
    grid, other = Grid((20, 20, 20), np.eye(4), code), Grid((20, 20, 10), np.diag([1.0, 1, 2, 1]), code)
    assert same_frame(grid, other) == one
    assert same_frame(grid, grid)


@pytest.mark.parametrize(("part", "expected"), [([0], None), ([1, 2, 3], 19 * 20 * 20)])
def test_a_voxel_is_brain_if_half_of_it_is(tmp_path: Path, part: list[int], expected: int | None) -> None:
    """Of each voxel's four slices of the other scan the first lies in its centre, and is a quarter of it.

    Half of the first voxel along x is outside of what the other one shows.
    """
    other = Grid((80, 20, 20), np.diag([0.5, 2, 2, 1]), 1)
    mask = np.zeros(other.shape, np.uint8)
    for first in part:
        mask[first::4] = 1
    nib.Nifti1Image(mask, other.affine).to_filename(tmp_path / "mask.nii")
    found = mask_for(GRID, other, tmp_path / "mask.nii")
    assert (None if found is None else int(found.sum())) == expected


QUERIES = [
    ({"t1w": {"suffix": "T1w"}}, 1),
    ({"a": {"datatype": "anat", "inversion": None}}, 3),
    ({"a": {"run": 2}, "b": {"suffix": ["dwi", "asl"]}}, 3),
    ({"a": {"session": "1", "inv": "02"}}, 1),
    ({"a": {"suffix": "T1w", "extension": ".nii.gz"}}, 1),
    ({"a": {"suffix": "T1w", "extension": ["nii.gz", ".nii"]}}, 1),
    ({"a": {"suffix": "T1w", "extension": "nii"}}, 0),
    ({}, 0),
]


@pytest.mark.parametrize(("queries", "count"), QUERIES)
def test_filters_choose_scans_by_their_entities(scans: tuple, queries: dict, count: int) -> None:
    assert len(bids.choose(scans, queries=queries)) == count


def test_labels_choose_subjects_and_sessions(scans: tuple) -> None:
    assert len(bids.choose(scans, ["01"], ["ses-1"])) == len(bids.choose(scans, ["sub-01"])) == COUNT
    with pytest.raises(ScanError, match="no scan of sub-7"):
        bids.choose(scans, ["01", "7"])
    with pytest.raises(ScanError, match="'sizzle', which is not an entity"):
        bids.choose(scans, queries={"a": {"sizzle": 1}})


NAMES = ["sub-01_T1w.nii.gz", "sub-a_ses-b_task-c_acq-d_run-01_echo-2_part-mag_bold.nii", "task-rest_bold.json"]


@pytest.mark.parametrize("text", NAMES)
def test_names_come_back_as_they_were(text: str) -> None:
    assert str(bids.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["T1.nii.gz.bak", "sub-01_sub-02_T1w.nii", "sub-01_who-jane_T1w.nii", "a b_T1w.nii", ""]
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert bids.parse(text) is None


def test_masks_and_results_never_share_a_name() -> None:
    suffixes = [(d, s) for d, names in bids.SUFFIXES.items() for s in names]
    entities = ["", "acq-a_", "run-1_", "echo-1_", "echo-2_", "inv-1_flip-2_mt-on_", "part-mag_", "part-phase_"]
    texts = [(d, f"sub-1_{'task-x_' if d == 'func' else ''}{e}{s}.nii.gz") for d, s in suffixes for e in entities]
    scans = [bids.Scan(PurePosixPath("sub-1", d, t), bids.parse(t), d) for d, t in texts]  # type: ignore[arg-type]
    masks = [plan.mask_path(scan, "derivative") for scan in scans]
    names = masks + [plan.derivative(scan) for scan in scans]
    assert len(set(names)) == len(names) and len(names) > 400


DATED = ["20230405", "05042023", "04052023", "230405", "050423", "2023Apr05", "05Apr2023", "w20191231", "202304051011"]
DATED += ["140270JD"]
PLAIN = ["01", "pre", "123456", "20301399", "baseline", "b1000", "2p5mm", "999999", "1", "4471234", "MPRAGE20"]


@pytest.mark.parametrize("label", DATED + PLAIN)
@pytest.mark.parametrize("entity", ["sub", "ses"])
def test_labels_that_may_be_days_are_told_of(entity: str, label: str) -> None:
    name = f"sub-{label}_T1w.nii" if entity == "sub" else f"sub-x_ses-{label}_T1w.nii"
    scans = [bids.Scan(PurePosixPath(name), bids.parse(name), "anat")]  # type: ignore[arg-type]
    assert dated_labels(scans) == ([f"{entity}-{label}"] if label in DATED else [])


def test_folders_behind_links_are_looked_through(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    bids_data.make(root)
    subject = sorted(root.glob("sub-*"))[0]
    before = [scan.path for scan in bids.find(root).scans]
    subject.rename(tmp_path / "elsewhere")
    subject.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "elsewhere")  # and do not end there
    assert [scan.path for scan in bids.find(root).scans] == before
    for name in ("one", "two"):  # two links to one place are two folders
        (tmp_path / "elsewhere" / name).symlink_to(tmp_path / "elsewhere" / "ses-1" / "anat")
    others = [path.as_posix() for path in bids.find(root).others]
    assert all(any(f"/{name}/" in path for path in others) for name in ("one", "two"))


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path: Path) -> None:
    bids_data.make(tmp_path / "bids")
    closed = sorted((tmp_path / "bids").glob("sub-*"))[0]
    closed.chmod(0o700 if os.geteuid() == 0 else 0)
    try:
        ask = partial(bids.find, Path("bids"))
        assert refused_to_nobody(ask, tmp_path, ScanError, f"{closed.name} cannot be read")
    finally:
        closed.chmod(0o700)
