"""What is compared: methods from a scan with its brain to a scan on the same grid, named as in the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cpmae.batch import records
from cpmae.errors import CpmaeError, MethodError, MissingExtraError
from cpmae.evaluation.commands import content_of, files_of_command, parse_command, run_command, run_words
from cpmae.evaluation.facemask import face_mask
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.names import known
from cpmae.extras import package_folder, require
from cpmae.models.checkpoint import load_model
from cpmae.options import DRAWING
from cpmae.volume import Volume

METHODS = ("ORIGINAL", "BLACK", "QUICKSHEAR", "DEFACE", "FACE MASK", "AFNI REFACE", "CP-MAE")
SHELL_FILES = ("MNI152_2009_SSW.nii.gz", "refacer_shell_sym211.nii.gz", "MNI152_2009_SSW_weight.nii.gz")
Run = Callable[[HeadScan, int], Volume]


@dataclass(frozen=True)
class Method:
    """A way to de-identify.

    Attributes:
        name: as in the tables.
        run: (head, seed) -> scan on the same grid; picklable.
        key: what decides its results, as plain values, for the cache.
    """

    name: str
    run: Run
    key: dict[str, Any]

    def __call__(self, head: HeadScan, seed: int) -> Volume:
        """Apply it.

        Raises:
            CpmaeError: it failed on this scan.
        """
        try:
            result = self.run(head, seed)
        except CpmaeError:
            raise
        except Exception as error:  # other people's code fails as it likes, and a failure is one of its results
            raise MethodError(f"{self.name} failed with {type(error).__name__}: {error}") from error
        if not np.isfinite(result.data).any():
            raise MethodError(f"{self.name} returned a scan without a finite value")
        return result


def resolve(
    names: Sequence[str] | None, commands: Sequence[str], shells: Path | None, weights: Path | None
) -> tuple[list[Method], list[tuple[str, str]]]:
    """Methods by their names, and those that are not there with the reason.

    Args:
        names: of `METHODS`, in any case; None takes all.
        commands: further ones, 'name=command {in} {out}'.
        shells: folder with AFNI's average shell, for AFNI REFACE.
        weights: of CP-MAE; the package's own if None.

    Raises:
        MethodError: a name is unknown, or a command has another form.
    """
    methods: list[Method] = []
    skipped: list[tuple[str, str]] = []
    for name in known("method", names, METHODS, " or add one with --method"):
        try:
            methods.append(_method(name, shells, weights))
        except MissingExtraError as error:
            skipped.append((name, str(error)))
    for text in commands:
        name, command = parse_command(text)
        key = {"method": name, "command": command, "files": files_of_command(command)}
        methods.append(Method(name, partial(_command, template=command), key))
    return methods, skipped


def _method(name: str, shells: Path | None, weights: Path | None) -> Method:
    key: dict[str, Any] = {"method": name}
    if name == "ORIGINAL":
        return Method(name, original, key)
    if name == "BLACK":
        return Method(name, black, key)
    if name == "QUICKSHEAR":
        key["version"] = require("quickshear", "quickshear", "cpmae[evaluate]").__version__
        return Method(name, quickshear, key)
    if name == "FACE MASK":
        return Method(name, _face_mask, key)
    if name == "CP-MAE":
        from cpmae import __version__

        key |= {"version": __version__, "drawing": DRAWING, "weights": load_model(weights, "cpu").sha256}
        return Method(name, partial(cpmae, weights=weights), key)
    program = str(require("niimath", "niimath", "cpmae[evaluate]").bin)
    key["program"] = records.sha256(Path(program))
    if name == "DEFACE":
        data = package_folder("pydeface", "cpmae[evaluate]") / "data"
        files = [str(data / "mean_reg2mean.nii.gz"), str(data / "facemask.nii.gz")]
        return Method(name, partial(_words, words=[program, "{in}", "-deface", *files, "{out}"]), key)
    if shells is None or not all((shells / file).is_file() for file in SHELL_FILES):
        raise MissingExtraError(
            f"{', '.join(SHELL_FILES)} are not in {shells or 'a given folder'}; give it with --shells"
        )
    files = [str(shells / file) for file in SHELL_FILES]
    key["shells"] = [content_of(Path(file)) for file in files]
    return Method(name, partial(_words, words=[program, "{in}", "-reface", *files, "{out}"]), key)


def original(head: HeadScan, seed: int) -> Volume:
    """ORIGINAL: the scan itself."""
    return head.volume


def black(head: HeadScan, seed: int) -> Volume:
    """BLACK: all that is not brain is 0, as skull stripping leaves it (MRI WATERSHED in the paper)."""
    return Volume(np.where(head.brain, head.volume.data, np.zeros(1, head.volume.data.dtype)), head.volume.affine)


def quickshear(head: HeadScan, seed: int) -> Volume:
    """QUICKSHEAR: a half-space before the brain is 0 (Schimke and Hale 2011)."""
    run = require("quickshear", "quickshear", "cpmae[evaluate]").quickshear
    image, mask = (nib.Nifti1Image(a, head.volume.affine) for a in (head.volume.data, head.brain.astype(np.uint8)))
    return Volume(np.asarray(run(image, mask).dataobj), head.volume.affine)


def cpmae(head: HeadScan, seed: int, weights: Path | None = None) -> Volume:
    """CP-MAE: this package."""
    from cpmae import pipeline

    result = pipeline.deidentify(head.volume, brain_mask=head.brain, seed=seed, weights=load_model(weights, "cpu"))
    return result.image.scaled()


def _face_mask(head: HeadScan, seed: int) -> Volume:
    return face_mask(head.volume, head.brain)


def _words(head: HeadScan, seed: int, words: list[str]) -> Volume:
    return run_words(words, head.volume)


def _command(head: HeadScan, seed: int, template: str) -> Volume:
    return run_command(template, head.volume)
