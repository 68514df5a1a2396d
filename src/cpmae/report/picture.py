"""One PNG that shows what de-identification did: slices with the brain's outline, and the surface of the head."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from cpmae.errors import OutputError
from cpmae.io.output import whole_file
from cpmae.report.surface import HeadSurface, head_surface, render_surface
from cpmae.volume import Volume, voxel_sizes, zero_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# title, the RAS axis that the cut is normal to, and where along it: share of the brain's extent
_SLICES = (("sagittal", 0, 0.5), ("coronal", 1, 0.5), ("axial", 2, 0.5), ("axial, eyes", 2, 0.3))
_VIEWS = ("front", "three-quarter", "left")
_USUAL = (1e-2, 1e6)  # intensities of a brain
_RENDER_PIXELS = (300, 300)
_PAGE, _TEXT, _OUTLINE, _KEPT = "#0c0c0e", "#c8c8c8", "#ffb000", "#35c5ff"


def before_after(
    original: Volume, result: Volume, brain_mask: ArrayLike, path: str | Path, kept: ArrayLike | None = None
) -> None:
    """Write a PNG with the original in the upper row and the result in the lower one.

    Columns: sagittal, coronal and axial slice through the brain's centre and an axial one where the eyes are, into
    which masks leak, right side of the head on the right, in true proportions and one grey window taken from the
    original's brain; then the surface from the front, three quarters and the left, both rows in one frame. The upper
    row identifies a person as well as the scan does.

    Args:
        original, result: volumes on one grid.
        brain_mask: (X, Y, Z) on that grid, nonzero is brain; its outline is drawn, orange.
        kept: the same for all that is kept, if that is more; its outline is drawn, blue.
        path: the PNG; an existing one is replaced, and only by a complete one.

    Raises:
        ValueError: the grids differ, or the mask is empty.
        OutputError: the file cannot be written.
    """
    rows, path = [("original", original), ("de-identified", result)], Path(path)
    mask = np.asarray(brain_mask) != 0
    outlines = {_OUTLINE: mask} if kept is None or np.array_equal(kept, mask) else {_OUTLINE: mask, _KEPT: kept}
    _check_grids([volume for _, volume in rows], mask)
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is not a folder; make it first")
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second that other commands need not pay
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18.2, 2.6 * len(rows) + 0.25), dpi=100, facecolor=_PAGE)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(_SLICES) + len(_VIEWS), squeeze=False)
    bottom, top = 0.0, 1 - 0.25 / (2.6 * len(rows) + 0.25)
    figure.subplots_adjust(left=0.019, right=0.998, bottom=bottom, top=top, wspace=0.02, hspace=0.03)
    unit = _unit(original.data[mask])
    if unit != 1:
        rows = [(name, Volume(np.asarray(volume.data / unit, np.float32), volume.affine)) for name, volume in rows]
    window = _grey_window(rows[0][1].data[mask])
    field_mm = float(np.ptp(_world_corners(rows[0][1]), axis=0).max())
    frame: HeadSurface | None = None
    for (name, volume), line in zip(rows, axes, strict=True):
        for (_, plane, share), axis in zip(_SLICES, line, strict=False):
            _draw_slice(
                axis, volume, outlines, plane, _inside_brain(mask, volume.affine, plane, share), window, field_mm
            )
        surface = head_surface(volume)
        frame = frame or surface
        surface = replace(surface, centre=frame.centre, radius=frame.radius)
        for view, axis in zip(_VIEWS, line[len(_SLICES) :], strict=True):
            axis.imshow(render_surface(surface, view, _RENDER_PIXELS), interpolation="antialiased")
        for axis in line:
            axis.set_axis_off()
        line[0].text(-0.03, 0.5, name, transform=line[0].transAxes, rotation=90, va="center", ha="right", **_font())
    for title, axis in zip((*(s[0] for s in _SLICES), *_VIEWS), axes[0], strict=True):
        axis.set_title(title, pad=4, **_font())
    with whole_file(path) as file:
        # None leaves out matplotlib's own entry: the file says nothing of machine, time or software.
        canvas.print_png(file, metadata={"Software": None})


def _font() -> dict[str, object]:
    return {"color": _TEXT, "fontsize": 10}


def _check_grids(volumes: list[Volume], mask: NDArray[np.bool_]) -> None:
    for volume in volumes:
        if volume.shape != mask.shape:
            raise ValueError(f"the brain mask has shape {mask.shape}, the volume {volume.shape}; give both on one grid")
        if not np.allclose(volume.affine, volumes[0].affine, atol=1e-3):
            raise ValueError("original and result lie differently in the world; give both on one grid")
    if not mask.any():
        raise ValueError("the brain mask is empty; without it the picture has no centre")


def _unit(brain: NDArray) -> float:
    """What to divide intensities by, so that their squares and small differences are numbers; 1 for usual ones."""
    size = float(np.median(np.abs(brain[np.isfinite(brain)]))) if np.isfinite(brain).any() else 0.0
    return 1.0 if size == 0 or _USUAL[0] <= size <= _USUAL[1] else size / 100


def _grey_window(brain: NDArray) -> tuple[float, float]:
    """Black: 0, or the darkest brain where that is less or far above; white: a little above the brightest brain."""
    values = brain[np.isfinite(brain)]
    if values.size == 0:
        return 0.0, 1.0
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    low = zero_point(float(low), float(median))
    return low, max(low + 1.25 * (float(high) - low), low + 1e-6)


def _draw_slice(
    axis: "Axes",
    volume: Volume,
    outlines: dict[str, Any],
    plane: int,
    through: NDArray[np.float64],
    window: tuple[float, float],
    field_mm: float,
) -> None:
    """`outlines` are masks by the colours in which they are drawn."""
    step = float(np.clip(voxel_sizes(volume.affine).min(), 0.5, 1.0))  # mm a pixel
    for number, (colour, mask) in enumerate(outlines.items()):
        image, outline, extent = _world_slice(volume, np.asarray(mask) != 0, plane, step, through, window[0])
        if number == 0:
            axis.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", extent=extent)
        if outline.min() < 0.5 < outline.max():
            axis.contour(outline, levels=[0.5], colors=colour, linewidths=0.6, origin="lower", extent=extent)
    half = field_mm / 2  # one scale and one square for all three planes
    axis.set_xlim(extent[1] / 2 - half, extent[1] / 2 + half)
    axis.set_ylim(extent[3] / 2 - half, extent[3] / 2 + half)


def _world_slice(
    volume: Volume, mask: NDArray[np.bool_], plane: int, step: float, through: NDArray[np.float64], black: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[float, float, float, float]]:
    """Cut volume and mask along a world plane through a point, so that oblique scans show upright.

    Args:
        plane: the RAS axis that the cut is normal to: 0 sagittal, 1 coronal, 2 axial.
        step: mm a pixel.
        through: the point, world mm.

    Returns:
        image and mask (rows up, columns right), float32, past the field of view `black` and 0, and the extent in mm
        (left, right, bottom, top). Sagittal cuts show the front on the left, as the "left" surface view does.
    """
    world = _world_corners(volume)
    across, upwards = [(1, 2), (0, 2), (0, 1)][plane]
    columns = np.arange(world[:, across].min(), world[:, across].max(), step)
    if plane == 0:
        columns = columns[::-1]
    rows = np.arange(world[:, upwards].min(), world[:, upwards].max(), step)
    to_voxel = np.linalg.inv(volume.affine)
    start = through.copy()
    start[across], start[upwards] = columns[0], rows[0]
    moves = np.zeros((3, 2))
    moves[upwards, 0], moves[across, 1] = step, step if plane else -step
    grid = np.mgrid[: len(rows), : len(columns)].reshape(2, -1)
    voxels = to_voxel[:3, :3] @ (start[:, None] + moves @ grid) + to_voxel[:3, 3:]
    box, voxels = _touched(voxels, volume.shape)
    image, inside = (
        ndimage.map_coordinates(np.asarray(array[box], np.float32), voxels, order=1, mode="constant", cval=past)
        for array, past in ((volume.data, np.nan), (mask, 0.0))
    )
    shape = (len(rows), len(columns))
    width, height = step * (len(columns) - 1), step * (len(rows) - 1)
    return np.nan_to_num(image, nan=black).reshape(shape), inside.reshape(shape), (0.0, width, 0.0, height)


def _world_corners(volume: Volume) -> NDArray[np.float64]:
    """The eight outer corners of the field of view, (8, 3), world mm."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in volume.shape], indexing="ij"), -1).reshape(-1, 3)
    return apply_affine(volume.affine, corners)


def _touched(voxels: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """The part of the volume that the sampled points touch, and the points counted from its corner."""
    low = [int(np.clip(np.floor(v.min()), 0, n - 1)) for v, n in zip(voxels, shape, strict=True)]
    high = [int(np.clip(np.ceil(v.max()) + 1, 1, n)) for v, n in zip(voxels, shape, strict=True)]
    box = tuple(slice(a, max(b, a + 1)) for a, b in zip(low, high, strict=True))
    return box, voxels - np.array(low, float)[:, None]


def _inside_brain(mask: NDArray[np.bool_], affine: NDArray[np.float64], axis: int, share: float) -> NDArray[np.float64]:
    """The middle of the brain's box, but along one world axis that share of its extent from its lower end; world mm."""
    spans = [np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != a))) for a in range(3)]
    ends = np.array([(span[0], span[-1]) for span in spans], float)
    point = apply_affine(affine, ends.mean(axis=1))
    extent = np.abs(affine[axis, :3]) @ (ends[:, 1] - ends[:, 0])
    point[axis] += (share - 0.5) * extent
    return point
