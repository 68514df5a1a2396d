"""How much do segmenters change their minds about a scan that nobody changed? The yardstick for results.

python benchmarks/segmenter_floor.py SCAN [SCAN ...] [--meshnets BRAINCHOP] [--seed 1]

Prints Dice with the segmenter's own word on the untouched scan. deepbet cuts a box out of the scan and takes its
nearest voxels, 256 cubed; where the box begins depends on the whole head. So it is asked again with a box that begins
and ends elsewhere by a voxel or two, about the result, and about the result in the scan's box. MeshNet (18 regions) is
asked about the scan less one or two slices at the start of each axis, with the brightest voxels clipped, and with noise
of 2 % of the brain's median.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it

import numpy as np
from deepbet import BrainExtraction
from numpy.typing import NDArray

from cpmae import deidentify, read
from cpmae.brain import extract_brain
from cpmae.compare import dice
from cpmae.evaluation.meshnet import segment
from cpmae.evaluation.overlap import mean_dice
from cpmae.volume import Volume

MESHNET_18 = "model30chan18cls"
SHIFTS = ((1, 1), (-1, -1), (1, 0), (0, 1), (-2, 2))  # of the box's start and end, voxels, on each axis
Box = tuple[slice, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--meshnets", type=Path, help="brainchop's folder of MeshNets")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for path in arguments.scans:
        print(json.dumps(floor(path, arguments.meshnets, arguments.seed), indent=1), flush=True)


def floor(path: Path, meshnets: Path | None, seed: int) -> dict[str, Any]:
    scan = read(path)
    volume = scan.scaled()
    boxes: list[Box] = []

    def seen(box: Box, shape: tuple[int, ...]) -> Box:
        boxes.append(box)
        return box

    with box_of_deepbet(seen):
        brain = extract_brain(volume)
    result = deidentify(scan, brain_mask=brain, seed=seed).image.scaled()
    shifted = {}
    for shift in SHIFTS:
        with box_of_deepbet(partial(moved, by=shift)):
            shifted[str(shift)] = rounded(dice(brain, extract_brain(volume)))
    found: dict[str, Any] = {"scan": path.name, "deepbet, box moved": shifted}
    found["deepbet, result"] = rounded(dice(brain, extract_brain(result)))
    with box_of_deepbet(lambda *_: boxes[0]):
        found["deepbet, result in the scan's box"] = rounded(dice(brain, extract_brain(result)))
    if meshnets:
        found["MeshNet-18"] = meshnet(volume, result, brain, meshnets / MESHNET_18)
    return found


@contextmanager
def box_of_deepbet(choose: Callable[[Box, tuple[int, ...]], Box]) -> Iterator[None]:
    """deepbet cuts out what `choose` makes of its box, in a volume of a shape."""
    own = BrainExtraction.get_bbox_with_margin

    def other(self: Any, mask: Any, shape: tuple[int, ...], margin: float) -> Box:
        return choose(own(self, mask, shape, margin), tuple(shape))

    BrainExtraction.get_bbox_with_margin = other
    try:
        yield
    finally:
        BrainExtraction.get_bbox_with_margin = own


def moved(box: Box, shape: tuple[int, ...], by: tuple[int, int]) -> Box:
    return tuple(slice(max(0, s.start + by[0]), min(n, s.stop + by[1])) for s, n in zip(box, shape, strict=True))


def meshnet(volume: Volume, result: Volume, brain: NDArray[np.bool_], folder: Path) -> dict[str, float]:
    labels = segment(volume, folder)

    def agreement(other: Volume, part: Box = ()) -> float:
        return rounded(mean_dice(labels[part], segment(other, folder)))

    found = {"result": agreement(result)}
    for cut in (1, 2):
        part = (slice(cut, None),) * 3
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.full(3, cut)
        found[f"less {cut} outer slice(s) of each axis"] = agreement(Volume(volume.data[part].copy(), affine), part)
    top = np.percentile(volume.data, 99.5)
    found["the brightest 0.5 % clipped"] = agreement(Volume(np.minimum(volume.data, top), volume.affine))
    noise = np.random.default_rng(0).normal(0, 0.02 * np.median(volume.data[brain]), volume.shape)
    found["noise of 2 %"] = agreement(Volume((volume.data + noise).astype(np.float32), volume.affine))
    return found


def rounded(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
