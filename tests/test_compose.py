"""Composition: exact where protected, scan-like elsewhere."""

import numpy as np
import phantom
import pytest
import torch

from cpmae import compose
from cpmae.volume import Volume


def test_compose_copies_protected_numbers(storage: tuple[str, float, float]) -> None:
    scan = phantom.parse(phantom.nifti_bytes(storage=storage))
    protected = phantom.head()[1]
    result = compose.compose(scan, protected, np.full(protected.shape, 77.3, np.float32))
    assert result.stored.dtype == scan.stored.dtype
    assert result.stored[protected].tobytes() == scan.stored[protected].tobytes()
    assert np.abs(result.scaled().data[~protected] - 77.3).max() <= abs(scan.slope)


@pytest.mark.parametrize("voxel_mm", [(1, 1, 1), (0.5, 0.5, 4)])
def test_noise_level_finds_the_noise_under_anatomy(voxel_mm: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    x, y, z = np.indices((60, 64, 40))
    anatomy = 100 + 20 * np.sin(x / 6) + 15 * np.cos(y / 8)
    anatomy += 20 * (z % 2) if voxel_mm[2] > 1 else 10 * np.sin(z / 7)  # thick slices differ by anatomy
    noisy = anatomy + rng.normal(0, 3, anatomy.shape)
    brain = (x > 5) & (x < 50) & (y > 5) & (z > 3) & (z < 35)
    noisy[~brain] = np.nan  # and looks nowhere else
    volume = Volume(noisy.astype(np.float32), np.diag([*voxel_mm, 1.0]))
    assert compose.noise_level(volume, brain) == pytest.approx(3, rel=0.15)


def test_noise_level_is_that_of_the_smooth_parts() -> None:
    rng = np.random.default_rng(0)
    brain = np.ones((64, 64, 64), bool)
    folds = rng.normal(0, 30, brain.shape) * (np.indices(brain.shape)[0] < 40)  # a cortex, as fine as its voxels
    volume = Volume((200 + folds + rng.normal(0, 5, brain.shape)).astype(np.float32), np.eye(4))
    assert compose.noise_level(volume, brain) == pytest.approx(5, rel=0.15)


def test_noise_is_rician() -> None:
    clean = np.zeros((60, 60, 60), np.float32)
    clean[30:] = 50
    noisy = compose.with_noise(clean, 2.0, torch.Generator().manual_seed(0))
    air, tissue = noisy[:30], noisy[30:]
    assert air.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    assert tissue.std() == pytest.approx(2, rel=0.02)
    assert air.min() >= 0
