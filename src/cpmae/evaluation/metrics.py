"""How well a table of scores recognises people: rank-k rates, area under the ROC curve, equal error rate.

Row i of a table is a probe (a de-identified scan of identity i), column j the gallery's scan of identity j; a larger
score means more alike. Ties are broken at random in expectation, so that an attacker who gives everybody the same score
is exactly at chance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Recognition:
    """Figures of one table.

    Attributes:
        rank1, rank5: share of probes whose identity is first, or among the first five.
        auc: probability that a pair of one identity scores above a pair of two.
        eer: error rate where as many pairs of one identity are missed as pairs of two are taken for one.
        rank1_ci, rank5_ci: 95 % intervals, exact binomial (Clopper and Pearson, Biometrika 1934). Of few hits a
            bootstrap tells too little: one of 200 would have a lower upper end than none.
        auc_ci, eer_ci: 95 % intervals, bootstrap over identities.
        chance: rank-1 of guessing.
        n: probes.
    """

    rank1: float
    rank1_ci: Interval
    rank5: float
    rank5_ci: Interval
    auc: float
    auc_ci: Interval
    eer: float
    eer_ci: Interval
    chance: float
    n: int


def recognise(scores: NDArray, seed: int = 0, resamples: int = 1000) -> Recognition:
    """All figures of a table of scores.

    Args:
        scores: (probes, gallery) float; probe i and gallery i are one identity, and the gallery may go on after the
            probes. -inf where a pair could not be compared; NaN is refused.

    Raises:
        ValueError: fewer than two identities, more probes than gallery, or NaN.
    """
    scores = np.asarray(scores, np.float64)
    probes, gallery = scores.shape
    if gallery < 2 or not 1 <= probes <= gallery or np.isnan(scores).any():
        raise ValueError(
            f"a table of scores has at least 2 identities, a gallery for each probe and no NaN: {scores.shape}"
        )
    first, fifth = rank_hits(scores, 1), rank_hits(scores, 5)
    rng = np.random.default_rng(seed)
    draws = rng.integers(probes, size=(resamples, probes))
    own, others = _pairs(scores)
    weights = np.stack([np.bincount(d, minlength=probes) for d in draws]) / probes
    auc, eer = area_and_error(own, others)
    return Recognition(
        rank1=float(first.mean()),
        rank1_ci=_rate_interval(first),
        rank5=float(fifth.mean()),
        rank5_ci=_rate_interval(fifth),
        auc=auc,
        auc_ci=_percentiles(_weighted_areas(own, others, weights)),
        eer=eer,
        eer_ci=_percentiles(_weighted_errors(own, others, weights)),
        chance=1 / gallery,
        n=probes,
    )


def rank_hits(scores: NDArray, k: int) -> NDArray[np.float64]:
    """For each probe the probability that its identity is among the first k, ties broken at random, (probes,)."""
    own = np.diagonal(scores)[:, None]
    above = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1)  # the identity itself is one of them
    return np.clip((k - above) / tied, 0, 1)


def area_and_error(own: NDArray, others: NDArray) -> tuple[float, float]:
    """Of two samples of scores, how often one of `own` is above one of `others`, ties count half; and equal error rate.

    Both are of the ROC curve, with straight lines over ties.
    """
    own, others = np.ravel(own), np.ravel(others)
    values = np.concatenate([own, others])
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    last_of_tie = np.append(falling[1:] != falling[:-1], True)
    is_own = order < len(own)
    found = np.concatenate([[0], np.cumsum(is_own)[last_of_tie] / len(own)])
    false = np.concatenate([[0], np.cumsum(~is_own)[last_of_tie] / len(others)])
    difference = (1 - found) - false  # falls from 1 to -1
    at = int(np.argmax(difference <= 1e-12))
    share = difference[at - 1] / (difference[at - 1] - difference[at])
    return float(np.trapezoid(found, false)), float(false[at - 1] + share * (false[at] - false[at - 1]))


def _weighted_areas(own: NDArray, others: NDArray, weights: NDArray) -> NDArray:
    """Areas of resampled identities, (resamples,); `weights` (resamples, probes) says how often each was drawn."""
    rows = np.sort(others, axis=1)
    below = np.stack([np.searchsorted(r, own, "left") + np.searchsorted(r, own, "right") for r in rows]) / 2
    return np.einsum("rj,ji,ri->r", weights, below / others.shape[1], weights, optimize=True)


def _weighted_errors(own: NDArray, others: NDArray, weights: NDArray) -> NDArray:
    """Equal error rates of resampled identities, (resamples,), from the curve at 500 thresholds."""
    values = np.unique(np.concatenate([own, others.ravel()]))[::-1]
    thresholds = values[np.unique(np.linspace(0, len(values) - 1, 500).astype(int))]
    rows = np.sort(others, axis=1)
    false = np.stack([1 - np.searchsorted(r, thresholds, "left") / others.shape[1] for r in rows])
    found = (own[:, None] >= thresholds).astype(np.float64)
    start = np.zeros((len(weights), 1))
    false, found = (np.concatenate([start, weights @ a], axis=1) for a in (false, found))
    difference = 1 - found - false
    at = np.argmax(difference <= 1e-12, axis=1)
    row = np.arange(len(weights))
    before, after = difference[row, at - 1], difference[row, at]
    return false[row, at - 1] + before / (before - after) * (false[row, at] - false[row, at - 1])


def _pairs(scores: NDArray) -> tuple[NDArray, NDArray]:
    """Scores of each probe with its own identity, (probes,), and with the others, (probes, gallery - 1)."""
    probes, gallery = scores.shape
    other = ~np.eye(probes, gallery, dtype=bool)
    return np.diagonal(scores).copy(), scores[other].reshape(probes, gallery - 1)


def _rate_interval(hits: NDArray[np.float64]) -> Interval:
    """The binomial interval goes on between whole counts: ties add fractions of a hit."""
    n, count = len(hits), min(float(hits.sum()), len(hits))
    low = stats.beta.ppf(0.025, count, n - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return float(low), float(high)


def _percentiles(values: NDArray) -> Interval:
    low, high = np.clip(np.percentile(values, [2.5, 97.5]), 0, 1)  # sums of rounded shares may pass 1
    return float(low), float(high)
