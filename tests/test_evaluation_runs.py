"""Whole runs: the files they leave, how they go on, what they do with bad scans; and the conditions of sensitivity."""

import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import phantom
import pytest
from conftest import full_disk, put
from typer.testing import CliRunner, Result

from cpmae import __version__, canonical, pipeline
from cpmae.cli import app
from cpmae.errors import BrainMaskError, MethodError, OutputError, ScanError, SettingsError
from cpmae.evaluation import attack_network, baselines, identities, perturb, report, runs, segmenters, sensitivity
from cpmae.evaluation.attack_network import NetworkSettings
from cpmae.evaluation.attackers import Training
from cpmae.evaluation.downstream import _write_map, downstream
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.population import Scan
from cpmae.evaluation.results import Results
from cpmae.evaluation.work import Cache, Failure
from cpmae.volume import Volume

ROW = ["method", "attacker", "rank1", "rank1_ci", "rank5", "auc", "eer", "chance", "n"]
AGREEMENT_ROW = ["method", "segmenter", "structure", "dice", "hd95_mm", "volume_diff", "scan"]
SEGMENT = """
import sys, nibabel, numpy
image = nibabel.load(sys.argv[1])
data = numpy.asarray(image.dataobj)
labels = (data > 60).astype("u1") + (data > 140)
nibabel.Nifti1Image(labels, image.affine).to_filename(sys.argv[2])
"""
DATA, BRAIN = phantom.head()
HEAD = HeadScan(Volume(np.rint(DATA).astype(np.int16), phantom.ras_affine()), BRAIN)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def people(tmp_path: Path) -> tuple[Path, str]:
    """Three persons as phantoms with two scans each, a fourth's unreadable; and an extractor that knows them."""
    mask = put(tmp_path / "mask.nii.gz", phantom.nifti_bytes_of(BRAIN.astype(np.uint8), phantom.ras_affine()))
    for number in range(3):
        for session in (1, 2):
            rng = np.random.default_rng([number, 0])
            blocks = np.exp(0.3 * rng.standard_normal((8, 9, 8))).repeat(7, 0).repeat(8, 1).repeat(8, 2)
            other = np.where(BRAIN, DATA, DATA * blocks)
            noise = np.random.default_rng([number, session]).normal(0, 2, DATA.shape)
            stored = np.clip(other + noise, 0, 3000).astype(np.int16)
            path = tmp_path / "bids" / f"sub-0{number}" / f"sub-0{number}_ses-{session}_T1w.nii"
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path, phantom.nifti_bytes_of(stored, phantom.ras_affine()))
    for session in (1, 2):
        path = tmp_path / "bids" / "sub-bad" / f"sub-bad_ses-{session}_T1w.nii"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no scan at all")
    copy = f"command:{sys.executable} -c \"import shutil, sys; shutil.copy('{mask}', sys.argv[2])\" {{input}} {{mask}}"
    return tmp_path / "bids", copy


def test_reidentify_on_a_data_set_writes_all_in_a_page_too_and_goes_on(
    people: tuple[Path, str], tmp_path: Path
) -> None:
    folder, extractor = people
    out = tmp_path / "out"
    arguments = [folder, "--out", out, "--methods", "original,black", "--attackers", "volume,surface,brain"]
    arguments += ["--brain-extractor", extractor, "--workers", 1]
    ran = run("reidentify", *arguments)
    assert ran.exit_code == 0, ran.output
    assert "sub-bad_ses-1_T1w.nii" in ran.stderr  # reported, and not fatal
    found = json.loads((out / "results.json").read_text())
    assert [list(row) for row in found["rows"]] == [ROW] * 6
    by = {(r["method"], r["attacker"]): r for r in found["rows"]}
    assert by["ORIGINAL", "volume"]["rank1"] == 1 and by["ORIGINAL", "volume"]["n"] == 3
    assert by["BLACK", "volume"]["rank1"] == pytest.approx(1 / 3) == by["BLACK", "volume"]["chance"]
    assert {f["scan"] for f in found["failures"]} == {"sub-bad_ses-1_T1w.nii", "sub-bad_ses-2_T1w.nii"}
    assert found["settings"]["seed"] == 0 and found["versions"]["cpmae"] and len(found["data"]) == 8
    assert (out / "rows.csv").read_text().splitlines()[0] == ",".join(ROW)
    assert_whole_in_itself_and_without_real_heads(out)
    # a run that was killed: one item is missing, the others stay as they are
    items = {p: p.stat().st_mtime_ns for p in (out / "cache").iterdir()}
    gone = next(p for p in items if "sub-01_ses-1" in p.name)
    gone.unlink()
    ran = run("reidentify", *arguments)
    assert ran.exit_code == 0, ran.output
    changed = [p for p in (out / "cache").iterdir() if p.stat().st_mtime_ns != items[p]]
    assert changed == [gone]
    assert json.loads((out / "results.json").read_text())["rows"] == found["rows"]


def assert_whole_in_itself_and_without_real_heads(out: Path) -> None:
    text = (out / "report.html").read_text()
    assert "data:image/png;base64," in text
    assert not re.search(r"(src|href)=\"(?!data:)", text) and "<script" not in text and "@import" not in text
    assert "Synthetic heads" not in text
    assert not list(out.rglob("*.png"))


@pytest.mark.thorough
def test_downstream_compares_scans_and_rescans(people: tuple[Path, str], tmp_path: Path) -> None:
    folder, extractor = people
    script = tmp_path / "segment.py"
    script.write_text(SEGMENT)
    out = tmp_path / "out"
    shutil.copy(folder / "sub-00" / "sub-00_ses-1_T1w.nii", folder / "sub-00" / "sub-00_ses-1_T2w.nii")
    ran = run("downstream", folder, "--out", out, "--methods", "ORIGINAL,BLACK", "--segmenters", "",
              "--segmenter", f"levels={sys.executable} {script} {{in}} {{out}}",
              "--brain-extractor", extractor, "--workers", 1)  # fmt: skip
    assert ran.exit_code == 0, ran.output
    found = json.loads((out / "results.json").read_text())
    assert all(list(row) == AGREEMENT_ROW for row in found["rows"])
    dices = {m: [r["dice"] for r in found["rows"] if r["method"] == m] for m in ("ORIGINAL", "BLACK", "RESCAN")}
    assert len(dices["ORIGINAL"]) == 6 and set(dices["ORIGINAL"]) == {1.0}
    assert 0 < np.mean(dices["BLACK"]) < np.mean(dices["RESCAN"]) < 1
    assert len(found["failures"]) == 1
    assert [item["what"] for item in found["skipped"]] == ["sub-00_ses-1_T2w.nii"] and "T2w.nii: not as" in ran.stderr
    assert (out / "flips_BLACK_levels.nii.gz").exists() and (out / "structures.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "pixelate"], "there is no method 'pixelate'"),
        (["--attackers", "psychic"], "there is no attacker 'psychic'"),
        (["--method", "x=true"], "is not of the form"),
        (["--label-maps", "/nowhere"], "holds no label map"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(arguments: list[str], says: str, tmp_path: Path) -> None:
    ran = run("reidentify", "--synthetic", 2, "--out", tmp_path / "out", *arguments)
    assert ran.exit_code == 1 and says in ran.stderr and "Traceback" not in ran.stderr


def test_what_shows_original_faces_lies_in_no_result(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "GeneratedBy": [{"Name": "cpmae"}]}')
    for command in ("reidentify", "downstream", "sensitivity"):
        ran = run(command, "--synthetic", 2, "--out", tmp_path / "derivatives" / "out")
        assert ran.exit_code == 1 and "would show the original face" in ran.stderr, command
    assert not (tmp_path / "derivatives").exists()


@pytest.mark.parametrize(("factors", "attackers"), [(["hair"], None), (None, ["SQN adaptive"])])
def test_names_that_sensitivity_does_not_know_are_wrong_settings(
    factors: list[str] | None, attackers: list[str] | None, tmp_path: Path
) -> None:
    options = runs.EvaluationOptions(tmp_path / "out")
    with pytest.raises(SettingsError):
        runs.run_sensitivity(options, (), 2, factors, attackers, None, None, "*", print)
    assert not (tmp_path / "out").exists()


def test_masks_and_derivatives_of_a_data_set_are_no_scans_unless_they_are_asked_for(tmp_path: Path) -> None:
    scan = tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz"
    mask = scan.with_name("sub-1_desc-brain_mask.nii.gz")
    made = tmp_path / "derivatives" / "tool" / "sub-1_desc-clean_T1w.nii.gz"
    hidden = tmp_path / ".git" / "annex" / "sub-1_T1w.nii.gz"
    for path in (scan, mask, made, hidden):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert runs.files_of([tmp_path], "*.nii*") == [scan]
    assert runs.files_of([tmp_path / "derivatives", mask], "*.nii*") == [made, mask]
    with pytest.raises(ScanError, match="no scan that matches"):
        runs.files_of([tmp_path / ".git" / ".."], "*_mask.nii.gz")


def test_label_maps_are_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities.synth, "load_anatomy", lambda path: np.zeros((4, 4, 4), np.uint8))  # it takes 10 s
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "one.nii").write_bytes(b"a label map")

    def prepared() -> tuple[Path, int]:
        (head,) = identities.prepare(tmp_path / "maps", tmp_path / "cache", 0).heads
        return head, head.stat().st_ino  # of another file, if it is written again

    assert prepared() == prepared()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    results = Results("downstream", {}, {}, "nobody")
    pictures = np.zeros((4, 3, 32, 32), np.uint8)
    settings = NetworkSettings(steps=1, batch=2, width=2, pixels=32)
    numbers = {"x": np.arange(1000)}
    share = np.random.default_rng(0).random((9, 9, 9), np.float32)
    writers = {
        "results.json": lambda: report.write(results, tmp_path),
        "item-": lambda: Cache(tmp_path).save(numbers, "item"),
        "network.pt": lambda: attack_network.train((pictures, pictures), settings, tmp_path / "network.pt", print),
        "map.nii.gz": lambda: _write_map(share, tmp_path / "map.nii.gz"),
    }
    for name, write in writers.items():
        with full_disk(), pytest.raises(OutputError, match=rf"{name}.*cannot be written"):
            write()
        assert not list(tmp_path.iterdir())
        write()
        assert list(tmp_path.glob(f"{name}*"))
        for path in tmp_path.iterdir():
            path.unlink()


def test_scans_and_synthetic_together_are_refused(tmp_path: Path) -> None:
    assert run("reidentify", tmp_path, "--synthetic", 2, "--out", tmp_path / "out").exit_code == 2
    assert run("downstream", tmp_path, "--synthetic", 2, "--out", tmp_path / "out").exit_code == 2


@pytest.mark.thorough
def test_identities_are_people_and_rescans_are_no_copies(tmp_path: Path) -> None:
    recipe = identities.prepare(None, tmp_path, seed=3)
    one, again = identities.identity(recipe, 0)
    other, _ = identities.identity(recipe, 1)
    assert one.volume.shape == again.volume.shape and one.volume.data.dtype == np.int16
    assert not np.array_equal(one.volume.data, again.volume.data)
    identities.identity.cache_clear()
    assert np.array_equal(identities.identity(recipe, 0)[0].volume.data, one.volume.data)  # the number decides
    depths = [_front(h) for h in (one, again, other)]
    apart = [np.nanmean(np.abs(d - np.nanmedian(d))) for d in (depths[0] - depths[1], depths[0] - depths[2])]
    assert apart[0] < 0.6 * apart[1]


def _front(head: HeadScan) -> np.ndarray:
    from cpmae.evaluation.render import brain_frame, depth_maps, face, framed_surface

    frame = brain_frame(canonical.align(head.brain, head.volume.affine))
    return face(depth_maps(framed_surface(head.volume, frame)))


def ml(mask: np.ndarray) -> float:
    return float(mask.sum()) * float(np.prod(phantom.VOXEL_MM)) / 1000


def applied(name: str, level: object) -> tuple[HeadScan, np.ndarray]:
    return getattr(perturb, name)(HEAD, level, np.random.default_rng(0))


def test_masks_are_wrong_as_they_say() -> None:
    true = HEAD.brain
    assert (applied("eroded", 4)[1] <= true).all() and ml(applied("eroded", 4)[1]) < 0.9 * ml(true)
    assert (applied("dilated", 4)[1] >= true).all() and ml(applied("dilated", 4)[1]) > 1.1 * ml(true)
    assert ml(applied("lobe_cut", 0.2)[1]) == pytest.approx(0.8 * ml(true), rel=0.03)
    moved = applied("shifted", 10)[1]
    centres = [np.argwhere(m).mean(axis=0) * phantom.VOXEL_MM for m in (true, moved)]
    np.testing.assert_allclose(centres[1] - centres[0], [0, 10, 0], atol=1.5)
    leak = applied("leaked", 12)[1] & ~true
    assert ml(leak) == pytest.approx(2 * 4 / 3 * np.pi * 12**3 / 1000, rel=0.4)
    assert np.argwhere(leak)[:, 1].min() > 40  # in front


def test_scans_are_unusual_as_they_say() -> None:
    assert np.linalg.norm(applied("resampled", "1x1x5")[0].volume.affine[:3, :3], axis=0) == pytest.approx([1, 1, 5])
    coarse = applied("resampled", "5")[0]
    assert coarse.volume.voxel_sizes == pytest.approx([5, 5, 5])
    assert coarse.brain.sum() * 125 == pytest.approx(1000 * ml(HEAD.brain), rel=0.1)
    air = (slice(0, 4),) * 3
    assert applied("noisy", 0.2)[0].volume.data[air].std() > 2 * HEAD.volume.data[air].std()
    turned = applied("tilted", 20)[0].volume
    assert np.array_equal(turned.data, HEAD.volume.data)
    assert turned.affine[1, 2] == pytest.approx(3 * np.sin(np.deg2rad(20)))
    assert applied("cut", 60)[0].volume.shape[2] < phantom.SHAPE[2]
    grey = {k: applied("contrast", k)[0].volume.data for k in ("T2w-like", "FLAIR-like")}
    ventricle, tissue = (slice(24, 26), slice(34, 38), slice(41, 43)), (slice(14, 18), slice(30, 34), slice(41, 43))
    assert grey["T2w-like"][ventricle].mean() > grey["T2w-like"][tissue].mean()
    assert grey["FLAIR-like"][ventricle].mean() < grey["FLAIR-like"][tissue].mean()
    assert len(perturb.conditions()) > 35 and len(perturb.conditions(quick=True)) == 1 + len(perturb.FACTORS)


def test_a_refusal_is_kept_and_what_this_machine_lacks_is_not(tmp_path: Path) -> None:
    def given(mask: np.ndarray) -> perturb.Condition:
        return perturb.Condition("mask", str(mask.sum()), lambda head, rng: (head, mask))

    def computed(mask: np.ndarray, weights: Path | None) -> tuple[list[str], int]:
        cache, scan = Cache(tmp_path / "cache"), Scan("phantom", {}, lambda: HEAD, True)
        task = sensitivity.ConditionTask(scan, (given(mask),), (), weights, "", 1, cache)
        failures = sensitivity.compute_conditions(task)
        return [f.reason for f in failures], len(list(cache.folder.glob("*.npz")))

    reasons, kept = computed(BRAIN, tmp_path / "no.safetensors")
    assert len(reasons) == 1 and "no.json" in reasons[0] and not kept
    assert computed(np.zeros_like(BRAIN), None) == ([], 1)


def test_a_segmenter_that_fails_on_the_scan_before_is_a_failure_and_no_dice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blackened(volume: Volume, *, brain_mask: np.ndarray, **asked: object) -> SimpleNamespace:
        stored = np.where(brain_mask, volume.data, 0).astype(volume.data.dtype)
        return SimpleNamespace(image=SimpleNamespace(stored=stored))  # the pipeline takes a minute for all of these

    monkeypatch.setattr(pipeline, "deidentify", blackened)
    marked = HEAD.volume.data.copy()
    marked[0, 0, 0] = 999
    scans = [
        Scan("plain", {"n": 1}, lambda: HEAD, True),
        Scan("marked", {"n": 2}, lambda: HeadScan(Volume(marked, HEAD.volume.affine), BRAIN), True),
    ]
    whole_heads = []

    def fussy(volume: Volume) -> np.ndarray:
        if (volume.data[~BRAIN] > 0).any():
            whole_heads.append(volume)
        if volume.data[0, 0, 0] == 999:
            raise MethodError("a mark")
        return volume.data > 100

    chosen = [segmenters.Segmenter("fussy", fussy, {}, {"name": "fussy"})]
    wanted = [
        c for c in perturb.conditions() if c.level in ("0", "4", "8") and c.factor.startswith(("none", "mask er"))
    ]
    training = Training(identities.Recipe("nothing", (), 0, ()), 4, 4, NetworkSettings(), Cache(tmp_path), 1, 0)

    def measured(tested: list[Scan]) -> Results:
        results = Results("sensitivity", {}, {}, "")
        sensitivity.sensitivity(tested, wanted, chosen, [], None, training, results, lambda text: None)
        return results

    alone = [row["dice fussy"] for row in measured(scans[:1]).rows]
    assert len(alone) == 3 and alone[0] > alone[1] > alone[2] > 0.2
    assert len(whole_heads) == 1  # what is found in the scan before is found once, whatever the mask
    for _ in range(2):  # a later run, which finds all kept, says the same
        both = measured(scans)
        assert [row["dice fussy"] for row in both.rows] == alone and {row["n"] for row in both.rows} == {2}
        assert both.failures == [Failure("marked", "fussy before de-identification", "a mark")]
    assert [row["dice fussy"] for row in measured(scans[1:]).rows] == [None] * 3


def test_another_way_of_drawing_finds_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, (condition, *_) = Scan("phantom", {}, lambda: HEAD, True), perturb.conditions()
    task = sensitivity.ConditionTask(scan, (condition,), (), None, "", 1, Cache(tmp_path))
    before = sensitivity._key(task, condition)
    monkeypatch.setattr(sensitivity, "DRAWING", sensitivity.DRAWING + 1)
    assert sensitivity._key(task, condition) != before


def test_a_segmenter_that_finds_nothing_after_a_method_agrees_with_nothing(tmp_path: Path) -> None:
    def front(volume: Volume) -> np.ndarray:
        return (volume.data > 60) & ~BRAIN

    def broken(volume: Volume) -> np.ndarray:
        raise MethodError("no memory")

    def extractor(volume: Volume) -> np.ndarray:
        if not front(volume).any():
            raise BrainMaskError("no brain in the scan")
        return BRAIN

    chosen = [segmenters.Segmenter(f.__name__, f, {}, {"name": f.__name__}) for f in (front, broken, extractor)]
    methods, _ = baselines.resolve(["ORIGINAL", "BLACK"], (), None, None)
    pairs = [(Scan("phantom", {}, lambda: HEAD, True), Scan("again", {}, lambda: HEAD, True))]
    for _ in range(2):  # a later run, which finds all kept, says the same
        results = Results("downstream", {}, {}, "")
        downstream(pairs, methods, chosen, Cache(tmp_path), 0, 1, results, tmp_path, lambda text: None)
        table = {(r["method"], r["segmenter"]): r for r in results.to_json()["tables"]["methods"]}
        for segmenter in ("front", "extractor"):
            lost = table["BLACK", segmenter]
            assert (lost["scans"], lost["mean_dice"], lost["lowest_dice"], lost["failures"]) == (1, 0, 0, 1)
            assert table["ORIGINAL", segmenter]["mean_dice"] == 1 and not table["ORIGINAL", segmenter]["failures"]
        for method in ("ORIGINAL", "BLACK", "RESCAN"):  # asked for, and never done
            assert table[method, "broken"]["scans"] == 0 and table[method, "broken"]["mean_dice"] is None
        steps = sorted(f.step for f in results.failures)
        assert steps == ["broken on the untouched scan", "extractor after BLACK", "front after BLACK"]


def test_another_version_of_a_segmenter_finds_nothing_kept() -> None:
    (segmenter,), _ = segmenters.resolve(["deepbet"], (), None)
    assert segmenter.key["versions"] == {"cpmae": __version__, "deepbet": metadata.version("deepbet")}


@pytest.mark.slow
def test_quick_runs_of_all_three_commands(tmp_path: Path) -> None:
    """What CI runs where it has minutes: the whole way with the model, no data but the package's own."""
    runs = (("reidentify", ["--synthetic", 6]), ("downstream", []), ("sensitivity", ["--attackers", "SQN"]))
    for command, more in runs:
        out = tmp_path / command
        ran = run(command, "--quick", "--out", out, *more)
        assert ran.exit_code == 0, ran.output
        found = json.loads((out / "results.json").read_text())
        assert found["rows"] and "packaged example head" in found["population"]
        assert "Synthetic heads" in (out / "report.html").read_text() or command != "reidentify"
    for row in found["rows"]:  # promises 1 and 2 hold whatever the mask and the scan
        assert row["refused"] == 1 or (row["exact"] == 1 and row["unleaking"] == 1), row
