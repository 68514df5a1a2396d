"""A smoothed brain mask laid over the template brain: the fit of a similarity that `canonical.align` is made of."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

SCALE_RANGE = (0.75, 1.25)  # brain size relative to the template: infants' brains to the largest adults'
_STEP = np.array([0.1, 0.1, 0.1, 5, 5, 5, 0.05])  # what counts as a small change: radians, mm, log scale


@dataclass(frozen=True)
class Fit:
    """A similarity that was found, (4, 4) canonical mm to world mm, with its cost and its Dice, 0 to 1."""

    turn: NDArray[np.float64]  # (4, 4), before the rotations of the parameters, which start from it
    parameters: NDArray[np.float64]
    matrix: NDArray[np.float64]
    cost: float
    overlap: float


@dataclass(frozen=True)
class Pair:
    """A smoothed mask and the template brain, to be laid over each other at points around the latter."""

    smooth: NDArray[np.float32]
    world_to_voxel: NDArray[np.float64]
    centre: NDArray[np.float64]  # of the mask, world mm
    mm: NDArray[np.float64]  # (3, N), canonical
    target: NDArray[np.float32]  # (N,), the template brain there

    @classmethod
    def of(
        cls,
        smooth: NDArray[np.float32],
        affine: NDArray[np.float64],
        mm: NDArray[np.float64],
        target: NDArray[np.float32],
    ) -> "Pair":
        """The pair for a smoothed mask with its affine, voxel to world mm, and the template's points."""
        centre = affine[:3, :3] @ np.array(ndimage.center_of_mass(smooth)) + affine[:3, 3]
        return cls(smooth, np.asarray(np.linalg.inv(affine), np.float64), centre, mm, target)

    def thinned(self) -> "Pair":
        """One point in seven, for many starts."""
        return replace(self, mm=np.ascontiguousarray(self.mm[:, ::7]), target=self.target[::7])

    def sampled(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """The mask at the template's points, (N,); `matrix` is (4, 4), canonical mm to world mm."""
        m = self.world_to_voxel @ matrix
        return ndimage.map_coordinates(self.smooth, m[:3, :3] @ self.mm + m[:3, 3:], order=1, mode="constant")

    def fit(self, turn: NDArray[np.float64], start: NDArray[np.float64] | None = None) -> Fit:
        """The nearest optimum from a start: the parameters of `similarity` after `turn`, (4, 4); 0 if None."""

        def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
            return (self.sampled(similarity(parameters, self.centre) @ turn) - self.target).astype(np.float64)

        # the brain masks of the training heads end at different heights of the brain stem, and so do extractors':
        # a robust loss keeps such a difference from tilting the pose
        start = np.zeros(7) if start is None else start
        fit = optimize.least_squares(residuals, start, loss="soft_l1", f_scale=0.3, x_scale=_STEP, max_nfev=25)
        matrix = similarity(fit.x, self.centre) @ turn
        found = self.sampled(matrix)
        overlap = 2 * float(np.minimum(found, self.target).sum()) / float(found.sum() + self.target.sum())
        return Fit(turn, fit.x, matrix, float(fit.cost), overlap)


def similarity(parameters: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) matrix from rotations about x, y, z (radians), a move of the origin from `centre` (mm), log scale."""
    rx, ry, rz = parameters[:3]
    cx, cy, cz, sx, sy, sz = np.cos(rx), np.cos(ry), np.cos(rz), np.sin(rx), np.sin(ry), np.sin(rz)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.clip(np.exp(parameters[6]), *SCALE_RANGE) * (about_z @ about_y @ about_x)
    matrix[:3, 3] = centre + parameters[3:6]
    return matrix


def right_angled_turns() -> list[NDArray[np.float64]]:
    """The 24 rotations that bring axes to axes, (4, 4)."""
    found = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.eye(4)
            turn[:3, :3] = np.eye(3)[list(axes)] * signs
            if np.linalg.det(turn) > 0:
                found.append(turn)
    return found


def degrees_between(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Angle between the rotations of two similarities."""
    between = one[:3, :3].T @ other[:3, :3]
    cosine = (np.trace(between) / np.cbrt(np.linalg.det(between)) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
