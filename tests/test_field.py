"""Fields: splines that are smooth and say what they are asked, and volumes pulled through them."""

import numpy as np
import pytest
import torch

from cpmae import canonical
from cpmae.canonical import Conformed
from cpmae.models.atlas import Atlas
from cpmae.models.field import GRID_SHAPE, control_shape, dense, sampling_grid, smooth_noise, through, warp_volume
from cpmae.models.tissue import BRAIN, PAINTS, TISSUES
from cpmae.registration import air_around, fit_atlas, register


def test_a_constant_field_is_constant_everywhere() -> None:
    field = torch.tensor([1.0, -2.0, 3.0])[:, None, None, None].expand(3, *control_shape())
    found = dense(field, (48, 60, 64))
    torch.testing.assert_close(found, field[:, :1, :1, :1].expand(3, 48, 60, 64), atol=1e-5, rtol=0)


def test_splines_reproduce_a_linear_field_away_from_the_edge() -> None:
    n = control_shape()[0]
    field = torch.zeros(3, *control_shape())
    field[0] = torch.arange(n, dtype=torch.float32)[:, None, None]
    found = dense(field, (4 * n, *control_shape()[1:]))[0, :, 5, 5]
    expected = (torch.arange(4 * n) + 0.5) / 4 - 0.5
    torch.testing.assert_close(found[8:-8], expected[8:-8], atol=1e-4, rtol=0)


def test_a_volume_is_pulled_by_millimetres_of_the_canonical_frame() -> None:
    volume = torch.zeros(1, *canonical.MODEL_SHAPE)
    volume[0, 50, 60, 70] = 1
    move = torch.zeros(3, *canonical.MODEL_SHAPE)
    move[1] = 6.0  # three voxels of 2 mm: what lies in front comes here
    assert warp_volume(volume, move)[0, 50, 57, 70] > 0.999
    torch.testing.assert_close(warp_volume(volume, torch.zeros_like(move)), volume, atol=1e-3, rtol=0)


def ball(centre: tuple[float, float, float], radius: float) -> torch.Tensor:
    x, y, z = (torch.arange(n) * 2.0 + 0.5 for n in canonical.MODEL_SHAPE)
    cx, cy, cz = centre
    distance = ((x[:, None, None] - cx) ** 2 + (y[:, None] - cy) ** 2 + (z - cz) ** 2).sqrt()
    return torch.sigmoid((radius - distance) / 3)


def test_registration_finds_a_moved_and_grown_ball() -> None:
    moving, fixed = ball((96, 120, 128), 60)[None], ball((101, 117, 128), 66)[None]
    field = register(fixed, moving, iterations=(40, 0))
    before, after = (moving - fixed).abs().mean(), (warp_volume(moving, dense(field, moving.shape[1:])) - fixed).abs()
    assert after.mean() < 0.2 * before


@pytest.mark.thorough
def test_the_atlas_is_fitted_to_what_is_known_alone() -> None:
    atlas = np.zeros(GRID_SHAPE, np.uint8)
    grid = np.indices(GRID_SHAPE, np.float32) - np.array([96, 120, 128], np.float32)[:, None, None, None]
    radius = np.sqrt((grid**2).sum(0))
    atlas[radius < 80], atlas[radius < 60] = TISSUES.index("skin"), BRAIN
    paints = torch.ones(len(PAINTS))
    paints[PAINTS.index("air")] = 0
    head, brain = ball((96, 120, 132), 80), ball((96, 120, 132), 60) > 0.5
    known = torch.ones(canonical.MODEL_SHAPE, dtype=torch.bool)
    known[:, 90:] = False
    brains = Conformed((head * brain).numpy(), brain.numpy())
    smooth, fields = Atlas.from_labels(atlas), []
    for unknown in (0.0, 5.0):
        data = torch.where(known, head, torch.tensor(unknown)).numpy()
        fields.append(fit_atlas(smooth, paints, Conformed(data, known.numpy()), brains, (30, 0)))
    torch.testing.assert_close(fields[0], fields[1])
    crown = dense(fields[0], control_shape())[:, 12, 14, 25]
    assert crown[2] < -2  # the head lies 4 mm higher than the atlas, so it is found lower there


def test_air_is_what_is_dark_about_the_head_and_not_its_bone() -> None:
    middle = (48, 60, 64)
    brain, bone, head = (ball((m * 2 for m in middle), r).numpy() for r in (50, 60, 70))
    data = head - bone + brain + 0.03
    known = np.ones(canonical.MODEL_SHAPE, bool)
    known[:, 90:] = False
    air = air_around(Conformed((data * known).astype(np.float32), known), Conformed(data * brain, brain > 0.5))
    assert (air[(head == 0) & known] > 0.9).all()
    assert (air[(head > 0.99) & known] < 0.1).all()  # bone among it
    assert (air[~known] == 0).all()
    assert ((air > 0.3) & (air < 0.8)).any()  # the surface is soft


def test_a_part_of_a_dense_field_and_of_its_sampling_grid_is_that_part() -> None:
    field = torch.randn(3, *control_shape(), generator=torch.Generator().manual_seed(0))
    shape, part = (96, 240, 128), (slice(23, 73), slice(110, None), slice(27, 75))
    whole = dense(field, shape)
    torch.testing.assert_close(dense(field, shape, part), whole[(slice(None), *part)])
    torch.testing.assert_close(
        sampling_grid(dense(field, shape, part), shape, part), sampling_grid(whole)[(slice(None), *part)]
    )


def test_smooth_noise_is_smooth_of_unit_spread_and_of_its_generator_alone() -> None:
    one, again, other = (smooth_noise(np.random.default_rng(seed).standard_normal, 3, 30.0) for seed in (0, 0, 1))
    assert one.shape == (3, *control_shape()) and torch.equal(one, again) and not torch.equal(one, other)
    assert abs(float(one.std()) - 1) < 1e-3
    assert one.diff(dim=2).std() < 0.4  # white noise has 1.4


def test_a_field_through_another_is_their_sum_where_it_is_even() -> None:
    first = torch.randn(3, *control_shape(), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(through(torch.ones(3, *control_shape()), first), first + 1)
    slope = torch.arange(control_shape()[0], dtype=torch.float32)[:, None, None].expand(control_shape())
    aside = torch.zeros(3, *control_shape())
    aside[0] = 16  # two control points
    seen = through(torch.stack([slope] * 3), aside)
    torch.testing.assert_close(seen[1, 2:-3], slope[2:-3] + 2)
