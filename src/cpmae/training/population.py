"""A population of heads that nobody has: a statistical shape model of the label maps' heads, and draws from it.

Every head is one atlas seen through a smooth field (`models.field`). The fields of the registered heads and of their
mirror images span the population (principal components, as in Cootes et al., Comput Vis Image Underst 1995, and the
face models after Blanz and Vetter, SIGGRAPH 1999); a new head is a random mixture of all of them, the face's mixture
apart from the cranium's, bent a little at random. Mixtures whose face is like one of theirs, or like nobody's, are not
taken. The atlas is what most of the heads have at a place, made symmetric: it is no one's. Brains, which the networks
only look at, are those of single label maps in the new shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cpmae import canonical, faces, overlay
from cpmae.errors import ScanError
from cpmae.io.output import whole_file
from cpmae.models.field import GRID_SHAPE, dense, pull, sampling_grid, smooth_noise, warp_volume
from cpmae.models.tissue import BRAIN, TISSUES
from cpmae.registration import register
from cpmae.training import anatomy, groupwise, nose

MAX_TRIES = 1000  # with the packaged weights' population one face in four is taken
CUT_BENDING = 2e-2  # of fields of heads with half a face: stiff, for the half that is missing must not pull


@dataclass(frozen=True)
class DrawSettings:
    """How far a drawn head is from the mean one; mm, degrees and shares are standard deviations.

    Attributes:
        spread, face_spread: of the mixtures, in standard deviations of the registered heads. The numbers mixed with are
            uniform, not normal, so that no mixture is a caricature.
        face_tie: correlation of the face's mixture with the cranium's.
        bend_mm, face_bend_mm: random bending of the mixtures, wide enough (`bend_sigma_mm`) to give another length,
            width or profile and no dents; the cranium has a brain to fit and is bent less.
        asymmetry: how much of the asymmetric part of mixture and bending is kept; a person's halves differ less than
            two people.
        unlike: least and greatest distance of a face from the nearest registered head's, mirror images included, in
            units of how far the two of these that are most alike are from each other: nobody's, and a person's.
        rotation_deg, translation_mm, scale: what the alignment of a brain leaves undone, and how brains' shapes differ.
        tight, tight_sd: brain extractors take along 2 mm of CSF that the label maps' masks leave out, so that around a
            brain that was scaled to the template everything else lies nearer by this share (mean and deviation).
    """

    spread: float = 0.9
    face_spread: float = 0.75
    face_tie: float = 0.4
    bend_mm: float = 2.2
    face_bend_mm: float = 5.2
    bend_sigma_mm: float = 30.0
    asymmetry: float = 0.35
    unlike: tuple[float, float] = (1.1, 1.42)
    rotation_deg: float = 1.5
    translation_mm: float = 1.0
    scale: float = 0.02
    tight: float = 0.025
    tight_sd: float = 0.009


@dataclass(frozen=True)
class Population:
    """What new heads are drawn from.

    Attributes:
        atlas: GRID_SHAPE uint8, index of `TISSUES` or `BRAIN`.
        mean: (3, *control_shape()) float32, mm, the mean field.
        modes: (K, 3, *control_shape()) float32, mm; times independent numbers of variance 1 they vary as the heads do.
        sources: anatomies (GRID_SHAPE uint8) whose brains are used.
        ways_back: for each of them `groupwise.inverse` of its field.
        reliefs: (N, X, Z) float32, `faces.relief` of each registered head.
    """

    atlas: NDArray[np.uint8]
    mean: Tensor
    modes: Tensor
    sources: list[NDArray[np.uint8]]
    ways_back: list[Tensor]
    reliefs: NDArray[np.float32]

    def save(self, path: Path) -> None:
        with whole_file(path) as file:
            np.savez_compressed(
                file,
                atlas=self.atlas,
                mean=self.mean.numpy().astype(np.float16),
                modes=self.modes.numpy().astype(np.float16),
                sources=np.stack(self.sources),
                ways_back=torch.stack(self.ways_back).numpy().astype(np.float16),
                reliefs=self.reliefs,
            )

    @classmethod
    def load(cls, path: Path) -> "Population":
        with np.load(path) as file:
            mean, modes, back = (
                torch.from_numpy(file[name].astype(np.float32)) for name in ("mean", "modes", "ways_back")
            )
            return cls(file["atlas"], mean, modes, list(file["sources"]), list(back), file["reliefs"])

    def nearest_face(self, field: Tensor) -> float:
        """How far the face of a head through `field` is from the nearest registered one or its mirror image, mm."""
        solid = torch.from_numpy((self.atlas != TISSUES.index("air")).astype(np.float32))
        return faces.nearest(field, solid, faces.thinned(self.reliefs, 2))


def build(
    whole: dict[str, NDArray[np.uint8]],
    cut: dict[str, NDArray[np.uint8]],
    doubtful: dict[str, list[groupwise.Box]],
    effort: groupwise.Effort | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Population:
    """The population of some anatomies.

    Args:
        whole: anatomies with a complete face, at least 3; shapes come from them.
        cut: others, whose brains are used alone.
        doubtful: name to the boxes in which that anatomy is damaged.
        effort, tell: as in `groupwise.build`.
    """
    features = {name: groupwise.soft_classes(values) for name, values in whole.items()}
    beliefs = {name: groupwise.belief(doubtful.get(name, [])) for name in whole}
    fields = groupwise.build(features, beliefs, effort, tell)
    weights = list(beliefs.values())
    mirrored = [_mirrored(field) for field in fields.values()]
    all_fields = torch.stack([*fields.values(), *mirrored])
    mean = all_fields.mean(dim=0)
    _, values, axes = torch.linalg.svd((all_fields - mean).flatten(1), full_matrices=False)
    scale = values[:-1] / (len(all_fields) - 1) ** 0.5
    modes = (axes[:-1] * scale[:, None]).view(-1, *mean.shape)
    atlas = consensus(list(whole.values()), list(fields.values()), weights)
    ways_back = [groupwise.inverse(field) for field in fields.values()]
    sources = list(whole.values())
    if cut:
        template = groupwise.mean_template(list(features.values()), list(fields.values()), weights)
    for values_ in cut.values():
        field = register(groupwise.soft_classes(values_), template, None, mean, (60, 12), CUT_BENDING)
        sources.append(values_)
        ways_back.append(groupwise.inverse(field))
    reliefs = np.stack([faces.relief((v[faces.FACE] & anatomy.STRUCTURE) > 0) for v in whole.values()])
    return Population(atlas, mean, modes, sources, ways_back, reliefs)


def consensus(heads: list[NDArray[np.uint8]], fields: list[Tensor], weights: list[Tensor]) -> NDArray[np.uint8]:
    """What most heads, and their mirror images, have at each place of the template; as `Population.atlas`.

    A vote counts by its head's `groupwise.belief` there. The passages of the nose are added.
    """
    classes = BRAIN + 1
    votes = torch.zeros(classes, *GRID_SHAPE)
    for values, field, weight in zip(heads, fields, weights, strict=True):
        tissue = anatomy.outside_tissue()[values & anatomy.STRUCTURE].astype(np.int64)
        tissue[(values & anatomy.IN_BRAIN_MASK) > 0] = BRAIN
        back = F.interpolate(groupwise.inverse(field)[None], GRID_SHAPE, mode="trilinear", align_corners=False)[0]
        counts = F.interpolate(weight[None], GRID_SHAPE, mode="trilinear", align_corners=False)[0]
        into = sampling_grid(back)
        for index in range(classes):
            share = torch.from_numpy((tissue == index).astype(np.float32))[None] * counts
            votes[index] += pull(share, into)[0]
    for index in range(classes):
        votes[index] = groupwise.symmetric(votes[index][None])[0]
        votes[index] = F.avg_pool3d(votes[index][None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    return nose.with_passages(votes.argmax(dim=0).to(torch.uint8).numpy())


@dataclass(frozen=True)
class DrawnHead:
    """A new head: its field into the atlas, and which source's brain it holds."""

    population: Population
    field: Tensor  # (3, *control_shape()) float32, mm
    brain_field: Tensor  # the same for the brain
    source: int

    def anatomy(self, step: int = 1) -> NDArray[np.uint8]:
        """(X / step, ...) uint8 in the form of `anatomy`, sampled every `step` voxels of the canonical grid."""
        shape = tuple(n // step for n in GRID_SHAPE)
        tissue = _nearest(self.population.atlas, dense(self.field, shape))
        into = dense(self.brain_field, shape)
        from_source = into + warp_volume(self.population.ways_back[self.source], into)
        values = _nearest(self.population.sources[self.source], from_source)
        in_brain = (values & anatomy.IN_BRAIN_MASK) > 0
        tissue[tissue == BRAIN] = TISSUES.index("csf")  # where this brain leaves room
        return np.where(in_brain, values & ~np.uint8(anatomy.OUT_OF_VIEW), tissue).astype(np.uint8)


def draw(population: Population, rng: np.random.Generator, settings: DrawSettings | None = None) -> DrawnHead:
    """A head that nobody has.

    Raises:
        ScanError: if no face comes out that is unlike the registered ones, as where one head was given twice.
    """
    s = settings or DrawSettings()
    field = _nobodys_shape(population, rng, s)
    angles = np.deg2rad(rng.normal(0, s.rotation_deg, 3))
    linear = overlay.similarity(np.array([*angles, 0, 0, 0, 0]), np.zeros(3))[:3, :3] @ np.diag(
        np.exp(rng.normal(0, s.scale, 3))
    )
    shift = torch.tensor(rng.normal(0, s.translation_mm, 3), dtype=torch.float32)[:, None, None, None]
    points = canonical.control_points()
    moved = torch.einsum("ij,jxyz->ixyz", torch.tensor(linear - np.eye(3), dtype=torch.float32), points) + shift
    field = field + moved
    tight = max(rng.normal(s.tight, s.tight_sd), 0.0)
    return DrawnHead(population, field + tight * points, field, int(rng.integers(len(population.sources))))


def _nobodys_shape(population: Population, rng: np.random.Generator, s: DrawSettings) -> Tensor:
    """The first `_shape` whose face is as `DrawSettings.unlike` wants it."""
    least, most = (share * faces.least_apart(population.reliefs) for share in s.unlike)
    for _ in range(MAX_TRIES):
        field = _shape(population, rng, s)
        if least <= population.nearest_face(field) <= most:
            return field
    raise ScanError(
        f"of {MAX_TRIES} faces none lay {least:.2f} to {most:.2f} mm from the nearest label map's; "
        "give other label maps, none of them twice"
    )


def _shape(population: Population, rng: np.random.Generator, s: DrawSettings) -> Tensor:
    """The field of a random mixture of all heads, bent a little."""
    count = len(population.modes)
    cranium, face = rng.uniform(-(3**0.5), 3**0.5, (2, count)).astype(np.float32)  # of unit variance
    face = s.face_spread * (s.face_tie * cranium + (1 - s.face_tie**2) ** 0.5 * face)
    cranium *= s.spread
    bent = smooth_noise(rng.standard_normal, 3, s.bend_sigma_mm)
    share = face_share(canonical.control_points())
    shape = torch.zeros_like(population.mean)
    for numbers, bend_mm, where in ((cranium, s.bend_mm, 1 - share), (face, s.face_bend_mm, share)):
        mixed = torch.einsum("k,kcxyz->cxyz", torch.from_numpy(numbers), population.modes)
        shape += (mixed + bend_mm * bent) * where
    return population.mean + torch.lerp((shape + _mirrored(shape)) / 2, shape, s.asymmetry)


def face_share(points: Tensor) -> Tensor:
    """0 in the brain and behind it, 1 in the face: before the ears and below the brow; (3, X, Y, Z) mm to (X, Y, Z)."""
    depth = points[1] * 0.8 - points[2] * 0.6  # mm along the direction that a face looks, a little downward
    return torch.sigmoid((depth - 58) / 8) * torch.sigmoid((points[1] + 5) / 8)


def _mirrored(field: Tensor) -> Tensor:
    """The field of a head's mirror image."""
    flipped = groupwise.mirror(field)
    return torch.cat([-flipped[:1], flipped[1:]])


def _nearest(values: NDArray[np.uint8], displacement: Tensor) -> NDArray[np.uint8]:
    source = torch.from_numpy(values.astype(np.float32))[None]
    return warp_volume(source, displacement, "nearest")[0].to(torch.uint8).numpy()
