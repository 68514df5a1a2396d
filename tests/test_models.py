"""The networks: codes and vectors, shapes, and what each part may see."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import full_disk
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cpmae import canonical
from cpmae.draws import Draws, SamplingSettings, VisibleCodes, no_codes
from cpmae.errors import DeviceError, OutputError, WeightsError
from cpmae.generate import beside_brain
from cpmae.models import checkpoint
from cpmae.models.atlas import Atlas
from cpmae.models.head import HeadConfig, HeadModel
from cpmae.models.layers import channels_to_space, space_to_channels
from cpmae.models.mae import MAEConfig
from cpmae.models.paint import paint_atlas, paint_labels, shares
from cpmae.models.precision import fast_autocast, full_precision
from cpmae.models.quantizer import FiniteScalarQuantizer
from cpmae.models.texture import _below_air, texture
from cpmae.models.tissue import BRAIN, PAINTS, TISSUES
from cpmae.models.vqvae import COARSE, FINE, VQVAEConfig, code_shape

SMALL = HeadConfig(VQVAEConfig(width=8), MAEConfig(coarse_width=16, coarse_layers=1, coarse_heads=2, fine_width=8))
SHAPE = canonical.MODEL_SHAPE


@pytest.fixture(scope="module")
def model() -> HeadModel:
    torch.manual_seed(0)
    return HeadModel(SMALL).eval()


@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_codes_stand_for_the_vectors_that_were_rounded(levels: list[int], seed: int) -> None:
    quantizer = FiniteScalarQuantizer(levels).eval()
    z = torch.randn(2, len(levels), 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    vectors, codes = quantizer(z)
    assert vectors.abs().max() <= 1 and codes.max() < quantizer.codebook_size
    assert torch.allclose(quantizer.codes_to_vectors(codes), vectors, atol=1e-6)
    every = quantizer.codes_to_vectors(torch.arange(quantizer.codebook_size).view(1, -1, 1, 1))
    assert len(every[0].flatten(1).T.unique(dim=0)) == quantizer.codebook_size


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


def brain_like(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).random(SHAPE, np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[20:70, 16:80, 50:100] = True
    return image, mask


def test_e1_does_not_see_beyond_the_mask(model: HeadModel) -> None:
    image, mask = brain_like()
    other = np.where(mask, image, 7).astype(np.float32)
    assert torch.equal(model.brain_condition(image, mask), model.brain_condition(other, mask))


def test_one_spike_in_the_brain_does_not_outweigh_the_rest(model: HeadModel) -> None:
    image, mask = brain_like()
    bright, spike = image.copy(), image.copy()
    bright[40, 40, 70], spike[40, 40, 70] = 6, 1e30
    assert torch.equal(model.brain_condition(spike, mask), model.brain_condition(bright, mask))


def test_no_bone_in_the_holes_of_a_mask() -> None:
    _, mask = brain_like()
    open_mask = mask.copy()
    open_mask[44:48, 46:50, 70:80] = False
    bare = torch.zeros(SHAPE)
    whole, holed = (beside_brain(m, bare, SHAPE) for m in (mask, open_mask))
    assert whole.max() == 1
    assert torch.equal(whole, holed)


def test_skin_stays_where_the_brain_comes_near_to_it() -> None:
    _, mask = brain_like()
    skin = torch.zeros(SHAPE)
    skin[:, 82:84] = 1
    assert beside_brain(mask, torch.zeros(SHAPE), SHAPE)[45, 81].max() == 1
    assert beside_brain(mask, skin, SHAPE)[:, 82:84].max() == 0


def test_e2_does_not_see_what_is_unknown(model: HeadModel) -> None:
    field = torch.randn(3, *code_shape(FINE), generator=torch.Generator().manual_seed(0))
    known = torch.zeros(code_shape(FINE), dtype=torch.bool)
    known[:, 10:] = True
    other = torch.where(known, field, torch.tensor(9.0))
    codes = model.encode_field(field, known)
    assert all(torch.equal(a, b) for a, b in zip(codes, model.encode_field(other, known), strict=True))
    other = torch.where(known, torch.tensor(9.0), field)
    assert not torch.equal(codes[0], model.encode_field(other, known)[0])


def test_the_masked_autoencoder_sees_the_brain(model: HeadModel) -> None:
    image, mask = brain_like()
    removed = torch.full(code_shape(COARSE), model.coarse.mask_id)
    where = torch.arange(removed.numel())
    one = model.coarse_logits(removed, where, model.brain_condition(image, mask))
    two = model.coarse_logits(removed, where, model.brain_condition(image, np.roll(mask, 9, axis=1)))
    assert not torch.allclose(one, two)


def test_paint_follows_tissues_and_texture() -> None:
    generator = torch.Generator().manual_seed(0)
    paints = torch.rand(len(PAINTS), generator=generator)
    tissue = torch.randint(len(TISSUES) + 1, (18, 20, 22), generator=generator)
    fat, mottle = torch.rand(tissue.shape, generator=generator), torch.randn(tissue.shape, generator=generator)
    painted = paint_labels(tissue.to(torch.uint8), paints, fat, mottle)
    csf, fatty = paints[PAINTS.index("csf")], torch.isin(tissue, torch.tensor([4, 7]))
    assert [TISSUES[index] for index in (4, 7)] == ["soft tissue", "skin"]
    torch.testing.assert_close(painted[tissue == BRAIN], csf.expand(int((tissue == BRAIN).sum())))
    torch.testing.assert_close(painted[tissue == TISSUES.index("csf")], csf.expand(int((tissue == 1).sum())))
    flat = paint_labels(tissue, paints, torch.ones_like(fat), torch.zeros_like(mottle))
    torch.testing.assert_close(flat[fatty], paints[PAINTS.index("fat")].expand(int(fatty.sum())))


def test_what_all_heads_share_is_made_once(model: HeadModel) -> None:
    texture(model.atlas, torch.Generator().manual_seed(0))
    before = _below_air.cache_info()
    texture(model.atlas, torch.Generator().manual_seed(1))
    assert _below_air.cache_info().misses == before.misses
    other = HeadModel(model.config)
    assert not other.atlas.tissue.any()
    other.set_atlas(model.atlas)
    assert torch.equal(other.atlas.tissue, model.atlas.tissue)


@pytest.mark.parametrize("step", [1, 2])
def test_shares_times_paints_are_the_painted_head(step: int) -> None:
    atlas = Atlas(*(part[:, 60:200, 40:200] for part in checkpoint.load().atlas))
    paints = torch.linspace(0.1, 1.2, len(PAINTS))
    fields = texture(atlas, torch.Generator().manual_seed(0))
    painted = F.avg_pool3d(paint_atlas(atlas, paints, *fields)[None], step)[0]
    parts = list(shares(atlas, *texture(atlas, torch.Generator().manual_seed(0), step)))
    found = sum(paint * part for paint, part in zip(paints, parts, strict=True))
    if step == 1:
        assert ((found - painted).abs() < 1e-5).float().mean() > 0.99  # each part is cut off at 0, not the sum alone
    assert abs(float((found - painted).mean())) < 2e-3
    assert np.corrcoef(found.ravel(), painted.ravel())[0, 1] > 0.98
    plain = sum(part for name, part in zip(PAINTS, parts, strict=True) if name in ("air", "csf", "eye"))
    assert 0 <= plain.min() and plain.max() <= 1  # type: ignore[union-attr]


def test_sampled_codes_keep_the_visible_ones(model: HeadModel) -> None:
    condition = model.brain_condition(*brain_like())
    known = no_codes()
    coarse, fine = torch.full_like(known.coarse, 5), torch.full_like(known.fine, 9)
    removed, fine_removed = torch.zeros_like(coarse, dtype=torch.bool), torch.zeros_like(fine, dtype=torch.bool)
    removed[:, 2], fine_removed[:, 4:] = True, True
    visible = VisibleCodes(coarse, fine, removed, fine_removed)
    settings = SamplingSettings(coarse_steps=3, fine_steps=2)
    draws = Draws(model, condition, torch.Generator().manual_seed(0), settings)
    drawn = draws.coarse(coarse, removed, settings.coarse_steps)
    found = drawn, draws.fine(visible, drawn)
    assert (found[0][~removed] == 5).all() and (found[1][~fine_removed] == 9).all()
    assert (found[0][removed] != 5).any() and (found[1][fine_removed] != 9).any()
    assert found[0].max() < model.coarse.mask_id and found[1].max() < model.fine.mask_id


def test_a_device_on_which_parts_are_missing_is_an_error_of_its_own(model: HeadModel) -> None:
    lacking = copy.deepcopy(model)

    def missing(*inputs: object) -> None:
        raise NotImplementedError("The operator 'aten::avg_pool3d.out' is not currently implemented for this device")

    for module in lacking.modules():
        module.register_forward_pre_hook(missing)
    image, mask = brain_like()
    known = no_codes()
    for run in (
        lambda: lacking.brain_condition(image, mask),
        lambda: lacking.encode_field(torch.zeros(3, *code_shape(FINE)), torch.ones(code_shape(FINE))),
        lambda: lacking.decode(known.coarse, known.fine, mask),
    ):
        with pytest.raises(DeviceError, match="--device cpu"):
            run()


def test_without_autocast_on_a_device_the_arithmetic_is_plain() -> None:
    fpga = torch.device("fpga")  # which stands for mps in older versions of PyTorch
    with fast_autocast(fpga), full_precision(fpga):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_checkpoint_round_trip(model: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    checkpoint.save(model, path, {"about": "a test"})
    before = torch.get_rng_state()
    found = checkpoint.load(path)
    assert torch.equal(torch.get_rng_state(), before)  # a caller's random numbers stay the same
    assert found.config == SMALL
    for name, tensor in model.state_dict().items():
        exact = "mean" in name or "covariance" in name or "half" in name
        assert torch.equal(found.state_dict()[name], tensor if exact else tensor.bfloat16().float()), name


def test_weights_that_cannot_be_written_whole_leave_the_old_ones(model: HeadModel, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    checkpoint.save(model, path, {})
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with full_disk(), pytest.raises(OutputError, match=r"small\.safetensors cannot be written .*free some space"):
        checkpoint.save(model, path, {"about": "other ones"})
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


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
