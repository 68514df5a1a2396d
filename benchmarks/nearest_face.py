"""Is a generated face one of the training heads'? Distances between face surfaces, in the canonical frame.

python benchmarks/nearest_face.py LABEL_MAP [LABEL_MAP ...] --training 01 02 ... [--samples 3]

Heads are drawn around the brains of all label maps. Each generated face is compared with the faces of the training
heads, as it is and in the sizes in which draws are compared; the yardstick is the distance of each training face to its
nearest neighbour among them. Label maps whose face is cut by the field of view lend their brains alone.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from cpmae import canonical, depth, faces
from cpmae.generate import generate_field
from cpmae.models import checkpoint
from cpmae.models.field import GRID_SHAPE, dense, warp_volume
from cpmae.models.head import HeadModel
from cpmae.training import anatomy, synth
from cpmae.training.data import brain_median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label_maps", type=Path, nargs="+")
    parser.add_argument("--training", nargs="+", required=True, help="names of those that the weights learnt from")
    parser.add_argument("--samples", type=int, default=3, help="heads drawn around each brain")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    heads = {path.name.split(".")[0].split("-")[-1]: synth.load_anatomy(path) for path in arguments.label_maps}
    whole = {name: v for name, v in heads.items() if not (v & anatomy.OUT_OF_VIEW).any()}
    known = {
        name: faces.relief((v[faces.FACE] & anatomy.STRUCTURE) > 0)
        for name, v in whole.items()
        if name in arguments.training
    }
    model = checkpoint.load(arguments.weights)
    apart = [min(depth.distance(a, b) for m, b in known.items() if m != n) for n, a in known.items()]
    samples = []
    for number, (name, values) in enumerate(heads.items()):
        for seed in range(number * arguments.samples, (number + 1) * arguments.samples):  # one seed draws like faces
            face = faces.relief(draw(model, values, seed)[faces.FACE])
            near = {n: depth.distance(face, f) for n, f in known.items()}
            sizes = [faces.resized(face, size) for size in faces.SIZES]
            in_any = min(depth.distance(one, f) for one in sizes for f in known.values())
            samples.append((face, min(near.values()), in_any))
            row = {"brain": name, "seed": seed, "own_mm": near.get(name), "nearest_mm": min(near.values())}
            print(json.dumps(row | {"nearest_in_any_size_mm": in_any}))
    between = [
        min(depth.distance(a, b) for j, (b, *_) in enumerate(samples) if j != i) for i, (a, *_) in enumerate(samples)
    ]
    for title, values in {
        "training face to its nearest training face": apart,
        "generated face to its nearest training face": [d for _, d, _ in samples],
        "the same, in any size": [d for _, _, d in samples],
        "generated face to its nearest generated face": between,
    }.items():
        print(f"{title:46s} median {np.median(values):.2f} mm, least {min(values):.2f} mm, n {len(values)}")


def draw(model: HeadModel, values: NDArray[np.uint8], seed: int) -> NDArray[np.bool_]:
    """What is not air of a head drawn around an anatomy's brain."""
    head = synth.scan(np.ascontiguousarray(values[::2, ::2, ::2]), np.random.default_rng(seed), mask_jitter=0)
    image = (head.image / brain_median(head.image, head.brain) * head.brain).numpy()
    brain = canonical.Conformed(image, head.brain.numpy())
    field = generate_field(model, brain, None, 1.0, torch.Generator().manual_seed(seed))
    solid = model.atlas.share()[None]
    return (warp_volume(solid, dense(field, GRID_SHAPE))[0] > 0.5).numpy()


if __name__ == "__main__":
    main()
