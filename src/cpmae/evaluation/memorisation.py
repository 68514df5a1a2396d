"""Is a generated face one of the training heads'? Distances between face surfaces, in the frame of the brain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae import canonical
from cpmae.canonical import Pose
from cpmae.depth import distance
from cpmae.evaluation import attackers
from cpmae.evaluation.attackers import Training
from cpmae.evaluation.baselines import Method
from cpmae.evaluation.population import Person
from cpmae.evaluation.render import brain_frame, depth_maps, face, framed_surface
from cpmae.training import anatomy
from cpmae.volume import Volume


def distances(people: Sequence[Person], methods: Sequence[Method], training: Training) -> dict[str, Any] | None:
    """Distances in mm of faces after CP-MAE, and of the label maps' own faces, each to its nearest.

    Returns:
        For "generated to training", "training to training" and "generated to generated" median, least and number; None
        without label maps, or where CP-MAE was not among the methods.
    """
    method = next((m for m in methods if m.name == "CP-MAE"), None)
    if method is None or training.recipe.source != "label maps":
        return None
    kept = (attackers.collect(p, method, training.cache, training.seed)[0] for p in people)
    generated = [face(f["depth"]) for f in kept if f is not None]
    known = [face(_depth_of(path)) for path in training.recipe.heads]
    if len(generated) < 2 or len(known) < 2:
        return None
    return {
        "generated to training": _summary(nearest(generated, known)),
        "training to training": _summary(nearest(known)),
        "generated to generated": _summary(nearest(generated)),
    }


def nearest(faces: Sequence[NDArray], others: Sequence[NDArray] | None = None) -> list[float]:
    """The distance of each face to its nearest among others, or among the rest of its own kind, mm."""
    return [
        min(distance(a, b) for j, b in enumerate(faces if others is None else others) if others is not None or i != j)
        for i, a in enumerate(faces)
    ]


def _depth_of(path: Path) -> NDArray[np.float32]:
    """Depth maps of a label map's head as it is, without a warp."""
    with np.load(path) as file:
        values = file["anatomy"]
    head = Volume(((values & anatomy.STRUCTURE) > 0).astype(np.uint8), canonical.GRID_AFFINE)
    pose: Pose = canonical.align((values & anatomy.IN_BRAIN_MASK) > 0, canonical.GRID_AFFINE)
    return depth_maps(framed_surface(head, brain_frame(pose)))


def _summary(values: list[float]) -> dict[str, float | int]:
    return {"median_mm": float(np.median(values)), "least_mm": float(min(values)), "n": len(values)}
