"""Distances of surfaces along lines of sight."""

import numpy as np
import pytest

from cpmae.depth import distance

SURFACE = np.array([[10, 20, 30], [40, 50, np.nan]], np.float32)


def test_a_shift_in_depth_is_no_distance() -> None:
    assert distance(SURFACE, SURFACE + 7) == 0


def test_distances_by_hand() -> None:
    bump = SURFACE + np.array([[0, 0, 0], [0, 5, 0]], np.float32)
    assert distance(SURFACE, bump) == 1  # 5 mm on one of five lines of sight
    assert distance(SURFACE, bump, most=2) == pytest.approx(0.4)
    assert distance(SURFACE, np.full_like(SURFACE, np.nan)) == np.inf


def test_a_line_of_sight_past_one_of_the_two_counts_as_the_most() -> None:
    narrower = SURFACE.copy()
    narrower[0, 0] = np.nan
    assert distance(SURFACE, narrower) == 0
    assert distance(SURFACE, narrower, most=30) == pytest.approx(6)  # one of five
