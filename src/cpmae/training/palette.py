"""Train the palette: simulated scans of many heads, their brains' profiles, and the paints they were made with."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpmae.models.palette import Palette, brain_depth, brain_profile
from cpmae.models.tissue import PAINTS
from cpmae.models.vqvae import STEP_MM
from cpmae.training.data import head_files, load_example
from cpmae.training.synth import scan

_STEPS = 6000


def simulate(folder: Path, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Profiles (count, PROFILE_SIZE) and paints (count, len(PAINTS)), from anatomies at 2 mm in random contrasts."""
    rng = np.random.default_rng(seed)
    paths = head_files(folder)
    profiles: list[NDArray[np.float32]] = []
    paints: list[NDArray[np.float32]] = []
    while len(profiles) < count:
        values, _ = load_example(paths[rng.integers(len(paths))])
        for _ in range(4):
            head = scan(values, rng)
            inside = head.image[head.brain]
            unit = float(inside.median())
            if unit < 0.03:  # a brain that is nearly black has no contrast to tell
                continue
            depth = brain_depth(head.brain.numpy(), [STEP_MM] * 3)
            profiles.append(brain_profile((inside / unit).numpy(), depth))
            paints.append((head.paints / unit).clamp(max=5).numpy())
    return torch.from_numpy(np.stack(profiles[:count])), torch.from_numpy(np.stack(paints[:count]))


def train_palette(profiles: Tensor, paints: Tensor) -> tuple[Palette, float]:
    """Fit to nine tenths; returns the network and its mean absolute error on the last tenth, in brain medians."""
    torch.manual_seed(0)
    model = Palette()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    split = len(profiles) * 9 // 10
    # blood flows: how bright it is, no one can tell, so it counts little
    weight = torch.tensor([0.2 if name == "blood" else 1.0 for name in PAINTS])
    for _ in range(_STEPS):
        index = torch.randint(split, (256,))
        profile = profiles[index] * (1 + 0.03 * torch.randn(256, profiles.shape[1]))
        loss = (F.smooth_l1_loss(model(profile), paints[index], beta=0.1, reduction="none") * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        error = (model(profiles[split:]) - paints[split:]).abs().mean()
    return model, float(error)
