"""A clay-like picture of the head's surface, ray-cast from the volume itself: no display, no mesh, no graphics library.

Rays run in parallel through the smoothed volume; the first crossing of a threshold between air and tissue is the skin.
Creases are darkened by the depth buffer's unsharp mask (Luft et al., "Image Enhancement by Unsharp Masking the Depth
Buffer", SIGGRAPH 2006).
"""

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import BSpline

from cpmae.compare import otsu_bin
from cpmae.volume import Volume, box_of, voxel_sizes

BACKGROUND = (12, 12, 14)
_CLAY = np.array([0.93, 0.86, 0.80], np.float32)
_VIEWS = {
    "front": (0.0, 0.0),
    "left": (90.0, 0.0),
    "right": (-90.0, 0.0),
    "three-quarter": (40.0, 8.0),
    "three-quarter right": (-40.0, 8.0),
}
_STEP_MM = 1.0
_FINE_MM, _REFINED_MM = 1.1, 0.9  # of what is averaged, and of what is refined
_COARSE = 0.7  # of a voxel's edge: the standard deviation with which coarse ones are smoothed
_TAIL = 2.5  # standard deviations that are smoothed over
_SPLINE = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
_BLOCK_MM = 4.0  # edge of the coarse grid's blocks that tell rays how far they may leap


@dataclass(frozen=True)
class HeadSurface:
    """What all views of one head share.

    Attributes:
        field: float32 (X, Y, Z), smoothed, about 1 mm, set to its minimum away from the head.
        affine: (4, 4), voxel of `field` to world, mm, RAS+.
        edge: of the coarsest voxels that `field` comes from, mm.
        threshold: the skin is where `field` crosses it.
        clearance: float32, one value a block of voxels: how far a ray may leap from there, mm.
        block: voxels an edge of those blocks along the three array axes.
        centre: (3,), middle of the head's bounding box, world mm.
        radius: half the longest edge of that box, mm; a view shows a little more than that about the centre.
    """

    field: NDArray[np.float32]
    affine: NDArray[np.float64]
    edge: float
    threshold: float
    clearance: NDArray[np.float32]
    block: tuple[int, ...]
    centre: NDArray[np.float64]
    radius: float


def head_surface(volume: Volume, threshold: float | None = None) -> HeadSurface:
    """Find the skin of a head.

    Args:
        volume: any dtype, orientation and voxel size; larger values are tissue, smaller ones air.
        threshold: intensity between air and skin; by default found from the histogram.
    """
    data, affine = _about_one_mm(volume)
    is_mask = bool(np.array_equal(data, data.astype(bool)))
    coarse = _block_mean(np.pad(data, [(0, n % 2) for n in data.shape], mode="edge"), (2, 2, 2))
    if threshold is None:
        threshold = 0.4 if is_mask else _air_threshold(coarse)
    head = _largest_component(coarse > threshold)
    wide = box_of(head, 2) if head.any() else tuple(slice(0, n) for n in head.shape)
    near = ndimage.binary_dilation(head[wide])
    for axis in range(3):
        near = np.repeat(near, 2, axis=axis)
    cut = data[tuple(slice(2 * s.start, 2 * s.stop) for s in wide)]
    floor = min(float(coarse.min()), threshold - 1e-3 * max(abs(threshold), 1e-3))
    cut = np.where(near[tuple(slice(n) for n in cut.shape)], cut, np.float32(floor))
    # a mask has steps where a scan has partial volume, and so has the skin in coarse voxels
    edges = voxel_sizes(affine)
    sigmas = np.maximum(1.4 if is_mask else 1.0, _COARSE * edges)
    rim = np.ceil(_TAIL * sigmas / edges).astype(int) + 1
    # A rim of air closes the surface where the field of view cuts the neck.
    cut = np.pad(cut, np.column_stack([rim, rim]), constant_values=floor)
    start = np.array([2 * s.start for s in wide]) - rim
    affine = _shifted(affine, start)
    cut, affine = _refined(cut, affine)
    field = _smooth(cut, sigmas / voxel_sizes(affine))
    block = tuple(int(k) for k in np.maximum(np.rint(_BLOCK_MM / voxel_sizes(affine)), 1))
    clearance = _clearance(field, affine, threshold, block)
    low, high = _world_extent(field >= threshold, affine)
    radius = max(float((high - low).max()) / 2, 1.0)
    return HeadSurface(field, affine, float(edges.max()), float(threshold), clearance, block, (low + high) / 2, radius)


def render_surface(surface: HeadSurface, view: str = "front", size: tuple[int, int] = (300, 300)) -> NDArray[np.uint8]:
    """Render one view of a surface found by `head_surface`.

    Args:
        view: "front", "left" and "right" (the head's side that is shown), "three-quarter" (from its front left) or
            "three-quarter right".
        size: (height, width) in pixels.

    Returns:
        RGB uint8 (height, width, 3); upright, orthographic, a head filling the frame. All background where the
        volume is constant.

    Raises:
        ValueError: unknown view.
    """
    if view not in _VIEWS:
        raise ValueError(f"unknown view {view!r}; choose one of {', '.join(_VIEWS)}")
    right, up, forward = _camera(*_VIEWS[view])
    pixel = 2.12 * surface.radius / min(size)  # mm
    rows = pixel * ((size[0] - 1) / 2 - np.arange(size[0]))
    columns = pixel * (np.arange(size[1]) - (size[1] - 1) / 2)
    start = surface.centre - 2 * surface.radius * forward
    plane = start + rows[:, None, None] * up + columns[None, :, None] * right
    to_voxel = np.linalg.inv(surface.affine)
    origins = (to_voxel[:3, :3] @ plane.reshape(-1, 3).T + to_voxel[:3, 3:]).astype(np.float32)
    ray = (to_voxel[:3, :3] @ forward).astype(np.float32)[:, None]
    depth = _cast(surface, origins, ray, 4 * surface.radius)
    hit = np.isfinite(depth)
    image = np.empty((size[0] * size[1], 3), np.float32)
    image[:] = np.array(BACKGROUND, np.float32) / 255
    if hit.any():
        normals = _normals(surface, origins[:, hit] + depth[hit] * ray)
        crevice = _crevice(depth.reshape(size), hit.reshape(size), pixel).ravel()[hit]
        image[hit] = _shade(normals, crevice, right, up, forward)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).reshape(*size, 3)


def _camera(azimuth: float, elevation: float) -> tuple[NDArray, NDArray, NDArray]:
    """Unit vectors in RAS+: image right, image up, viewing direction. Azimuth 0 faces the nose, 90 the left ear."""
    a, e = np.radians(azimuth), np.radians(elevation)
    forward = -np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), np.sin(e)])
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return right, np.cross(right, forward), forward


def _about_one_mm(volume: Volume) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Mean over whole blocks where voxels are much smaller than 1 mm; more detail than that does not show."""
    data = np.asarray(volume.data, np.float32)
    if not np.isfinite(data).all():
        data = np.nan_to_num(data, nan=0.0, posinf=0.0, neginf=0.0)
    factors = np.maximum(np.floor(_FINE_MM / voxel_sizes(volume.affine)).astype(int), 1)
    if (factors == 1).all():
        return data, volume.affine
    affine = volume.affine @ np.diag([*factors, 1.0])
    affine[:3, 3] += volume.affine[:3, :3] @ ((factors - 1) / 2)
    return _block_mean(data, tuple(factors)), affine


def _refined(data: NDArray[np.float32], affine: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Cubic splines between voxels that are coarser than about 1 mm: straight lines show as rings on the skin."""
    factors = np.maximum(np.rint(voxel_sizes(affine) / _REFINED_MM).astype(int), 1)
    for axis, factor in enumerate(factors):
        if factor > 1:  # one axis after another takes a tenth of the time of ndimage.zoom
            nodes = ndimage.spline_filter1d(data, axis=axis, mode="nearest", output=np.float32)
            offsets = (np.arange(factor)[:, None] + 0.5) / factor - 0.5 - np.arange(-2, 3)
            parts = [ndimage.correlate1d(nodes, w, axis=axis, mode="nearest") for w in np.nan_to_num(_SPLINE(offsets))]
            shape = [n * (factor if a == axis else 1) for a, n in enumerate(data.shape)]
            data = np.stack(parts, axis=axis + 1).reshape(shape)
    finer = affine @ np.diag([*(1 / factors), 1.0])
    finer[:3, 3] += affine[:3, :3] @ (0.5 / factors - 0.5)
    return data, finer


def _block_mean(data: NDArray[np.float32], factors: tuple[int, ...]) -> NDArray[np.float32]:
    """Mean of whole blocks; what does not fill a block at the far edges is left out."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            whole = data.shape[axis] // factor
            data = np.moveaxis(data, axis, 0)[: whole * factor].reshape(whole, factor, *np.delete(data.shape, axis))
            data = np.moveaxis(data.mean(axis=1, dtype=np.float32), 0, axis)
    return data


def _smooth(data: NDArray[np.float32], sigmas: NDArray[np.float64]) -> NDArray[np.float32]:
    for axis, sigma in enumerate(sigmas):
        data = ndimage.gaussian_filter1d(data, sigma, axis=axis, truncate=_TAIL, mode="nearest")
    return data


def _air_threshold(field: NDArray[np.float32]) -> float:
    """Otsu's threshold of the square root of intensity: air against tissue, not dark against bright tissue."""
    low, high = np.percentile(field[::2, ::2, ::2], [0.5, 99.5])
    if not high > low:
        return float(np.nextafter(high, np.inf))
    root = np.sqrt(np.clip((field - low) / (high - low), 0, 1))
    counts, edges = np.histogram(root, bins=256, range=(0, 1))
    split = otsu_bin(counts, edges)
    otsu = low + ((edges[split] + edges[split + 1]) / 2) ** 2 * (high - low)
    air = field[field < otsu]
    level = float(np.median(air))
    noise = 1.4826 * float(np.median(np.abs(air - level)))
    # Skin far from the coil is dim: go as low as the noise of the air allows.
    return float(max(level + 0.5 * (otsu - level), min(level + 8 * noise, otsu)))


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The head without speckle, a stray coil or a cushion."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros(mask.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def _shifted(affine: NDArray[np.float64], start: NDArray[np.intp]) -> NDArray[np.float64]:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return moved


def _world_extent(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Lowest and highest world coordinates of a mask's voxels; the field of view's where it is empty.

    A linear function is extreme at an end of some line of voxels, so the ends along one axis are enough.
    """
    lines = np.argwhere(mask.any(axis=2))
    if len(lines) == 0:
        lines, first, last = np.array([[0, 0], np.array(mask.shape[:2]) - 1]), 0, mask.shape[2] - 1
    else:
        inside = mask[lines[:, 0], lines[:, 1]]
        first, last = inside.argmax(axis=1), mask.shape[2] - 1 - inside[:, ::-1].argmax(axis=1)
    voxels = np.concatenate([np.column_stack([lines, np.broadcast_to(k, len(lines))]) for k in (first, last)])
    world = apply_affine(affine, voxels)
    return world.min(axis=0), world.max(axis=0)


def _clearance(
    field: NDArray[np.float32], affine: NDArray[np.float64], threshold: float, block: tuple[int, ...]
) -> NDArray[np.float32]:
    """How far a ray may leap from anywhere in a block of voxels and meet no tissue, mm; 0 near tissue."""
    padded = np.pad(field, [(0, -n % k) for n, k in zip(field.shape, block, strict=True)], mode="edge")
    split = [m for n, k in zip(padded.shape, block, strict=True) for m in (n // k, k)]
    highest = padded.reshape(split).max(axis=(1, 3, 5))
    edges = np.array(block) * voxel_sizes(affine)
    if not (highest >= threshold).any():
        return np.full(highest.shape, np.inf, np.float32)
    distance = ndimage.distance_transform_edt(highest < threshold, sampling=edges)
    diagonal = float(np.sqrt((edges**2).sum()))  # both ends may lie in a corner of their blocks
    return np.maximum(distance - diagonal, 0).astype(np.float32)


def _cast(surface: HeadSurface, origins: NDArray[np.float32], ray: NDArray[np.float32], length: float) -> NDArray:
    """Distance along each ray to its first threshold crossing, mm, float32 (N,), inf where it meets none.

    Args:
        origins: (3, N), voxel coordinates of `surface.field`.
        ray: (3, 1), one millimetre along the viewing direction, in voxels.
        length: mm after which rays have left the head.
    """
    edges = np.array(surface.block, np.float32)[:, None]
    last = np.array(surface.clearance.shape)[:, None] - 1
    depth = np.full(origins.shape[1], np.inf, np.float32)
    active, at = np.arange(origins.shape[1]), np.zeros(origins.shape[1], np.float32)
    while len(active):
        points = origins[:, active] + at * ray
        block = np.clip(points / edges, 0, last).astype(np.intp)
        leap = surface.clearance[tuple(block)]
        close = np.flatnonzero(leap < _STEP_MM)
        crossed = close[_sample(surface, points[:, close]) >= surface.threshold]
        if len(crossed):
            depth[active[crossed]] = _bisect(surface, origins[:, active[crossed]], ray, at[crossed])
        at = at + np.maximum(leap, _STEP_MM)
        going = at < length
        going[crossed] = False
        active, at = active[going], at[going]
    return depth


def _bisect(surface: HeadSurface, origins: NDArray, ray: NDArray, crossed: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = crossed - _STEP_MM, crossed
    for _ in range(4):
        middle = (low + high) / 2
        inside = _sample(surface, origins + middle * ray) >= surface.threshold
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return ((low + high) / 2).astype(np.float32)


def _sample(surface: HeadSurface, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Trilinear values at voxel coordinates (3, N)."""
    return ndimage.map_coordinates(surface.field, voxels, order=1, mode="nearest", output=np.float32)


def _normals(surface: HeadSurface, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit normals out of the head, world frame, (N, 3) at voxel coordinates (3, N); two scales blended."""
    to_voxel = np.linalg.inv(surface.affine[:3, :3]).astype(np.float32)
    normals = np.zeros(points.T.shape, np.float32)
    coarse = max(1.0, 0.8 * surface.edge)  # differences within a voxel show terraces
    for reach, weight in ((1.2 * coarse, 0.6), (2.5 * coarse, 0.4)):  # mm
        gradient = np.empty_like(normals)
        for axis in range(3):
            offset = reach * to_voxel[:, axis : axis + 1]
            gradient[:, axis] = _sample(surface, points - offset) - _sample(surface, points + offset)
        normals += weight * gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)


def _crevice(depth: NDArray[np.float32], hit: NDArray[np.bool_], pixel: float) -> NDArray[np.float32]:
    """How far each pixel lies behind its surroundings, mm, mean over three scales; negative on ridges."""
    filled = np.where(hit, depth, 0).astype(np.float32)
    total = np.zeros_like(filled)
    for scale in (3.0, 8.0, 18.0):  # mm
        weight = ndimage.gaussian_filter(hit.astype(np.float32), scale / pixel, truncate=2.0, mode="constant")
        mean = ndimage.gaussian_filter(filled, scale / pixel, truncate=2.0, mode="constant")
        difference = filled - mean / np.maximum(weight, 1e-6)
        total += np.clip(difference / scale, -1.5, 1.5)
    return (total / 3).astype(np.float32)


def _shade(
    normals: NDArray[np.float32], crevice: NDArray[np.float32], right: NDArray, up: NDArray, forward: NDArray
) -> NDArray[np.float32]:
    """Clay: a soft key light from above left, a weak fill from the right, creases darker; (N, 3) in 0..1."""
    key = _unit(-0.55 * right + 0.65 * up - 0.75 * forward)
    fill = _unit(0.9 * right + 0.1 * up - 0.5 * forward)
    facing = np.clip(-(normals @ forward), 0, 1)
    light = 0.10 + 0.72 * np.clip(normals @ key, 0, 1) + 0.20 * np.clip(normals @ fill, 0, 1) + 0.12 * facing
    hollow = crevice * np.sqrt(facing)  # towards the outline every surface recedes; that is no crease
    light *= np.clip(1.0 - 0.9 * np.clip(hollow, -0.12, 0.8), 0.3, 1.12)
    shine = 0.08 * np.clip(normals @ _unit(key - forward), 0, 1) ** 24
    return (light[:, None] * _CLAY + shine[:, None]).astype(np.float32)


def _unit(vector: NDArray) -> NDArray:
    return vector / np.linalg.norm(vector)
