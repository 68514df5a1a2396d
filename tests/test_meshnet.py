import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cpmae.compare import dice
from cpmae.errors import WeightsError
from cpmae.evaluation.meshnet import (
    _forward,
    conform,
    label_names,
    load_meshnet,
    resample_labels_like,
    segment,
    segment_conformed,
)
from cpmae.volume import Volume

SHARED = Path(os.environ.get("CPMAE_SHARED", Path(__file__).parents[2] / "shared"))


def conv3d(
    name: str, kernel: np.ndarray, bias: np.ndarray | None, dilation: int = 1, activation: str = "linear"
) -> dict:
    config = {
        "name": name,
        "filters": kernel.shape[-1],
        "kernel_size": list(kernel.shape[:3]),
        "dilation_rate": [dilation] * 3,
        "padding": "same",
        "data_format": "channels_last",
        "activation": activation,
        "use_bias": bias is not None,
    }
    return {"class_name": "Conv3D", "config": config, "kernel": kernel, "bias": bias}


def activation(name: str) -> dict:
    return {"class_name": "Activation", "config": {"name": f"act_{name}", "activation": name}}


def write_model(folder: Path, layers: list[dict], comment: str = "") -> Path:
    """Write layers the way tfjs does: a description, and one file of float32 in the manifest's order."""
    manifest, blob = [], b""
    for layer in layers:
        arrays = {key: layer.pop(key) for key in list(layer) if isinstance(layer[key], np.ndarray)}
        layer.pop("bias", None)
        for key, values in arrays.items():
            entry = {"name": f"{layer['config']['name']}/{key}", "shape": list(values.shape), "dtype": "float32"}
            manifest.append(entry)
            blob += values.astype("<f4").tobytes()
    inputs = {"class_name": "InputLayer", "config": {"name": "input", "batch_input_shape": [None, 256, 256, 256, 1]}}
    description = {
        "_comment": comment,
        "modelTopology": {"model_config": {"config": {"layers": [inputs, *layers]}}},
        "weightsManifest": [{"paths": ["model.bin"], "weights": manifest}],
    }
    (folder / "model.json").write_text(json.dumps(description))
    (folder / "model.bin").write_bytes(blob)
    return folder


def test_kernels_keep_their_axis_order(tmp_path):
    """Each channel looks at one neighbour; tfjs correlates and pads with zeros, so the values can be written down."""
    kernel = np.zeros((3, 3, 3, 1, 3))
    kernel[2, 1, 1, 0, 0] = kernel[1, 2, 1, 0, 1] = kernel[1, 1, 0, 0, 2] = 1
    network = load_meshnet(write_model(tmp_path, [conv3d("a", kernel, np.array([0.0, 10.0, 0.0]), dilation=2)]))
    volume = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    x, y, z = network(torch.from_numpy(volume)[None, None])[0].numpy()
    np.testing.assert_allclose(x[:-2], volume[2:])
    np.testing.assert_array_equal(x[-2:], 0)
    np.testing.assert_allclose(y[:, :-2], volume[:, 2:] + 10, rtol=1e-6)
    np.testing.assert_allclose(z[:, :, 2:], volume[:, :, :-2])


def test_channels_keep_their_order(tmp_path):
    kernel = np.arange(6, dtype=float).reshape(1, 1, 1, 2, 3)
    network = load_meshnet(write_model(tmp_path, [conv3d("a", kernel, None)]))
    output = network(torch.tensor([1.0, 100.0]).reshape(1, 2, 1, 1, 1)).flatten()
    assert output.tolist() == [300.0, 401.0, 502.0]


@pytest.mark.parametrize(("name", "expected"), [("relu", [0.0, 2.0]), ("elu", [np.expm1(-1.0), 2.0])])
def test_activations(tmp_path, name, expected):
    layers = [conv3d("a", np.ones((1, 1, 1, 1, 1)), None), activation(name)]
    network = load_meshnet(write_model(tmp_path, layers))
    output = network(torch.tensor([-1.0, 2.0]).reshape(1, 1, 1, 1, 2)).flatten()
    np.testing.assert_allclose(output, expected, rtol=1e-6)


def test_batch_normalisation_uses_what_is_stored(tmp_path):
    norm = {"class_name": "BatchNormalization", "config": {"name": "n", "epsilon": 0.0}}
    norm |= {"gamma": np.array([3.0]), "beta": np.array([1.0])}
    norm |= {"moving_mean": np.array([5.0]), "moving_variance": np.array([4.0])}
    network = load_meshnet(write_model(tmp_path, [conv3d("a", np.ones((1, 1, 1, 1, 1)), None), norm]))
    assert network(torch.full((1, 1, 1, 1, 1), 9.0)).item() == pytest.approx(3 * (9 - 5) / 2 + 1)


@pytest.mark.parametrize("slab", [1, 5, 64])
def test_slabs_do_not_show(tmp_path, slab):
    generator = np.random.default_rng(1)
    layers = [
        conv3d("a", generator.normal(size=(3, 3, 3, 1, 4)), generator.normal(size=4), dilation=1),
        activation("elu"),
        conv3d("b", generator.normal(size=(3, 3, 3, 4, 4)) / 5, generator.normal(size=4), dilation=4),
        activation("relu"),
        conv3d("c", generator.normal(size=(1, 1, 1, 4, 3)), generator.normal(size=3)),
    ]
    network = load_meshnet(write_model(tmp_path, layers))
    volume = torch.from_numpy(generator.normal(size=(1, 1, 13, 9, 8)).astype(np.float32))
    with torch.inference_mode():
        whole = network(volume)[0].argmax(0)
        found = _forward(network, volume.clone(), torch.float32, slab)
    assert whole.unique().numel() == 3
    assert (found == whole).all()


def write_threshold_model(folder: Path, level: float, comment: str = "") -> Path:
    """Class 1 where the normalised intensity is above a level."""
    kernel, bias = np.array([0.0, 1.0]).reshape(1, 1, 1, 1, 2), np.array([0.0, -level])
    return write_model(folder, [conv3d("a", kernel, bias)], comment)


def off_centre_box() -> Volume:
    """A bright box off the centre on an anisotropic grid, axes left, posterior, inferior."""
    data = np.zeros((60, 50, 30), np.int16)
    data[10:40, 8:20, 5:24] = 1000
    affine = np.diag([-2.0, -2.0, -3.0, 1.0])
    affine[:3, 3] = [50.0, 70.0, 20.0]
    return Volume(data, affine)


def test_labels_come_back_on_the_scans_grid(tmp_path):
    volume = off_centre_box()
    labels = segment(volume, write_threshold_model(tmp_path, 0.5))
    assert labels.shape == volume.shape and labels.dtype == np.uint8
    assert dice(labels, volume.data) > 0.97


def test_the_models_note_asks_for_quantiles(tmp_path):
    data = np.full((256, 256, 256), 100, np.uint8)
    data[:10, 0, 0] = 255  # too few for the 95 % quantile, but the maximum
    data[128:] = 50
    conformed = Volume(data, np.eye(4))
    by_maximum = segment_conformed(conformed, write_threshold_model(tmp_path, 0.5), dtype=torch.float32)
    note = "Normalize the data for this model with min = 5% quantile, max = 95% quantile"
    by_quantile = segment_conformed(conformed, write_threshold_model(tmp_path, 0.5, note), dtype=torch.float32)
    assert by_maximum.data.sum() == 10
    assert by_quantile.data.sum() == 128 * 256 * 256


def test_conformed_grid_is_256_cubed_1_mm_with_axes_left_inferior_anterior():
    volume = off_centre_box()
    conformed = conform(volume)
    assert conformed.shape == (256, 256, 256) and conformed.data.dtype == np.uint8
    np.testing.assert_array_equal(conformed.affine[:3, :3], [[-1, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert conformed.data.min() == 0 and conformed.data.max() == 255
    # the same world point holds the same matter: the box's centre, in both grids
    inside = volume.affine @ [24.5, 13.5, 14.0, 1.0]
    assert conformed.data[tuple(np.rint(np.linalg.inv(conformed.affine) @ inside).astype(int)[:3])] == 255


def test_conform_and_resample_labels_like_are_a_round_trip():
    volume = off_centre_box()
    conformed = conform(volume)
    back = resample_labels_like(Volume((conformed.data > 127).astype(np.uint8), conformed.affine), volume)
    assert dice(back, volume.data) > 0.97


def test_a_constant_volume_conforms_to_zeros():
    assert not conform(Volume(np.full((10, 10, 10), 5.0), np.eye(4))).data.any()


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(WeightsError, match="model.json"):
        load_meshnet(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"labels": 3}', '{"labels": [1, 2]}'])
def test_labels_without_names_are_refused_in_a_sentence(text, tmp_path):
    if text:
        (tmp_path / "colormap.json").write_text(text)
    with pytest.raises(WeightsError, match="colormap.json"):
        label_names(tmp_path)


def test_a_truncated_weight_file_is_refused(tmp_path):
    write_model(tmp_path, [conv3d("a", np.ones((3, 3, 3, 1, 2)), np.zeros(2))])
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:-4])
    with pytest.raises(WeightsError, match="a/bias"):
        load_meshnet(tmp_path)


def test_layers_a_meshnet_does_not_have_are_refused(tmp_path):
    write_model(tmp_path, [{"class_name": "Dense", "config": {"name": "dense_1"}}])
    with pytest.raises(WeightsError, match="dense_1"):
        load_meshnet(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "segmenters").is_dir(), reason="the shared folder with brainchop's weights is absent")
def test_real_weights_segment_a_real_head():
    import nibabel

    model = SHARED / "segmenters" / "brainchop" / "model30chan18cls"
    image = nibabel.load(SHARED / "scans" / "ds000011" / "sub-05_T1w.nii.gz")
    volume = Volume(np.asarray(image.dataobj), image.affine)
    labels = segment(volume, model)
    millilitres = np.bincount(labels.ravel(), minlength=18) * np.prod(volume.voxel_sizes) / 1000
    found = dict(zip(label_names(model), millilitres, strict=True))
    assert 1100 < millilitres[1:].sum() < 1700
    assert 350 < found["Cerebral-White-Matter"] < 700
    assert 10 < found["Thalamus"] < 25
    assert 4 < found["Hippocampus"] < 14
    # Anatomy, not only volume: the brain stem lies under the thalamus, the cerebellum behind the stem.
    centres = {
        name: volume.affine @ [*np.argwhere(labels == k).mean(axis=0), 1]
        for k, name in enumerate(label_names(model))
        if name in ("Thalamus", "Brain-Stem", "Cerebellum-Cortex")
    }
    assert centres["Brain-Stem"][2] < centres["Thalamus"][2]
    assert centres["Cerebellum-Cortex"][1] < centres["Brain-Stem"][1]
