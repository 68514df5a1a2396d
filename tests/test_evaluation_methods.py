"""Methods do what they say; commands and names that are wrong are refused by name."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import phantom
import pytest

from cpmae import extras
from cpmae.errors import MethodError, MissingExtraError, ScanError
from cpmae.evaluation import baselines, commands, names, population, segmenters
from cpmae.evaluation.facemask import face_mask
from cpmae.evaluation.identities import HeadScan
from cpmae.volume import Volume

COPY = f'{sys.executable} -c "import shutil, sys; shutil.copy(*sys.argv[1:])" {{in}} {{out}}'


def head_in(orientation: str = "RAS") -> HeadScan:
    data, affine = phantom.turned(phantom.head()[0], orientation)
    return HeadScan(Volume(np.rint(data).astype(np.int16), affine), phantom.turned(phantom.head()[1], orientation)[0])


HEAD = head_in()
NOSE = (slice(28, 36), slice(66, 70), slice(24, 28))


def method(name: str, **options) -> baselines.Method:  # noqa: ANN003
    found, skipped = baselines.resolve([name], [], options.get("shells"), None)
    if skipped:
        pytest.skip(skipped[0][1])
    return found[0]


def test_original_is_the_scan() -> None:
    assert method("original")(HEAD, 0) is HEAD.volume


def test_black_keeps_the_brain_alone() -> None:
    result = method("BLACK")(HEAD, 0)
    assert not result.data[~HEAD.brain].any()
    np.testing.assert_array_equal(result.data[HEAD.brain], HEAD.volume.data[HEAD.brain])
    assert result.data.dtype == HEAD.volume.data.dtype


@pytest.mark.parametrize("orientation", phantom.ORIENTATIONS)
def test_face_mask_blurs_the_face_and_leaves_the_rest(orientation: str) -> None:
    head = head_in(orientation)
    result = face_mask(head.volume, head.brain)
    changed = np.abs(result.data - head.volume.data) > 20
    np.testing.assert_array_equal(result.data[head.brain], head.volume.data[head.brain])
    places = np.argwhere(changed) @ head.volume.affine[:3, :3].T + head.volume.affine[:3, 3]
    assert len(places) > 300
    assert (places[:, 1] > 0).mean() > 0.95  # in front
    # the back of the head is bit for bit what it was
    world_y = np.tensordot(head.volume.affine[1, :3], np.indices(head.volume.shape), 1) + head.volume.affine[1, 3]
    np.testing.assert_array_equal(result.data[world_y < -20], head.volume.data[world_y < -20])


def test_face_mask_flattens_the_nose() -> None:
    """The nose's tip goes, and tissue of the cheeks comes forward: the face is blurred, not cut."""
    before, after = HEAD.volume.data, face_mask(HEAD.volume, HEAD.brain).data
    tip = (slice(31, 34), slice(68, 70), slice(24, 27))
    assert before[tip].mean() > 100 and after[tip].mean() < 0.6 * before[tip].mean()
    front = (slice(14, 42), slice(45, 70), slice(14, 34))
    assert 0.5 < after[front].sum() / before[front].sum() < 1.5


def test_quickshear_cuts_the_nose_off_and_keeps_the_brain() -> None:
    result = method("QUICKSHEAR")(HEAD, 0)
    assert not result.data[NOSE].any() and HEAD.volume.data[NOSE].mean() > 50
    np.testing.assert_array_equal(result.data[HEAD.brain], HEAD.volume.data[HEAD.brain])


def test_a_command_is_a_method_and_a_segmenter() -> None:
    found, _ = baselines.resolve([], [f"copy={COPY}"], None, None)
    np.testing.assert_array_equal(found[0](HEAD, 0).data, HEAD.volume.data)
    assert found[0].name == "copy"
    chosen, _ = segmenters.resolve([], [f"copy={COPY}"], None)
    labels = Volume(HEAD.brain.astype(np.uint8), HEAD.volume.affine)
    np.testing.assert_array_equal(chosen[0](labels), HEAD.brain)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("copy {in} {out}", "is not of the form"),
        ("=copy {in} {out}", "is not of the form"),
        ("x=copy {in}", "is not of the form"),
    ],
)
def test_commands_of_another_form_are_refused(text: str, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        commands.parse_command(text)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-program-here {in} {out}", "cannot be started"),
        (f"{sys.executable} -c 'raise SystemExit(3)' {{in}} {{out}}", "exit code 3"),
        (f"{sys.executable} -c 0 {{in}} {{out}}", "wrote no {out}"),
        (
            f'{sys.executable} -c "import nibabel as n, numpy as p, sys; '
            'n.Nifti1Image(p.ones((4, 4, 4)), p.eye(4)).to_filename(sys.argv[2])" {in} {out}',
            "another grid",
        ),
    ],
)
def test_commands_that_fail_say_how(command: str, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        commands.run_command(command, HEAD.volume)


def test_commands_run_elsewhere_and_find_files_that_lie_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "copy.py").write_text("import shutil, sys; shutil.copy(*sys.argv[1:])")
    monkeypatch.chdir(tmp_path)
    result = commands.run_command(f"{sys.executable} tools/copy.py {{in}} {{out}}", HEAD.volume)
    assert np.array_equal(result.data, HEAD.volume.data) and [p.name for p in tmp_path.iterdir()] == ["tools"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="/proc is Linux's")
def test_a_stopped_run_leaves_no_child_of_a_wrapper_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = f"sh -c 'sleep 60 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait' {{in}} {{out}}"
    code = f"""
import signal, sys, numpy as np
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
from cpmae.evaluation.commands import run_command
from cpmae.volume import Volume
run_command({command!r}, Volume(np.ones((20, 20, 20), np.float32), np.eye(4)))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(600):
        if pid_file.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    child = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    for _ in range(50):  # until whoever takes on orphans has seen that it ended
        if not child.exists() or child.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the wrapper's child goes on")


def test_unknown_names_are_refused_and_missing_files_skipped(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="PIXELATE.*CP-MAE"):
        baselines.resolve(["PIXELATE"], [], None, None)
    with pytest.raises(MethodError, match="FAST.*deepbet"):
        segmenters.resolve(["FAST"], [], None)
    _, skipped = segmenters.resolve(["MeshNet-18"], [], tmp_path)
    assert "--meshnets" in skipped[0][1]
    pytest.importorskip("niimath")
    found, skipped = baselines.resolve(["AFNI REFACE", "black"], [], tmp_path, None)
    assert [m.name for m in found] == ["BLACK"] and "--shells" in skipped[0][1]


def test_names_are_known_in_any_case_and_once() -> None:
    found, _ = baselines.resolve(["facemask", "Black", "FACE-MASK"], [], None, None)
    assert [m.name for m in found] == ["FACE MASK", "BLACK"]
    assert names.known("attacker", ["DLIB", " sqn", "dlib"], ("SQN", "dlib")) == ["dlib", "SQN"]
    assert names.known("attacker", None, ("SQN", "dlib")) == ["SQN", "dlib"] and not names.known("attacker", [], ("a",))
    with pytest.raises(MethodError, match="no attacker '', choose among SQN, dlib$"):
        names.known("attacker", [""], ("SQN", "dlib"))


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"cpmae\[evaluate\]"):
        extras.require("no_such_module_here", "nothing", "cpmae[evaluate]")
    with pytest.raises(MissingExtraError, match=r"no_such_module_here is not installed.*cpmae\[evaluate\]"):
        extras.package_folder("no_such_module_here", "cpmae[evaluate]")


def test_people_are_found_in_a_folder(tmp_path: Path) -> None:
    for name in (
        "sub-01/ses-1/sub-01_ses-1_T1w.nii",
        "sub-01/ses-2/sub-01_ses-2_T1w.nii",
        "b/1.nii",
        "b/2.nii",
        "c/1.nii",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    people, left_out = population.pairs_in_folder(tmp_path)
    assert [p.name for p in people] == ["b", "sub-01"]
    assert [name for name, _ in left_out] == ["c"]  # it has one scan
    assert people[1].probe.name == "sub-01_ses-1_T1w.nii" and people[1].gallery.name == "sub-01_ses-2_T1w.nii"
    with pytest.raises(ScanError, match="1 persons"):
        population.pairs_in_folder(tmp_path / "sub-01" / "..", pattern="sub-*.nii")
    pairs, _ = population.with_rescans(sorted(tmp_path.rglob("*.nii")))
    assert sum(r is not None for _, r in pairs) == 1 and len(pairs) == 4
    (tmp_path / "c" / "2.nii").symlink_to(tmp_path / "not fetched")
    with pytest.raises(ScanError, match="2.nii cannot be read"):
        population.pairs_in_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DEFACE", "AFNI REFACE"])
def test_niimath_changes_the_face_of_the_example_head(name: str, shared: Path) -> None:
    from importlib import resources

    from cpmae import brain
    from cpmae.io import forms

    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as path:
        volume = forms.read(path).scaled()
    head = HeadScan(volume, brain.extract_brain(volume))
    result = method(name, shells=shared / "peers" / "afni-shells")(head, 0)
    face = np.zeros(volume.shape, bool)
    from cpmae import canonical
    from cpmae.region import protected_voxels

    face = ~protected_voxels(head.brain, volume.affine, canonical.align(head.brain, volume.affine), "face", 0.0)
    tissue = face & (volume.data > 0.3 * np.median(volume.data[head.brain]))
    if name == "DEFACE":
        assert (result.data[tissue] == 0).mean() > 0.6
    else:
        assert (np.abs(result.data - volume.data)[tissue] > 1).mean() > 0.6
    assert np.allclose(result.data[head.brain], volume.data[head.brain], rtol=1e-3)


def test_a_rescan_is_of_the_same_kind_and_further_scans_are_told_of(tmp_path: Path) -> None:
    names = ["sub-1_ses-1_T1w", "sub-1_ses-1_T2w", "sub-1_ses-2_run-1_T1w", "sub-1_ses-3_T1w", "sub-2_T1w", "sub-2_T2w"]
    names += ["sub-3_ses-1_acq-fast_T1w", "sub-3_ses-2_acq-slow_T1w"]
    for name in names:
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
    pairs, left_out = population.with_rescans(sorted(tmp_path.iterdir()))
    assert [(scan.name, again and again.name) for scan, again in pairs] == [
        ("sub-1_ses-1_T1w.nii", "sub-1_ses-2_run-1_T1w.nii"),
        ("sub-2_T1w.nii", None),
        ("sub-3_ses-1_acq-fast_T1w.nii", None),
    ]
    assert {name: reason.split(";")[0] for name, reason in left_out} == {
        "sub-1_ses-1_T2w.nii": "not as sub-1_ses-1_T1w.nii",
        "sub-1_ses-3_T1w.nii": "a further scan of its person, after sub-1_ses-2_run-1_T1w.nii",
        "sub-2_T2w.nii": "not as sub-2_T1w.nii",
        "sub-3_ses-2_acq-slow_T1w.nii": "not as sub-3_ses-1_acq-fast_T1w.nii",
    }


def test_a_person_is_recognised_between_two_scans_of_one_kind_and_by_no_mask(tmp_path: Path) -> None:
    names = ["derivatives/brains/sub-1/sub-1_ses-1_T1w.nii", ".hidden/sub-1_ses-0_T1w.nii"]
    names += ["sourcedata/sub-1/sub-1_ses-0_T1w.nii", "derivatives/brains/sub-1/sub-1_ses-1_desc-brain_mask.nii"]
    names += [f"sub-1/sub-1_ses-{name}.nii" for name in ("1_FLAIR", "1_T1w", "1_T1w_mask", "2_T1w", "3_T1w")]
    names += [f"sub-2/sub-2_ses-{name}.nii" for name in ("1_FLAIR", "1_desc-a_dseg", "1_desc-b_dseg", "2_FLAIR")]
    names += ["sub-3/sub-3_FLAIR.nii", "sub-3/sub-3_T1w.nii", "derivatives/brains/sub-3/sub-3_desc-brain_mask.nii"]
    names += ["anna/first T1.nii", "anna/first flair.nii", "anna/second T1.nii"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    people, left_out = population.pairs_in_folder(tmp_path)
    assert [(p.probe.name, p.gallery.name) for p in people] == [
        ("anna/first T1.nii", "anna/second T1.nii"),
        ("sub-1_ses-1_T1w.nii", "sub-1_ses-2_T1w.nii"),
    ]
    # by another contrast sub-2 could be told from the rest
    assert [(name, reason.split(" are ")[-1]) for name, reason in left_out] == [
        ("sub-2", "t1, as those of others"),
        ("sub-3", "of one kind"),
    ]


def test_people_are_compared_in_the_contrast_that_most_of_them_have_twice(tmp_path: Path) -> None:
    real = tmp_path / "archive"
    for who, contrast in (("1", "T1w"), ("2", "FLAIR"), ("3", "FLAIR"), ("4", "T1w"), ("4", "FLAIR")):
        for session in "12":
            path = real / f"sub-{who}" / f"sub-{who}_ses-{session}_{contrast}.nii"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
    linked = tmp_path / "linked"  # as archives and DataLad have them
    linked.mkdir()
    for folder in real.iterdir():
        (linked / folder.name).symlink_to(folder)
    for root in (real, linked):
        people, left_out = population.pairs_in_folder(root)
        assert [p.probe.name for p in people] == [f"sub-{n}_ses-1_FLAIR.nii" for n in (2, 3, 4)]
        assert [name for name, _ in left_out] == ["sub-1"]


def test_a_tool_that_was_changed_finds_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, settings = tmp_path / "tool.sh", tmp_path / "settings.txt"

    def keys() -> list[dict]:
        asked = [f"x={tool} {settings} {{in}} {{out}}", f"y=tool.sh {settings} {{in}} {{out}}"]
        found = [*baselines.resolve([], asked, None, None)[0], *segmenters.resolve([], asked, None)[0]]
        return [one.key for one in found]

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool.write_text("#!/bin/sh\ncp $2 $3")
    tool.chmod(0o700)
    settings.write_text("a")
    first = keys()
    assert keys() == first
    settings.write_text("b")
    second = keys()
    tool.write_text("#!/bin/sh\ncp $3 $2")
    third = keys()
    assert all(a != b and b != c and a != c for a, b, c in zip(first, second, third, strict=True))


def test_files_too_large_to_be_hashed_are_told_by_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LARGE_BYTES", 2)
    (tmp_path / "model").write_bytes(b"abc")
    before = commands.content_of(tmp_path / "model")
    (tmp_path / "model").write_bytes(b"abcd")
    assert before.startswith("3 bytes") and commands.content_of(tmp_path / "model").startswith("4 bytes")


def test_two_folders_of_meshnets_are_told_apart(tmp_path: Path) -> None:
    keys = []
    for number in range(2):
        folder = tmp_path / str(number) / "model20chan3cls"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text("{}")
        (folder / "colormap.json").write_text('{"labels": ["background", "grey", "white"]}')
        (folder / "model.bin").write_bytes(bytes([number]))
        keys += [segmenters.resolve(["MeshNet-3"], (), tmp_path / str(number))[0][0].key for _ in range(2)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
