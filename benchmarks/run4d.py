"""How long a 4-D run takes against one of its volumes: whole files, on the packaged example head at 2 mm, in one run.

python benchmarks/run4d.py [--volumes 200] [--repeats 1] [--profile]

Reading and writing alone, the run as it is read twice and written once, is measured beside it, and taken off:
(run - reading and writing) / volume is the figure.
"""

import argparse
import cProfile
import os
import pstats
import resource
import tempfile
from importlib import resources
from pathlib import Path
from timeit import repeat

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line sets it

import nibabel as nib
import numpy as np
from scipy import ndimage

from cpmae.files import deidentify_file
from cpmae.io import forms
from cpmae.io.run import write_run
from cpmae.models import checkpoint
from cpmae.options import Options

EXAMPLE = "example_T1w.nii.gz"
VOXEL_MM = np.full(3, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1, help="the best time of so many is taken")
    parser.add_argument("--profile", action="store_true", help="print where the time of one more run goes")
    arguments = parser.parse_args()
    model = checkpoint.load(device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder / "run.nii", arguments.volumes)
        volume = make_run(folder / "volume.nii", 1)

        def deidentified(path: Path) -> None:
            deidentify_file(path, folder / "out.nii", Options(seed=1, device="cpu"), weights=model, overwrite=True)

        def copied() -> None:
            opened = forms.open_scan(run)
            opened.mean()
            write_run(folder / "copy.nii", opened, opened.stored_volumes(), overwrite=True)

        deidentified(volume)  # warms up
        one = min(repeat(lambda: deidentified(volume), number=1, repeat=arguments.repeats))
        plain = min(repeat(copied, number=1, repeat=arguments.repeats))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        all_of_it = min(repeat(lambda: deidentified(run), number=1, repeat=arguments.repeats))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{'one volume':24s} {one:7.2f} s")
        print(f"{'reading and writing':24s} {plain:7.2f} s")
        print(f"{f'run of {arguments.volumes} volumes':24s} {all_of_it:7.2f} s")
        print(f"{'(run - io) / volume':24s} {(all_of_it - plain) / one:7.2f}")
        print(f"{'peak memory':24s} {before / 1024:7.0f} MB before the run, {after / 1024:.0f} MB after")
        if arguments.profile:
            profile = cProfile.Profile()
            profile.runcall(deidentified, run)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def make_run(path: Path, count: int) -> Path:
    """The example head in `count` volumes of 2 mm, as int16; each with noise and brightness of its own."""
    with resources.as_file(resources.files("cpmae") / "weights" / EXAMPLE) as example:
        head = forms.read(example)
    turn = np.diag([*VOXEL_MM / head.scaled().voxel_sizes, 1.0])
    shape = tuple(int(n / s) for n, s in zip(head.stored.shape, np.diag(turn), strict=False))
    data = ndimage.affine_transform(head.scaled().data, np.diag(turn)[:3], output_shape=shape, order=1)
    rng = np.random.default_rng(0)
    header = nib.Nifti1Image(np.zeros(shape, np.int16), head.affine @ turn).header
    header.set_data_shape((*shape, count))
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(count):
            noisy = data * rng.uniform(0.95, 1.05) + rng.normal(0, 0.02 * data.max(), shape)
            file.write(np.rint(noisy).astype("<i2").tobytes(order="F"))
    return path


if __name__ == "__main__":
    main()
