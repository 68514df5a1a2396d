"""How much of the machine the model's inference uses: its FLOP/s against those of plain convolutions, in one run.

python benchmarks/throughput.py
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it

from collections.abc import Callable
from timeit import repeat

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from cpmae import canonical
from cpmae.draws import Draws, SamplingSettings, no_codes
from cpmae.models import checkpoint
from cpmae.models.precision import fast_autocast

REPEATS = 5


def main() -> None:
    model = checkpoint.load()
    x, y, z = np.indices(canonical.MODEL_SHAPE, np.float32) * 2 - np.array(canonical.GRID_ORIGIN)[:, None, None, None]
    mask = (x / 66) ** 2 + (y / 80) ** 2 + (z / 62) ** 2 < 1
    image = np.where(mask, 1 + 0.2 * np.sin(x / 5), 0).astype(np.float32)
    settings = SamplingSettings()
    condition = model.brain_condition(image, mask)
    draws, nothing = Draws(model, condition, torch.Generator().manual_seed(0), settings), no_codes()

    def codes_drawn() -> tuple[torch.Tensor, torch.Tensor]:
        coarse = draws.coarse(nothing.coarse, nothing.coarse_removed, settings.coarse_steps)
        return coarse, draws.fine(nothing, coarse)

    codes = codes_drawn()
    parts: dict[str, Callable[[], object]] = {
        "e1": lambda: model.brain_condition(image, mask),
        "masked autoencoder": codes_drawn,
        "d2": lambda: model.decode(*codes, mask),
    }
    plain = plain_convolution()
    print(f"{'plain 3x3x3 convolution':24s} {plain / 1e9:7.0f} GFLOP/s")
    flops, seconds = 0.0, 0.0
    for name, run in parts.items():
        with FlopCounterMode(display=False) as counter:
            run()
        taken = min(repeat(run, number=1, repeat=REPEATS))
        flops, seconds = flops + counter.get_total_flops(), seconds + taken
        rate = counter.get_total_flops() / taken
        print(f"{name:24s} {rate / 1e9:7.0f} GFLOP/s  {counter.get_total_flops() / 1e9:7.0f} GFLOP  {taken:.3f} s")
    print(f"{'all':24s} {flops / seconds / 1e9:7.0f} GFLOP/s  share of plain: {flops / seconds / plain:.2f}")


def plain_convolution() -> float:
    """FLOP/s of a 64 to 64 channel convolution at a quarter of the canonical grid, in the arithmetic that is used."""
    layer = torch.nn.Conv3d(64, 64, 3, padding=1).to(memory_format=torch.channels_last_3d)
    data = torch.rand(1, 64, *(n // 4 for n in canonical.GRID_SHAPE)).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode(), fast_autocast(torch.device("cpu")):
        data = layer(data)  # from here on in the fast dtype
        return 2 * 27 * 64 * 64 * data[0, 0].numel() / min(repeat(lambda: layer(data), number=1, repeat=REPEATS))


if __name__ == "__main__":
    main()
