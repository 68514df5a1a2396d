"""cpmae against `niimath -reface` on the same scans in the same run: wall time, peak memory, agreement of segmenters.

    python benchmarks/peers.py SCAN [SCAN...] --shells DIR [--segmenter DIR] [--tools niimath cpmae] [--repeats 3]

DIR of --shells holds AFNI's average shell, its template and weight (github.com/niivue/deface); DIR of --segmenter holds
one of brainchop's MeshNets (`model.json` and its weights).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# Nothing heavy is imported here: on Linux the peak memory reported for a child starts at its parent's.

SHELL_FILES = ("MNI152_2009_SSW.nii.gz", "refacer_shell_sym211.nii.gz", "MNI152_2009_SSW_weight.nii.gz")
FURTHER_HEAD = """
import os
os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the command line sets it for itself and its workers
import json, sys, time
from cpmae import deidentify
from cpmae.io.forms import read
from cpmae.io.nifti import write
seconds = []
for seed in range(6):  # some seeds draw more than one head until a face is nobody's
    start = time.perf_counter()
    write(sys.argv[2], deidentify(read(sys.argv[1]), seed=seed).image, overwrite=True)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


@dataclass
class Measured:
    """What one tool did to one scan: seconds of the timed runs, the largest peak memory, the last output."""

    output: Path
    seconds: list[float] = field(default_factory=list)
    peak_gb: float = 0.0
    dice: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    arguments = parse_arguments()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS={os.getenv('OMP_NUM_THREADS', '-')}")
    with tempfile.TemporaryDirectory() as folder:
        results = {scan: time_tools(scan, arguments, Path(folder)) for scan in arguments.scans}
        further = {
            scan: time_further_head(scan, Path(folder)) for scan in arguments.scans if "cpmae" in arguments.tools
        }
        for scan, tools in results.items():  # after every timing, since this fills the parent's memory
            measure_agreement(scan, tools, arguments.segmenter)
        for scan, tools in results.items():
            print_scan(scan, tools, further.get(scan))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(results, further), indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--shells", type=Path, required=True, metavar="DIR")
    parser.add_argument("--segmenter", type=Path, metavar="DIR", help="MeshNet to compare with, in addition to deepbet")
    parser.add_argument("--tools", nargs="+", choices=("niimath", "cpmae"), default=["niimath", "cpmae"])
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each tool, after one that warms up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args()
    for path in (*arguments.scans, *(arguments.shells / name for name in SHELL_FILES)):
        if not path.is_file():
            parser.error(f"{path} is not there")
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: at least 1")
    return arguments


def command(tool: str, scan: Path, output: Path, shells: Path) -> list[str]:
    if tool == "cpmae":
        return [sys.executable, "-m", "cpmae", "deidentify", str(scan), str(output), "--overwrite", "--seed", "1"]
    import niimath

    template, shell, weight = (str(shells / name) for name in SHELL_FILES)
    return [niimath.bin, str(scan), "-reface", template, shell, weight, str(output)]


def time_tools(scan: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, Measured]:
    """Run the tools in turn, so that a change in the machine's load meets all of them."""
    stem = scan.name.split(".")[0]
    tools = {tool: Measured(folder / f"{stem}-{tool}.nii.gz") for tool in arguments.tools}
    for run in range(arguments.repeats + 1):
        for tool, measured in tools.items():
            seconds, peak_gb = run_process(command(tool, scan, measured.output, arguments.shells))
            measured.peak_gb = max(measured.peak_gb, peak_gb)
            if run > 0:
                measured.seconds.append(seconds)
    return tools


def run_process(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds from start to exit, and peak resident memory in GB."""
    with tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=messages, stderr=messages)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()
            sys.exit(f"exit {process.returncode}: {' '.join(arguments)}\n{text[-2000:]}")
    unit = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss: bytes there, kilobytes here
    return seconds, usage.ru_maxrss / unit


def time_further_head(scan: Path, folder: Path) -> float:
    """Seconds a head in a process that has done one, file to file; the mean of five."""
    arguments = [sys.executable, "-c", FURTHER_HEAD, str(scan), str(folder / "further.nii.gz")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"two heads in one process failed:\n{done.stderr[-2000:]}")
    return statistics.mean(json.loads(done.stdout.splitlines()[-1])[1:])


def measure_agreement(scan: Path, tools: dict[str, Measured], segmenter: Path | None) -> None:
    """Fill in the Dice of each output's segmentation against the input's."""
    from cpmae.compare import dice
    from cpmae.evaluation.overlap import mean_dice

    reference = brain_mask(scan)
    for measured in tools.values():
        measured.dice["deepbet"] = dice(reference, brain_mask(measured.output))
    if segmenter is not None:
        labels = meshnet_labels(scan, segmenter)
        for measured in tools.values():
            measured.dice[segmenter.name] = mean_dice(labels, meshnet_labels(measured.output, segmenter))


def brain_mask(path: Path):
    """deepbet's mask, in its own axis order, which depends on the file's affine alone."""
    import nibabel
    import numpy as np
    from deepbet import BrainExtraction

    _, mask, _ = BrainExtraction(no_gpu=True).run(nibabel.load(path))
    return np.asarray(mask.dataobj) > 0


def meshnet_labels(path: Path, segmenter: Path):
    """Labels on the conformed grid, the one the segmenter works on."""
    import nibabel
    import numpy as np

    from cpmae.evaluation.meshnet import conform, segment_conformed
    from cpmae.volume import Volume

    image = nibabel.load(path)
    conformed = conform(Volume(np.asarray(image.dataobj).squeeze(), image.affine))
    return segment_conformed(conformed, segmenter).data


def print_scan(scan: Path, tools: dict[str, Measured], further: float | None) -> None:
    print(f"\n{scan.name}")
    for tool, measured in tools.items():
        runs = " ".join(f"{seconds:.2f}" for seconds in measured.seconds)
        dices = "  ".join(f"{name} {value:.4f}" for name, value in measured.dice.items())
        print(f"  {tool:8s} median {measured.median:6.2f} s ({runs})  peak {measured.peak_gb:.2f} GB  Dice: {dices}")
    if len(tools) == 2:
        niimath, cpmae = tools["niimath"], tools["cpmae"]
        print(f"  wall time cpmae / niimath {cpmae.median / niimath.median:.2f}")
        if further is not None:
            ratio = further / niimath.median
            print(f"  a further head in the same process {further:.2f} s, / niimath {ratio:.2f}")


def as_json(results: dict[Path, dict[str, Measured]], further: dict[Path, float]) -> dict[str, dict[str, object]]:
    return {
        scan.name: {
            tool: {"seconds": m.seconds, "median": m.median, "peak_gb": m.peak_gb, "dice": m.dice}
            for tool, m in tools.items()
        }
        | ({"further_head_seconds": further[scan]} if scan in further else {})
        for scan, tools in results.items()
    }


if __name__ == "__main__":
    main()
