"""Throughput of `cpmae bids`: two workers of one thread against one worker of two threads, on the same two cores.

    python benchmarks/batch.py [--heads 20] [--cores 0,1]

The heads are copies of the packaged example, moved by a few voxels so that they are not one file. Each run is a whole
batch, from the start of the command to its end, models loaded and all.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np

CONFIGURATIONS = {"two workers, one thread each": (2, 1), "one worker, two threads": (1, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=20, help="how many scans a batch has")
    parser.add_argument("--cores", default="0,1", help="the cores to run on")
    arguments = parser.parse_args()
    cores = {int(core) for core in arguments.cores.split(",")}
    os.sched_setaffinity(0, cores)
    print(f"cores {sorted(cores)}, load {os.getloadavg()[0]:.1f}, {arguments.heads} heads")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        make(source, arguments.heads)
        rates = {}
        for name, (workers, threads) in CONFIGURATIONS.items():
            seconds = run(source, Path(folder) / f"out-{workers}", workers, threads)
            rates[name] = arguments.heads / seconds
            print(f"{name:30s} {seconds:7.1f} s  {3600 * rates[name]:6.0f} heads an hour")
    two, one = rates.values()
    print(f"throughput of two workers over one: {two / one:.2f}")


def make(root: Path, count: int) -> None:
    """A BIDS data set of `count` people."""
    root.mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "copies", "BIDSVersion": "1.10.0"}))
    with resources.as_file(resources.files("cpmae") / "weights" / "example_T1w.nii.gz") as example:
        head = nib.load(example)
        stored = np.asarray(head.dataobj)
    for number in range(count):
        path = root / f"sub-{number:03}" / "anat" / f"sub-{number:03}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nib.Nifti1Image(np.roll(stored, number % 5 - 2, axis=1), head.affine, head.header).to_filename(path)


def run(source: Path, target: Path, workers: int, threads: int) -> float:
    """Seconds of a batch."""
    command = [
        sys.executable,
        "-m",
        "cpmae",
        "bids",
        str(source),
        str(target),
        "participant",
        "--n-procs",
        str(workers),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    subprocess.run([*command, "--device", "cpu"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
