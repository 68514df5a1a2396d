"""Identities that nobody has: one warp of one head each, scanned twice.

`identity` is all that the rest of the evaluation knows of them, and `silhouettes` is for attackers to learn from. With
label maps, an identity is a warp of one of them, and its scans are drawn by the generator that the model is trained
from; without, it is a warp of the packaged example head, whose brain and contrast all identities then share.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from cpmae import brain, canonical, overlay
from cpmae.batch import records
from cpmae.errors import ScanError
from cpmae.evaluation.work import Cache
from cpmae.io import forms
from cpmae.training import anatomy, synth
from cpmae.volume import Volume, voxel_sizes

EXAMPLE = "example_T1w.nii.gz"
STORED_UNIT = 1000  # what the brightest brain tissue is stored as, int16
_T1W_TRIES = 50


@dataclass(frozen=True)
class HeadScan:
    """A scan with its brain: `volume`, and `brain` (X, Y, Z) bool on its grid."""

    volume: Volume
    brain: NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """What identities are made from.

    Attributes:
        source: "label maps" or "example head".
        heads: files of prepared heads, .npz.
        seed: of all identities.
        sources: names of the original files and their SHA-256.
    """

    source: str
    heads: tuple[Path, ...]
    seed: int
    sources: tuple[tuple[str, str], ...]

    def settings(self) -> dict[str, Any]:
        """What decides an identity besides its number, as plain values."""
        return {"source": self.source, "seed": self.seed, "sources": [list(s) for s in self.sources]}


def prepare(label_maps: Path | None, folder: Path, seed: int) -> Recipe:
    """Bring the heads that identities are made from into `folder`.

    Label maps whose face is cut by the field of view are left out.

    Args:
        label_maps: folder of SynthSeg's whole-head label maps, NIfTI; None takes the packaged example head.

    Raises:
        ScanError: there is no label map with a whole face in the folder.
    """
    cache = Cache(folder)
    if label_maps is None:
        with resources.as_file(resources.files("cpmae") / "weights" / EXAMPLE) as path:
            sha256 = records.sha256(path)
            cache.get(partial(_example, path), "example", sha256=sha256)
        return Recipe("example head", (cache.path("example", sha256=sha256),), seed, ((EXAMPLE, sha256),))
    heads, names = [], []
    for path in sorted(label_maps.glob("*.nii*")):
        sha256 = records.sha256(path)
        head = cache.get(partial(_labelled, path), path.name, sha256=sha256)
        if not (head["anatomy"] & anatomy.OUT_OF_VIEW).any():
            heads.append(cache.path(path.name, sha256=sha256))
            names.append((path.name, sha256))
    if not heads:
        raise ScanError(f"{label_maps} holds no label map (.nii, .nii.gz) with a whole face; give SynthSeg's")
    return Recipe("label maps", tuple(heads), seed, tuple(names))


@lru_cache(maxsize=1)  # both scans of one identity are asked for one after the other
def identity(recipe: Recipe, number: int) -> tuple[HeadScan, HeadScan]:
    """Two scans of identity `number`, which differ in pose, contrast, noise and a small deformation."""
    rng = np.random.default_rng([recipe.seed, number])
    head = _load(recipe.heads[int(rng.integers(len(recipe.heads)))])
    if recipe.source == "example head":
        bent = _bent(head, rng, _PERSON)
        return _rescan(bent, rng), _rescan(_bent(bent, rng, _SESSION), rng)
    person = _bent_labels(head["anatomy"], rng, _PERSON)
    return _t1w_scan(person, rng), _t1w_scan(_bent_labels(person, rng, _SESSION), rng)


def silhouettes(recipe: Recipe, number: int) -> tuple[HeadScan, HeadScan]:
    """Two scans of an identity as far as the outer surface goes, at 2 mm and in half a second instead of twenty.

    For attackers to learn from. With label maps all tissue has one intensity.
    """
    if recipe.source == "example head":
        return identity(recipe, number)
    rng = np.random.default_rng([recipe.seed, number])
    head = _outline(recipe.heads[int(rng.integers(len(recipe.heads)))])
    if rng.random() < 0.5:
        head = head | {"image": head["image"][::-1].copy(), "brain": head["brain"][::-1].copy()}
    bent = _bent(head, rng, _PERSON)
    return _rescan(bent, rng), _rescan(_bent(bent, rng, _SESSION), rng)


def _labelled(path: Path) -> dict[str, NDArray]:
    return {"anatomy": synth.load_anatomy(path)}


@lru_cache(maxsize=16)
def _load(path: Path) -> dict[str, NDArray]:
    with np.load(path) as file:
        return dict(file)


@lru_cache(maxsize=16)
def _outline(path: Path) -> dict[str, NDArray]:
    """A label map's head as tissue and brain at 2 mm, float32 shares of each voxel."""
    values = _load(path)["anatomy"]
    parts = np.stack([(values & anatomy.STRUCTURE) > 0, (values & anatomy.IN_BRAIN_MASK) > 0]).astype(np.float32)
    image, inside = F.avg_pool3d(torch.from_numpy(parts)[None], 2)[0].numpy()
    return {"image": image, "brain": inside, "affine": _halved(canonical.GRID_AFFINE)}


def _t1w_scan(values: NDArray[np.uint8], rng: np.random.Generator) -> HeadScan:
    """The first of the generator's scans with the order of a T1w: white matter over grey matter over CSF."""
    centre = tuple(slice(o - 32, o + 32) for o in canonical.GRID_ORIGIN)
    for _ in range(_T1W_TRIES):
        seed = int(rng.integers(2**62))
        # a crop with the same seed has the same contrast and takes a hundredth of the time
        probe = synth.scan(np.ascontiguousarray(values[centre]), np.random.default_rng(seed), mask_jitter=0)
        if _is_t1w(probe.clean.numpy(), values[centre] & anatomy.STRUCTURE):
            scan = synth.scan(values, np.random.default_rng(seed), mask_jitter=0)
            stored = np.clip(scan.image.numpy() * STORED_UNIT, 0, 32767).astype(np.int16)
            return HeadScan(Volume(stored, canonical.GRID_AFFINE), scan.brain.numpy())
    raise ScanError(f"none of {_T1W_TRIES} scans that the generator drew was T1w; give other label maps")


def _is_t1w(clean: NDArray[np.float32], structure: NDArray) -> bool:
    medians = []
    for tissue in ("csf", "grey matter", "white matter"):
        labels = [anatomy.BRAIN_STRUCTURES[k] for k, t in anatomy.STRUCTURE_TISSUE.items() if t == tissue]
        medians.append(float(np.median(clean[np.isin(structure, labels)])))
    csf, grey, white = medians
    return csf < 0.8 * grey and grey < 0.97 * white


@dataclass(frozen=True)
class _Bend:
    """Standard deviations of a warp of the example head: degrees, mm, share, and mm of three smooth fields.

    `wide_mm` bends all of the head over 48 mm; `outer_mm` (over 48 mm) and `narrow_mm` (over 24 mm) what is not brain.
    """

    rotation_deg: float
    translation_mm: float
    scale: float
    wide_mm: float
    outer_mm: float
    narrow_mm: float


_PERSON = _Bend(0.0, 0.0, 0.03, 2.0, 4.0, 1.5)
_SESSION = _Bend(3.0, 3.0, 0.0, 0.6, 0.0, 0.2)
_LATTICE = 4  # voxels between places whose displacement is computed
_EXAMPLE_MM = 1.4  # finer grids are halved: the population is for quick runs


def _example(path: Path) -> dict[str, NDArray]:
    """The example head and its brain at 1.4 mm or more."""
    scan = forms.read(path).scaled()
    mask = brain.extract_brain(scan).astype(np.float32)
    if scan.voxel_sizes.min() >= _EXAMPLE_MM:
        return {"image": scan.data, "brain": mask, "affine": scan.affine}
    pair = torch.from_numpy(np.stack([scan.data, mask]))[None]
    image, inside = F.avg_pool3d(pair, 2)[0].numpy()
    return {"image": image, "brain": inside, "affine": _halved(scan.affine)}


def _bent(head: dict[str, NDArray], rng: np.random.Generator, bend: _Bend) -> dict[str, NDArray]:
    """A warp of an image and its brain."""
    grid = _warp(head["brain"], voxel_sizes(head["affine"]), rng, bend)
    pair = torch.from_numpy(np.stack([head["image"], head["brain"]]))[None]
    image, inside = F.grid_sample(pair, grid, padding_mode="border", align_corners=True)[0].numpy()
    return {"image": image, "brain": inside, "affine": head["affine"]}


def _bent_labels(values: NDArray[np.uint8], rng: np.random.Generator, bend: _Bend) -> NDArray[np.uint8]:
    """A warp of an anatomy at 1 mm, on one side or mirrored where `bend` makes a person."""
    values = np.ascontiguousarray(values[::-1]) if bend is _PERSON and rng.random() < 0.5 else values
    brain_share = ((values & anatomy.IN_BRAIN_MASK) > 0).astype(np.float32)
    grid = _warp(brain_share, np.ones(3), rng, bend)
    source = torch.from_numpy(values.astype(np.float32))[None, None]
    bent = F.grid_sample(source, grid, mode="nearest", padding_mode="border", align_corners=True)
    return bent[0, 0].to(torch.uint8).numpy()


def _warp(brain_share: NDArray[np.float32], edges: NDArray, rng: np.random.Generator, bend: _Bend) -> torch.Tensor:
    """Linear about the middle of the grid, then smooth fields; a sampling grid of `grid_sample`, corners aligned.

    Args:
        brain_share: (X, Y, Z), share of brain in each voxel.
        edges: of the voxels, mm.
    """
    shape = brain_share.shape
    nodes = [max(2, -(-n // _LATTICE)) for n in shape]  # fields this smooth need no node at each voxel
    half = [(n - 1) / 2 * e for n, e in zip(shape, edges, strict=True)]
    axes = [torch.linspace(-h, h, n) for h, n in zip(half, nodes, strict=True)]
    mm = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    angles = np.deg2rad(rng.normal(0, bend.rotation_deg, 3))
    turn = overlay.similarity(np.array([*angles, 0, 0, 0, 0]), np.zeros(3))[:3, :3]
    linear = torch.from_numpy(turn @ np.diag(np.exp(rng.normal(0, bend.scale, 3)))).float()
    moved = torch.einsum("ij,jxyz->ixyz", linear, mm)
    moved += torch.from_numpy(rng.normal(0, bend.translation_mm, 3)).float()[:, None, None, None]
    share = F.interpolate(torch.from_numpy(brain_share)[None, None], nodes, mode="area")[0, 0].numpy()
    outer = 1 - torch.from_numpy(ndimage.gaussian_filter(share, 5.0 / (edges * np.array(shape) / nodes)))
    for spread, size in ((48, bend.wide_mm), (48, bend.outer_mm * outer), (24, bend.narrow_mm * outer)):
        knots = [max(4, round(n * e / spread) + 2) for n, e in zip(shape, edges, strict=True)]
        coarse = torch.from_numpy(rng.standard_normal((1, 3, *knots))).float()
        moved += size * F.interpolate(coarse, nodes, mode="trilinear", align_corners=True)[0]
    moved /= torch.tensor(half, dtype=torch.float32)[:, None, None, None]
    fine = F.interpolate(moved.flip(0)[None], shape, mode="trilinear", align_corners=True)
    return fine.permute(0, 2, 3, 4, 1)


def _rescan(head: dict[str, NDArray], rng: np.random.Generator) -> HeadScan:
    """Another contrast, bias field, gain and noise."""
    unit = float(np.median(head["image"][head["brain"] > 0.5]))
    image = (np.maximum(head["image"], 0) / unit) ** rng.uniform(0.8, 1.25)
    nodes = torch.from_numpy(rng.normal(0, 0.08, (1, 1, 4, 4, 4)))
    image = image * np.exp(F.interpolate(nodes, image.shape, mode="trilinear", align_corners=True)[0, 0].numpy())
    noise = rng.normal(0, rng.uniform(0.005, 0.04), (2, *image.shape))
    stored = np.clip(np.hypot(image + noise[0], noise[1]) * rng.uniform(200, 800), 0, 32767).astype(np.int16)
    return HeadScan(Volume(stored, head["affine"]), head["brain"] > 0.5)


def _halved(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Affine of the means of 2x2x2 voxels."""
    grown = np.eye(4)
    grown[:3, :3] *= 2
    grown[:3, 3] = 0.5
    return affine @ grown
