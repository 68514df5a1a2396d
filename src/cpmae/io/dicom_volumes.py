"""The frames of a DICOM series sorted into volumes: which slices belong together, in which order, on which grid.

Positions count and neither file names nor instance numbers. DICOM's world is LPS+ (x to the left, y to the back), the
affines here are RAS+; the signs change in `_affine` and nowhere else.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cpmae.errors import ScanError
from cpmae.io.dicom import DAMAGE, ENHANCED, Series, image_type, number_of, quiet, read_whole
from cpmae.io.dicom_mosaic import read_mosaic
from cpmae.io.dicom_pixels import check_storage, padding
from cpmae.io.header import MIN_AXIS

SAME_DIRECTION = 1e-3  # between components of direction cosines, which files round
SAME_PLACE_MM = 0.01
UNEVEN = 0.1  # of the gap: how far off its place on a regular grid a slice may lie
MAX_FILLED = 3  # places of the grid a slice, at most; more would be invention
TILT_DEGREES = 0.5  # worth a word
_STORAGE = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")
_KINDS = ("AcquisitionNumber", "InversionTime", "TriggerTime")  # of `Frame.kinds`, where both classes have them
_COMPLEX = ("M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "PHASE MAP", "VELOCITY")


@dataclass(frozen=True)
class Frame:
    """One slice.

    Attributes:
        instance, index: which instance of the series, and which frame of it, or tile of a mosaic.
        number, file: how messages call it.
        position, across, down: centre of the first voxel, and the steps to the next column and row, mm, LPS+.
        storage: rows, columns, bits and the like, which are one for all slices of a volume.
        slope, inter: stored * slope + inter gives the intensity.
        padding: stored integers that are no measurements, from ... to; None if there are none.
        kinds: what the slices of one volume have in common and those of the next have not: echo, b-value, ...
        mosaic: the instance, if it is a mosaic, which is a volume of its own; None for other images.
    """

    instance: int
    index: int
    number: int
    file: str
    position: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    storage: tuple[Any, ...]
    slope: float
    inter: float
    padding: tuple[int, int] | None
    kinds: tuple[Any, ...]
    mosaic: int | None = None

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector through the slice."""
        normal = np.cross(self.across, self.down)
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class Stack:
    """A volume: slices in the order of their positions, and the regular grid they lie on.

    Attributes:
        frames: the slices.
        slots: the place of each along the third axis; places without a slice are holes.
        shape: (columns, rows, places).
        affine: (4, 4) float64, voxel to world, mm, RAS+; sheared where the gantry was tilted.
    """

    frames: tuple[Frame, ...]
    slots: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def holes(self) -> list[int]:
        """Places between slices where a slice is missing."""
        return sorted(set(range(self.shape[2])) - set(self.slots))


@quiet()
def frames_of(series: Series) -> list[Frame]:
    """Every slice of a series.

    Raises:
        ScanError: if one does not say where it lies, or how its voxels are stored cannot be handled; if a header breaks
            the standard; as `read_mosaic`.
    """
    try:
        return _frames_of(series)
    except ScanError:  # a ValueError, as some of the others
        raise
    except DAMAGE as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScanError(f"its headers hold what DICOM does not allow ({text}), export it again") from error


def _frames_of(series: Series) -> list[Frame]:
    found = []
    for n, instance in enumerate(series.instances):
        header, name = instance.header, instance.path.name
        check_storage(header, name)
        if "MOSAIC" in image_type(header):
            found += _tiles(instance.path, _frame(header, None, name, n, 0))
            continue
        groups: list[Dataset | None] = [None]
        if header.SOPClassUID in ENHANCED:
            groups = list(header.get("PerFrameFunctionalGroupsSequence") or [])
            if len(groups) != number_of(header, "NumberOfFrames"):
                raise ScanError(
                    f"{name} has {header.get('NumberOfFrames')} frames and describes {len(groups)}, export it again"
                )
        elif number_of(header, "NumberOfFrames", 1) != 1:
            raise ScanError(f"{name} holds {header.NumberOfFrames} frames in a class for one, export it as enhanced MR")
        found += [_frame(header, group, name, n, index) for index, group in enumerate(groups)]
    return found


def _tiles(path: Path, whole: Frame) -> list[Frame]:
    """The slices of a mosaic, from the frame that its header tells of."""
    mosaic = read_mosaic(read_whole(path, pixels=False), path.name)
    assert mosaic is not None
    storage = (mosaic.rows, mosaic.columns, *whole.storage[2:])
    positions = mosaic.positions(whole.position, whole.across, whole.down)
    return [
        replace(whole, index=k, position=position, storage=storage, mosaic=whole.instance)
        for k, position in enumerate(positions)
    ]


@dataclass(frozen=True)
class _Said:
    """What the header of either class says of a frame; `plane` to `scale` hold the tags that `_frame` reads."""

    plane: Dataset
    direction: Dataset
    measures: Dataset
    scale: Dataset
    number: int
    kinds: tuple[Any, ...]


def _classic(header: Dataset, instance: int) -> _Said:
    """Of an image with one frame, which tells all in its own header."""
    part = next((v for v in image_type(header)[2:] if v in _COMPLEX), "")
    echo, b = number_of(header, "EchoTime"), number_of(header, "DiffusionBValue")
    time = number_of(header, "TemporalPositionIdentifier")
    number = int(number_of(header, "InstanceNumber", instance + 1))
    return _Said(header, header, header, header, number, (part, echo, b, _gradient(header), time))


def _enhanced(header: Dataset, group: Dataset, index: int) -> _Said:
    """Of a frame of an enhanced image, from its own functional group and the one that all frames share."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]

    def item(keyword: str) -> Dataset:
        return (group.get(keyword) or shared.get(keyword) or [Dataset()])[0]

    diffusion = item("MRDiffusionSequence")
    directions = diffusion.get("DiffusionGradientDirectionSequence") or [Dataset()]
    frame_type = item("MRImageFrameTypeSequence")
    part = str(frame_type.get("ComplexImageComponent") or header.get("ComplexImageComponent") or "")
    echo, b = number_of(item("MREchoSequence"), "EffectiveEchoTime"), number_of(diffusion, "DiffusionBValue")
    time = number_of(item("FrameContentSequence"), "TemporalPositionIndex")
    return _Said(
        plane=item("PlanePositionSequence"),
        direction=item("PlaneOrientationSequence"),
        measures=item("PixelMeasuresSequence"),
        scale=item("PixelValueTransformationSequence"),
        number=index + 1,
        kinds=(part, echo, b, _gradient(directions[0]), time),
    )


def _gradient(header: Dataset) -> tuple[float, ...]:
    found = _floats(header, "DiffusionGradientOrientation", 3)
    return () if found is None else tuple(found.round(4).tolist())


def _frame(header: Dataset, group: Dataset | None, name: str, instance: int, index: int) -> Frame:
    """A frame from the header of a classic image, or of an enhanced one and the frame's functional group."""
    said = _classic(header, instance) if group is None else _enhanced(header, group, index)
    position = _floats(said.plane, "ImagePositionPatient", 3)
    cosines, spacing = _floats(said.direction, "ImageOrientationPatient", 6), _floats(said.measures, "PixelSpacing", 2)
    if position is None or cosines is None or spacing is None:
        raise ScanError(f"{name} does not say where it lies (position, orientation or spacing), export it again")
    across, down = cosines[:3], cosines[3:]
    if abs(np.linalg.norm(across) - 1) > 0.01 or abs(np.linalg.norm(down) - 1) > 0.01 or abs(across @ down) > 0.01:
        raise ScanError(f"{name} has directions that are not at right angles, {cosines.round(3).tolist()}, correct it")
    if (spacing <= 0).any():
        raise ScanError(f"{name} has a spacing of {spacing.tolist()} mm, correct it")
    slope, inter = number_of(said.scale, "RescaleSlope", 1.0), number_of(said.scale, "RescaleIntercept")
    if slope == 0 or not np.isfinite([slope, inter]).all():
        numbers = f"a slope of {slope:g} and an intercept of {inter:g}"
        raise ScanError(f"{name} has {numbers} (RescaleSlope, RescaleIntercept), correct them")
    return Frame(
        instance=instance,
        index=index,
        number=said.number,
        file=name,
        position=position,
        across=across * spacing[1],  # the second number is the distance of columns
        down=down * spacing[0],
        storage=tuple(header.get(keyword) for keyword in _STORAGE),
        slope=slope,
        inter=inter,
        padding=padding(header),
        kinds=(*said.kinds, *(number_of(header, keyword) for keyword in _KINDS)),
    )


def _floats(header: Dataset, keyword: str, count: int) -> NDArray[np.float64] | None:
    try:
        values = np.array(header.get(keyword), np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return values if values.size == count and np.isfinite(values).all() else None


def stacks_of(frames: list[Frame], name: str) -> tuple[list[Stack], list[str]]:
    """The volumes that the slices of a series make, and warnings.

    A series with several echoes, b-values, times or with phase beside magnitude makes several.

    Raises:
        ScanError: if the slices of a volume lie on no regular grid.
    """
    found, warnings = [], []
    for grid in _same_grid(frames):
        for part in _split(grid, 0):
            stack, said = _stack(part, name)
            found.append(stack)
            warnings += said
    return found, list(dict.fromkeys(warnings))


def no_volume(stacks: list[Stack]) -> str | None:
    """Why these are no head volume; None if they may be.

    Raises:
        ScanError: if some are and some are not.
    """
    counts = [len(stack.frames) for stack in stacks]
    most = max(counts)
    if min(counts) >= MIN_AXIS:
        return None
    if most >= MIN_AXIS:
        twice = _at_one_place(stacks)
        if twice:
            one, other = (f"slice {frame.number} ({frame.file})" for frame in twice)
            raise ScanError(
                f"{one} and {other} lie at one position, and no echo, b-value or time tells them apart; "
                "take out the one that does not belong"
            )
        odd = sum(n for n in counts if n < MIN_AXIS)
        which = "1 slice fits" if odd == 1 else f"{odd} slices fit"
        raise ScanError(f"{which} no volume with the others (direction, size, bits); take out what does not belong")
    places = f"{len(stacks)} directions or sizes" if len(stacks) > 1 else "one direction"
    return f"it is a localizer or a single slice and no volume ({most} slices at most, in {places})"


def _at_one_place(stacks: list[Stack]) -> tuple[Frame, Frame] | None:
    """A slice of a volume and one that makes no volume, at the same place; None if there are no such two."""
    odd = [frame for stack in stacks if len(stack.frames) < MIN_AXIS for frame in stack.frames]
    for frame in (frame for stack in stacks if len(stack.frames) >= MIN_AXIS for frame in stack.frames):
        for other in odd:
            off = (frame.position - other.position) @ frame.normal
            if _alike(frame, other) and abs(off) <= SAME_PLACE_MM:
                return frame, other
    return None


def _same_grid(frames: list[Frame]) -> list[list[Frame]]:
    """Frames of one storage, direction and spacing each; those of a mosaic by themselves."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _alike(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _alike(one: Frame, other: Frame) -> bool:
    return (
        (one.mosaic, one.storage) == (other.mosaic, other.storage)
        and np.allclose(one.across, other.across, atol=SAME_DIRECTION)
        and np.allclose(one.down, other.down, atol=SAME_DIRECTION)
    )


def _split(frames: list[Frame], kind: int) -> list[list[Frame]]:
    """Volumes with every position once: split by what differs, and by order where nothing does."""
    places = _places(frames)
    if len(set(places)) == len(places):
        return [frames]
    if kind == len(frames[0].kinds):
        return _by_order(frames, places)
    groups: dict[Any, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.kinds[kind], []).append(frame)
    # a value that is one for each slice, a trigger time say, tells no volumes apart
    if any(len(set(_places(group))) < 0.8 * len(set(places)) for group in groups.values()):
        return _split(frames, kind + 1)
    return [part for _, group in sorted(groups.items()) for part in _split(group, kind + 1)]


def _places(frames: list[Frame]) -> list[int]:
    """A number for each frame that is the same for frames in the same place."""
    depth = np.array([frame.position @ frames[0].normal for frame in frames])
    order = np.argsort(depth, kind="stable")
    steps = np.concatenate([[0], np.cumsum(np.diff(depth[order]) > SAME_PLACE_MM)])
    places = np.empty(len(frames), int)
    places[order] = steps
    return places.tolist()


def _by_order(frames: list[Frame], places: list[int]) -> list[list[Frame]]:
    count: dict[int, int] = {}
    parts: dict[int, list[Frame]] = {}
    for frame, place in zip(frames, places, strict=True):
        count[place] = count.get(place, -1) + 1
        parts.setdefault(count[place], []).append(frame)
    return list(parts.values())


def _stack(frames: list[Frame], name: str) -> tuple[Stack, list[str]]:
    normal = frames[0].normal
    frames = sorted(frames, key=lambda f: float(f.position @ normal))
    positions = np.array([f.position for f in frames])
    slots, warnings = _slots(positions @ normal, [f.number for f in frames], name)
    last = slots[-1]
    step = (positions[-1] - positions[0]) / last if last else normal
    off = np.linalg.norm(positions - positions[0] - np.outer(slots, step), axis=1).max()
    if off > max(UNEVEN * np.linalg.norm(step), 5 * SAME_PLACE_MM):
        raise ScanError(f"the slices of {name} do not lie on one line ({off:.2f} mm off it), export them again")
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    if tilt > TILT_DEGREES:
        warnings.append(f"{name} has slices that are tilted by {tilt:.1f} degrees (gantry tilt); its grid is skew")
    rows, columns = frames[0].storage[:2]
    affine = _affine(frames[0], step)
    return Stack(tuple(frames), tuple(slots), (int(columns), int(rows), last + 1), affine), warnings


def _slots(depth: NDArray[np.float64], numbers: list[int], name: str) -> tuple[list[int], list[str]]:
    """The place of each slice on a regular grid, from its depth in mm, ascending."""
    if len(depth) == 1:
        return [0], []
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    for step in (usual, usual / 2, usual / 3, float(gaps.min()), float(gaps.min()) / 2):
        counts = np.maximum(np.rint(gaps / step), 1).astype(int)
        slots = np.concatenate([[0], np.cumsum(counts)])
        fitted = float((depth[-1] - depth[0]) / slots[-1])
        off = float(np.abs(depth - depth[0] - slots * fitted).max())
        if off <= UNEVEN * fitted and slots[-1] < MAX_FILLED * len(slots):
            return slots.tolist(), _uneven(gaps, counts, usual, step, numbers, name)
    raise ScanError(
        f"the gaps between the slices of {name} are uneven ({gaps.min():.2f} to {gaps.max():.2f} mm) and fit no "
        "regular grid; give the series as it was measured"
    )


def _uneven(
    gaps: NDArray[np.float64], counts: NDArray[np.intp], usual: float, step: float, numbers: list[int], name: str
) -> list[str]:
    if counts.max() == 1:
        return []
    if step != usual:
        return [f"{name} has uneven gaps between its slices ({gaps.min():.2f} to {gaps.max():.2f} mm)"]
    where = [f"{min(pair)} and {max(pair)}" for pair, n in zip(pairwise(numbers), counts, strict=True) if n > 1]
    missing = int((counts - 1).sum())
    what = "1 slice is" if missing == 1 else f"{missing} slices are"
    return [f"{what} missing in {name}, between {', '.join(where)}; the slices that are there are handled"]


def _affine(first: Frame, step: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3] = np.stack([first.across, first.down, step, first.position], axis=1)
    affine[:2] *= -1  # from LPS+ to RAS+
    return affine
