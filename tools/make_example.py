"""Make the packaged example head: one drawn from a population, as a T1w scan, oblique, at 1.5 mm. Nobody's head.

python tools/make_example.py POPULATION src/cpmae/weights/example_T1w.nii.gz --seed 19

POPULATION is the folder of `cpmae train synth`. The packaged one comes from SynthSeg's label maps and that seed.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cpmae import canonical
from cpmae.io import nifti
from cpmae.models.atlas import Atlas
from cpmae.models.field import GRID_SHAPE, dense, warp_volume
from cpmae.models.orbit import with_orbits
from cpmae.models.paint import paint_atlas
from cpmae.models.texture import texture
from cpmae.models.tissue import PAINTS
from cpmae.training import anatomy, population, stages
from cpmae.training.contrast import tissue_intensities

SHAPE, VOXEL_MM = (128, 152, 164), 1.5
BRIGHTEST = 220


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("population", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=19)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    people = population.Population.load(arguments.population / stages.POPULATION)
    head = population.draw(people, rng)
    values = head.anatomy()

    brain_means, paints = mprage()
    structure = torch.from_numpy(values & anatomy.STRUCTURE).long()
    atlas = Atlas.from_labels(people.atlas)
    atlas = atlas._replace(tissue=with_orbits(atlas.tissue))
    fat, mottle = texture(atlas, torch.Generator().manual_seed(arguments.seed))
    outside = warp_volume(paint_atlas(atlas, paints, fat, mottle)[None], dense(head.field, GRID_SHAPE))[0]
    is_brain = structure >= anatomy.N_OUTSIDE
    clean = torch.where(is_brain, brain_means[structure] * (1 + 0.03 * mottle), outside).numpy() * BRIGHTEST

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [8, -3, 4], degrees=True).as_matrix() * VOXEL_MM
    affine[:3, 3] = affine[:3, :3] @ (-np.array(SHAPE) / 2) + [0, 12, -38]
    pose = canonical.Pose(np.eye(4), 1.0, 0.0)
    native = canonical.resample_like(clean.astype(np.float32), pose, SHAPE, affine)
    real, imaginary = rng.standard_normal((2, *SHAPE), np.float32) * np.float32(3)
    noisy = np.hypot(np.maximum(native, 0) + real, imaginary)
    # stored left to right, front to back: not the order that code likes best
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = np.array(SHAPE[:2]) - 1
    stored = np.rint(noisy[::-1, ::-1]).clip(0, 32767).astype(np.int16)
    image = nib.Nifti1Image(stored, affine @ flip)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine @ flip, code=1)
    image.set_sform(affine @ flip, code=1)
    image.header["descrip"] = b"synthetic head, nobody's (cpmae)"
    nifti.write(arguments.out, nifti.from_image(image), overwrite=True)


def mprage() -> tuple[torch.Tensor, torch.Tensor]:
    """Brain means by anatomy value and paints of one T1w contrast."""
    tissue = tissue_intensities("mprage", np.random.default_rng(0), wobble=0)
    brain = np.zeros(anatomy.STRUCTURE + 1, np.float32)
    for label, index in anatomy.BRAIN_STRUCTURES.items():
        brain[index] = tissue[anatomy.STRUCTURE_TISSUE[label]]
    paints = np.array([tissue[name] for name in PAINTS], np.float32)
    return torch.from_numpy(brain / brain.max()), torch.from_numpy(paints / brain.max())


if __name__ == "__main__":
    main()
