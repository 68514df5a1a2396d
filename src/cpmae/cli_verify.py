"""`cpmae verify`: two files or two DICOM folders compared, and what was found in words."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpmae.cli_options import DEFAULT_EXTRACTOR, AsJson, BrainExtractor, BrainMask, one_of_two
from cpmae.cli_status import status
from cpmae.errors import ScanError

if TYPE_CHECKING:
    from cpmae.verify import Verification
    from cpmae.verify_run import RunVerification


def verify(
    original: Annotated[Path, typer.Argument(help="The scan that was de-identified.", show_default=False)],
    result: Annotated[Path, typer.Argument(help="What came out.", show_default=False)],
    brain_mask: BrainMask = None,
    brain_extractor: BrainExtractor = None,
    as_json: AsJson = False,
) -> None:
    """Check a result against its original: is the brain exact, and what of the rest survived? Exit code 0 or 1."""
    from cpmae.brain import load_brain_mask
    from cpmae.io import forms
    from cpmae.verify import verify_files

    one_of_two(brain_mask, brain_extractor)
    for path in (original, result):
        if not os.path.lexists(path):
            raise ScanError(f"{path} does not exist, check the path")
    if os.path.isdir(original) != os.path.isdir(result):
        raise ScanError(f"of {original} and {result} one is a folder and one a file, give two files or two folders")
    if os.path.isdir(original):
        return _verify_study(original, result, brain_mask, brain_extractor, as_json)
    first, _ = forms.open_scan(original), forms.open_scan(result)
    with status() as tell:
        tell("reading")
        volume = None
        if brain_mask:
            mask = load_brain_mask(brain_mask, first.shape, first.affine)
        else:
            volume = first.mean()
            tell("finding the brain")
            from cpmae.brain_search import brain_to_compare  # and with it torch, which a given mask does without

            mask = brain_to_compare(volume, brain_extractor or DEFAULT_EXTRACTOR)
        tell("comparing")
        found = verify_files(original, result, mask, volume)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(in_words(found)))
    if not (found.ok or brain_mask):
        typer.echo("the brain was searched for; if another mask was used, give that one with --brain-mask", err=True)
    raise typer.Exit(0 if found.ok else 1)


def _verify_study(
    original: Path, result: Path, brain_mask: Path | None, brain_extractor: str | None, as_json: bool
) -> None:
    """`verify` of two DICOM folders."""
    from cpmae.verify_study import verify_study

    with status() as tell:
        tell("comparing")
        found = verify_study(original, result, brain_mask, brain_extractor or DEFAULT_EXTRACTOR)
    ok = all(check.ok for check in found)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "series": [check.to_json() for check in found]}, indent=2))
    else:
        for check in found:
            typer.echo(f"{check.name}: {check.instances} instances")
            for volume in check.volumes:
                typer.echo("\n".join(f"  {line}" for line in in_words(volume)[:-1]))
            typer.echo("  verified" if check.ok else f"  NOT verified: {'; '.join(check.failures)}")
    raise typer.Exit(0 if ok else 1)


def in_words(found: "Verification | RunVerification") -> list[str]:
    """Brain first, verdict last; of a 4-D file, what was measured as the range over its volumes."""
    from cpmae.verify_run import RunVerification

    volumes = ""
    if isinstance(found, RunVerification):
        volumes = f" in each of {found.volumes} volumes"
        measures = [
            f"outside  equal voxels: {_range(found.outside_equal, '.1%')}, "
            f"correlation of the mean volumes: {_number(found.mean_correlation)}",
            f"face     equal voxels: {_range(found.face_equal, '.1%')}, correlation: "
            f"{_range(found.face_correlation, '.2f')}, of fine detail: {_range(found.face_detail, '.2f')}, "
            f"median distance of the mean volumes' surfaces: {_number(found.face_distance_mm, ' mm')}",
        ]
    else:
        measures = [
            f"outside  equal voxels: {_share(found.outside_equal)}, correlation: {_number(found.outside_correlation)}",
            f"face     equal voxels: {_share(found.face_equal)}, correlation: {_number(found.face_correlation)}, "
            f"of fine detail: {_number(found.face_detail)}, "
            f"median distance of the surfaces: {_number(found.face_distance_mm, ' mm')}",
        ]
    differing = "not compared: the result has another grid"
    if found.protected_differing is not None:
        differing = f"{found.protected_differing:,} differ from the original"
    header = [name for name, same in found.header.items() if not same]
    return [
        f"brain    {found.protected_voxels:,} voxels{volumes}, {differing}",
        f"header   {', '.join(header)} differ" if header else f"header   {', '.join(found.header)}: equal",
        *measures,
        "verified" if found.ok else f"NOT verified: {'; '.join(found.failures)}",
    ]


def _range(values: tuple[float | None, ...], form: str) -> str:
    known = [v for v in values if v is not None]
    return f"{min(known):{form}} to {max(known):{form}}" if known else "not measured"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _number(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.2f}{unit}"
