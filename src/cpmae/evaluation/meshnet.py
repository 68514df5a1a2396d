"""MeshNet, a whole-head segmenter, from brainchop's tfjs weights: a downstream test that sees face and neck too.

Fedorov et al., "End-to-end learning of brain tissue segmentation from imperfect labeling", IJCNN 2017, arXiv
1612.00940; weights and preprocessing as in brainchop (github.com/neuroneural/brainchop).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from cpmae.errors import WeightsError
from cpmae.evaluation.registration import labels_like
from cpmae.volume import Volume

CONFORMED_SIZE = 256  # voxels an edge, 1 mm each
_SLAB = 64  # planes that a layer works on at once: they bound the memory of the convolution's own buffers
_ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}


def load_meshnet(model_dir: str | Path) -> nn.Sequential:
    """Read `model.json` and its weight files into a Sequential of dilated Conv3d layers.

    Returns:
        network in eval mode, float32: (1, 1, X, Y, Z) -> logits (1, classes, X, Y, Z). tfjs stores kernels as
        (kx, ky, kz, in, out) for a channels-last tensor whose first three axes are the array axes of the conformed
        volume, in order; torch wants (out, in, kx, ky, kz).

    Raises:
        WeightsError: a file is missing or short, or a layer is of a kind MeshNet does not have.
    """
    folder = Path(model_dir)
    description = _read_description(folder)
    weights = _read_weights(folder, description)
    layers: list[nn.Module] = []
    for layer in description["modelTopology"]["model_config"]["config"]["layers"]:
        layers.extend(_build_layer(layer["class_name"], layer["config"], weights))
    if weights:
        raise WeightsError(f"{folder} holds weights that no layer takes: {sorted(weights)[0]}; is model.json its own?")
    return nn.Sequential(*layers).eval()


def conform(volume: Volume) -> Volume:
    """Resample to the grid MeshNet was trained on, FreeSurfer's: 256 cubed, 1 mm, axes left, inferior, anterior.

    The field is centred on the input's, interpolation is linear, and intensities become uint8: the minimum goes to
    0, the value below which all but 0.1 % of the nonzero voxels lie to 255.
    """
    affine = _conformed_affine(volume)
    values = _finite(volume.data)
    low, high = _histogram_range(values)
    to_input = np.linalg.inv(volume.affine) @ affine
    shape = (CONFORMED_SIZE,) * 3
    resampled = ndimage.affine_transform(values, to_input[:3, :3], to_input[:3, 3], shape, order=1, cval=low)
    scale = 255.0 / (high - low) if high > low else 0.0
    return Volume(np.rint(np.clip((resampled - low) * scale, 0, 255)).astype(np.uint8), affine)


def resample_labels_like(labels: Volume, reference: Volume) -> NDArray[np.uint8]:
    """Bring conformed labels back to the reference's grid, nearest neighbour: the way back from `conform`."""
    return labels_like(labels, reference)


def segment_conformed(conformed: Volume, model_dir: str | Path, dtype: torch.dtype = torch.bfloat16) -> Volume:
    """Labels uint8 (256, 256, 256) on the conformed grid, see `segment`.

    Args:
        dtype: arithmetic of the layers; bfloat16 halves memory and, where the processor has it, time.
    """
    network = load_meshnet(model_dir)
    features = torch.from_numpy(_normalise(conformed.data, Path(model_dir)))[None, None]
    with torch.inference_mode():
        return Volume(_forward(network, features, dtype).numpy(), conformed.affine)


def segment(volume: Volume, model_dir: str | Path) -> NDArray[np.uint8]:
    """Segment a whole head with one of brainchop's MeshNets.

    Args:
        volume: T1w head, any grid and dtype.
        model_dir: folder with `model.json` and its weights.

    Returns:
        labels uint8 (X, Y, Z) on the volume's own grid; names are in the folder's `colormap.json`.

    Raises:
        WeightsError: the folder does not hold a readable MeshNet.
    """
    conformed = conform(volume)
    return resample_labels_like(segment_conformed(conformed, model_dir), volume)


def label_names(model_dir: str | Path) -> list[str]:
    """Names of the labels, index = label, as stored beside the weights.

    Raises:
        WeightsError: the folder holds no colormap.json, or one without a list of names.
    """
    path = Path(model_dir) / "colormap.json"
    names = _read_json(path, "no readable list of a MeshNet's labels").get("labels")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path} holds no list of names under 'labels'; copy brainchop's folder again")
    return names


def _forward(network: nn.Sequential, features: torch.Tensor, dtype: torch.dtype, slab: int = _SLAB) -> torch.Tensor:
    """Layer by layer in slabs of the first axis with the layer's own halo: equal to the whole volume at once.

    features: (1, 1, X, Y, Z). Two feature maps are alive at a time; the last layer's argmax is taken slab by slab, so
    that the logits of all classes never exist together.
    """
    network = network.to(dtype)
    features = features.to(dtype).contiguous(memory_format=torch.channels_last_3d)
    *hidden, last = _convolutions(network)
    for convolution, rest in hidden:
        shape = (1, convolution.out_channels, *features.shape[2:])
        output = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last_3d)
        for start in range(0, features.shape[2], slab):
            stop = min(start + slab, features.shape[2])
            output[:, :, start:stop] = rest(_convolve_slab(convolution, features, start, stop))
        features = output
    convolution, rest = last
    labels = torch.empty(features.shape[2:], dtype=torch.uint8)
    for start in range(0, features.shape[2], slab):
        stop = min(start + slab, features.shape[2])
        labels[start:stop] = rest(_convolve_slab(convolution, features, start, stop))[0].argmax(dim=0).to(torch.uint8)
    return labels


def _convolve_slab(convolution: nn.Conv3d, features: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    halo, *others = (d * (k // 2) for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True))
    first, final = max(start - halo, 0), min(stop + halo, features.shape[2])
    piece = features[:, :, first:final]
    missing = (halo - (start - first), halo - (final - stop))
    if any(missing):  # zeros past the field of view, as "same" padding has them
        piece = nn.functional.pad(piece, (0, 0, 0, 0, *missing))
    piece = piece.contiguous(memory_format=torch.channels_last_3d)
    return nn.functional.conv3d(
        piece, convolution.weight, convolution.bias, padding=(0, *others), dilation=convolution.dilation
    )


def _convolutions(network: nn.Sequential) -> list[tuple[nn.Conv3d, nn.Sequential]]:
    """Each convolution with the pointwise layers that follow it."""
    starts = [i for i, layer in enumerate(network) if isinstance(layer, nn.Conv3d)]
    ends = [*starts[1:], len(network)]
    return [(network[i], network[i + 1 : end]) for i, end in zip(starts, ends, strict=True)]  # type: ignore[misc]


def _normalise(data: NDArray, folder: Path) -> NDArray[np.float32]:
    """To 0..1 by minimum and maximum, or by the 5 % and 95 % quantiles where the model's own note asks for them."""
    values = data.astype(np.float32)
    if "quantile" in str(_read_description(folder).get("_comment", "")).lower():
        low, high = np.quantile(data, [0.05, 0.95])
    else:
        low, high = values.min(), values.max()
    return (values - np.float32(low)) / np.float32(max(high - low, 1e-6))


def _conformed_affine(volume: Volume) -> NDArray[np.float64]:
    centre = volume.affine @ [*(np.array(volume.shape) / 2), 1.0]
    affine = np.eye(4)
    affine[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]  # array axes point to left, inferior, anterior
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ np.full(3, CONFORMED_SIZE / 2)
    return affine


def _finite(data: NDArray) -> NDArray[np.float32]:
    return np.nan_to_num(np.asarray(data, np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _histogram_range(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low, low
    counts, edges = np.histogram(values, bins=1000, range=(low, high))
    enough = values.size - int((1.0 - 0.999) * np.count_nonzero(values))
    return low, float(edges[int(np.argmax(np.cumsum(counts) >= enough))])


def _read_description(folder: Path) -> dict[str, Any]:
    return _read_json(folder / "model.json", "not a readable tfjs model")


def _read_json(path: Path, fault: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{path} is {fault} ({reason}); give the folder that holds {path.name}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is {fault}; give the folder that holds {path.name}")
    return found


def _read_weights(folder: Path, description: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    weights: dict[str, NDArray[np.float32]] = {}
    for group in description["weightsManifest"]:
        try:
            blob = b"".join((folder / name).read_bytes() for name in group["paths"])
        except OSError as error:
            raise WeightsError(f"a weight file of {folder} cannot be read: {error}") from error
        offset = 0
        for entry in group["weights"]:
            if entry["dtype"] != "float32" or "quantization" in entry:
                raise WeightsError(f"weight {entry['name']} is not plain float32; only that is supported")
            size = int(np.prod(entry["shape"]))
            if offset + 4 * size > len(blob):
                raise WeightsError(f"the weights of {folder} end before {entry['name']}; the file is truncated")
            weights[entry["name"]] = np.frombuffer(blob, "<f4", size, offset).reshape(entry["shape"])
            offset += 4 * size
    return weights


def _build_layer(kind: str, config: dict[str, Any], weights: dict[str, NDArray[np.float32]]) -> list[nn.Module]:
    name = config["name"]
    if kind == "InputLayer":
        return []
    if kind == "Activation":
        return _activation(config["activation"])
    if kind == "BatchNormalization":
        return [_batch_norm(config, weights)]
    if kind != "Conv3D" or config["padding"] != "same" or config["data_format"] != "channels_last":
        raise WeightsError(f"layer {name} ({kind}) is not one a MeshNet has")
    if name.endswith("_gn"):  # brainchop's mark for a normalisation over the whole volume that the file leaves out
        raise WeightsError(f"layer {name} is group-normalised; slab by slab inference does not support that")
    return [_convolution(config, weights), *_activation(config["activation"])]


def _activation(name: str) -> list[nn.Module]:
    if name == "linear":
        return []
    if name not in _ACTIVATIONS:
        raise WeightsError(f"activation {name!r} is not one of {sorted(_ACTIVATIONS)}")
    return [_ACTIVATIONS[name](inplace=True) if name != "gelu" else nn.GELU()]


def _convolution(config: dict[str, Any], weights: dict[str, NDArray[np.float32]]) -> nn.Conv3d:
    kernel = torch.from_numpy(weights.pop(f"{config['name']}/kernel").transpose(4, 3, 0, 1, 2).copy())
    out_channels, in_channels, *size = kernel.shape
    dilation = tuple(config["dilation_rate"])
    convolution = nn.Conv3d(
        in_channels, out_channels, (size[0], size[1], size[2]), padding="same", dilation=dilation, bias=False
    )
    convolution.weight = nn.Parameter(kernel, requires_grad=False)
    if config["use_bias"]:
        bias = torch.from_numpy(weights.pop(f"{config['name']}/bias").copy())
        convolution.bias = nn.Parameter(bias, requires_grad=False)
    return convolution


def _batch_norm(config: dict[str, Any], weights: dict[str, NDArray[np.float32]]) -> nn.BatchNorm3d:
    mean = torch.from_numpy(weights.pop(f"{config['name']}/moving_mean").copy())
    norm = nn.BatchNorm3d(len(mean), eps=config["epsilon"], affine=True)
    norm.running_mean, norm.running_var = (
        mean,
        torch.from_numpy(weights.pop(f"{config['name']}/moving_variance").copy()),
    )
    for parameter, stored in ((norm.weight, "gamma"), (norm.bias, "beta")):
        values = weights.pop(f"{config['name']}/{stored}", None)
        if values is not None:
            parameter.data = torch.from_numpy(values.copy())
    return norm.requires_grad_(False)
