"""Heads do not follow their brains: thicker about small and narrow ones, by chance about all."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cpmae import canonical
from cpmae.thicken import RANGE_MM, lacking, thickness

SIDES = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]]).T


def ellipsoid(*semi_axes: float) -> NDArray[np.bool_]:
    mm = [(np.arange(n) + 0.5) * 2 - 0.5 - o for n, o in zip(canonical.MODEL_SHAPE, canonical.GRID_ORIGIN, strict=True)]
    return sum((x / a) ** 2 for x, a in zip(np.meshgrid(*mm, indexing="ij"), semi_axes, strict=True)) <= 1


def about(brain: NDArray[np.bool_], scale: float = 1.0, seed: int = 0) -> Tensor:
    """Thickness along the way outward, mm, from where all of it is seen."""
    points = canonical.control_points()
    radius = points.norm(dim=0)
    where = radius > 45
    drawn = thickness(brain, scale, torch.Generator().manual_seed(seed))
    return -(points * drawn).sum(0)[where] / radius[where]


def template() -> NDArray[np.bool_]:
    """The template brain itself, on the networks' grid."""
    at = [(np.arange(n) * 2 + 0.5) / canonical.TEMPLATE_STEP for n in canonical.MODEL_SHAPE]
    return ndimage.map_coordinates(canonical.template_brain(), np.meshgrid(*at, indexing="ij"), order=1) > 0.5


@pytest.mark.parametrize("semi_axes", [(60, 80, 60), (65, 75, 55)])
def test_what_one_brain_lacks_of_another_is_the_difference_of_their_axes(semi_axes: tuple[float, ...]) -> None:
    by = lacking(ellipsoid(*semi_axes), 1.0, SIDES) - lacking(ellipsoid(63, 82, 65), 1.0, SIDES)
    expected = np.subtract((63, 82, 65), semi_axes)[[0, 0, 1, 1, 2]]
    np.testing.assert_allclose(by.numpy(), expected, atol=1.5)


def test_a_brain_like_the_template_lacks_nothing() -> None:
    assert lacking(template(), 1.0, SIDES).abs().max() < 1.5


def test_holes_in_a_mask_are_no_lack() -> None:
    whole = ellipsoid(63, 82, 65)
    for hole in (ellipsoid(10, 35, 12), ellipsoid(50, 60, 45)):
        assert torch.equal(lacking(whole & ~hole, 1.0, SIDES), lacking(whole, 1.0, SIDES))
    sulci = whole & (np.random.default_rng(0).random(whole.shape) > 0.15)
    assert (lacking(sulci, 1.0, SIDES) - lacking(whole, 1.0, SIDES)).abs().max() < 2


def test_a_smaller_person_lacks_what_the_scale_says() -> None:
    # the canonical frame has every brain at the template's size: 10 % of 70 mm are missing at true size
    by = lacking(template(), 0.9, SIDES) - lacking(template(), 1.0, SIDES)
    assert 5 < by.min() and by.max() < 11


def test_below_the_brain_its_mean_stands_whatever_the_mask_does_there() -> None:
    whole = ellipsoid(63, 82, 65)
    short = whole.copy()
    short[:, :, : canonical.GRID_ORIGIN[2] // 2 - 25] = False
    down = torch.tensor([[0.0, 0, -1], [0.1, 0.1, -0.99]]).T
    np.testing.assert_allclose(lacking(whole, 1.0, down), lacking(short, 1.0, down), atol=1.0)


def test_heads_get_thicker_by_chance_and_stay_within_bounds() -> None:
    draws = [about(template(), seed=seed) for seed in range(8)]
    assert 1.5 < np.mean([d.mean() for d in draws]) < 3.5
    assert all(d.std() > 0.5 for d in draws) and np.std([d.mean() for d in draws]) > 0.2
    low, high = RANGE_MM
    for size in (0.6, 1.0, 1.4):
        mm = about(template(), scale=size)
        assert low - 1e-4 <= mm.min() and mm.max() <= high + 1e-4 and mm.std() > 0.3
    assert about(template(), scale=0.8).mean() > about(template()).mean() + 4
