"""The new part of a head goes on in the brightness of the part that is kept."""

import numpy as np
import pytest
import torch

from cpmae import brightness
from cpmae.canonical import MODEL_SHAPE, Conformed

BORDER = MODEL_SHAPE[1] // 2  # what lies before it, along y, is new


@pytest.fixture
def painted() -> torch.Tensor:
    """Patches of three tissues, as bright as painted."""
    return torch.tensor(np.random.default_rng(0).choice([0.1, 0.6, 1.4], MODEL_SHAPE), dtype=torch.float32)


@pytest.fixture
def brain() -> Conformed:
    mask = np.zeros(MODEL_SHAPE, bool)
    mask[40:56, 20:50, 60:80] = True
    return Conformed(mask.astype(np.float32), mask)


def kept_of(head: np.ndarray, brain: Conformed) -> Conformed:
    mask = np.zeros(MODEL_SHAPE, bool)
    mask[:, :BORDER] = True
    return Conformed(np.where(brain.mask, 9.0, head * mask).astype(np.float32), mask)


def test_a_darker_head_goes_on_darker(painted: torch.Tensor, brain: Conformed) -> None:
    gain = brightness.gain(painted, kept_of(painted.numpy() * 0.6, brain), brain).numpy()
    np.testing.assert_allclose(gain[20:-20, BORDER - 10 : BORDER + 5, 20:-20], 0.6, atol=0.05)
    np.testing.assert_allclose(gain[:, -6:], 1, atol=0.05)  # far off nothing is known


def test_a_coil_s_fall_off_is_followed(painted: torch.Tensor, brain: Conformed) -> None:
    fall = np.linspace(1.3, 0.7, MODEL_SHAPE[0], dtype=np.float32)[:, None, None]
    gain = brightness.gain(painted, kept_of(painted.numpy() * fall, brain), brain).numpy()
    beside = gain[:, BORDER, MODEL_SHAPE[2] // 2]
    assert beside[10] > 1.15 and beside[-10] < 0.85


def test_alike_changes_nothing(painted: torch.Tensor, brain: Conformed) -> None:
    same = brightness.gain(painted, kept_of(painted.numpy(), brain), brain)
    torch.testing.assert_close(same, torch.ones(MODEL_SHAPE), atol=1e-4, rtol=0)


def test_what_is_not_kept_does_not_count(painted: torch.Tensor, brain: Conformed) -> None:
    kept = kept_of(painted.numpy() * 0.6, brain)
    other = Conformed(np.where(kept.mask, kept.data, 5.0).astype(np.float32), kept.mask)
    assert torch.equal(brightness.gain(painted, kept, brain), brightness.gain(painted, other, brain))
