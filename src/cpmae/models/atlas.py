"""The head that every field leads to: what tissue lies where, and where the surface runs between the voxels."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cpmae.models.tissue import TISSUES
from cpmae.volume import box_of

AIR = TISSUES.index("air")
REACH = 2  # voxels that tissue goes on into air, so that voxels which are air in part have a tissue as well
_EDGE = 1.5  # voxels over which a surface fades into air
_BAND = 6.0  # voxels about the surface in which it is smoothed
_STRAY = 0.5  # voxels that the smooth surface may lie from the labels' own
_ROUNDS, _SIGMA = 20, 2.0  # of smoothing; terraces of up to some 15 voxels go


class Atlas(NamedTuple):
    """Tissues on the canonical grid.

    Attributes:
        tissue: (X, Y, Z) uint8, index of `TISSUES` or `BRAIN`; near a surface tissue reaches into air.
        solid: (X, Y, Z) uint8, 255 times the share of each voxel that is not air.
    """

    tissue: Tensor
    solid: Tensor

    @classmethod
    def from_labels(cls, labels: NDArray[np.uint8]) -> "Atlas":
        """From one label a voxel, (X, Y, Z), whose surfaces are made of steps.

        The smoothest surface that fits the labels: a signed distance is smoothed again and again and held near that
        of the labels, as Whitaker (IEEE Volume Visualization 2000) does with a level set. Flat parts become flat; ears
        and nostrils are held by their labels.
        """
        inside = labels != AIR  # distances are in voxels
        to_solid, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
        to_air = ndimage.distance_transform_edt(inside)
        steps = np.where(inside, to_air - 0.5, 0.5 - to_solid).clip(-_BAND, _BAND).astype(np.float32)
        smooth = steps
        for _ in range(_ROUNDS):
            smooth = ndimage.gaussian_filter(smooth, _SIGMA, mode="nearest", truncate=2.5)
            smooth = smooth.clip(steps - _STRAY, steps + _STRAY)
        solid = np.round((smooth / _EDGE + 0.5).clip(0, 1) * 255).astype(np.uint8)
        tissue = np.where(to_solid <= REACH, labels[tuple(nearest)], labels)
        return cls(torch.from_numpy(tissue), torch.from_numpy(solid))

    def labels(self) -> Tensor:
        """One label a voxel, air where most of it is air; (X, Y, Z) uint8."""
        return torch.where(self.solid > 127, self.tissue, AIR)

    def share(self) -> Tensor:
        """Of each voxel that is not air, (X, Y, Z) float32."""
        return self.solid.float().div_(255)

    def cropped(self) -> tuple["Atlas", tuple[int, ...]]:
        """Without most of the air around it, and what `torch.nn.functional.pad` has to put back.

        All that is cut is even, and as much left as right, so that lengths stay even and what is symmetric symmetric.
        """
        box = box_of((self.tissue != AIR).numpy())
        cut = [(s.start // 2 * 2, (n - s.stop) // 2 * 2) for s, n in zip(box, self.tissue.shape, strict=True)]
        cut[0] = (min(cut[0]), min(cut[0]))
        part = tuple(slice(low, n - high) for (low, high), n in zip(cut, self.tissue.shape, strict=True))
        return Atlas(self.tissue[part], self.solid[part]), tuple(n for ends in reversed(cut) for n in ends)
