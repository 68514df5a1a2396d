"""`cpmae train`: one command a stage."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

train = typer.Typer(no_args_is_help=True, help="Train the model's stages again, on label maps or your own scans.")

Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps in all; a stopped run goes on where it was.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
Accelerator = Annotated[str, typer.Option(help="What to train on: auto, cpu, cuda or mps.")]
Devices = Annotated[int, typer.Option(min=1, help="How many of them; on the CPU, processes that talk through gloo.")]
Precision = Annotated[str, typer.Option(help="bf16-mixed, 16-mixed or 32-true.")]
Seed = Annotated[int, typer.Option(min=0, help="Of initial weights and of the order of examples.")]


@train.command()
def synth(
    label_maps: Annotated[Path, typer.Argument(help="Folder with SynthSeg's whole-head label maps (NIfTI).")],
    population: Annotated[Path, typer.Argument(help="Folder for the shape model and the heads (0.2 MB each).")],
    count: Annotated[int, typer.Option(min=1, help="How many heads to draw.")] = 3000,
    leave_out: Annotated[str, typer.Option(help="Names to keep for validation, separated by commas.")] = "",
    doubtful: Annotated[
        Path | None,
        typer.Option(
            help="JSON: ends of file names to boxes (canonical mm) where a map is wrong; see tools/doubtful.json."
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Stage one: from label maps to a shape model and a population of heads that nobody has."""
    from cpmae.training import stages

    left_out = [name for name in leave_out.split(",") if name]
    found = sorted(label_maps.glob("*.nii*"))
    maps = [p for p in found if not any(name in p.name for name in left_out)]
    if not maps:
        raise typer.BadParameter(f"no label maps (.nii, .nii.gz) in {label_maps}")
    names = [p.name.split(".")[0] for p in found]
    given = _boxes(doubtful) if doubtful else {}
    if unknown := [end for end in given if not any(name.endswith(end) for name in names)]:
        raise typer.BadParameter(f"{doubtful} speaks of {unknown[0]!r}, no label map in {label_maps} ends so")
    boxes = {name: boxes for name in names for end, boxes in given.items() if name.endswith(end)}
    stages.make_population(maps, population, count, seed, boxes, tell=lambda text: typer.echo(text, err=True))


def _boxes(path: Path) -> dict[str, list[Any]]:
    """What --doubtful names: for ends of file names, boxes of three spans each."""
    import numpy as np  # not for --help

    from cpmae.errors import SettingsError

    def is_box(box: Any) -> bool:
        try:
            return np.array(box, np.float64).shape == (3, 2)
        except (TypeError, ValueError):
            return False

    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"the file {path} of --doubtful cannot be read as JSON ({error}), correct it") from error
    if not isinstance(found, dict) or not all(isinstance(b, list) and all(map(is_box, b)) for b in found.values()):
        form = '{"01": [[[-40, 40], [86, 140], [-140, -46]]]}'
        raise SettingsError(f"the file {path} of --doubtful is not of the form {form}, correct it")
    return found


@train.command()
def vqvae(
    examples: Annotated[Path, typer.Argument(help="Folder of `train synth`, or of NIfTI scans (a BIDS data set too).")],
    run: Annotated[Path, typer.Argument(help="Folder for checkpoints, losses.csv and the result.")],
    steps: Steps = 5000,
    learning_rate: LearningRate = 1e-3,
    batch: Annotated[int, typer.Option(min=1, help="Heads a step.")] = 2,
    palette_scans: Annotated[int, typer.Option(min=40, help="Simulated scans that the palette learns from.")] = 1600,
    weights: Annotated[Path | None, typer.Option(help="Weights that training on scans starts from.")] = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "bf16-mixed",
    seed: Seed = 0,
) -> None:
    """Stage two: the VQ-VAEs of brain and non-brain."""
    from cpmae.training import stages
    from cpmae.training.loop import LoopSettings

    hardware = stages.Hardware(accelerator, devices, precision)
    settings = LoopSettings(steps=steps, learning_rate=learning_rate)
    stages.train_vqvaes(examples, run, settings, hardware, batch, weights, seed, palette_scans)


@train.command()
def mae(
    examples: Annotated[Path, typer.Argument(help="The examples that the VQ-VAEs were trained on.")],
    vqvae_run: Annotated[Path, typer.Argument(help="The run folder of `cpmae train vqvae`.")],
    run: Annotated[Path, typer.Argument(help="Folder for checkpoints and losses.csv.")],
    out: Annotated[Path, typer.Argument(help="Weight file to write (.safetensors), with a JSON beside it.")],
    steps: Steps = 3000,
    learning_rate: LearningRate = 1e-3,
    batch: Annotated[int, typer.Option(min=1, help="Heads a step.")] = 16,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "bf16-mixed",
    seed: Seed = 0,
) -> None:
    """Stage three: the masked autoencoder, and a weight file that --weights takes."""
    from cpmae.training import stages
    from cpmae.training.loop import LoopSettings

    hardware = stages.Hardware(accelerator, devices, precision)
    settings = LoopSettings(steps=steps, learning_rate=learning_rate)
    stages.train_mae(examples, vqvae_run, run, out, settings, hardware, batch, seed, {"steps": steps})
