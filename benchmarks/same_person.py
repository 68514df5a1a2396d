"""How near do the heads of one person's results come, and what does an attacker gain who averages several of them?

python benchmarks/same_person.py [--person SCAN SCAN ... --person SCAN ...] [--brain-extractor NAME]

Each `--person` is followed by scans of one person: contrasts, runs, sessions, in any place; the first one lends its
head, as in `cpmae bids --subject-key`. Without any, two made-up people with three scans each are made from the packaged
example head: as it is, turned and moved with other noise, and the same in another contrast.

All scans get heads in three ways: shared, the same seed without sharing, and another seed each. Results of one person
are brought together by registering the brain masks, as an attacker can, and those of two people by their poses.
Distances are those between the surfaces of the front half of the head, mean of both directions. Correlations are those
of what is not brain, in and 10 mm around the original's head: one result's and the average's with the original.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations, product
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cpmae import canonical, pipeline
from cpmae.brain import extract_brain
from cpmae.compare import tissue_threshold
from cpmae.io import forms
from cpmae.models import checkpoint
from cpmae.models.head import HeadModel
from cpmae.volume import Volume

EXAMPLE = "example_T1w.nii.gz"
WAYS = ("shared head", "same seed", "another seed")
# what is compared, canonical mm: the front half of the head, from above the neck to the top of the brow
BOX_MM = ((-80, 80), (0, 136), (-110, 60))
NEAR_MM = 10.0  # around the original's head, where correlations are measured


@dataclass(frozen=True)
class Scan:
    """A scan, its brain, and where the person's first brain lies in it: canonical mm to world mm."""

    name: str
    volume: Volume
    brain: NDArray[np.bool_]
    matrix: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--person", type=Path, nargs="+", action="append", help="scans of one person")
    parser.add_argument("--brain-extractor", default="deepbet")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    model = checkpoint.load(device="cpu")
    if arguments.person:
        named = [[(path.name, forms.read(path).scaled()) for path in paths] for paths in arguments.person]
    else:
        named = [synthetic(number) for number in range(2)]
    people = [registered(scans, arguments.brain_extractor) for scans in named]
    heads: dict[str, list[list[NDArray]]] = {}
    for way in WAYS:
        heads[way] = [results(model, scans, way, arguments.seed + 100 * n) for n, scans in enumerate(people)]
    originals = [[sampled(scan.volume, scan) for scan in scans] for scans in people]
    for way in WAYS:
        within = [distance(a, b) for person in heads[way] for a, b in combinations(person, 2)]
        between = [distance(a, b) for one, other in combinations(heads[way], 2) for a, b in product(one, other)]
        one, average = zip(*map(gains, originals, people, heads[way]), strict=True)
        print(
            json.dumps(
                {
                    "way": way,
                    "within_mm": rounded(within),
                    "between_mm": rounded(between),
                    "one_correlates": rounded(one),
                    "average_correlates": rounded(average),
                }
            )
        )
    within = [distance(a, b) for person in originals for a, b in combinations(person, 2)]
    print(json.dumps({"way": "originals", "within_mm": rounded(within)}))  # what registration and thresholds leave


def synthetic(number: int) -> list[tuple[str, Volume]]:
    """Three scans of somebody: the example head, or of the second person a warped one, brain and all."""
    with resources.as_file(resources.files("cpmae") / "weights" / EXAMPLE) as example:
        head = forms.read(example).scaled()
    rng = np.random.default_rng(number)
    data = head.data
    if number:
        bent = [ndimage.gaussian_filter(rng.normal(size=data.shape).astype(np.float32), 14) for _ in range(3)]
        middle = (np.array(data.shape) / 2)[:, None, None, None]
        stretch = rng.uniform(0.94, 1.06, 3)[:, None, None, None]
        places = (np.indices(data.shape, np.float32) - middle) * stretch + middle
        places += np.stack([b / b.std() * 2.5 for b in bent])
        data = ndimage.map_coordinates(data, places, order=1)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-12, 12, 3), degrees=True).as_matrix()
    turn[:3, 3] = rng.uniform(-15, 15, 3)
    found = []
    for name, power, grid in (("T1w", 1.0, np.eye(4)), ("turned", 1.0, turn), ("contrast", 0.5, turn)):
        # turned within its grid, so that voxels are sampled anew, as in another session
        to_voxel = np.linalg.inv(head.affine) @ np.linalg.inv(grid) @ head.affine
        moved = ndimage.affine_transform(data, to_voxel[:3, :3], to_voxel[:3, 3], order=1)
        moved = (moved / 250) ** power * 250
        noisy = np.hypot(moved + rng.normal(0, 3, data.shape), rng.normal(0, 3, data.shape)).astype(np.float32)
        found.append((f"person {number + 1} {name}", Volume(noisy, head.affine)))
    return found


def registered(named: Sequence[tuple[str, Volume]], extractor: str) -> list[Scan]:
    """The scans of one person; all but the first by aligning their brain masks with that of the first."""
    found: list[Scan] = []
    for name, volume in named:
        brain = extract_brain(volume, extractor)
        if not found:
            matrix = canonical.align(brain, volume.affine).matrix
            template = as_template(brain, volume, matrix)
        else:
            pose = canonical.align(brain, volume.affine, template)
            print(json.dumps({"scan": name, "overlap_with_first_brain": round(pose.overlap, 3)}))
            matrix = pose.matrix
        found.append(Scan(name, volume, brain, matrix))
    return found


def as_template(brain: NDArray[np.bool_], volume: Volume, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """A brain mask in the place of `canonical.template_brain`."""
    smooth, affine = canonical.smoothed(brain, volume.affine)
    shape = canonical.template_brain().shape
    corner = canonical.GRID_AFFINE @ np.diag([canonical.TEMPLATE_STEP] * 3 + [1])
    to_voxel = np.linalg.inv(affine) @ matrix @ corner
    return ndimage.affine_transform(smooth, to_voxel[:3, :3], to_voxel[:3, 3], shape, order=1)


def results(model: HeadModel, scans: Sequence[Scan], way: str, seed: int) -> list[NDArray[np.float32]]:
    """The results of a person's scans, in the common frame."""
    head, found = None, []
    for number, scan in enumerate(scans):
        done = pipeline.deidentify(
            scan.volume,
            brain_mask=scan.brain,
            weights=model,
            seed=seed + number * (way == "another seed"),
            device="cpu",
            head=head.elsewhere() if head else None,
        )
        if way == "shared head" and head is None:
            head = done.head
        found.append(sampled(done.image.scaled(), scan))
    return found


def sampled(volume: Volume, scan: Scan) -> NDArray[np.float32]:
    """A volume in the common frame, `BOX_MM` at 1 mm, in units of the brain's median."""
    corner = np.eye(4)
    corner[:3, 3] = [low for low, _ in BOX_MM]
    shape = tuple(high - low for low, high in BOX_MM)
    to_voxel = np.linalg.inv(volume.affine) @ scan.matrix @ corner
    unit = np.float32(np.median(volume.data[scan.brain]))
    return ndimage.affine_transform(volume.data / unit, to_voxel[:3, :3], to_voxel[:3, 3], shape, order=1)


def head_of(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """What is not air, in one piece without holes."""
    smooth = ndimage.gaussian_filter(values, 1)
    solid = smooth > tissue_threshold(smooth)
    labels, count = ndimage.label(solid)
    if count > 1:
        solid = labels == 1 + np.argmax(ndimage.sum_labels(solid, labels, range(1, count + 1)))
    return ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(solid, 3), iterations=3))[3:-3, 3:-3, 3:-3]


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean distance between the surfaces of two heads, mm."""
    skins = []
    for values in (one, other):
        head = np.pad(head_of(values), 1, mode="edge")  # where the box cuts the head is no skin
        skins.append((head & ~ndimage.binary_erosion(head, border_value=1))[1:-1, 1:-1, 1:-1])
    ways = [ndimage.distance_transform_edt(~a)[b].mean() for a, b in (skins, skins[::-1])]
    return float(np.mean(ways))


def gains(originals: Sequence[NDArray], scans: Sequence[Scan], found: Sequence[NDArray]) -> tuple[float, float]:
    """Correlation with the person's first original, of the result of that scan and of the average of all results."""
    first = scans[0]
    brain = sampled(Volume(first.brain.astype(np.float32), first.volume.affine), first) > 0.01
    head = head_of(originals[0])
    where = (ndimage.distance_transform_edt(~head) <= NEAR_MM) & ~ndimage.binary_dilation(brain, iterations=3)
    return tuple(  # type: ignore[return-value]
        float(np.corrcoef(originals[0][where], values[where])[0, 1]) for values in (found[0], np.mean(found, axis=0))
    )


def rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in values]


if __name__ == "__main__":
    main()
