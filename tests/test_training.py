"""The stages of training, on a tiny population: that they run, resume, and end in weights that are used."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from cpmae import canonical
from cpmae.models import checkpoint
from cpmae.training import anatomy, stages, synth
from cpmae.training.contrast import draw_contrast
from cpmae.training.loop import LoopSettings

CPU = stages.Hardware(accelerator="cpu", precision="32-true")


def label_map() -> np.ndarray:
    """A head of ellipsoids in SynthSeg's labels at 1 mm, RAS, with a neck that reaches the bottom."""
    x, y, z = np.meshgrid(*[np.arange(-n // 2, n // 2, dtype=np.float32) for n in (180, 220, 210)], indexing="ij")

    def inside(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1

    labels = np.zeros(x.shape, np.int16)
    labels[(np.hypot(x, y + 10) < 45) & (z < 0)] = 507
    labels[inside(0, 0, 30, 80, 96, 75) | inside(0, 45, -30, 45, 45, 50)] = 511
    labels[inside(0, 0, 30, 76, 92, 71)] = 515
    labels[inside(0, 0, 30, 70, 84, 64)] = 24
    labels[inside(0, 0, 30, 66, 80, 60)] = np.where(x < 0, 3, 42)[inside(0, 0, 30, 66, 80, 60)]
    labels[inside(0, 0, 30, 56, 70, 50)] = np.where(x < 0, 2, 41)[inside(0, 0, 30, 56, 70, 50)]
    labels[inside(30, 75, -8, 12, 12, 12) | inside(-30, 75, -8, 12, 12, 12)] = 506
    return labels


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two anatomies of one head."""
    folder = tmp_path_factory.mktemp("training")
    affine = np.eye(4)
    affine[:3, 3] = (-90, -110, -105)
    nib.save(nib.Nifti1Image(label_map(), affine), folder / "head.nii.gz")
    stages.make_anatomies([folder / "head.nii.gz"], folder / "anatomies", count=2, seed=0)
    return folder / "anatomies"


def test_an_anatomy_is_warped_and_its_neck_goes_on(anatomies: Path) -> None:
    one, two = (np.load(path) for path in sorted(anatomies.glob("*.npy")))
    assert one.shape == canonical.GRID_SHAPE and one.dtype == np.uint8
    assert (one != two).mean() > 0.02
    assert ((one & anatomy.STRUCTURE)[:, :, 0] > 0).sum() > 2000  # the neck, at the lowest slice of the grid
    brain = (one & anatomy.IN_BRAIN_MASK) > 0
    assert 0.5e6 < brain.sum() < 2e6
    assert brain[canonical.GRID_ORIGIN]


def test_making_anatomies_again_changes_nothing(anatomies: Path) -> None:
    before = {path: path.read_bytes() for path in anatomies.glob("*.npy")}
    next(iter(before)).unlink()
    stages.make_anatomies([anatomies.parent / "head.nii.gz"], anatomies, count=2, seed=0)
    assert {path: path.read_bytes() for path in anatomies.glob("*.npy")} == before


def test_a_scan_is_drawn_with_what_a_scanner_adds(anatomies: Path) -> None:
    values = np.load(next(anatomies.glob("*.npy")))[::2, ::2, ::2]
    one, two = (synth.scan(np.ascontiguousarray(values), np.random.default_rng(s)) for s in (0, 1))
    assert one.image.min() >= 0 and torch.isfinite(one.image).all()
    assert not torch.allclose(one.paints, two.paints)
    assert (one.image - one.clean).std() > 0.003
    assert one.tissue[one.brain].ne(0).all() or (one.tissue[one.brain] == 0).float().mean() < 0.05


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


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_stages_resume_and_end_in_weights(anatomies: Path, tmp_path: Path) -> None:
    run = tmp_path / "vqvae"
    settings = LoopSettings(steps=2, log_every=1)
    stages.train_vqvaes(anatomies, run, settings, CPU, 32, None, 0, palette_scans=40)
    first = torch.load(run / "checkpoint.pt", weights_only=False)
    assert first["step"] == 2
    stages.train_vqvaes(anatomies, run, LoopSettings(steps=4, log_every=1), CPU, 32, None, 0, palette_scans=40)
    assert [row["step"] for row in rows(run / "losses.csv")] == ["1", "2", "3", "4"]
    out = tmp_path / "new.safetensors"
    stages.train_mae(anatomies, run, tmp_path / "mae", out, settings, CPU, 1, 0, {"note": "a test"}, plan_steps=2)
    assert {"plan", "coarse", "fine"} <= set(rows(tmp_path / "mae" / "losses.csv")[0])
    model = checkpoint.load(out)
    assert checkpoint.read_about(out)["note"] == "a test"
    trained = torch.load(run / "vqvae.pt", weights_only=True)["vqvae"]["non_brain.place"]
    torch.testing.assert_close(model.non_brain.place, trained.bfloat16().float())


def test_two_processes_train_one_model(anatomies: Path, tmp_path: Path) -> None:
    words = ["-m", "cpmae", "train", "vqvae", str(anatomies), str(tmp_path), "--steps", "2", "--crop", "32"]
    words += ["--devices", "2", "--accelerator", "cpu", "--precision", "32-true", "--palette-scans", "40"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert (tmp_path / "vqvae.pt").exists()


def test_training_on_scans_leaves_out_what_is_no_head(anatomies: Path, tmp_path: Path) -> None:
    from cpmae.training import scans

    (tmp_path / "sub-01").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((30, 30, 30), np.int16), np.eye(4)), tmp_path / "sub-01" / "empty.nii.gz")
    (tmp_path / "broken.nii").write_bytes(b"no scan")
    palette = checkpoint.load().palette
    assert scans.prepare_scans(tmp_path, tmp_path / "prepared", palette) == 0
    with pytest.raises(FileNotFoundError, match="prepared"):
        next(scans.scan_crops(tmp_path / "prepared", 32, 0))
