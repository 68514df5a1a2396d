"""Promise 5 as far as the weights alone can show it: every draw is a whole face, and another one than the last."""

from importlib import resources

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cpmae import canonical, steps
from cpmae.generate import generate_field
from cpmae.io import nifti
from cpmae.models.field import dense, warp_volume
from cpmae.options import Options

STEP = 2  # mm
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def faces() -> list[NDArray[np.float32]]:
    """Of heads around the example's brain, canonical y of the skin seen from the front, mm, (X, Z) about the face."""
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as path:
        volume = nifti.read(path).scaled()
    found = steps.find(volume, None, Options(), "cpu", None)
    brain = steps.look_at_brain(volume, found, "nonbrain").conformed
    model = steps.load_model(None, "cpu")
    solid = model.atlas.share()[None]
    return [
        depth_of(warp_volume(solid, dense(generate_field(model, brain, None, generator), canonical.MODEL_SHAPE))[0])
        for generator in map(torch.Generator().manual_seed, SEEDS)
    ]


def depth_of(solid: torch.Tensor) -> NDArray[np.float32]:
    x, y, z = (o // STEP for o in canonical.GRID_ORIGIN)
    seen = (solid[x - 25 : x + 25, y:, z - 55 : z - 8] > 0.5).numpy()
    depth = (seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)) * float(STEP)
    return np.where(seen.any(axis=1), depth, np.nan).astype(np.float32)


def test_every_face_is_whole_and_has_a_nose(faces: list[NDArray[np.float32]]) -> None:
    for depth in faces:
        assert np.isfinite(depth).mean() > 0.95
        middle, cheeks = np.nanmax(depth[21:29], axis=0), np.nanmedian(depth[[8, 9, 40, 41]], axis=0)
        assert 10 < np.nanmax(middle - cheeks) < 60


def test_every_seed_draws_a_face_of_its_own(faces: list[NDArray[np.float32]]) -> None:
    for number, one in enumerate(faces):
        for other in faces[:number]:
            apart = one - other
            assert np.nanmean(np.abs(apart - np.nanmedian(apart))) > 0.8
