"""The three stages as functions of folders: what `cpmae train` runs.

synth: label maps to a population and a folder of heads drawn from it. vqvae: heads or scans to the two VQ-VAEs. mae:
those and the same examples to a weight file.
"""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpmae import faces
from cpmae.batch.records import digest, sha256
from cpmae.draws import KNOWN_STEP
from cpmae.errors import ScanError, SettingsError
from cpmae.io.output import check_output, make_folder, whole_file, write_pieces
from cpmae.models import checkpoint
from cpmae.models.atlas import Atlas
from cpmae.models.head import HeadConfig, HeadModel
from cpmae.training import anatomy, data, groupwise, loop, mae, palette, population, scans, synth
from cpmae.training.loop import LoopSettings
from cpmae.training.vqvae import VQVAEs

POPULATION = "population.npz"
MADE_FROM = "made-from.json"  # in run folders


@dataclass(frozen=True)
class Hardware:
    """What to train on; Fabric's words."""

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "bf16-mixed"


def begin(run: Path, writes: bool, **made_from: str) -> None:
    """Note what a run folder is made from; every process asks, and one of them writes.

    Raises:
        SettingsError: if it was made from something else, and so are the codes, prepared scans and checkpoint in it.
    """
    if before := _noted(run):
        if changed := [name for name in before | made_from if before.get(name) != made_from.get(name)]:
            raise SettingsError(f"{run} was begun with {' and '.join(changed)} that have changed, give another folder")
    if writes:
        make_folder(run)
        with whole_file(run / MADE_FROM) as file:
            file.write(json.dumps(made_from).encode())


def _noted(run: Path) -> dict[str, str]:
    """What `begin` noted in a run folder; nothing where none was begun."""
    noted = run / MADE_FROM
    return json.loads(noted.read_text()) if noted.exists() else {}


def scans_in(examples: Path) -> str:
    """SHA-256 of the names and sizes of a folder's scans: others, or one less, are told from those of before."""
    sha = hashlib.sha256()
    for path in scans.scan_files(examples):
        size = path.stat().st_size if path.is_file() else 0  # a link to what DataLad has not fetched is no file
        sha.update(f"{path.relative_to(examples)} {size}\n".encode())
    return sha.hexdigest()


def digest_of(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of named tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(name.encode() + tensor.cpu().numpy().tobytes())
    return sha.hexdigest()


def make_population(
    label_maps: list[Path],
    folder: Path,
    count: int,
    seed: int,
    doubtful: dict[str, list[groupwise.Box]] | None = None,
    effort: groupwise.Effort | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Stage one: a shape model of the label maps, and `count` heads drawn from it; a later call makes what is missing.

    Raises:
        SettingsError: if the folder was begun with other label maps, doubtful places or another seed.
        ScanError: if fewer than three label maps have a complete face, or no face unlike theirs can be drawn.
    """
    made_from = {
        "label_maps": digest([[path.name, sha256(path)] for path in sorted(label_maps)]),
        "doubtful": digest(doubtful or {}),
        "seed": str(seed),
    }
    begin(folder, writes=False, **made_from)
    make_folder(folder)
    if not (folder / POPULATION).exists():
        heads = {path.name.split(".")[0]: synth.load_anatomy(path) for path in label_maps}
        cut = {name for name, values in heads.items() if (values & anatomy.OUT_OF_VIEW).any()}
        if len(heads) - len(cut) < 3:
            raise ScanError(f"only {len(heads) - len(cut)} label maps have a complete face, at least 3 must; give more")
        made = population.build(
            {name: values for name, values in heads.items() if name not in cut},
            {name: values for name, values in heads.items() if name in cut},
            doubtful or {},
            effort,
            tell,
        )
        made.save(folder / POPULATION)
    begin(folder, writes=True, **made_from)  # only now: what could not be made is no reason to refuse other label maps
    people = population.Population.load(folder / POPULATION)
    for number in range(count):
        target = folder / f"head-{number:05d}.npz"
        if not target.exists():
            data.save_example(target, population.draw(people, np.random.default_rng([seed, number])))


def train_vqvaes(
    examples: Path,
    run: Path,
    settings: LoopSettings,
    hardware: Hardware,
    batch: int,
    weights: Path | None,
    seed: int,
    palette_scans: int = 1600,
) -> Path:
    """Stage two. Returns the file with both VQ-VAEs, the atlas and the palette, `run/vqvae.pt`.

    Args:
        examples: a folder of `make_population`, or of NIfTI scans or a BIDS data set, which then start from `weights`.
        run: gets checkpoints, `losses.csv` and, for scans, what they were prepared to.
        palette_scans: simulated scans that the palette learns from, when it is not there yet.
        weights: a weight file whose palette, atlas and encoders training on scans starts from; the package's own if
            None.

    Raises:
        SettingsError: if `run` was begun with another population, other weights or other scans.
    """
    fabric = loop.make_fabric(hardware.accelerator, hardware.devices, hardware.precision)
    torch.manual_seed(seed)
    drawn = (examples / POPULATION).exists()
    if drawn:
        begin(run, fabric.global_rank == 0, population=sha256(examples / POPULATION))
        people = population.Population.load(examples / POPULATION)
        known = torch.from_numpy(faces.thinned(people.reliefs, KNOWN_STEP))
        config = HeadConfig(known_faces=tuple(known.shape))
        model = VQVAEs(config.vqvae)
        stream = partial(data.batches, examples)
    else:
        if not any(path.is_file() for path in scans.scan_files(examples)):
            raise ScanError(f"{examples} has no scan that can be read, give another folder or fetch what it links to")
        start = checkpoint.load(weights)
        begin(run, fabric.global_rank == 0, weights=start.sha256, scans=scans_in(examples))
        config, known = start.config, start.known_faces
        model = VQVAEs(config.vqvae)
        model.brain.load_state_dict(start.brain.state_dict(), strict=False)  # d1 is in no weight file
        model.non_brain.load_state_dict(start.non_brain.state_dict())
        scans.prepare_scans(examples, run / "prepared", start, fabric.global_rank, fabric.world_size)
        fabric.barrier()
        stream = partial(scans.scan_batches, run / "prepared")
    stream = partial(stream, batch, seed * 1000 + fabric.global_rank)
    # averaged weights do not fit the codes' statistics, which are those of the last ones: fields came back 1.9 mm off
    # from an average over 500 steps, and 0.8 mm off from the last weights of the same run
    average = loop.train(fabric, model, stream, run, replace(settings, average=0.0))
    target = run / "vqvae.pt"
    if fabric.global_rank == 0:
        if not drawn:
            colours, atlas = start.palette.state_dict(), torch.stack(start.atlas)
        elif target.exists():  # neither depends on how long the VQ-VAEs are trained
            before = torch.load(target, weights_only=True)
            colours, atlas = before["palette"], before["atlas"]
        else:
            colours = palette.train_palette(*palette.simulate(examples, palette_scans, seed))[0].state_dict()
            atlas = torch.stack(Atlas.from_labels(people.atlas))
        state = {"vqvae": average.state_dict(), "palette": colours, "atlas": atlas, "known_faces": known}
        state |= {"config": asdict(config)} | ({} if drawn else {"trained_on": "scans"})
        content = BytesIO()
        torch.save(state, content)  # into a file, it hides what is wrong with the disk behind an error of its own
        write_pieces(target, [content.getvalue()])
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
) -> None:
    """Stage three: the masked autoencoder on the codes of the examples, and the weight file `out` with everything.

    Raises:
        OutputError: if `out` cannot be written, before the work.
        SettingsError: if `vqvae_run` has no VQ-VAE or was begun with other scans, or `run` has codes of another one or
            of other examples.
        ScanError: if there are no examples.
    """
    check_output(None, out, overwrite=True, suffixes=(".safetensors",))
    fabric = loop.make_fabric(hardware.accelerator, hardware.devices, hardware.precision)
    torch.manual_seed(seed)
    try:
        state = torch.load(vqvae_run / "vqvae.pt", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise SettingsError(
            f"{vqvae_run / 'vqvae.pt'} cannot be read, give the run folder of `cpmae train vqvae`"
        ) from error
    drawn = (examples / POPULATION).exists()
    made_from = {"population": sha256(examples / POPULATION)} if drawn else {"scans": scans_in(examples)}
    if not drawn and made_from.items() - _noted(vqvae_run).items():
        raise SettingsError(f"{vqvae_run} was begun with other scans than {examples} has, train the VQ-VAEs on these")
    begin(run, fabric.global_rank == 0, vqvae=digest_of(state["vqvae"]), **made_from)
    config = checkpoint.config_from(state["config"])
    vqvaes = VQVAEs(config.vqvae)
    vqvaes.load_state_dict(state["vqvae"])
    vqvaes.eval().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    prepared = vqvae_run / "prepared"
    sources = data.head_files(examples) if drawn else sorted(prepared.glob("*.npz"))
    if not sources:
        raise ScanError(f"no drawn heads in {examples} and no prepared scans in {prepared}; give those of train vqvae")
    codes = run / "codes"
    make_folder(codes)
    for number, path in islice(enumerate(sources), fabric.global_rank, None, fabric.world_size):
        target = codes / f"{path.stem}.npz"
        if target.exists():
            continue
        if drawn:
            rng = np.random.default_rng([seed, number])
            found = mae.encode_head(*data.load_example(path), vqvaes.brain, vqvaes.non_brain, rng)
        else:
            found = mae.encode(*scans.load_prepared(path), vqvaes.brain, vqvaes.non_brain)
        mae.save_codes(target, found)
    fabric.barrier()
    stream = partial(mae.batches, codes, batch, seed * 1000 + fabric.global_rank)
    prior = loop.train(fabric, mae.MaskedAutoencoder(config.mae, config.vqvae), stream, run, settings)
    assert isinstance(prior, mae.MaskedAutoencoder)
    if fabric.global_rank == 0:
        private = not drawn or state.get("trained_on") == "scans"
        export(out, config, vqvaes, prior, state, about | ({"trained_on": "scans"} if private else {}))
    fabric.barrier()


def export(
    out: Path,
    config: HeadConfig,
    vqvaes: VQVAEs,
    prior: mae.MaskedAutoencoder,
    state: dict[str, Any],
    about: dict[str, Any],
) -> None:
    """Put the parts together in one weight file with its JSON; `state` is what `train_vqvaes` saved."""
    model = HeadModel(config)
    model.brain.load_state_dict(vqvaes.brain.state_dict(), strict=False)
    model.non_brain.load_state_dict(vqvaes.non_brain.state_dict())
    model.coarse.load_state_dict(prior.coarse.state_dict())
    model.fine.load_state_dict(prior.fine.state_dict())
    model.palette.load_state_dict(state["palette"])
    model.set_atlas(Atlas(*state["atlas"]))
    model.known_faces.copy_(state["known_faces"])
    checkpoint.save(model, out, about)
