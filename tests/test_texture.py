"""Fat, muscle and orbits: they lie where they do in anybody, and random fields say the rest."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from cpmae import canonical
from cpmae.generate import paint_head
from cpmae.models import checkpoint
from cpmae.models.atlas import Atlas
from cpmae.models.field import control_shape
from cpmae.models.orbit import with_orbits
from cpmae.models.texture import texture
from cpmae.models.tissue import PAINTS, TISSUES

AIR, EYE, SOFT, ORBIT, SKIN, BONE = (
    TISSUES.index(name) for name in ("air", "eye", "soft tissue", "orbit", "skin", "bone")
)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return checkpoint.load().atlas


@pytest.fixture(scope="module")
def fat(atlas: Atlas) -> np.ndarray:
    return texture(atlas, torch.Generator().manual_seed(0))[0].numpy()


def test_fat_lies_under_the_skin_and_in_sheets_below(atlas: Atlas, fat: np.ndarray) -> None:
    labels = atlas.labels().numpy()
    assert fat.min() >= 0 and fat.max() <= 1
    to_air = ndimage.distance_transform_edt(labels != AIR)
    to_skin = ndimage.distance_transform_edt(labels != SKIN)
    to_bone = ndimage.distance_transform_edt(labels != BONE)
    soft = labels == SOFT
    assert fat[(labels == SKIN) & (to_air <= 1)].mean() < 0.1, "the skin itself is no fat"
    assert fat[soft & (to_skin < 3) & (to_bone > 4)].mean() > 0.6
    muscle = fat[soft & (to_skin > 14)]
    assert np.median(muscle) < 0.1, "muscles are lean"
    assert 0.03 < (muscle > 0.5).mean() < 0.3, "with sheets between them"
    bottom = soft[:, :, 0] & (to_skin[:, :, 0] < 3)
    assert fat[:, :, 0][bottom].mean() > 0.5, "where the neck leaves the grid too"


def test_dark_sheets_of_connective_tissue_run_along_the_skin(atlas: Atlas, fat: np.ndarray) -> None:
    mottle = texture(atlas, torch.Generator().manual_seed(0))[1].numpy()
    labels = atlas.labels().numpy()
    fatty = (fat > 0.6) & np.isin(labels, (SOFT, SKIN))
    assert np.abs(mottle).max() <= 3
    assert abs(mottle[labels == BONE].mean()) < 0.1 and 0.5 < mottle[labels == BONE].std() < 1.2
    surface = (labels != AIR) & ndimage.binary_dilation(labels == AIR)
    assert np.abs(mottle[surface]).mean() < 0.02, "it would roughen faces"
    assert mottle[fatty].mean() < -0.3
    top = fatty.copy()  # where the skin is level
    top[:60] = top[-60:] = top[:, :, :200] = False
    across, along = (np.abs(np.diff(mottle, axis=axis, append=0))[top].mean() for axis in (2, 0))
    assert across > 1.4 * along


def test_fat_is_drawn_anew_by_each_generator(atlas: Atlas, fat: np.ndarray) -> None:
    again, mottle = texture(atlas, torch.Generator().manual_seed(0))
    assert np.array_equal(again.numpy(), fat)
    other, other_mottle = texture(atlas, torch.Generator().manual_seed(1))
    deep = (atlas.labels() == SOFT).numpy() & (ndimage.distance_transform_edt(atlas.tissue != SKIN) > 14)
    assert abs(np.corrcoef(other.numpy()[deep], fat[deep])[0, 1]) < 0.2
    assert not torch.equal(mottle, other_mottle)


def test_less_signal_comes_from_far_down_the_neck() -> None:
    model, mask = checkpoint.load(), np.zeros(canonical.MODEL_SHAPE, bool)
    mask[40:56, 40:70, 60:100] = True  # a brain that ends 120 mm above the bottom of the grid
    field, paints = torch.zeros(3, *control_shape()), torch.ones(len(PAINTS))
    paints[PAINTS.index("air")] = 0
    muscle = (model.atlas.tissue == SOFT) & (model.atlas.solid == 255)
    to_the_bottom = mask.copy()
    to_the_bottom[40:56, 40:70, :60] = True

    def along(seed: int) -> list[float]:
        """Signal at three heights, in units of what there is where the brain reaches down to them."""
        brains, generator = (mask, to_the_bottom), torch.Generator()
        heads = [paint_head(model, field, brain, paints, generator.manual_seed(seed)) for brain in brains]
        some, full = ([float(head[:, :, z][muscle[:, :, z]].mean()) for z in (2, 60, 125)] for head in heads)
        return [a / b for a, b in zip(some, full, strict=True)]

    bottom, middle, beside = along(0)
    assert beside == pytest.approx(1, abs=0.02), "all of it beside the brain"
    assert 0.1 < bottom < 0.5 < middle < 0.9
    assert along(1)[0] != pytest.approx(bottom, abs=0.01), "another head, another coil"


def test_half_resolution_has_the_same_layers(atlas: Atlas, fat: np.ndarray) -> None:
    half, _ = texture(atlas, torch.Generator().manual_seed(0), step=2)
    x, y, z = half.shape
    blocks = fat.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))
    fatty = torch.isin(atlas.tissue, torch.tensor([SOFT, SKIN]))[::2, ::2, ::2].numpy()
    assert np.corrcoef(half.numpy()[fatty], blocks[fatty])[0, 1] > 0.95


def test_orbits_hold_fat_around_the_eyes_and_what_moves_them(atlas: Atlas) -> None:
    tissue, before = with_orbits(atlas.tissue).numpy(), atlas.tissue.numpy()
    changed = tissue != before
    assert set(np.unique(before[changed])) <= {SOFT, ORBIT}, "bone, eyes and skin stay"
    assert np.array_equal(tissue, tissue[::-1])
    eyes = before == EYE
    near = (ndimage.distance_transform_edt(~eyes) <= 4) & np.isin(before, (SOFT, ORBIT))
    middle = ndimage.center_of_mass(eyes[: len(eyes) // 2])
    near[:, round(middle[1]) :] = False  # before the eye lies its lid
    assert (tissue[near] == ORBIT).mean() > 0.6
    parts, _ = ndimage.label(tissue == ORBIT)
    assert (np.bincount(parts.ravel())[1:] > 5000).sum() == 2, "one orbit an eye"
    behind = (round(middle[0] + 17 * 25 / 38), round(middle[1]) - 25, round(middle[2]))
    assert tissue[behind] == SOFT, "the optic nerve"
    x, y, z = (round(m) for m in middle)
    above = tissue[x + 4, y - 10, z : z + 16]  # along y, 10 mm behind the middle of the eye
    assert {SOFT, ORBIT} <= set(above) and above[-1] != SOFT, "a muscle with fat on both sides"


def test_results_have_orbits() -> None:
    model = checkpoint.load()
    paints = torch.zeros(len(PAINTS))
    paints[PAINTS.index("orbit")] = 1
    mask = np.zeros(canonical.MODEL_SHAPE, bool)
    mask[30:60, 30:60, 70:100] = True
    field = torch.zeros(3, *control_shape())
    painted = paint_head(model, field, mask, paints, torch.Generator().manual_seed(0))
    assert painted.sum() > 10 * (model.atlas.tissue == ORBIT).sum() > 0


def test_an_atlas_without_eyes_has_no_orbits(atlas: Atlas) -> None:
    blind = torch.where(atlas.tissue == EYE, SOFT, atlas.tissue)
    assert torch.equal(with_orbits(blind), blind)
