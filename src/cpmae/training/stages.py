"""The three stages as functions of folders: what `cpmae train` runs.

synth: label maps to a folder of anatomies. vqvae: anatomies or scans to the two VQ-VAEs. mae: those and the same
examples to a weight file.
"""

from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpmae.models import checkpoint
from cpmae.models.head import HeadConfig, HeadModel
from cpmae.models.palette import Palette
from cpmae.training import anatomy, data, loop, mae, palette, scans, synth
from cpmae.training.loop import LoopSettings
from cpmae.training.vqvae import VQVAEs


@dataclass(frozen=True)
class Hardware:
    """What to train on; Fabric's words."""

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "bf16-mixed"


def make_anatomies(label_maps: list[Path], folder: Path, count: int, seed: int) -> None:
    """Stage one: `count` warped anatomies from label maps, as .npy; a later call makes what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {path: synth.load_anatomy(path) for path in label_maps}
    # heads whose face the field of view cuts teach the cranium, not the face: fewer of them
    cut = [path for path, values in sources.items() if (values & anatomy.OUT_OF_VIEW).any()]
    whole = [path for path in label_maps if path not in cut] or label_maps
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        group = cut if cut and rng.random() < 0.2 else whole
        path = group[int(rng.integers(len(group)))]
        target = folder / f"{number:05d}-{path.name.split('.')[0]}.npy"
        if not target.exists():
            partial = target.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, synth.warp(sources[path], rng))
            partial.replace(target)


def train_vqvaes(
    examples: Path,
    run: Path,
    settings: LoopSettings,
    hardware: Hardware,
    crop: int,
    weights: Path | None,
    seed: int,
    palette_scans: int = 1600,
) -> Path:
    """Stage two. Returns the file with both VQ-VAEs and the palette, `run/vqvae.pt`.

    Args:
        examples: a folder of anatomies (.npy), or of NIfTI scans or a BIDS data set, which then start from `weights`.
        run: gets checkpoints, `losses.csv` and, for scans, what they were prepared to.
        crop: edge of the training crops in voxels, a multiple of 16.
        palette_scans: simulated scans that the palette learns from.
        weights: a weight file whose palette (and encoders) training on scans starts from; the package's own if None.
    """
    if crop % 16:
        raise ValueError(f"the crop is {crop} voxels, choose a multiple of 16")
    fabric = loop.make_fabric(hardware.accelerator, hardware.devices, hardware.precision)
    torch.manual_seed(seed)
    config = HeadConfig()
    if any(examples.glob("*.npy")):
        model = VQVAEs(config.vqvae)
        stream = data.crops(examples, crop, seed * 1000 + fabric.global_rank)
        colours = None
    else:
        start = checkpoint.load(weights)
        config, colours = start.config, start.palette
        model = VQVAEs(config.vqvae)
        model.brain.load_state_dict(start.brain.state_dict(), strict=False)  # d1 is in no weight file
        model.non_brain.load_state_dict(start.non_brain.state_dict())
        if fabric.global_rank == 0:
            scans.prepare_scans(examples, run / "prepared", colours)
        fabric.barrier()
        stream = scans.scan_crops(run / "prepared", crop, seed * 1000 + fabric.global_rank)
    average = loop.train(fabric, model, stream, run, settings)
    target = run / "vqvae.pt"
    if fabric.global_rank == 0:
        if colours is None:
            colours, _ = palette.train_palette(*palette.simulate(examples, palette_scans, seed))
        torch.save({"vqvae": average.state_dict(), "palette": colours.state_dict(), "config": asdict(config)}, target)
    fabric.barrier()
    return target


def train_mae(
    examples: Path,
    vqvae_run: Path,
    run: Path,
    out: Path,
    settings: LoopSettings,
    hardware: Hardware,
    batch: int,
    seed: int,
    about: dict[str, Any],
    plan_steps: int = 3000,
) -> None:
    """Stage three: the masked autoencoder on the codes of the examples, and the weight file `out` with everything.

    All networks together first (`settings`), then `plan_steps` of 32 heads for that of the plan alone.
    """
    fabric = loop.make_fabric(hardware.accelerator, hardware.devices, hardware.precision)
    torch.manual_seed(seed)
    state = torch.load(vqvae_run / "vqvae.pt", weights_only=True)
    config = checkpoint.config_from(state["config"])
    vqvaes = VQVAEs(config.vqvae)
    vqvaes.load_state_dict(state["vqvae"])
    vqvaes.eval().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    prepared = vqvae_run / "prepared"
    sources = sorted(examples.glob("*.npy")) or sorted(prepared.glob("*.npz"))
    if not sources:
        raise FileNotFoundError(f"no anatomies (*.npy) in {examples} and no prepared scans in {prepared}")
    codes = run / "codes"
    codes.mkdir(parents=True, exist_ok=True)
    for number, path in islice(enumerate(sources), fabric.global_rank, None, fabric.world_size):
        target = codes / f"{path.stem}.npz"
        if target.exists():
            continue
        if path.suffix == ".npy":
            rng = np.random.default_rng([seed, number])
            found = mae.encode_head(np.load(path), vqvaes.brain, vqvaes.non_brain, rng)
        else:
            found = mae.encode_scan(scans.load_prepared(path), vqvaes.brain, vqvaes.non_brain)
        mae.save_codes(target, found)
    fabric.barrier()
    stream = mae.batches(codes, batch, seed * 1000 + fabric.global_rank)
    joint = loop.train(fabric, mae.MaskedAutoencoder(config.mae, config.vqvae), stream, run, settings)
    assert isinstance(joint, mae.MaskedAutoencoder)
    stream = mae.batches(codes, 32, seed * 1000 + 500 + fabric.global_rank)
    plan_settings = replace(settings, steps=plan_steps)
    settled = loop.train(fabric, mae.PlanPrior(joint), stream, run / "plan", plan_settings)
    assert isinstance(settled, mae.PlanPrior)
    if fabric.global_rank == 0:
        export(out, config, vqvaes, settled.trained, state["palette"], about)
    fabric.barrier()


def export(
    out: Path,
    config: HeadConfig,
    vqvaes: VQVAEs,
    prior: mae.MaskedAutoencoder,
    palette_state: dict[str, torch.Tensor],
    about: dict[str, Any],
) -> None:
    """Put the parts together in one weight file with its JSON."""
    model = HeadModel(config)
    model.brain.load_state_dict(vqvaes.brain.state_dict(), strict=False)
    model.non_brain.load_state_dict(vqvaes.non_brain.state_dict())
    model.plan_encoder.load_state_dict(prior.plan_encoder.state_dict())
    model.plan.load_state_dict(prior.plan.state_dict())
    model.coarse.load_state_dict(prior.coarse.state_dict())
    model.fine.load_state_dict(prior.fine.state_dict())
    model.palette = Palette()
    model.palette.load_state_dict(palette_state)
    checkpoint.save(model, out, about)
