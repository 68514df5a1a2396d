"""The networks: codes and vectors, shapes, and what each part may see."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cpmae.errors import WeightsError
from cpmae.generate import SamplingSettings, VisibleCodes, draw_codes
from cpmae.models import checkpoint
from cpmae.models.head import HeadConfig, HeadModel
from cpmae.models.layers import channels_to_space, space_to_channels
from cpmae.models.mae import MAEConfig
from cpmae.models.paint import blend, mixes, paint_labels, texture
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.tissue import PAINTS, TISSUES
from cpmae.models.vqvae import VQVAEConfig

SMALL = HeadConfig(
    VQVAEConfig(grid_shape=(32, 48, 64), width=16),
    MAEConfig(16, 48, 1, fine_width=16, plan_encoder_width=16, plan_width=16, plan_layers=1),
)


@pytest.fixture(scope="module")
def model() -> HeadModel:
    torch.manual_seed(0)
    return HeadModel(SMALL).eval()


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_codes_and_vectors_are_inverse(levels: list[int], seed: int) -> None:
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.randint(quantizer.codebook_size, (2, 3, 4, 5), generator=torch.Generator().manual_seed(seed))
    vectors = quantizer.codes_to_vectors(codes)
    assert vectors.abs().max() <= 1
    assert torch.equal(quantizer.vectors_to_codes(vectors), codes)


def test_quantizer_reaches_every_code_and_passes_gradients() -> None:
    quantizer = FiniteScalarQuantizer((8, 5, 5))
    z = torch.randn(1, 3, 60, 60, 60, generator=torch.Generator().manual_seed(0)).requires_grad_()
    vectors, codes = quantizer.eval()(z)
    assert len(codes.unique()) == 200 == quantizer.codebook_size
    assert torch.allclose(quantizer.codes_to_vectors(codes), vectors, atol=1e-6)
    vectors.sum().backward()
    assert (z.grad > 0).all()


def test_space_to_channels_and_back() -> None:
    x = torch.rand(2, 3, 8, 12, 16)
    packed = space_to_channels(x, 4)
    assert packed.shape == (2, 192, 2, 3, 4)
    assert torch.equal(channels_to_space(packed, 4), x)


def test_e1_does_not_see_beyond_the_mask(model: HeadModel) -> None:
    image = np.random.default_rng(0).random((32, 48, 64), np.float32)
    mask = np.zeros(image.shape, bool)
    mask[8:24, 8:40, 16:48] = True
    other = np.where(mask, image, 7).astype(np.float32)
    assert torch.equal(model.brain_condition(image, mask), model.brain_condition(other, mask))


def test_e2_does_not_see_the_brain(model: HeadModel) -> None:
    image = np.random.default_rng(0).random((32, 48, 64), np.float32)
    mask = np.zeros(image.shape, bool)
    mask[8:24, 8:40, 16:48] = True
    other = np.where(mask, 7, image).astype(np.float32)
    for one, two in zip(model.encode_non_brain(image, mask), model.encode_non_brain(other, mask), strict=True):
        assert torch.equal(one, two)


def test_decode_mixed_is_the_weighted_softmax_of_decode(model: HeadModel) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 4, 2, 3, 4, generator=generator) * 2 - 1
    fine = torch.rand(1, 4, 4, 6, 8, generator=generator) * 2 - 1
    brain = (torch.rand(1, 1, 32, 48, 64, generator=generator) > 0.5).float()
    weights = torch.rand(3, len(TISSUES), generator=generator)
    with torch.inference_mode():
        shares = model.non_brain.decode(coarse, fine, brain).softmax(dim=1)
        mixed = model.non_brain.decode_mixed(coarse, fine, brain, weights)
    torch.testing.assert_close(mixed, torch.einsum("rk,bkxyz->brxyz", weights, shares))


def test_blend_paints_pure_tissues_as_paint_labels_does() -> None:
    generator = torch.Generator().manual_seed(0)
    paints = torch.rand(len(PAINTS), generator=generator)
    tissue = torch.randint(len(TISSUES), (9, 10, 11), generator=generator)
    fields = texture((9, 10, 11), generator)
    shares = torch.nn.functional.one_hot(tissue, len(TISSUES)).float()
    layers = torch.einsum("rk,xyzk->rxyz", mixes(paints), shares)
    torch.testing.assert_close(blend(layers, *fields), paint_labels(tissue, paints, *fields))


def test_sampled_codes_keep_the_visible_ones(model: HeadModel) -> None:
    condition = model.brain_condition(np.ones((32, 48, 64), np.float32), np.ones((32, 48, 64), bool))
    coarse, fine = torch.full((2, 3, 4), 5), torch.full((4, 6, 8), 9)
    removed = torch.zeros(2, 3, 4, dtype=torch.bool)
    removed[:, 2] = True
    fine_removed = torch.zeros(4, 6, 8, dtype=torch.bool)
    fine_removed[:, 4:] = True
    visible = VisibleCodes(coarse, fine, removed, fine_removed)
    settings = SamplingSettings(coarse_steps=3, fine_steps=2)
    found = draw_codes(model, condition, visible, torch.Generator().manual_seed(0), settings)
    assert (found[0][~removed] == 5).all() and (found[1][~fine_removed] == 9).all()
    assert (found[0][removed] != 5).any() and (found[1][fine_removed] != 9).any()
    assert found[0].max() < model.coarse.mask_id and found[1].max() < model.fine.mask_id


def test_a_plan_is_kept_where_all_below_it_is_visible() -> None:
    model = HeadModel(HeadConfig(VQVAEConfig(grid_shape=(64, 128, 64), width=16), SMALL.mae)).eval()
    known = torch.ones(4, 8, 4, dtype=torch.bool)
    known[0, 5, 0] = False
    coarse = torch.randint(1000, known.shape, generator=torch.Generator().manual_seed(0))
    plan, removed = model.encode_plan(coarse, known)
    assert plan.shape == (1, 2, 1) and removed.flatten().tolist() == [False, True]
    # and says nothing of what is not
    other = torch.where(known, coarse, (coarse + 7) % 1000)
    assert torch.equal(model.encode_plan(other, known)[0], plan)
    other = torch.where(known, (coarse + 7) % 1000, coarse)
    assert not torch.equal(model.encode_plan(other, known)[0], plan)


def test_checkpoint_round_trip(model: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    checkpoint.save(model, path, {"about": "a test"})
    before = torch.get_rng_state()
    found = checkpoint.load(path)
    assert torch.equal(torch.get_rng_state(), before)  # a caller's random numbers stay the same
    assert found.config == SMALL
    for name, tensor in model.state_dict().items():
        exact = "mean" in name or "covariance" in name
        assert torch.equal(found.state_dict()[name], tensor if exact else tensor.bfloat16().float()), name


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-9] + b"damaged!!"), "SHA-256"),
        (lambda p: p.unlink(), "cannot read"),
        (lambda p: p.with_suffix(".json").unlink(), "beside"),
        (lambda p: p.with_suffix(".json").write_text("{"), "not JSON"),
        (lambda p: _edit(p, format=99), "format 99"),
        (lambda p: _edit(p, config={}), "does not describe"),
    ],
)
def test_damaged_weights_are_refused(model: HeadModel, tmp_path: Path, damage, says: str) -> None:  # noqa: ANN001
    path = tmp_path / "small.safetensors"
    checkpoint.save(model, path, {})
    damage(path)
    with pytest.raises(WeightsError, match=says):
        checkpoint.load(path)


def test_weights_of_another_size_are_refused(model: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    checkpoint.save(model, path, {})
    about = json.loads(path.with_suffix(".json").read_text())
    about["config"]["vqvae"]["width"] = 32
    _edit(path, config=about["config"])
    with pytest.raises(WeightsError, match="do not fit"):
        checkpoint.load(path)


def _edit(path: Path, **fields: object) -> None:
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | fields))
