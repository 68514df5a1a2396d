"""Promise 5 as far as the weights alone can show it: every draw is a whole face, and another one than the last."""

from importlib import resources

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import brain_search, canonical, drawn_head, faces
from cpmae.draws import KNOWN_STEP
from cpmae.generate import generate_field
from cpmae.io import forms
from cpmae.models import checkpoint
from cpmae.models.field import GRID_SHAPE, dense, warp_volume
from cpmae.models.head import HeadModel
from cpmae.options import Options

STEP = 2  # mm
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return checkpoint.load()


@pytest.fixture(scope="module")
def looked_at() -> tuple[canonical.Conformed, float]:
    """The example's brain and its scale."""
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as path:
        volume = forms.read(path).scaled()
    found = brain_search.find(volume, None, Options(), "cpu", None)
    return drawn_head.look_at_brain(volume, found, "nonbrain").conformed, found.pose.scale


@pytest.fixture(scope="module")
def brain(looked_at: tuple[canonical.Conformed, float]) -> canonical.Conformed:
    return looked_at[0]


@pytest.fixture(scope="module")
def scale(looked_at: tuple[canonical.Conformed, float]) -> float:
    return looked_at[1]


@pytest.fixture(scope="module")
def fields(model: HeadModel, brain: canonical.Conformed, scale: float) -> list[torch.Tensor]:
    return [generate_field(model, brain, None, scale, torch.Generator().manual_seed(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def faces_seen(model: HeadModel, fields: list[torch.Tensor]) -> list[NDArray[np.float32]]:
    """Canonical y of the skin seen from the front, mm, (X, Z) about the face."""
    solid = model.atlas.share()[None]
    return [depth_of(warp_volume(solid, dense(field, canonical.MODEL_SHAPE))[0]) for field in fields]


def depth_of(solid: torch.Tensor) -> NDArray[np.float32]:
    x, y, z = (o // STEP for o in canonical.GRID_ORIGIN)
    seen = (solid[x - 25 : x + 25, y:, z - 55 : z - 8] > 0.5).numpy()
    depth = (seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)) * float(STEP)
    return np.where(seen.any(axis=1), depth, np.nan).astype(np.float32)


def test_every_face_is_whole_and_has_a_nose(faces_seen: list[NDArray[np.float32]]) -> None:
    for depth in faces_seen:
        assert np.isfinite(depth).mean() > 0.95
        middle, cheeks = np.nanmax(depth[21:29], axis=0), np.nanmedian(depth[[8, 9, 40, 41]], axis=0)
        assert 10 < np.nanmax(middle - cheeks) < 60


def test_every_seed_draws_a_face_of_its_own(faces_seen: list[NDArray[np.float32]]) -> None:
    for number, one in enumerate(faces_seen):
        for other in faces_seen[:number]:
            apart = one - other
            assert np.nanmean(np.abs(apart - np.nanmedian(apart))) > 0.8


def test_heads_about_one_brain_differ_in_thickness_and_none_is_thin(
    model: HeadModel, brain: canonical.Conformed, fields: list[torch.Tensor]
) -> None:
    above = int(canonical.GRID_ORIGIN[2] / STEP) + 10
    from_brain = ndimage.distance_transform_edt(~brain.mask, sampling=STEP)[:, :, above:]
    solid, medians = model.atlas.share()[None], []
    for field in fields:
        inside = (warp_volume(solid, dense(field, canonical.MODEL_SHAPE))[0] > 0.5).numpy()[:, :, above:]
        surface = inside & ~ndimage.binary_erosion(inside, border_value=1)
        thickness = from_brain[surface & (from_brain > 0)]
        assert np.percentile(thickness, 1) > 3
        medians.append(np.median(thickness))
    assert np.ptp(medians) > 0.5


def test_heads_about_a_smaller_and_a_larger_brain_are_nearly_as_large(
    model: HeadModel, brain: canonical.Conformed, scale: float
) -> None:
    sizes = []
    for share in (0.95, 1.0, 1.05):
        field = generate_field(model, brain, None, share * scale, torch.Generator().manual_seed(SEEDS[0]))
        head = warp_volume(model.atlas.share()[None], dense(field, canonical.MODEL_SHAPE))[0]
        vault = int(head[:, :, canonical.GRID_ORIGIN[2] // STEP :].sum())
        sizes.append(share * np.cbrt(vault))
    assert sizes[0] < sizes[2]  # no brain gives a head that is too small for it
    assert sizes[2] / sizes[0] < 1.05  # brains, and heads that were to follow them, by 1.105


def test_no_face_lies_nearer_to_a_training_face_than_these_lie_to_each_other(
    model: HeadModel, fields: list[torch.Tensor]
) -> None:
    known = model.known_faces.numpy()
    assert known.shape[0] == 9 and np.isfinite(known).mean() > 0.95
    for field in fields:
        assert faces.nearest(field, model.atlas.share(), known) > faces.least_apart(known)


@pytest.mark.parametrize("size", [1.0, 1.08])
def test_a_face_that_is_a_training_face_in_whatever_size_is_drawn_again(
    brain: canonical.Conformed, scale: float, fields: list[torch.Tensor], size: float
) -> None:
    model = checkpoint.load()
    solid = model.atlas.share()
    seen = warp_volume(solid[None], dense(fields[0], GRID_SHAPE))[0][faces.FACE] > 0.5
    larger = faces.resized(faces.relief(seen.numpy()), size)
    known = np.concatenate([model.known_faces.numpy(), faces.thinned(larger[None], KNOWN_STEP)])
    assert faces.nearest(fields[0], solid, known) < 0.5
    model.known_faces = torch.from_numpy(known)
    again = generate_field(model, brain, None, scale, torch.Generator().manual_seed(SEEDS[0]))
    assert not torch.equal(again, fields[0])
    assert faces.nearest(again, solid, known) > faces.least_apart(known)
