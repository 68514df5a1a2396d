"""Make the documentation's picture of heads that are drawn around one brain: the packaged example's, one for each seed.

python tools/make_gallery.py docs/images/heads.png --seeds 1 2 3 4 5 6
"""

import argparse
from importlib import resources
from pathlib import Path

import matplotlib.image
import numpy as np

from cpmae import deidentify, read
from cpmae.report.surface import head_surface, render_surface

SIZE = (300, 240)  # of one view, pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    arguments = parser.parse_args()
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as path:
        example = read(path)
    scans = [example, *(deidentify(example, seed=seed).image for seed in arguments.seeds)]
    surfaces = [head_surface(scan.scaled()) for scan in scans]
    rows = [[render_surface(s, view, SIZE) for s in surfaces] for view in ("front", "three-quarter")]
    matplotlib.image.imsave(arguments.out, np.vstack([np.hstack(row) for row in rows]))


if __name__ == "__main__":
    main()
