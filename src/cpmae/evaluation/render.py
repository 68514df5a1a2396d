"""Pictures of a head's surface as attackers look at them: fixed views, light, frame and scale."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import canonical
from cpmae.canonical import Pose
from cpmae.faces import FACE, in_steps
from cpmae.report.surface import HeadSurface, head_surface, render_surface
from cpmae.volume import Volume

VIEWS = ("front", "left", "right", "three-quarter", "three-quarter right")
SIZE = 200  # pixels an edge
_CENTRE_MM = (0.0, 10.0, -30.0)  # of the picture, from the brain's middle
_RADIUS_MM = 120.0
_HEAD_STEP_MM, _MAP_STEP_MM = 2, 4  # of heads whose depth is looked for, and of depth maps
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def brain_frame(pose: Pose) -> NDArray[np.float64]:
    """(4, 4) rigid matrix from a frame that the brain gives to the scan's world, mm: the pose without its scale."""
    matrix = pose.matrix.copy()
    matrix[:3, :3] /= pose.scale
    return matrix


def framed_surface(volume: Volume, frame: NDArray[np.float64]) -> HeadSurface:
    """The surface of a head, its frame the brain's: every head has the same place and scale in a picture."""
    surface = head_surface(Volume(volume.data, np.linalg.inv(frame) @ volume.affine))
    return replace(surface, centre=np.array(_CENTRE_MM), radius=_RADIUS_MM)


def render_views(surface: HeadSurface, views: tuple[str, ...] = VIEWS, size: int = SIZE) -> NDArray[np.uint8]:
    """Grey pictures, (views, `size`, `size`) uint8."""
    pictures = [render_surface(surface, view, (size, size)) for view in views]
    return np.stack([np.rint(p.astype(np.float32) @ _GREY).astype(np.uint8) for p in pictures])


def depth_maps(surface: HeadSurface) -> NDArray[np.float32]:
    """How far the head's surface lies from the front, the left, the right and the top of the canonical grid.

    Returns:
        (N,) float32 in mm: all maps one after the other, at `_MAP_STEP_MM`; NaN where a ray meets no head.
    """
    shape = tuple(n // _HEAD_STEP_MM for n in canonical.GRID_SHAPE)
    grid = canonical.GRID_AFFINE @ np.diag([_HEAD_STEP_MM, _HEAD_STEP_MM, _HEAD_STEP_MM, 1.0])
    to_field = np.linalg.inv(surface.affine) @ grid
    field = ndimage.affine_transform(
        surface.field, to_field[:3, :3], to_field[:3, 3], shape, order=1, cval=float(surface.field.min())
    )
    head = field >= surface.threshold
    maps, thin = [], _MAP_STEP_MM // _HEAD_STEP_MM
    for axis, reverse in ((1, True), (0, False), (0, True), (2, True)):
        seen = np.flip(head, axis) if reverse else head
        depth = np.where(seen.any(axis), seen.argmax(axis) * float(_HEAD_STEP_MM), np.nan)
        maps.append(depth[::thin, ::thin].ravel())
    return np.concatenate(maps).astype(np.float32)


def face(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """The face's part of `depth_maps`, (25, 24) float32 mm."""
    shape = canonical.GRID_SHAPE[0] // _MAP_STEP_MM, canonical.GRID_SHAPE[2] // _MAP_STEP_MM
    front = depth[: shape[0] * shape[1]].reshape(shape)
    return front[in_steps(FACE[0], _MAP_STEP_MM), in_steps(FACE[2], _MAP_STEP_MM)]
