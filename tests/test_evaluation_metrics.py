"""Figures of recognition against tables worked out by hand."""

import numpy as np
import pytest

from cpmae.evaluation.metrics import area_and_error, rank_hits, recognise

# probe 0 is first; probe 1 second after 0; probe 2 last
TABLE = np.array([[9.0, 1.0, 2.0], [8.0, 7.0, 3.0], [6.0, 5.0, 4.0]])


def test_rank_rates_by_hand() -> None:
    np.testing.assert_array_equal(rank_hits(TABLE, 1), [1, 0, 0])
    np.testing.assert_array_equal(rank_hits(TABLE, 2), [1, 1, 0])
    assert recognise(TABLE).rank1 == pytest.approx(1 / 3)
    assert recognise(TABLE).rank5 == 1


def test_ties_are_broken_at_random_in_expectation() -> None:
    np.testing.assert_allclose(rank_hits(np.array([[2.0, 2.0, 1.0, 3.0]]), 2), [0.5])  # second or third
    np.testing.assert_allclose(rank_hits(np.zeros((1, 4)), 3), [0.75])
    found = recognise(np.zeros((20, 20)))
    assert found.chance == 1 / 20 and found.rank1 == pytest.approx(1 / 20)
    assert found.rank5 == pytest.approx(5 / 20)
    assert found.auc == pytest.approx(0.5) and found.eer == pytest.approx(0.5)


def test_pairs_that_cannot_be_compared_score_least_and_tie() -> None:
    found = recognise(np.full((10, 10), -np.inf))
    assert found.rank1 == pytest.approx(0.1) and found.auc == pytest.approx(0.5)
    assert rank_hits(np.array([[1.0, -np.inf], [-np.inf, -np.inf]]), 1).tolist() == [1, 0.5]


def test_area_by_hand() -> None:
    # of the six pairs, 3 beats 1 and 2; 2 beats 1 and ties 2; 0 beats none: 3.5 of 6
    assert area_and_error(np.array([3, 2, 0]), np.array([1, 2]))[0] == pytest.approx(3.5 / 6)
    assert area_and_error(np.array([5, 6]), np.array([1, 2, 3]))[0] == 1


def test_equal_error_by_hand() -> None:
    assert area_and_error(np.array([5, 6]), np.array([1, 2, 3]))[1] == 0
    assert area_and_error(np.array([1, 2]), np.array([5, 6]))[1] == 1
    # above 2.5 one of two is missed, and one of two is taken for one
    assert area_and_error(np.array([4, 2]), np.array([3, 1]))[1] == pytest.approx(0.5)


def test_a_perfect_and_a_guessing_attacker() -> None:
    perfect = recognise(np.eye(30))
    assert (perfect.rank1, perfect.auc, perfect.eer) == (1, 1, 0)
    assert perfect.rank1_ci[0] > 0.85 and perfect.rank1_ci[1] == 1
    guess = recognise(np.random.default_rng(0).normal(size=(200, 200)))
    assert guess.rank1_ci[0] <= guess.chance <= guess.rank1_ci[1]
    assert guess.auc_ci[0] < 0.5 < guess.auc_ci[1] and guess.n == 200


def test_no_hit_at_all_still_has_an_interval() -> None:
    never = np.roll(np.eye(100), 1, axis=1)
    found = recognise(never)
    assert found.rank1 == 0 and found.rank1_ci[0] == 0
    assert found.rank1_ci[1] == pytest.approx(0.0362, abs=1e-3)  # 1 - 0.025^(1/100)
    never[7] = 0  # an attacker who sees nothing of one probe is no surer of the others
    assert recognise(never).rank1_ci == pytest.approx(found.rank1_ci, abs=1e-3)


def test_an_interval_is_no_lower_for_a_hit_than_for_none_nor_narrow_for_ties() -> None:
    none = np.roll(np.eye(200), 1, axis=1)
    one = none.copy()
    one[3] = np.eye(200)[3]
    low, high = recognise(one).rank1_ci
    assert low == pytest.approx(0.00013, abs=1e-5) and high == pytest.approx(0.0275, abs=1e-4)  # Clopper and Pearson
    assert high > recognise(none).rank1_ci[1]
    blind = none.copy()
    blind[:120] = 0  # most of what is seen is nothing
    low, high = recognise(blind).rank1_ci
    assert low < 1 / 200 < high


def test_intervals_shrink_with_more_people() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (20, 200):
        scores = rng.normal(size=(n, n)) + 1.5 * np.eye(n)
        low, high = recognise(scores).auc_ci
        widths.append(high - low)
    assert widths[1] < 0.75 * widths[0]


def test_a_gallery_may_be_longer_than_the_probes() -> None:
    found = recognise(np.eye(3, 6))
    assert found.rank1 == 1 and found.chance == pytest.approx(1 / 6) and found.n == 3


@pytest.mark.parametrize("scores", [np.eye(1), np.ones((4, 3)), np.full((3, 3), np.nan)])
def test_tables_that_are_none_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least 2 identities"):
        recognise(scores)
