"""The training loop of all stages: Fabric for devices and precision, resumable, with an average of the weights."""

import csv
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpmae.errors import MissingExtraError, OutputError
from cpmae.io.output import make_folder

try:
    from lightning_fabric import Fabric
except ImportError as error:
    raise MissingExtraError("training needs Lightning Fabric: pip install 'cpmae[train]'") from error

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast.

    Attributes:
        steps: optimiser steps in all, over all resumed runs.
        learning_rate: peak; warms up over `warmup` steps and falls to a fiftieth along a cosine.
        average: decay of the exponential moving average of the weights, which is what is saved for use.
        every_seconds: between checkpoints.
        log_every: steps, over which the logged losses are means.
    """

    steps: int = 5000
    learning_rate: float = 1e-3
    warmup: int = 100
    average: float = 0.998
    every_seconds: float = 180.0
    log_every: int = 20


def make_fabric(accelerator: str, devices: int, precision: Any) -> Fabric:
    """Fabric, launched; several CPU processes talk through gloo."""
    strategy = "ddp" if devices > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric


def train(
    fabric: Fabric,
    model: nn.Module,
    batches: Callable[[int], Iterator[object]],
    folder: Path,
    settings: LoopSettings,
) -> nn.Module:
    """Train `model` on the sum of its losses and return the average of its weights over time.

    Args:
        model: its forward takes a batch and returns named losses; those whose name starts with "_" are logged, not
            summed.
        batches: from the step at which training goes on to an endless stream, which should be another for each.
        folder: gets `checkpoint.pt`, from which a later call goes on, and `losses.csv`.
    """
    make_folder(folder)
    model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = deepcopy(model).requires_grad_(False).to(fabric.device)
    # 16-mixed scales gradients up: a fused step takes that off only after they are clipped, and where they overflow
    # the scaler leaves a step out
    scaled = fabric.strategy.precision.precision == "16-mixed"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=not scaled
    )
    wrapped, optimizer = fabric.setup(model, optimizer)
    step = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = fabric.load(checkpoint, {"model": wrapped, "optimizer": optimizer})
        average.load_state_dict(state["average"])
        step = state["step"]
    stream = batches(step)
    log = _Log(folder / "losses.csv", fabric, settings.log_every)
    saved = time.monotonic()

    def save() -> None:
        state = {"model": wrapped, "optimizer": optimizer, "average": average.state_dict(), "step": step}
        partial = checkpoint.with_suffix(".partial")  # one name for all processes, of which Fabric lets one write
        with _written(checkpoint):
            fabric.save(partial, state)
        fabric.barrier()
        if fabric.global_rank == 0:
            partial.replace(checkpoint)

    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        found: Losses = wrapped(fabric.to_device(next(stream)))
        fabric.backward(torch.stack([value for name, value in found.items() if not name.startswith("_")]).sum())
        fabric.clip_gradients(wrapped, optimizer, max_norm=1.0, error_if_nonfinite=not scaled)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        decay = min(settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            for kept, now in zip(average.buffers(), model.buffers(), strict=True):
                kept.copy_(now)
        log.add(step, found)
        if fabric.broadcast(time.monotonic() - saved > settings.every_seconds):
            save()
            saved = time.monotonic()
    save()
    return average


def _schedule(step: int, settings: LoopSettings) -> float:
    warm = min(1.0, (step + 1) / settings.warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps))))


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Whatever cannot be written in the block is an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path} cannot be written ({reason}), free some space; the same command goes on") from error


class _Log:
    """Mean losses of every `log_every` steps, appended to a CSV file by the first process."""

    def __init__(self, path: Path, fabric: Fabric, every: int) -> None:
        self.path, self.fabric, self.every = path, fabric, every
        self.sums: dict[str, float] = {}
        self.count = 0
        self.started = time.monotonic()

    def add(self, step: int, losses: Losses) -> None:
        for name, tensor in losses.items():
            value = float(tensor.detach())
            self.sums[name] = self.sums.get(name, 0.0) + (value if math.isfinite(value) else 0.0)
        self.count += 1
        if step % self.every or self.fabric.global_rank:
            return
        row = {"step": step, "seconds": round(time.monotonic() - self.started, 1)}
        row |= {name.lstrip("_"): round(total / self.count, 5) for name, total in self.sums.items()}
        new = not self.path.exists()
        with _written(self.path), self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.sums, self.count = {}, 0
