"""Surfaces of label maps are made of steps; those of an atlas are not."""

import numpy as np
import torch

from cpmae.models.atlas import AIR, REACH, Atlas
from cpmae.models.tissue import BRAIN, TISSUES

SKIN = TISSUES.index("skin")


def test_a_slope_of_terraces_becomes_a_slope() -> None:
    x, y, z = np.indices((60, 60, 30))
    true = 12 + 0.05 * x + 0.08 * y  # steps are 12 to 20 voxels long
    labels = np.where(z <= true, SKIN, AIR).astype(np.uint8)
    middle = (slice(12, -12), slice(12, -12))

    def error(solid: np.ndarray) -> float:
        height = solid.sum(axis=2) - 0.5  # where the surface crosses each line along z
        return float(np.std((height - true[..., 0])[middle]))

    assert error((labels != AIR).astype(float)) > 0.25
    assert error(Atlas.from_labels(labels).share().numpy()) < 0.06


def test_what_is_thin_stays() -> None:
    labels = np.full((40, 40, 40), AIR, np.uint8)
    labels[10:30, 10:30, 19:22] = SKIN  # as an ear is
    atlas = Atlas.from_labels(labels)
    assert atlas.share()[15:25, 15:25].sum(dim=2).min() > 1.99  # at most half a voxel goes on either side
    kept = (atlas.labels() == SKIN).numpy() & (labels == SKIN)
    assert kept.sum() > 0.9 * (labels == SKIN).sum()


def test_every_voxel_that_is_not_all_air_has_a_tissue() -> None:
    rng = np.random.default_rng(0)
    labels = np.full((48, 40, 40), AIR, np.uint8)
    labels[6:40, 6:33, 8:32] = rng.integers(1, BRAIN + 1, (34, 27, 24))
    labels[20:26, 12:20, 15:30] = AIR  # an airway
    atlas = Atlas.from_labels(labels)
    assert (atlas.tissue[atlas.solid > 0] != AIR).all()
    solid = torch.from_numpy(labels != AIR)
    assert torch.equal(atlas.tissue[solid], torch.from_numpy(labels)[solid])
    assert (atlas.tissue[: 6 - REACH] == AIR).all()  # and farther away there is none
