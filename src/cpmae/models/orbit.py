"""The orbits, which label maps leave out but for the eyes: fat, the optic nerve and the four straight muscles."""

import numpy as np
import torch
from torch import Tensor

from cpmae.models.tissue import TISSUES

_EYE, _ORBIT, _SOFT = (TISSUES.index(name) for name in ("eye", "orbit", "soft tissue"))
# the usual anatomy, mm, from the middle of the eye: how far the cone of the orbit goes to the front and to the back,
# how far its axis leads to the middle there, its radius about the eye and at its end
_FRONT, _BACK, _INWARD = 7, 38, 17
_RADIUS, _END_RADIUS = 20.0, 6.0
_LID = 1 / 40  # how much the front is bent
_NERVE, _BEHIND_EYE = 2.2, 10  # the nerve's radius, and where it begins
# how far the muscles lie from the axis, about the eye and behind
_RECTUS, _RECTUS_END, _RECTUS_THICKNESS = 11.5, 3.5, 2.6
_RECTUS_WIDTH = 0.75  # cosine of twice the angle from a muscle's middle to its border


def with_orbits(tissue: Tensor) -> Tensor:
    """An atlas's tissue, (X, Y, Z) uint8 of 1 mm and symmetric in x, with what surrounds and moves the eyes.

    An atlas without eyes stays as it is.
    """
    half = tissue[: len(tissue) // 2].clone()  # its last plane is the middle of the head
    eye = (half == _EYE).nonzero()
    if not len(eye):
        return tissue.clone()
    start, part = [], []
    for middle, before, after, n in zip(
        eye.float().mean(dim=0).round().int().tolist(), (22, _BACK, 22), (30, _FRONT, 22), half.shape, strict=True
    ):
        part.append(slice(max(middle - before, 0), min(middle + after + 1, n)))
        start.append(np.arange(part[-1].start, part[-1].stop, dtype=np.float32) - middle)
    inward, front, up = np.ix_(*start)
    back = (-front / _BACK).clip(0, 1)
    aside = inward - _INWARD * back
    radius = np.hypot(aside, up)
    nerve = (radius < _NERVE) & (front < -_BEHIND_EYE)
    muscle = np.abs(radius - _RECTUS - (_RECTUS_END - _RECTUS) * back) < _RECTUS_THICKNESS / 2
    muscle &= np.abs(np.cos(2 * np.arctan2(up, aside))) > _RECTUS_WIDTH
    inside = torch.from_numpy((radius < _RADIUS + (_END_RADIUS - _RADIUS) * back) & (front < _FRONT - radius**2 * _LID))
    box = half[tuple(part)]
    inside &= (box == _SOFT) | (box == _ORBIT)
    box[inside] = _ORBIT
    box[inside & torch.from_numpy(nerve | muscle)] = _SOFT
    return torch.cat([half, half.flip(0)])
