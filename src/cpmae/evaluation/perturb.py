"""What can be wrong before de-identification: brain masks, and scans that are unlike those learnt from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import brain, canonical, overlay
from cpmae.evaluation.identities import HeadScan
from cpmae.region import grow
from cpmae.volume import Volume, voxel_sizes

EYES_MM = ((-32.0, 62.0, -38.0), (32.0, 62.0, -38.0))  # middles of the eyeballs, canonical frame
_SINUS_MM = (0.0, 55.0, -45.0)


@dataclass(frozen=True)
class Condition:
    """One thing that is wrong, and how much.

    Attributes:
        factor, level: as in the tables.
        apply: (head, generator) -> (scan with its true brain, the mask that is given); picklable.
    """

    factor: str
    level: str
    apply: Callable[[HeadScan, np.random.Generator], tuple[HeadScan, NDArray[np.bool_]]]


def conditions(factors: Sequence[str] | None = None, quick: bool = False) -> list[Condition]:
    """Nothing wrong, and then all of `FACTORS` or some of them.

    For quick runs one level of each: of the extractor the first, and of the others the last, as a rule the worst.
    """
    made = [
        Condition(factor, str(level), partial(_apply, function=function, level=level))
        for factor, (function, levels) in FACTORS.items()
        if factors is None or factor in factors
        for level in (levels if not quick else levels[:1] if factor == "extractor" else levels[-1:])
    ]
    return [Condition("none", "0", partial(_apply, function=untouched, level=0)), *made]


def untouched(head: HeadScan, level: int, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """Scan and mask as they are."""
    return head, head.brain


def eroded(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A mask that lacks `level` mm at its border."""
    return head, ndimage.distance_transform_edt(head.brain, sampling=voxel_sizes(head.volume.affine)) > level


def dilated(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A mask with `level` mm too much all around."""
    return head, grow(head.brain, head.volume.affine, level)


def shifted(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A mask `level` mm too far in front."""
    to_voxel = np.linalg.inv(head.volume.affine[:3, :3])
    offset = -to_voxel @ np.array([0.0, level, 0.0])
    mask = ndimage.affine_transform(head.brain.astype(np.uint8), np.eye(3), offset, order=0)
    return head, mask > 0


def lobe_cut(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A mask without the foremost share `level` of its voxels."""
    front = _places(head.volume.affine, head.volume.shape)[1]
    return head, head.brain & (front < np.quantile(front[head.brain], 1 - level))


def leaked(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A mask with a ball of `level` mm radius about each eye."""
    place = _canonical(head)
    near = [sum((p - c) ** 2 for p, c in zip(place, eye, strict=True)) < level**2 for eye in EYES_MM]
    return head, head.brain | near[0] | near[1]


def extracted(head: HeadScan, level: str, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """The mask of a brain extractor."""
    return head, brain.extract_brain(head.volume, level)


def contrast(head: HeadScan, level: str, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A T1w with its greys exchanged for those of another sequence, by intensity: air stays dark."""
    unit = canonical.brain_unit(head.volume, head.brain)
    value = np.clip(unit.rescale(np.asarray(head.volume.data, np.float32)), 0, 3)
    greys = _GREYS[level]
    new = np.interp(value, [p[0] for p in greys], [p[1] for p in greys]).astype(np.float32)
    if level == "GRE-like":
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(_canonical(head), _SINUS_MM, strict=True)))
        new *= 1 - 0.8 * np.exp(-((distance / 25) ** 2))  # signal is lost about the sinuses
    return HeadScan(Volume((new * 400).astype(np.int16), head.volume.affine), head.brain), head.brain


def resampled(head: HeadScan, level: str, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """Other voxels, "2" or "1x1x5" mm."""
    sizes = [float(s) for s in level.split("x")] if "x" in level else [float(level)] * 3
    factors = np.array(sizes) / voxel_sizes(head.volume.affine)
    shape = tuple(int(n) for n in np.maximum(np.floor(np.array(head.volume.shape) / factors), 1))
    affine = head.volume.affine @ np.diag([*factors, 1.0])
    affine[:3, 3] += head.volume.affine[:3, :3] @ ((factors - 1) / 2)
    blur = np.where(factors > 1, factors / 2.355, 0)
    data, mask = (
        ndimage.affine_transform(
            ndimage.gaussian_filter(np.asarray(a, np.float32), blur), factors, (factors - 1) / 2, shape, order=1
        )
        for a in (np.nan_to_num(head.volume.data), head.brain)
    )
    new = HeadScan(Volume(_stored(data, head.volume.data.dtype), affine), mask > 0.5)
    return new, new.brain


def noisy(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """Rician noise of `level` times the brain's median."""
    unit = canonical.brain_unit(head.volume, head.brain)
    value = unit.rescale(np.asarray(head.volume.data, np.float32))
    noise = rng.normal(0, level, (2, *value.shape)).astype(np.float32)
    return _with(head, unit.unscale(np.hypot(value + noise[0], noise[1])))


def biased(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A smooth field whose logarithm has the standard deviation `level`."""
    nodes = rng.standard_normal((4, 4, 4))
    field = ndimage.zoom(nodes, np.array(head.volume.shape) / 4, order=1)
    return _with(head, np.asarray(head.volume.data, np.float32) * np.exp(level * field / field.std()))


def tilted(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A head that looks down by `level` degrees; its grid turns with it."""
    turn = overlay.similarity(np.array([np.deg2rad(-level), 0, 0, 0, 0, 0, 0]), np.zeros(3))
    return HeadScan(Volume(head.volume.data, turn @ head.volume.affine), head.brain), head.brain


def cut(head: HeadScan, level: float, rng: np.random.Generator) -> tuple[HeadScan, NDArray[np.bool_]]:
    """A field of view that ends `level` mm below the middle of the brain."""
    axis = int(np.abs(head.volume.affine[2, :3] / voxel_sizes(head.volume.affine)).argmax())
    height = _canonical(head)[2]
    others = tuple(a for a in range(3) if a != axis)
    keep = np.flatnonzero(height.max(axis=others) > -level)
    box = [slice(None)] * 3
    box[axis] = slice(int(keep[0]), int(keep[-1]) + 1)
    affine = head.volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * keep[0]
    new = HeadScan(Volume(np.ascontiguousarray(head.volume.data[tuple(box)]), affine), head.brain[tuple(box)])
    return new, new.brain


FACTORS: dict[str, tuple[Callable, tuple]] = {
    "mask eroded (mm)": (eroded, (1, 2, 4, 8)),
    "mask dilated (mm)": (dilated, (1, 2, 4, 8)),
    "mask shifted to the front (mm)": (shifted, (2, 5, 10)),
    "lobe cut from the mask (share)": (lobe_cut, (0.05, 0.1, 0.2, 0.3)),
    "mask leaked into the eyes (mm)": (leaked, (8, 12, 16, 24)),
    "extractor": (extracted, ("deepbet", "robex", "hd-bet")),
    "contrast": (contrast, ("T2w-like", "PD-like", "FLAIR-like", "GRE-like")),
    "voxel (mm)": (resampled, ("0.5", "2", "3", "5", "1x1x5")),
    "noise (of the brain's median)": (noisy, (0.03, 0.1, 0.2)),
    "bias (log)": (biased, (0.1, 0.3, 0.6)),
    "tilt (degrees)": (tilted, (10, 20, 35)),
    "field of view ends below the brain's middle (mm)": (cut, (110, 80, 60)),
}
# brain-relative intensity of a T1w to that of another sequence: air, CSF, grey, white, fat
_GREYS = {
    "T2w-like": ((0, 0), (0.08, 0.1), (0.3, 2.2), (0.9, 1.1), (1.2, 0.8), (3, 1.2)),
    "PD-like": ((0, 0), (0.08, 0.1), (0.3, 1.2), (0.9, 1.1), (1.2, 0.9), (3, 1.0)),
    "FLAIR-like": ((0, 0), (0.08, 0.05), (0.3, 0.15), (0.9, 1.2), (1.2, 0.9), (3, 1.3)),
    "GRE-like": ((0, 0), (0.08, 0.1), (0.3, 1.3), (0.9, 1.1), (1.2, 0.95), (3, 1.0)),
}


def _apply(
    head: HeadScan, rng: np.random.Generator, function: Callable, level: object
) -> tuple[HeadScan, NDArray[np.bool_]]:
    return function(head, level, rng)


def _with(head: HeadScan, values: NDArray) -> tuple[HeadScan, NDArray[np.bool_]]:
    """The head with other intensities in the dtype that it has."""
    return HeadScan(Volume(_stored(values, head.volume.data.dtype), head.volume.affine), head.brain), head.brain


def _stored(values: NDArray, dtype: np.dtype) -> NDArray:
    """Values in a dtype, integers rounded."""
    if dtype.kind in "iu":
        values = np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return values.astype(dtype)


def _canonical(head: HeadScan) -> NDArray[np.float32]:
    """(3, X, Y, Z) canonical mm of every voxel."""
    pose = canonical.align(head.brain, head.volume.affine)
    return _places(np.linalg.inv(pose.matrix) @ head.volume.affine, head.volume.shape)


def _places(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Where an affine has the voxels of a grid, (3, X, Y, Z) mm."""
    rows = [np.arange(n, dtype=np.float32) for n in shape]
    x, y, z = np.meshgrid(*rows, indexing="ij", sparse=True)
    return np.stack([a * x + b * y + c * z + d for a, b, c, d in affine[:3].astype(np.float32)])
