"""The way into the models' frame and the way back: pose, grid and intensity, all from the brain alone.

Canonical frame: mm, RAS+, origin at the centre of the template brain, upright, scaled so that the brain has the
template's size. Canonical grid: `GRID_SHAPE` voxels of 1 mm, voxel `GRID_ORIGIN` at the origin; it holds the head,
the neck and some air.
"""

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from cpmae.errors import BrainMaskError
from cpmae.models.field import GRID_SHAPE, control_shape
from cpmae.models.vqvae import STEP_MM
from cpmae.overlay import Fit, Pair, degrees_between, right_angled_turns
from cpmae.volume import Volume, box_of, coarser, quantiles, voxel_sizes, zero_point

GRID_ORIGIN = (96, 102, 165)
GRID_AFFINE = np.array(
    [[1, 0, 0, -GRID_ORIGIN[0]], [0, 1, 0, -GRID_ORIGIN[1]], [0, 0, 1, -GRID_ORIGIN[2]], [0, 0, 0, 1]], np.float64
)
# the networks see volumes of STEP_MM over the same space
MODEL_SHAPE = (GRID_SHAPE[0] // STEP_MM, GRID_SHAPE[1] // STEP_MM, GRID_SHAPE[2] // STEP_MM)
TEMPLATE_STEP = 4  # mm between the points of the template
_BRAIN_SHARE = 0.02  # of the template, above which some brain reaches there
SMOOTHING_MM = 3.0  # of brain masks before they are compared
SURE_OVERLAP = 0.93  # above it no other start is tried
MIN_OVERLAP = 0.75  # of a pose that a brain can have; label maps and scans of adults reach 0.9 to 0.97
MAX_STRAY_ML = 15.0  # of the mask where no brain reaches; real masks have 3 to 6, with both orbits 16 and more
# how much more a turned head's pose has to overlap than the next best: whole brains do by 0.06 to 0.10; those that are
# cut off, of which the poses cannot be told apart, by 0.00 to 0.03
MIN_LEAD = 0.04
SAME_POSE_DEGREES = 10.0  # fits nearer than this ended in one pose; one that got stuck is farther off
TURNED_DEGREES = 30.0  # poses farther apart are different ones; nearer, one of the fits may have got stuck


@dataclass(frozen=True)
class Pose:
    """Where a scan's brain lies.

    Attributes:
        matrix: (4, 4) float64, canonical mm to the scan's world mm: rotation, one scale, translation.
        overlap: Dice of the brain mask and the template brain in this pose, both smoothed, 0 to 1.
        stray_ml: volume of the mask that lies where no template brain reaches, in canonical ml.
        rival: overlap of the next best pose, turned against this one, if the head is not upright; 0 if it is.
    """

    matrix: NDArray[np.float64]
    overlap: float
    stray_ml: float
    rival: float = 0.0

    @property
    def scale(self) -> float:
        """How many mm of the scan's world one canonical mm is."""
        return float(np.cbrt(np.linalg.det(self.matrix[:3, :3])))


@cache
def template_brain() -> NDArray[np.float32]:
    """Share of the training brains that cover each point, smoothed; canonical grid at `TEMPLATE_STEP` mm, 0 to 1."""
    with (resources.files("cpmae") / "weights" / "template.npz").open("rb") as file:
        return np.load(file)["brain"].astype(np.float32) / 255.0


def align(mask: NDArray[np.bool_], affine: NDArray[np.float64], template: NDArray[np.float32] | None = None) -> Pose:
    """Find the pose of a brain from its mask: least squares between the smoothed mask and the template brain.

    Contrast plays no part, so every sequence of one person gets the same pose, up to differences of the mask. Where no
    pose near upright is one that a brain can have, heads turned by right angles are tried too.

    Args:
        mask: (X, Y, Z) bool, True in the brain.
        affine: (4, 4) voxel to world, mm, RAS+.
        template: as `template_brain`, which is the default.

    Raises:
        BrainMaskError: if the mask is empty.
    """
    if not mask.any():
        raise BrainMaskError("the brain mask is empty; give another (--brain-mask)")
    smooth, smooth_affine = smoothed(mask, affine)
    template = template_brain() if template is None else template
    pair = Pair.of(smooth, smooth_affine, *_template_points(template))
    fits: list[Fit] = []
    for pitch in (0.0, -0.5, 0.5):  # radians; the nod is what varies most between scanners and patients
        fits.append(pair.fit(np.eye(4), np.array([pitch, 0, 0, 0, 0, 0, 0])))
        best = min(fits, key=lambda fit: fit.cost)
        if best.overlap > SURE_OVERLAP:
            break

    def pose_of(fit: Fit) -> Pose:
        beside = float(pair.sampled(fit.matrix)[pair.target < _BRAIN_SHARE].sum()) * (2 * TEMPLATE_STEP) ** 3 / 1000
        return Pose(
            fit.matrix, fit.overlap, beside + _far_ml(smooth, np.linalg.inv(fit.matrix) @ smooth_affine, template)
        )

    if not faults(pose := pose_of(best)) and np.array_equal(nearest_turn(pose), np.eye(4)):
        return pose
    # the head may lie turned by right angles, where a fit from upright can get stuck on its way
    sparse = pair.thinned()
    turned = sorted((sparse.fit(turn) for turn in right_angled_turns()), key=lambda fit: fit.cost)
    found = pair.fit(turned[0].turn, turned[0].parameters)
    if found.cost >= best.cost or degrees_between(best.matrix, found.matrix) < SAME_POSE_DEGREES:
        return pose
    others = [fit.overlap for fit in (best, *turned) if degrees_between(fit.matrix, found.matrix) > TURNED_DEGREES]
    posed = replace(pose_of(found), rival=max(others))
    return pose if faults(pose) and faults(posed) else posed


def faults(pose: Pose) -> list[str]:
    """Why no brain can have a pose, as parts of a sentence; empty where one can."""
    found = []
    if pose.overlap < MIN_OVERLAP:
        share = f"overlap with a template {pose.overlap:.2f}, at least {MIN_OVERLAP}"
        found.append(f"the brain mask has the shape of no brain ({share})")
    if pose.stray_ml > MAX_STRAY_ML:
        found.append(
            f"{pose.stray_ml:.1f} ml of the brain mask lie where no brain reaches (at most {MAX_STRAY_ML:.0f} ml)"
        )
    if pose.rival > pose.overlap - MIN_LEAD:
        overlaps = f"overlap with a template {pose.overlap:.2f} and {pose.rival:.2f}"
        found.append(f"the head lies turned, and which way cannot be told from the brain mask ({overlaps})")
    return found


def nearest_turn(pose: Pose) -> NDArray[np.float64]:
    """The rotation among `right_angled_turns` that brings upright heads nearest to a pose, for most the identity."""
    return min(right_angled_turns(), key=lambda turn: degrees_between(turn, pose.matrix))


def _far_ml(smooth: NDArray[np.float32], to_canonical: NDArray[np.float64], template: NDArray[np.float32]) -> float:
    """Canonical ml of a smoothed mask beyond the surroundings of the template brain, which `align` compares."""
    where = np.argwhere(smooth > 0.02)
    near = _among(where, to_canonical, _surroundings(template))
    return float(smooth[tuple(where[~near].T)].sum()) * abs(float(np.linalg.det(to_canonical[:3, :3]))) / 1000


def stray_pieces(mask: NDArray[np.bool_], affine: NDArray[np.float64], pose: Pose) -> NDArray[np.bool_]:
    """Pieces of a mask apart from the largest that lie where no brain reaches: on the face, say, or in an orbit.

    Voxels hang together over edges and corners too, so that thick slices do not tear a brain to pieces.

    Args:
        mask: (X, Y, Z) bool, not empty.
        affine, pose: of its grid, and from `align`.

    Returns:
        (X, Y, Z) bool.
    """
    box = box_of(mask)
    labels, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    apart = np.argwhere((labels > 0) & (labels != sizes.argmax()))
    start = np.array([s.start for s in box])
    near = _among(apart + start, np.linalg.inv(pose.matrix) @ affine, template_brain() > _BRAIN_SHARE)
    beyond = np.bincount(labels[tuple(apart[~near].T)], minlength=len(sizes)) > sizes / 2
    stray = np.zeros(mask.shape, bool)
    stray[box] = beyond[labels]
    return stray


def _among(voxels: NDArray[np.int64], to_canonical: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the voxels (n, 3) lie where something is true on the template's grid, (n,)."""
    place = (voxels @ to_canonical[:3, :3].T + to_canonical[:3, 3] + GRID_ORIGIN) / TEMPLATE_STEP
    index = np.rint(place).astype(int)
    inside = np.all((index >= 0) & (index < where.shape), axis=1)
    among = np.zeros(len(voxels), bool)
    among[inside] = where[tuple(index[inside].T)]
    return among


@dataclass(frozen=True)
class Unit:
    """A scan's intensities in terms of its brain's: `intensity = value * scale + floor`."""

    floor: float
    scale: float

    def rescale(self, intensity: NDArray[np.float32]) -> NDArray[np.float32]:
        return (intensity - np.float32(self.floor)) / np.float32(self.scale)

    def unscale(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        return value * np.float32(self.scale) + np.float32(self.floor)


@dataclass(frozen=True)
class Conformed:
    """Part of a scan as the networks see it, MODEL_SHAPE: `data` float32, in `Unit`s and 0 outside, and `mask` bool."""

    data: NDArray[np.float32]
    mask: NDArray[np.bool_]


def conform(volume: Volume, mask: NDArray[np.bool_], pose: Pose, unit: Unit) -> Conformed:
    """Bring the masked part of a scan to the networks' grid; nothing outside the mask is looked at.

    Args:
        volume: intensities on the native grid; values that are not finite count as the unit's floor.
        mask: same shape, bool, True where intensities may be used.
        pose, unit: from `align` and `brain_unit`.
    """
    values = np.where(mask, unit.rescale(volume.data), 0)
    np.nan_to_num(values, copy=False, nan=0, posinf=0, neginf=0)
    source = np.stack([values, mask.astype(np.float32)])
    sampled = _resample(source, volume.affine, MODEL_SHAPE, pose.matrix @ grid_affine(STEP_MM), padding="zeros")
    weight = sampled[1]
    inside = weight > 0.5
    return Conformed(np.where(inside, sampled[0] / np.maximum(weight, 0.5), 0).astype(np.float32), inside)


def resample_like(
    data: NDArray[np.float32], pose: Pose, shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bring a volume of the canonical grid to a native grid; the way back of `conform`.

    Thick slices average over their thickness. Beyond the canonical grid the value at its edge goes on, so that
    a neck reaches the end of a long field of view and air stays air.

    Args:
        data: float32, GRID_SHAPE or a whole fraction of it along each axis, as MODEL_SHAPE.
        pose: from `align`.
        shape, affine: the native grid.

    Returns:
        float32 of the native shape.
    """
    source = pose.matrix @ grid_affine(GRID_SHAPE[0] // data.shape[0])
    return _resample(data[None], source, shape, affine, padding="border")[0]


def brain_unit(volume: Volume, brain: NDArray[np.bool_]) -> Unit:
    """Zero point and unit of a scan's intensities, from brain voxels alone.

    Magnitude images start at 0. Where the brain itself goes below 0 (standardised floats, say), or where all of it is
    nearly of one brightness, as if a number had been added, its lowest values are the floor. The scale is the distance
    from there to the median of the brain, or, where half of the brain is empty (maps of myelin water, thresholded
    maps), to the median of the rest.
    """
    values = volume.data[brain]
    values = values[np.isfinite(values)]
    low, median = quantiles(values, (0.005, 0.5))
    floor = zero_point(float(low), float(median))
    if not median > floor and (above := values[values > floor]).size:
        (median,) = quantiles(above, (0.5,))
    return Unit(floor, max(float(median) - floor, float(np.finfo(np.float32).tiny)))


def grid_affine(step: int) -> NDArray[np.float64]:
    """(4, 4), voxels of `step` mm that fill the canonical grid to canonical mm."""
    return coarser(GRID_AFFINE, [step] * 3)


def control_points() -> torch.Tensor:
    """Canonical mm of the control points of fields, (3, *control_shape()) float32."""
    axes = [
        (torch.arange(n, dtype=torch.float32) + 0.5) * (length / n) - 0.5 - origin
        for n, length, origin in zip(control_shape(), GRID_SHAPE, GRID_ORIGIN, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _resample(
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    new_affine: NDArray[np.float64],
    padding: str,
) -> NDArray[np.float32]:
    """Trilinear resampling of (C, X, Y, Z) onto another grid, averaged over the new voxels where they are larger."""
    data, affine = _shrink(data, affine, float(voxel_sizes(new_affine).min()), padding)
    to_voxel = np.linalg.inv(affine) @ new_affine
    steps = [max(1, round(float(s))) for s in voxel_sizes(to_voxel)]
    source = torch.from_numpy(np.ascontiguousarray(data))[None]
    out = torch.empty((data.shape[0], *shape), dtype=torch.float32)
    size = torch.tensor(data.shape[1:], dtype=torch.float32)
    # grid_sample wants the last axis first and -1..1 from edge to edge of the first and last voxel's centres
    rows = torch.tensor(to_voxel, dtype=torch.float32)
    scale = 2 / (size - 1).clamp(min=1)
    y, z = (torch.arange(n, dtype=torch.float32) for n in shape[1:])
    slab = max(1, 2**21 // (shape[1] * shape[2]))  # voxels at a time: the sampling grid takes 12 bytes a voxel
    for start in range(0, shape[0], slab):
        x = torch.arange(start, min(start + slab, shape[0]), dtype=torch.float32)
        total = torch.zeros((data.shape[0], len(x), *shape[1:]))
        for shift in np.ndindex(*steps):
            dx, dy, dz = ((s + 0.5) / n - 0.5 for s, n in zip(shift, steps, strict=True))
            grid = torch.empty((1, len(x), *shape[1:], 3), dtype=torch.float32)
            for axis in range(3):
                r = rows[axis]
                along_x = ((x + dx) * r[0] + r[3]) * scale[axis] - 1
                along_y = (y + dy) * r[1] * scale[axis]
                along_z = (z + dz) * r[2] * scale[axis]
                grid[0, ..., 2 - axis] = along_x[:, None, None] + along_y[None, :, None] + along_z[None, None, :]
            total += F.grid_sample(source, grid, mode="bilinear", padding_mode=padding, align_corners=True)[0]
        out[:, start : start + slab] = total.div_(float(np.prod(steps)))
    return out.numpy()


def _shrink(
    data: NDArray[np.float32], affine: NDArray[np.float64], edge_mm: float, padding: str = "zeros"
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Average whole blocks of voxels whose edges are shorter than `edge_mm`, against aliasing and for speed."""
    factors = [max(1, int(edge_mm / size + 0.25)) for size in voxel_sizes(affine)]
    if factors == [1, 1, 1]:
        return data, affine
    around = [(0, 0)] + [(0, -n % f) for n, f in zip(data.shape[1:], factors, strict=True)]
    padded = np.pad(data, around, mode="edge" if padding == "border" else "constant")
    pooled = F.avg_pool3d(torch.from_numpy(padded)[None], tuple(factors))[0].numpy()
    return pooled, coarser(affine, factors)


def smoothed(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The mask at about 2 mm, cut to its surroundings and smoothed by `SMOOTHING_MM`, with its affine."""
    where = box_of(mask)
    cut = mask[where].astype(np.float32)[None]
    shift = np.eye(4)
    shift[:3, 3] = [s.start for s in where]
    small, small_affine = _shrink(cut, affine @ shift, 2.0)
    sizes = voxel_sizes(small_affine)
    pad = np.ceil(4 * SMOOTHING_MM / sizes).astype(int)
    grown = np.pad(small[0], [(p, p) for p in pad])
    back = np.eye(4)
    back[:3, 3] = -pad
    return ndimage.gaussian_filter(grown, SMOOTHING_MM / sizes, mode="constant", truncate=3), small_affine @ back


def _surroundings(template: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The template brain and 16 mm about it."""
    return ndimage.maximum_filter(template, size=9) > _BRAIN_SHARE


def _template_points(template: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Every second of the template's points in and around the brain, where a comparison tells something.

    Returns:
        canonical mm, (3, N), and the template there, (N,).
    """
    sparse = np.zeros_like(template, bool)
    sparse[::2, ::2, ::2] = True
    index = np.nonzero(_surroundings(template) & sparse)
    return np.array(index, np.float64) * TEMPLATE_STEP - np.array(GRID_ORIGIN)[:, None], template[index]
