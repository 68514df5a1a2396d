"""Two scans of one brain brought over each other: rigid, by the brain's pose and then by its intensities."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from cpmae import canonical, overlay
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.render import brain_frame
from cpmae.volume import Volume, voxel_sizes

_STEP_MM = 3.0  # between the points that are compared


def rigid(fixed: HeadScan, moving: HeadScan) -> NDArray[np.float64]:
    """(4, 4) matrix from the world of `fixed` to that of `moving`, mm.

    Starts where the brains' masks lie over each other, and goes to where the intensities in the fixed brain
    correlate best. The two need one contrast.
    """
    poses = [brain_frame(canonical.align(h.brain, h.volume.affine)) for h in (fixed, moving)]
    start = poses[1] @ np.linalg.inv(poses[0])
    step = np.maximum(np.rint(_STEP_MM / voxel_sizes(fixed.volume.affine)), 1).astype(int)
    inner = ndimage.binary_dilation(fixed.brain, iterations=2)
    thin = np.zeros_like(inner)
    thin[:: step[0], :: step[1], :: step[2]] = True
    voxels = np.argwhere(inner & thin)
    values = _smooth(fixed.volume)[tuple(voxels.T)]
    world = voxels @ fixed.volume.affine[:3, :3].T + fixed.volume.affine[:3, 3]
    centre = world.mean(axis=0)
    image, to_voxel = _smooth(moving.volume), np.linalg.inv(moving.volume.affine)

    def matrix(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        about = np.eye(4)
        about[:3, 3] = -centre
        return start @ overlay.similarity(np.append(parameters, 0), centre) @ about

    def cost(parameters: NDArray[np.float64]) -> float:
        m = to_voxel @ matrix(parameters)
        sampled = ndimage.map_coordinates(image, m[:3, :3] @ world.T + m[:3, 3:], order=1, mode="nearest")
        return 1 - float(np.corrcoef(values, sampled)[0, 1])

    simplex = np.vstack([np.zeros(6), np.diag([0.03, 0.03, 0.03, 1.5, 1.5, 1.5])])
    options = {"initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-6, "maxiter": 300}
    return matrix(optimize.minimize(cost, np.zeros(6), method="Nelder-Mead", options=options).x)


def labels_like(moving: Volume, fixed: Volume, to_moving: NDArray[np.float64] | None = None) -> NDArray:
    """Labels of the moving scan on the grid of the fixed one, nearest neighbour.

    Args:
        moving: the labels.
        to_moving: as `rigid` gives it; None where both are of one scan.
    """
    m = np.linalg.inv(moving.affine) @ (np.eye(4) if to_moving is None else to_moving) @ fixed.affine
    return ndimage.affine_transform(moving.data, m[:3, :3], m[:3, 3], fixed.shape, order=0)


def _smooth(volume: Volume) -> NDArray[np.float32]:
    data = np.nan_to_num(np.asarray(volume.data, np.float32))
    return ndimage.gaussian_filter(data, 1.0 / voxel_sizes(volume.affine), truncate=2)
