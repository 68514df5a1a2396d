"""Attackers without pictures: what lies outside the brain, compared voxel by voxel and surface by surface.

All heads lie in the frame of their brains, which every method keeps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpmae.depth import distance
from cpmae.evaluation.render import face
from cpmae.evaluation.work import Arrays

MOST_MM = 30.0  # a line of sight past the edge of one head and not of the other counts as much
_NOTHING_MM = 256.0  # where a ray meets no head: as deep as the grid is
_FOLDS = 5
_RIDGE = 0.1  # share of the mean variance of brains


def correlations(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """Pearson correlation of the voxels where no brain reaches, (probes, gallery); 0 where a head is constant there."""
    return _correlated(probes, gallery, "outside")


def brain_correlations(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """The same of the brain masks: not an attack on a method, but what the kept brain tells by itself."""
    return _correlated(probes, gallery, "brain")


def surface_closeness(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """Minus the mean distance of two surfaces along the lines of sight of four maps, in mm, (probes, gallery).

    The median difference is taken off first: what a change of size explains. -inf where two share no surface.
    """
    first, second = ([f["depth"] for f in side] for side in (probes, gallery))
    return np.array([[-distance(a, b, MOST_MM) for b in second] for a in first])


def face_closeness(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """`surface_closeness` of the faces alone, seen from the front: cranium and scalp have to follow the brain."""
    first, second = ([face(f["depth"]) for f in side] for side in (probes, gallery))
    return np.array([[-distance(a, b, MOST_MM) for b in second] for a in first])


def surfaces_told_by_brain(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> NDArray[np.float64]:
    """How like a candidate's head is to the one that a probe's brain makes likely, (probes, gallery); 0 tells nothing.

    No attack on a method but its yardstick: nothing of the probe but the shape of its brain is looked at, which every
    method keeps. Ridge regression from brain masks to depth maps, learnt from other people of the gallery (a fifth of
    all is left out with the probe, and another with the candidate, so that no pair is compared with what it taught).
    """
    brains = np.stack([f["brain"].ravel() for f in gallery]).astype(np.float32)
    heads = np.nan_to_num(np.stack([f["depth"] for f in gallery]), nan=_NOTHING_MM)
    asked = np.stack([f["brain"].ravel() for f in probes]).astype(np.float32)
    fold = np.arange(len(gallery)) % _FOLDS
    scores = np.zeros((len(probes), len(gallery)))
    for a in range(_FOLDS):
        for b in range(_FOLDS):
            # with one fold less for pairs in the same one, they would be told of better than others
            left_out = (a, b if b != a else (a + 1) % _FOLDS)
            of, among, taught = fold[: len(probes)] == a, fold == b, ~np.isin(fold, left_out)
            if of.any() and among.any() and taught.sum() > 1:
                middle = heads[taught].mean(axis=0)
                likely = _ridge(brains[taught], heads[taught], asked[of])
                scores[np.ix_(of, among)] = _standard(likely - middle) @ _standard(heads[among] - middle).T
    return scores


def _ridge(known: NDArray[np.float32], wanted: NDArray[np.float32], asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ridge regression in its dual form: (n, d) to (n, e), at (m, d); (m, e)."""
    known_mean, wanted_mean = known.mean(axis=0), wanted.mean(axis=0)
    known = known - known_mean
    gram = known @ known.T
    gram[np.diag_indices_from(gram)] += _RIDGE * gram.trace() / len(gram) + 1e-6
    weights = np.linalg.solve(gram, known @ (asked - known_mean).T)
    return wanted_mean + weights.T @ (wanted - wanted_mean)


def _correlated(probes: Sequence[Arrays], gallery: Sequence[Arrays], name: str) -> NDArray[np.float64]:
    """Correlation over the voxels that are anything in some head of the gallery."""
    first, second = (np.stack([f[name].ravel() for f in side]).astype(np.float32) for side in (probes, gallery))
    where = second.any(axis=0)
    return (_standard(first[:, where]) @ _standard(second[:, where]).T).astype(np.float64)


def _standard(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and length 1, 0 where a row is constant."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)
