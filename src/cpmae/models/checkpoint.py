"""Weight files: bf16 safetensors and a JSON of the same name beside them. Nothing is unpickled.

The atlas, which is mostly of one value, lies in them as zlib's bytes: half a MB for 12.
"""

import hashlib
import json
import zlib
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cpmae.errors import OutputError, WeightsError
from cpmae.leased import unfinished_folder
from cpmae.models.head import HeadConfig, HeadModel
from cpmae.models.mae import MAEConfig
from cpmae.models.vqvae import VQVAEConfig

FORMAT = 5
_PACKED = ("half_tissue", "half_solid")
DEFAULT_NAME = "head.safetensors"


def save(model: HeadModel, path: Path, about: dict) -> None:
    """Write `path` (.safetensors) and its JSON: format, sizes, SHA-256 of the weights, and `about`.

    Both are written before either takes its name; weights beside the JSON of others are refused by `load`.

    Raises:
        OutputError: if they cannot be written.
    """
    learned = {name for name, _ in model.named_parameters()}  # the moments that codes are whitened by stay exact
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16 if name in learned else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    tensors |= {name: _packed(tensors[name]) for name in _PACKED}
    data = safetensors.torch.save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    text = json.dumps({"format": FORMAT, "sha256": digest, "config": asdict(model.config), **about}, indent=1)
    places = {path: data, path.with_suffix(".json"): (text + "\n").encode()}
    with unfinished_folder(path.parent) as folder:
        for target, content in places.items():
            try:
                (folder / target.name).write_bytes(content)
            except OSError as error:
                raise OutputError(
                    f"{target} cannot be written ({error.strerror}), free some space or choose another place"
                ) from error
        for target in places:
            (folder / target.name).replace(target)


def load(path: str | Path | None = None, device: str | torch.device = "cpu") -> HeadModel:
    """Read a weight file; the one in the package by default.

    Raises:
        WeightsError: if a file is missing, damaged (its SHA-256 differs), or of another format or shape.
    """
    if path is None:
        with resources.as_file(resources.files("cpmae") / "weights" / DEFAULT_NAME) as default:
            return load(default, device)
    path = Path(path)
    about = read_about(path)
    try:
        config = config_from(about["config"])
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from error
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path.with_suffix('.json')} does not describe a model of this version: {error}") from error
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise WeightsError(
            f"weights {path} are damaged: their SHA-256 is not the one in {path.with_suffix('.json').name}"
        )
    try:
        tensors = safetensors.torch.load(data)
        with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced: leave the caller's generator
            model = HeadModel(config)
        shapes = model.state_dict()
        model.load_state_dict(tensors | {name: _unpacked(tensors[name], shapes[name].shape) for name in _PACKED})
    except (safetensors.SafetensorError, KeyError, ValueError, zlib.error, RuntimeError) as error:
        raise WeightsError(f"weights {path} do not fit their description: {error}") from error
    model.sha256, model.trained_on = about["sha256"], about.get("trained_on", "")
    model = model.float().eval().requires_grad_(False)
    return model.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def load_model(weights: str | Path | HeadModel | None, device: str) -> HeadModel:
    """A weight file's model, the package's own if None; a model as it is. The last one is kept while its file stays."""
    if isinstance(weights, HeadModel):
        return weights
    path = Path(weights) if weights else None
    seen = path.stat() if path and path.is_file() else None
    return _loaded(path, (seen.st_mtime_ns, seen.st_size) if seen else None, device)


@lru_cache(maxsize=1)
def _loaded(path: Path | None, changed: tuple[int, int] | None, device: str) -> HeadModel:
    return load(path, device)


def _packed(values: Tensor) -> Tensor:
    """The compressed bytes of a uint8 tensor, (n,) uint8."""
    return torch.frombuffer(bytearray(zlib.compress(values.numpy().tobytes(), 9)), dtype=torch.uint8)


def _unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_packed`.

    Raises:
        ValueError, zlib.error: for what is damaged or of another shape.
    """
    values = zlib.decompressobj().decompress(packed.numpy().tobytes(), shape.numel())  # and no more than that
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).view(shape)


def read_about(path: Path) -> dict:
    """The JSON beside a weight file.

    Raises:
        WeightsError: if it is missing, not JSON, or of another format.
    """
    beside = path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text())
    except OSError as error:
        raise WeightsError(f"cannot read {beside}, which must lie beside the weights: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{beside} is not JSON: {error}") from error
    if not isinstance(about, dict):
        raise WeightsError(f"{beside} does not describe a model: it holds no JSON object")
    if about.get("format") != FORMAT:
        raise WeightsError(
            f"{beside} has format {about.get('format')}, this version reads {FORMAT}; use weights made for it"
        )
    return about


def config_from(fields: dict) -> HeadConfig:
    """The inverse of `dataclasses.asdict`, from JSON, which has no tuples."""
    vqvae, mae = VQVAEConfig(**_tuples(fields["vqvae"])), MAEConfig(**_tuples(fields["mae"]))
    return HeadConfig(vqvae, mae, tuple(fields["known_faces"]))


def _tuples(config: dict) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
