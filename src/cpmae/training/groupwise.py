"""Register anatomies to a template that is built from them: fields that carry any head's shape to any other's.

Groupwise registration of label maps (Joshi et al., NeuroImage 2004): the template is the mean of all heads in its own
space, every head gets a field into it, and both improve in turn. Point `y` of a head is point `y + field(y)` of the
template.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cpmae import canonical
from cpmae.models.field import control_shape, dense, warp_volume
from cpmae.models.tissue import TISSUES
from cpmae.models.vqvae import STEP_MM
from cpmae.registration import register
from cpmae.training import anatomy

BENDING = 2e-3
_INVERSE_ITERATIONS = 20


@dataclass(frozen=True)
class Effort:
    """How long to register: rounds of template and fields in turn; iterations as `register` takes them."""

    rounds: int = 3
    iterations: tuple[int, int] = (60, 12)
    last_iterations: tuple[int, int] = (60, 40)


_DISTANCE_MM = 16.0  # at which the distance to the skin stops counting
# how much a mismatch of each class counts; the skin's place is told by the distance channel as well
_CLASSES = (
    ("air", 1.0),
    ("csf", 0.5),
    ("eye", 2.0),
    ("soft tissue", 0.7),
    ("orbit", 1.0),
    ("mucosa", 0.7),
    ("skin", 1.0),
    ("cord", 0.5),
    ("bone", 0.7),
)


def soft_classes(values: NDArray[np.uint8]) -> Tensor:
    """What is compared of an anatomy: shares of the classes, of brain, and the distance to the skin's surface.

    Returns:
        (C, X/2, Y/2, Z/2) float32, weighted by the root of what each class counts.
    """
    tissue = anatomy.outside_tissue()[values & anatomy.STRUCTURE]
    brain = (values & anatomy.IN_BRAIN_MASK) > 0
    head = ndimage.binary_fill_holes(ndimage.binary_closing((tissue != 0) | brain, iterations=2))
    channels = []
    for name, weight in _CLASSES:
        names = {"bone": ("bone", "marrow"), "csf": ("csf", "blood")}.get(name, (name,))
        share = np.isin(tissue, [TISSUES.index(n) for n in names]) & ~brain
        channels.append(_mean(share.astype(np.float32)) * weight**0.5)
    channels.append(_mean(brain.astype(np.float32)))
    signed = ndimage.distance_transform_edt(head) - ndimage.distance_transform_edt(~head)
    channels.append(_mean(np.clip(signed, -_DISTANCE_MM, _DISTANCE_MM).astype(np.float32) / _DISTANCE_MM) * 1.5)
    return torch.stack(channels)


def inverse(field: Tensor) -> Tensor:
    """The field of the way back, by fixed-point iteration: `x + inverse(x)` is where `y + field(y)` is `x`.

    Returns:
        (3, X/4, Y/4, Z/4) float32, mm: values, not control points.
    """
    shape = tuple(n // 4 for n in canonical.GRID_SHAPE)
    forward = dense(field, shape)
    back = -forward
    for _ in range(_INVERSE_ITERATIONS):
        back = -warp_volume(forward, back)
    return back


def mean_template(features: list[Tensor], fields: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The heads' features in template space, averaged where they count and made symmetric about the mid-plane."""
    total, counts = torch.zeros_like(features[0]), torch.zeros_like(weights[0])
    for one, field, weight in zip(features, fields, weights, strict=True):
        back = F.interpolate(inverse(field)[None], one.shape[1:], mode="trilinear", align_corners=False)[0]
        weight = warp_volume(weight, back)
        total += warp_volume(one, back) * weight
        counts += weight
    return symmetric(total) / symmetric(counts).clamp(min=1e-3)


Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]  # spans of x, y and z in canonical mm


def belief(doubtful: list[Box]) -> Tensor:
    """How much each voxel of an anatomy counts: 0 in the boxes, 1 away from them, (1, X/2, Y/2, Z/2) float32."""
    shape = tuple(n // STEP_MM for n in canonical.GRID_SHAPE)
    weight = torch.ones(1, *shape)
    for box in doubtful:
        ends = [(np.array(span) + origin) / STEP_MM for span, origin in zip(box, canonical.GRID_ORIGIN, strict=True)]
        weight[0][tuple(slice(max(int(first), 0), int(last) + 1) for first, last in ends)] = 0
    return F.avg_pool3d(weight, 5, 1, 2, count_include_pad=False)


def symmetric(volume: Tensor) -> Tensor:
    """The mean of (C, X, Y, Z) and its mirror image; see `mirror`."""
    return (volume + mirror(volume)) / 2


def mirror(volume: Tensor) -> Tensor:
    """Left for right of (C, X, Y, Z) samples that begin half a step after the canonical grid's first voxel edge.

    The mid-plane, voxel 96, lies half a voxel beyond the middle of the grid; that half is neglected.
    """
    return volume.flip(1)


def build(
    features: dict[str, Tensor],
    weights: dict[str, Tensor],
    effort: Effort | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Tensor]:
    """Fields of several anatomies into their common template, in turn with it; (3, *control_shape()) each.

    Args:
        features: name to what is compared, from `soft_classes`.
        weights: name to how much each voxel counts, from `belief`; where it is little, a field is smooth and follows
            nothing.
        effort: how long to register.
        tell: called with a line of text after each field.
    """
    fields = {name: torch.zeros(3, *control_shape()) for name in features}
    effort = effort or Effort()
    for number in range(effort.rounds):
        template = mean_template(list(features.values()), list(fields.values()), list(weights.values()))
        iterations = effort.last_iterations if number == effort.rounds - 1 else effort.iterations
        for name in features:
            fields[name] = register(features[name], template, weights[name], fields[name], iterations, BENDING)
            tell(f"round {number + 1} of {effort.rounds}: {name}")
    return fields


def _mean(volume: NDArray[np.float32]) -> Tensor:
    return F.avg_pool3d(torch.from_numpy(volume)[None, None], STEP_MM)[0, 0]
