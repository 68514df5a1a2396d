"""Which voxels are protected: the brain, a margin around it, or all but the face.

Everything follows from the brain mask, the pose that was found from it, and the grid.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from cpmae import canonical
from cpmae.canonical import Pose
from cpmae.volume import box_of, voxel_sizes

FACE_CLEARANCE_MM = 5.0  # the least distance between the brain and the face region
FACE_DEPTH_MM = 66.0  # of the plane before which the face lies, along the direction that a face looks
_SKEW = 1e-3  # by what share lengths may be wrong that are measured as if the axes were at right angles


def protected_voxels(
    brain: NDArray[np.bool_], affine: NDArray[np.float64], pose: Pose, region: str, margin_mm: float
) -> NDArray[np.bool_]:
    """True where the result has to equal the input, (X, Y, Z) bool.

    Args:
        brain: (X, Y, Z) bool.
        region: "nonbrain" replaces everything outside the brain, "face" the face and the ears alone.
        margin_mm: how far around the brain the protection reaches.
    """
    if region == "nonbrain":
        return grow(brain, affine, margin_mm) if margin_mm else brain
    face = canonical.resample_like(face_region().astype(np.float32), pose, brain.shape, affine) > 0.5
    return ~face | grow(brain, affine, max(margin_mm, FACE_CLEARANCE_MM))


def grow(mask: NDArray[np.bool_], affine: NDArray[np.float64], mm: float) -> NDArray[np.bool_]:
    """The mask and all voxels within `mm` of it."""
    sizes = voxel_sizes(affine)
    # how far apart in the world is what is 1 apart by the voxels' sizes alone
    most, _, least = np.linalg.svd(affine[:3, :3] / sizes, compute_uv=False)
    skew = most - least > _SKEW
    reach = mm / least if skew else mm
    box = box_of(mask, np.ceil(reach / sizes).astype(int) + 1)
    inside = mask[box]
    distance = ndimage.distance_transform_edt(~inside, sampling=sizes)
    near = distance <= reach
    if skew:  # that distance leaves some voxels open; these ask for the nearest in the world of the mask's rim
        asked = near & (distance > mm / most)
        rim = inside & ~ndimage.binary_erosion(inside, np.ones((3, 3, 3)))
        places = KDTree(np.argwhere(rim) @ affine[:3, :3].T)
        near[asked] = places.query(np.argwhere(asked) @ affine[:3, :3].T, distance_upper_bound=1.01 * mm)[0] <= mm
    grown = mask.copy()
    grown[box] = near
    return grown


def face_region() -> NDArray[np.bool_]:
    """Face and ears with the air before them, on the canonical grid."""
    sides = (slice(-o, n - o) for n, o in zip(canonical.GRID_SHAPE, canonical.GRID_ORIGIN, strict=True))
    x, y, z = (axis.astype(np.float32) for axis in np.ogrid[tuple(sides)])
    # a slanted plane from the brow, before the frontal lobe, down behind the jaw
    face = (0.8 * y - 0.6 * z > FACE_DEPTH_MM) & (y > -5)
    forehead = y > 84
    ears = (abs(x) > 66) & (y > -45) & (y < 40) & (z < 5) & (z > -80)
    return face | (forehead & (z < 30)) | ears
