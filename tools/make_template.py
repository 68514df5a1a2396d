"""Make the template brain of `canonical.align`: the mean of the brain masks of label maps aligned to each other.

python tools/make_template.py LABEL_MAPS src/cpmae/weights/template.npz

LABEL_MAPS is a folder of SynthSeg's; the packaged template comes from all 16 whole heads. It was made with an earlier
alignment: today's gives values that differ by up to 12 of 255.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import canonical, overlay
from cpmae.training.anatomy import brain_mask


def build_template(label_maps: list[Path], rounds: int = 4) -> NDArray[np.uint8]:
    """Average the brain masks of label maps in a common pose.

    The first round takes the heads as they lie, centred; each further round aligns every brain to the average so far.
    The average is made symmetric, so that it faces straight ahead.

    Returns:
        uint8 of the canonical grid at `TEMPLATE_STEP` mm, 255 where every brain is.
    """
    step = canonical.TEMPLATE_STEP
    shape = tuple(n // step for n in canonical.GRID_SHAPE)
    grid = canonical.GRID_AFFINE @ np.diag([step, step, step, 1.0])
    masks = []
    for path in label_maps:
        image = nib.as_closest_canonical(nib.load(path))
        masks.append((brain_mask(np.asarray(image.dataobj).astype(np.int16)), image.affine))
    mean = np.zeros(shape, np.float32)
    for number in range(rounds):
        total = np.zeros(shape, np.float32)
        for mask, affine in masks:
            smooth, smooth_affine = canonical.smoothed(mask, affine)
            if number == 0:
                centre = smooth_affine[:3, :3] @ np.array(ndimage.center_of_mass(smooth)) + smooth_affine[:3, 3]
                pose = overlay.similarity(np.zeros(7), centre)
            else:
                pose = canonical.align(mask, affine, mean).matrix
            m = np.linalg.inv(smooth_affine) @ pose @ grid
            total += ndimage.affine_transform(smooth, m[:3, :3], m[:3, 3], output_shape=shape, order=1)
        mean = (total / len(masks)).astype(np.float32)
        # point i lies at 4 i - 96 mm: 24 is the mid-plane, 48 - i the mirror of i, and 0, which has none, is air
        mean[1:] = (mean[1:] + mean[1:][::-1]) / 2
    return np.round(mean * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    np.savez_compressed(arguments.out, brain=build_template(sorted(arguments.label_maps.glob("*.nii*"))))


if __name__ == "__main__":
    main()
