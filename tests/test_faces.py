"""Faces are compared as they would be seen: whatever their distance, and in any of several sizes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cpmae import canonical, depth, faces


def ball(radius: float) -> NDArray[np.float32]:
    """The relief of a ball about the middle of the canonical frame, mm."""
    x, y, z = (
        np.arange(n)[part] - origin
        for n, part, origin in zip(canonical.GRID_SHAPE, faces.FACE, canonical.GRID_ORIGIN, strict=True)
    )
    solid = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 < radius**2
    return faces.relief(solid)


@pytest.mark.parametrize("size", [0.9, 1.1])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_resized_relief_is_that_of_a_larger_head(size: float, step: int) -> None:
    resized = faces.resized(faces.thinned(ball(110), step), size)
    there = faces.thinned(ball(110 * size), step)
    both = np.isfinite(resized) & np.isfinite(there)
    assert both.mean() > 0.4
    assert depth.distance(resized, there) < 0.5  # mm; reliefs are told to whole ones
    assert depth.distance(faces.thinned(ball(110), step), there) > 1


def test_what_was_not_seen_is_not_made_up() -> None:
    whole = np.zeros((100, 96), np.float32)
    assert np.isfinite(faces.resized(whole, 1.0)).all()
    smaller = faces.resized(whole, 0.9)
    assert np.isnan(smaller[[0, -1]]).all() and np.isnan(smaller[:, 0]).all()
    assert np.isnan(faces.resized(whole, 1.1)[:, -1]).all()  # above, where it would show its forehead
