"""The stages of training, on a tiny population: that they run, resume, and end in weights that are used."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from itertools import repeat
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
import torch
from conftest import full_disk
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from scipy import ndimage
from typer.testing import CliRunner

from cpmae import canonical, faces
from cpmae.cli import app
from cpmae.errors import OutputError, ScanError, SettingsError
from cpmae.models import checkpoint
from cpmae.models.field import control_shape
from cpmae.models.tissue import BRAIN, TISSUES
from cpmae.models.vqvae import COARSE, FINE, code_shape
from cpmae.training import anatomy, data, groupwise, mae, nose, population, scans, stages, synth
from cpmae.training.contrast import draw_contrast, tissue_intensities
from cpmae.training.loop import LoopSettings, train
from cpmae.volume import Volume

EFFORT = groupwise.Effort(1, (10, 0), (10, 0))
STILL = population.DrawSettings(rotation_deg=0, translation_mm=0, scale=0, tight=0, tight_sd=0)
CPU = stages.Hardware(accelerator="cpu", precision="32-true")


def label_map(chin: float) -> np.ndarray:
    """A head of ellipsoids in SynthSeg's labels at 1 mm, RAS, with a neck that reaches the bottom."""
    x, y, z = np.meshgrid(*[np.arange(-n // 2, n // 2, dtype=np.float32) for n in (180, 220, 210)], indexing="ij")

    def inside(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    labels = np.zeros(x.shape, np.int16)
    labels[(np.hypot(x, y + 10) < 45) & (z < 0)] = 507
    labels[inside(0, 0, 30, 80, 96, 75) | inside(0, 45, -30, 45, 45, chin)] = 511
    labels[inside(0, 0, 30, 76, 92, 71)] = 515
    labels[inside(0, 0, 30, 70, 84, 64)] = 24
    labels[inside(0, 0, 30, 66, 80, 60)] = np.where(x < 0, 3, 42)[inside(0, 0, 30, 66, 80, 60)]
    labels[inside(0, 0, 30, 56, 70, 50)] = np.where(x < 0, 2, 41)[inside(0, 0, 30, 56, 70, 50)]
    labels[inside(30, 75, -8, 12, 12, 12) | inside(-30, 75, -8, 12, 12, 12)] = 506
    return labels


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `train synth`: a population of three heads of ellipsoids, and four heads drawn from it."""
    folder = tmp_path_factory.mktemp("training")
    affine = np.eye(4)
    affine[:3, 3] = (-90, -110, -105)
    for number, depth in enumerate((42, 50, 58)):  # chins
        nib.save(nib.Nifti1Image(label_map(depth), affine), folder / f"head-{number}.nii.gz")
    stages.make_population(sorted(folder.glob("*.nii.gz")), folder / "people", 4, 0, effort=EFFORT)
    return folder / "people"


@pytest.mark.thorough
def test_a_drawn_head_is_whole_and_nobodys(people: Path) -> None:
    (one, field), (two, other) = (data.load_example(path) for path in data.head_files(people)[:2])
    assert one.shape == canonical.MODEL_SHAPE and one.dtype == np.uint8
    assert field.shape == (3, *control_shape()) and not torch.equal(field, other)
    assert (one != two).mean() > 0.005
    assert ((one & anatomy.STRUCTURE)[:, :, 0] > 0).sum() > 500  # the neck, at the lowest slice of the grid
    brain = (one & anatomy.IN_BRAIN_MASK) > 0
    assert 0.5e6 < brain.sum() * 8 < 2e6
    assert brain[tuple(o // 2 for o in canonical.GRID_ORIGIN)]


@pytest.mark.thorough
def test_drawing_again_changes_nothing(people: Path) -> None:
    before = {path: path.read_bytes() for path in people.glob("*.npz")}
    data.head_files(people)[1].unlink()
    stages.make_population(sorted(people.parent.glob("*.nii.gz")), people, 4, 0)
    assert {path: path.read_bytes() for path in people.glob("*.npz")} == before


def test_a_population_of_other_label_maps_is_not_gone_on_with(tmp_path: Path) -> None:
    maps, folder = [tmp_path / name for name in ("a.nii", "b.nii")], tmp_path / "people"
    for path in maps:
        path.write_bytes(path.name.encode())
    folder.mkdir()
    population.Population(
        atlas=np.zeros((2, 2, 2), np.uint8),
        mean=torch.zeros(3, 2, 2, 2),
        modes=torch.zeros(1, 3, 2, 2, 2),
        sources=[np.zeros((2, 2, 2), np.uint8)],
        ways_back=[torch.zeros(3, 2, 2, 2)],
        reliefs=np.zeros((2, 2, 2), np.float32),
    ).save(folder / stages.POPULATION)
    box = ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0))
    for _ in range(2):  # the same again goes on
        stages.make_population(maps[::-1], folder, 0, 1, {"a": [box]})
    for changed, asked in {
        "label_maps": (maps[:1], 1, {"a": [box]}),
        "seed": (maps, 2, {"a": [box]}),
        "doubtful": (maps, 1, {}),
    }.items():
        with pytest.raises(SettingsError, match=f"people was begun with {changed} that have changed"):
            stages.make_population(asked[0], folder, 0, *asked[1:])
    (folder / stages.POPULATION).unlink()
    maps[0].write_bytes(b"another map of this name")
    with pytest.raises(SettingsError, match="people was begun with label_maps"):  # before hours of registering
        stages.make_population(maps, folder, 0, 1, {"a": [box]})


def test_label_maps_that_are_too_few_may_be_followed_by_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "load_anatomy", lambda path: np.zeros((2, 2, 2), np.uint8))  # of a real one it takes 5 s
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).write_bytes(b"")
        maps = sorted(tmp_path.glob("*.nii"))
        with pytest.raises(ScanError, match=f"only {len(maps)} label maps have"):
            stages.make_population(maps, tmp_path / "people", 1, 0)


@pytest.mark.thorough
def test_the_atlas_is_symmetric_and_holds_a_brain(people: Path) -> None:
    atlas = population.Population.load(people / "population.npz").atlas
    assert (atlas == atlas[::-1]).mean() > 0.999
    assert 0.5e6 < (atlas == BRAIN).sum() < 2e6
    assert (atlas == TISSUES.index("skin")).sum() > 1e4


def test_a_nose_gets_passages_and_keeps_its_lining_and_symmetry() -> None:
    before = np.full(canonical.GRID_SHAPE, TISSUES.index("bone"), np.uint8)
    x, y, z = canonical.GRID_ORIGIN
    nose_box = np.s_[x - 15 : x + 15, y + 40 : y + 110, z - 75 : z - 30]
    before[nose_box] = TISSUES.index("mucosa")
    after = nose.with_passages(before)
    changed = after != before
    assert (after[changed] == TISSUES.index("air")).all()
    assert 0.2 < changed[nose_box].mean() < 0.5 and changed.sum() == changed[nose_box].sum()
    assert np.array_equal(after, after[::-1])
    assert not changed[x - 1 : x + 1].any()  # the septum
    lined = ndimage.binary_erosion(before == TISSUES.index("mucosa"), iterations=2)
    assert not changed[~lined].any()


@pytest.mark.thorough
def test_a_drawn_face_is_unlike_the_registered_ones_and_like_a_face(people: Path) -> None:
    drawn_from = population.Population.load(people / "population.npz")
    least = faces.least_apart(drawn_from.reliefs)
    assert least > 0.5  # mm; chins differ
    rng = np.random.default_rng(5)
    lowest, highest = STILL.unlike
    drawn = [drawn_from.nearest_face(population.draw(drawn_from, rng, STILL).field) / least for _ in range(6)]
    assert lowest <= min(drawn) and max(drawn) <= highest
    anything = replace(STILL, unlike=(0.0, np.inf))
    drawn = [drawn_from.nearest_face(population.draw(drawn_from, rng, anything).field) / least for _ in range(6)]
    assert min(drawn) < lowest or max(drawn) > highest  # so that the first half says something


@pytest.mark.thorough
def test_one_head_given_twice_is_an_error_and_no_endless_search(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "MAX_TRIES", 3)
    drawn_from = population.Population.load(people / "population.npz")
    twice = replace(drawn_from, reliefs=drawn_from.reliefs[[0, 0, 1]])
    with pytest.raises(ScanError, match="of 3 faces none"):
        population.draw(twice, np.random.default_rng(0))


def test_what_is_doubtful_of_a_head_is_no_part_of_the_template() -> None:
    shape = tuple(n // 2 for n in canonical.GRID_SHAPE)
    box = ((-30.0, 30.0), (60.0, 110.0), (-80.0, -30.0))
    damaged, whole = torch.ones(1, *shape), torch.zeros(1, *shape)
    weights = [groupwise.belief([box]), groupwise.belief([])]
    template = groupwise.mean_template([damaged, whole], [torch.zeros(3, *control_shape())] * 2, weights)
    nose, brain = (
        tuple((mm + o) // 2 for mm, o in zip(place, canonical.GRID_ORIGIN, strict=True))
        for place in ((0, 85, -55), (0, 0, 0))
    )
    assert template[0][nose] < 0.01
    assert template[0][brain] == pytest.approx(0.5, abs=0.01)


def test_a_population_needs_faces(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        stages.make_population([], tmp_path, 1, 0)


@pytest.mark.thorough
def test_a_scan_is_drawn_with_what_a_scanner_adds(people: Path) -> None:
    values, _ = data.load_example(data.head_files(people)[0])
    one, two = (synth.scan(values, np.random.default_rng(s)) for s in (0, 1))
    assert one.image.min() >= 0 and torch.isfinite(one.image).all()
    assert not torch.allclose(one.paints, two.paints)
    assert (one.image - one.clean).std() > 0.003
    assert one.tissue[one.brain].ne(0).all() or (one.tissue[one.brain] == 0).float().mean() < 0.05


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("mae {people} {none} {run} out.safetensors", "vqvae.pt cannot be read"),
        ("mae {people} {damaged} {run} out.safetensors", "vqvae.pt cannot be read"),
        ("vqvae {none} {run}", "none cannot be read (No such file or directory), check the path"),
        ("synth {maps} {run}", "only 2 label maps have a complete face"),
        ("synth {maps} {run} --doubtful {none}/boxes.json", "cannot be read as JSON"),
        ("synth {maps} {run} --doubtful {damaged}/vqvae.pt", "cannot be read as JSON"),
        ("synth {maps} {run} --doubtful {damaged}/list.json", "is not of the form"),
        ("synth {maps} {run} --doubtful {damaged}/flat.json", "is not of the form"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(people: Path, tmp_path: Path, command: str, says: str) -> None:
    damaged, maps = tmp_path / "damaged", tmp_path / "maps"
    damaged.mkdir()
    maps.mkdir()
    (damaged / "vqvae.pt").write_bytes(b"no checkpoint at all")
    (damaged / "list.json").write_text("[1, 2]")
    (damaged / "flat.json").write_text('{"head-0": [[-40, 40]]}')
    for number in range(2):
        (maps / f"head-{number}.nii.gz").symlink_to(people.parent / f"head-{number}.nii.gz")
    folders = {"people": people, "none": tmp_path / "none", "run": tmp_path / "run", "damaged": damaged, "maps": maps}
    ran = CliRunner().invoke(app, ["train", *(word.format(**folders) for word in command.split())])
    assert ran.exit_code == 1 and says in ran.stderr, ran.output
    assert ran.stderr.count("cpmae: ") == 1 and "Traceback" not in ran.output


def test_folders_without_examples_are_refused(tmp_path: Path) -> None:
    for batches in (data.batches, mae.batches, scans.scan_batches):
        with pytest.raises(ScanError, match=r"\.npz\) in"):
            next(batches(tmp_path, 1, 0))  # type: ignore[operator]


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="77"):
        anatomy.to_anatomy(np.full((4, 4, 4), 77), np.zeros((4, 4, 4), bool))


def test_contrast_ties_fat_to_the_brain() -> None:
    """In most drawn contrasts fat outshines muscle, as in T1w and T2w scans alike, and bone is darkest."""
    rng = np.random.default_rng(0)
    paints = np.stack([draw_contrast(rng)[1] for _ in range(200)])
    muscle, bone, fat = paints[:, 4], paints[:, 9], paints[:, 11]
    assert (fat > muscle).mean() > 0.8
    assert (bone < muscle).mean() > 0.9


def test_trains_of_echoes_make_fat_bright() -> None:
    rng = np.random.default_rng(0)
    scans = [tissue_intensities("t2", rng) for _ in range(100)]
    assert np.mean([s["fat"] > s["white matter"] for s in scans]) > 0.5


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_stages_resume_and_end_in_weights(people: Path, tmp_path: Path) -> None:
    run = tmp_path / "vqvae"
    settings = LoopSettings(steps=2, log_every=1)
    stages.train_vqvaes(people, run, settings, CPU, 1, None, 0, palette_scans=4)
    first = torch.load(run / "checkpoint.pt", weights_only=False)
    assert first["step"] == 2
    palette = torch.load(run / "vqvae.pt", weights_only=True)["palette"]
    stages.train_vqvaes(people, run, LoopSettings(steps=4, log_every=1), CPU, 1, None, 1, palette_scans=5)
    again = torch.load(run / "vqvae.pt", weights_only=True)["palette"]
    assert all(torch.equal(again[name], tensor) for name, tensor in palette.items())  # it is not trained once more
    assert [row["step"] for row in rows(run / "losses.csv")] == ["1", "2", "3", "4"]
    out = tmp_path / "new.safetensors"
    stages.train_mae(people, run, tmp_path / "mae", out, settings, CPU, 1, 0, {"note": "a test"})
    assert {"coarse", "fine"} <= set(rows(tmp_path / "mae" / "losses.csv")[0])
    model = checkpoint.load(out)
    assert checkpoint.read_about(out)["note"] == "a test" and "trained_on" not in checkpoint.read_about(out)
    trained = torch.load(run / "vqvae.pt", weights_only=True)["vqvae"]["non_brain.place"]
    torch.testing.assert_close(model.non_brain.place, trained.bfloat16().float())
    assert (model.atlas.labels().numpy() == population.Population.load(people / "population.npz").atlas).mean() > 0.999
    stages.train_mae(people, run, tmp_path / "mae", out, settings, CPU, 1, 0, {})  # the same command goes on
    other = tmp_path / "other"
    shutil.copytree(people, other)
    (other / stages.POPULATION).write_bytes(b"another population")
    with pytest.raises(SettingsError, match="mae was begun with population"):
        stages.train_mae(other, run, tmp_path / "mae", out, settings, CPU, 1, 0, {})
    stages.train_vqvaes(people, run, LoopSettings(steps=5), CPU, 1, None, 0)
    with pytest.raises(SettingsError, match="mae was begun with vqvae"):
        stages.train_mae(people, run, tmp_path / "mae", out, settings, CPU, 1, 0, {})
    with pytest.raises(SettingsError, match="vqvae was begun with population"):
        stages.train_vqvaes(other, run, settings, CPU, 1, None, 0)


@pytest.mark.parametrize(("name", "says"), [("none/new.safetensors", "make it first"), ("new.json", ".safetensors")])
def test_a_place_where_no_weights_can_be_written_is_refused_before_training(
    tmp_path: Path, name: str, says: str
) -> None:
    with pytest.raises(OutputError, match=says):
        stages.train_mae(tmp_path, tmp_path, tmp_path / "mae", tmp_path / name, LoopSettings(steps=1), CPU, 1, 0, {})


class Line(torch.nn.Module):
    """The smallest model that can be trained: a batch is (N, 2), and its loss the distance from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(batch) - 1).square().mean()}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_every_precision_trains(tmp_path: Path, precision: Any) -> None:
    plugin = Precision() if precision == "32-true" else MixedPrecision(precision, "cpu")  # Fabric's words swap 16-mixed
    fabric, model = Fabric(accelerator="cpu", devices=1, plugins=plugin), Line()
    before = model.layer.bias.detach().clone()
    train(fabric, model, lambda step: repeat(torch.ones(4, 2)), tmp_path, LoopSettings(steps=9))
    assert not torch.equal(model.layer.bias, before) and model.layer.bias.isfinite().all()


def test_a_run_that_goes_on_draws_from_where_it_was(tmp_path: Path) -> None:
    asked = []

    def batches(step: int) -> Iterator[torch.Tensor]:
        asked.append(step)
        return repeat(torch.ones(4, 2))

    for steps in (2, 5):
        train(Fabric(accelerator="cpu", devices=1), Line(), batches, tmp_path, LoopSettings(steps=steps))
    assert asked == [0, 2]


def save_codes(path: Path, number: int) -> None:
    fine = torch.zeros(code_shape(FINE), dtype=torch.int64)
    coarse = torch.full(code_shape(COARSE), number)
    mae.save_codes(path, mae.HeadCodes(fine, fine.float(), coarse, fine, torch.ones_like(fine, dtype=torch.bool)))


@pytest.mark.thorough
def test_from_another_step_on_other_examples_are_drawn(people: Path, tmp_path: Path) -> None:
    for number in range(8):
        save_codes(tmp_path / f"{number}.npz", number)

    def drawn(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return next(data.batches(people, 1, 3, step)).image, next(mae.batches(tmp_path, 8, 3, step)).coarse

    first, again, later = drawn(0), drawn(0), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, later, strict=True))


def test_codes_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError):
        save_codes(tmp_path / "0.npz", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["checkpoint.pt", "losses.csv"])
def test_a_full_disk_stops_training_with_a_sentence(tmp_path: Path, name: str) -> None:
    def run() -> None:
        settings = LoopSettings(steps=3, log_every=1 if name == "losses.csv" else 99)
        train(Fabric(accelerator="cpu", devices=1), Line(), lambda step: repeat(torch.ones(4, 2)), tmp_path, settings)

    with full_disk(20), pytest.raises(OutputError, match=f"{name} cannot be written"):
        run()
    assert not (tmp_path / "checkpoint.pt").exists()
    (tmp_path / "losses.csv").unlink(missing_ok=True)
    run()
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.thorough
def test_two_processes_train_one_model(people: Path, tmp_path: Path) -> None:
    words = ["-m", "cpmae", "train", "vqvae", str(people), str(tmp_path), "--steps", "2", "--batch", "1"]
    words += ["--devices", "2", "--accelerator", "cpu", "--precision", "32-true", "--palette-scans", "40"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert (tmp_path / "vqvae.pt").exists()


def test_processes_share_the_preparation_of_scans(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        nib.save(nib.Nifti1Image(np.zeros((30, 30, 30), np.int16), np.eye(4)), tmp_path / f"empty-{number}.nii")
    seen = []
    for part in range(2):
        caplog.clear()
        scans.prepare_scans(tmp_path, tmp_path / "prepared", checkpoint.load(), part, 2)
        seen.append([record.getMessage().split(" is left out")[0][-5] for record in caplog.records])
    assert seen == [["0", "2"], ["1"]]


def test_masks_and_derivatives_teach_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["sub-1/sub-1_T1w.nii", "sub-1/sub-1_desc-brain_mask.nii.gz", "derivatives/sub-1/sub-1_T1w.nii"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no scan")
    before = stages.scans_in(tmp_path)
    scans.prepare_scans(tmp_path, tmp_path / "prepared", checkpoint.load())
    assert [record.args[0] for record in caplog.records] == [tmp_path / names[0]]  # type: ignore[index]
    (tmp_path / names[2]).write_bytes(b"made again")
    assert stages.scans_in(tmp_path) == before
    (tmp_path / names[0]).write_bytes(b"another scan")
    assert stages.scans_in(tmp_path) != before


@pytest.mark.parametrize("added", [0, 1000])
def test_what_a_publisher_removed_is_unknown_in_scans_whose_air_is_not_0_too(added: int) -> None:
    data, mask = phantom.head()
    removed = np.zeros(data.shape, bool)
    removed[:, 60:, :34] = True  # the nose
    volume = Volume(np.where(removed, 0, data + added).astype(np.float32), phantom.ras_affine())
    assert (canonical.brain_unit(volume, mask).floor != 0) == bool(added)
    pose = canonical.align(mask, volume.affine)
    known = scans.not_removed(volume, pose)

    def inside(where: np.ndarray) -> np.ndarray:
        """Away from the border, where no voxel of the other side counts."""
        inner = Volume(ndimage.binary_erosion(where, np.ones((3, 3, 3))).astype(np.float32), volume.affine)
        return canonical.conform(inner, np.ones_like(mask), pose, canonical.Unit(0, 1)).data > 0.5

    assert inside(removed).sum() > 1000 and not known[inside(removed)].any()
    assert known[inside(~removed)].all()


def test_training_does_not_go_on_from_scans_that_are_gone(tmp_path: Path) -> None:
    source, run, out = tmp_path / "scans", tmp_path / "run", tmp_path / "new.safetensors"
    source.mkdir()
    settings = LoopSettings(steps=1)

    def train_vqvaes() -> None:
        stages.train_vqvaes(source, run, settings, CPU, 1, None, 0)

    def train_mae() -> None:
        stages.train_mae(source, run, tmp_path / "mae", out, settings, CPU, 1, 0, {})

    (source / "sub-0_T1w.nii").symlink_to(tmp_path / "not fetched")
    with pytest.raises(ScanError, match="no scan that can be read"):
        train_vqvaes()
    (source / "sub-0_T1w.nii").unlink()
    for number in range(2):
        (source / f"sub-{number}_T1w.nii").write_bytes(b"no scan")
    with pytest.raises(ScanError, match="no prepared scans"):
        train_vqvaes()
    with pytest.raises(ScanError, match="no prepared scans"):  # the same scans: it goes on
        train_vqvaes()
    torch.save({"vqvae": {}}, run / "vqvae.pt")
    (source / "sub-1_T1w.nii").unlink()
    with pytest.raises(SettingsError, match="run was begun with scans that have changed"):
        train_vqvaes()
    with pytest.raises(SettingsError, match="run was begun with other scans"):
        train_mae()
    (source / "sub-1_T1w.nii").write_bytes(b"somebody else's")
    with pytest.raises(SettingsError, match="run was begun with scans that have changed"):
        train_vqvaes()


@pytest.mark.thorough
def test_training_on_scans_starts_from_weights_and_leaves_out_what_is_no_head(tmp_path: Path) -> None:
    source = tmp_path / "scans"
    source.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((30, 30, 30), np.int16), np.eye(4)), source / "empty.nii.gz")
    (source / "broken.nii").write_bytes(b"no scan")
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as example:
        shutil.copyfile(example, source / "sub-01_T1w.nii.gz")
    run, settings = tmp_path / "run", LoopSettings(steps=1, log_every=1)
    stages.train_vqvaes(source, run, settings, CPU, 1, None, 0)
    (prepared,) = (run / "prepared").iterdir()
    assert prepared.name.startswith("sub-01_T1w-")
    out = tmp_path / "new.safetensors"
    stages.train_mae(source, run, tmp_path / "mae", out, settings, CPU, 1, 0, {})
    assert checkpoint.load(out).config == checkpoint.load().config
    assert checkpoint.read_about(out)["trained_on"] == "scans" == checkpoint.load(out).trained_on
    with pytest.raises(SettingsError, match="run was begun with weights"):
        stages.train_vqvaes(source, run, settings, CPU, 1, out, 0)
