"""The command line: one function a command. What the commands do is elsewhere, and imported when they run."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cpmae import __version__
from cpmae.cli_bids import BidsCommand, bids
from cpmae.cli_evaluate import evaluate
from cpmae.cli_options import (
    DEFAULT_EXTRACTOR,
    AllowUnusualMask,
    AsJson,
    BrainExtractor,
    BrainMask,
    Device,
    Fat,
    Margin,
    Metadata,
    Region,
    Weights,
    one_of_two,
)
from cpmae.cli_status import status
from cpmae.cli_train import train
from cpmae.cli_verify import in_words, verify
from cpmae.errors import CpmaeError, OutputError, with_notes
from cpmae.stopping import exit_on_signals

if TYPE_CHECKING:
    from cpmae.options import Options
    from cpmae.study import StudyOptions

# Read by torch when it is imported: its allocations on the CPU then get huge pages. Every layer of the networks asks
# for fresh memory of tens of MB, and with 4 kB pages most of the time goes into page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

EXAMPLE, RESULT, PICTURE = "example_T1w.nii.gz", "deidentified_T1w.nii.gz", "before_after.png"
DEMO_SEED = 1


class _Sentences(TyperGroup):
    """Errors that this package raises on purpose become one line and exit code 1; a traceback is a bug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CpmaeError as error:
            typer.echo(f"cpmae: {with_notes(error)}", err=True)
            raise typer.Exit(1) from error
        except MemoryError as error:
            typer.echo("cpmae: there is not enough memory for this, check the dimensions in its header", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(cls=_Sentences, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")


def main() -> None:
    """Entry point of the command `cpmae`."""
    exit_on_signals()
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cpmae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """De-identify head MRI: the brain stays as it was, everything around it becomes a head that nobody has."""


class Retain(StrEnum):
    """What of a DICOM header may stay; typer takes no list of literals."""

    dates = "dates"
    patient = "patient"
    device = "device"
    uids = "uids"


@app.command()
def deidentify(
    input: Annotated[
        Path,
        typer.Argument(
            help="The scan: .nii, .nii.gz, .mgz, .mgh, one of a pair .hdr/.img; or a DICOM folder.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="The result: .nii, .nii.gz, or as the scan; or a new folder.", show_default=False)
    ],
    brain_mask: BrainMask = None,
    brain_extractor: BrainExtractor = None,
    margin_mm: Margin = 0.0,
    region: Region = "nonbrain",
    fat: Annotated[
        Fat,
        typer.Option(help="How the sequence shows fat; by default as sidecar or DICOM header say, else bright."),
    ] = "auto",
    metadata: Annotated[
        Metadata,
        typer.Option(help="Empty the header's text and drop its extensions, which can hold names, or keep them."),
    ] = "basic",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="The same seed gives the same file (of DICOM, the same pixels); by default a secret one is drawn.",
        ),
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    save_brain_mask: Annotated[Path | None, typer.Option(help="Write the brain mask here, .nii or .nii.gz.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write a before/after picture here, .png. It shows the original face.")
    ] = None,
    no_sidecar: Annotated[
        bool,
        typer.Option("--no-sidecar", help="Leave the scan's JSON sidecar; otherwise it is cleaned and written too."),
    ] = False,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")] = False,
    retain: Annotated[
        list[Retain] | None,
        typer.Option(help="DICOM: keep shifted dates, age, sex and size, the device, or UIDs. Can be given again."),
    ] = None,
    patient_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="DICOM: the pseudonym to put in; by default a random number for each patient."),
    ] = None,
    subject_key: Annotated[
        Path | None, typer.Option(help="DICOM: a secret, with which a patient gets the same draw in every run.")
    ] = None,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="DICOM: handle series that say text is burned into their pixels.")
    ] = False,
    allow_unusual_mask: AllowUnusualMask = False,
) -> None:
    """Replace everything outside the brain by a head that nobody has; the brain stays exact."""
    from cpmae.files import deidentify_file
    from cpmae.options import Options

    one_of_two(brain_mask, brain_extractor)
    _only_for_dicom(input, metadata, retain, patient_id, allow_burned_in, subject_key)
    if subject_key and seed is not None:
        raise typer.BadParameter("give --seed or --subject-key, not both")
    if no_sidecar and os.path.isdir(input):  # Path.is_dir raises where a folder may not be searched
        raise typer.BadParameter("--no-sidecar is for files, DICOM folders have no sidecars")
    options = Options(
        brain_extractor=brain_extractor or DEFAULT_EXTRACTOR,
        margin_mm=margin_mm,
        region=region,
        fat=fat,
        clean_metadata=metadata == "basic",
        seed=seed,
        device=device,
        allow_unusual_mask=allow_unusual_mask,
    )
    if os.path.isdir(input):
        from cpmae.study import StudyOptions
        from cpmae.subject_key import read_key

        files = {"brain_mask": brain_mask, "save_brain_mask": save_brain_mask, "picture": picture, "weights": weights}
        study = StudyOptions(
            frozenset(retain or ()), allow_burned_in, patient_id, read_key(subject_key) if subject_key else None
        )
        return _deidentify_study(input, output, options, study, as_json, overwrite, files)
    with status() as tell:
        result = deidentify_file(
            input,
            output,
            options,
            brain_mask=brain_mask,
            save_brain_mask=save_brain_mask,
            picture=picture,
            weights=weights,
            sidecar=not no_sidecar,
            overwrite=overwrite,
            progress=tell,
        )
    _warn(result.warnings)
    kept, new = result.account["protected_voxels"], result.account["replaced_voxels"]
    _say(json.dumps(result.account, indent=2) if as_json else f"{output}: {kept:,} voxels kept, {new:,} replaced")


def _deidentify_study(
    input: Path,
    output: Path,
    options: "Options",
    study: "StudyOptions",
    as_json: bool,
    overwrite: bool,
    files: dict[str, Path | None],
) -> None:
    """`deidentify` of a DICOM folder; exit code 1 if one of its head series failed."""
    from cpmae.study import deidentify_study

    with status() as tell:
        result = deidentify_study(input, output, options, study, overwrite=overwrite, progress=tell, **files)
    _warn(result.warnings)
    for item in result.failed:
        typer.echo(f"cpmae: {item.name} failed: {item.reason}", err=True)
    left = [f"left out  {item.name}: {item.reason}" for item in result.left_out]
    done = "\n".join([*(f"done      {text}" for text in result.handled), *left])
    _say(json.dumps(result.account, indent=2) if as_json else done)
    raise typer.Exit(1 if result.failed else 0)


def _say(text: str) -> None:
    """Print what was done, after it was done."""
    try:
        typer.echo(text)
    except BrokenPipeError:  # whoever read it has seen enough
        raise
    except OSError as error:
        sys.stdout = None  # type: ignore[assignment]  # or Python tries again at its end
        raise OutputError(f"everything was written but this account of it, stdout failed ({error.strerror})") from error


def _only_for_dicom(
    input: Path,
    metadata: str,
    retain: Sequence[str] | None,
    patient_id: str | None,
    allow_burned_in: bool,
    subject_key: Path | None,
) -> None:
    if (retain or patient_id is not None or allow_burned_in or subject_key) and not os.path.isdir(input):
        raise typer.BadParameter("--retain, --patient-id, --allow-burned-in and --subject-key are for DICOM folders")
    if (retain or patient_id is not None) and metadata == "keep":
        raise typer.BadParameter("--metadata keep retains everything, give it or --retain and --patient-id")
    if patient_id is not None:
        from cpmae.metadata_dicom import PSEUDONYM

        if not PSEUDONYM.fullmatch(patient_id):
            raise typer.BadParameter(
                f"{patient_id!r} is not a pseudonym: give up to 51 letters, digits, dots, dashes and underscores"
            )


app.command()(verify)


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Where the files go; made if missing.")] = Path("demo")) -> None:
    """De-identify the packaged example head, which is a synthetic one, and show what came out."""
    from cpmae.io import forms, nifti
    from cpmae.io.output import make_folder
    from cpmae.io.together import write_together
    from cpmae.report.picture import before_after
    from cpmae.verify import verify as compare

    make_folder(folder)
    with resources.as_file(resources.files("cpmae") / "weights" / EXAMPLE) as example, status() as tell:
        scan = forms.read(example)
        from cpmae import pipeline

        done = pipeline.deidentify(scan, seed=DEMO_SEED, progress=tell)
        tell("writing")
        before, after = scan.scaled(), done.image.scaled()
        write_together(
            [
                (folder / EXAMPLE, lambda path: shutil.copyfile(example, path)),
                (folder / PICTURE, lambda path: before_after(before, after, done.brain_mask, path)),
                (folder / RESULT, lambda path: nifti.write(path, done.image)),
            ]
        )
        found = compare(scan, done.image, done.brain_mask)
    _warn(done.warnings)
    for name, what in ((EXAMPLE, "before, synthetic"), (RESULT, "after"), (PICTURE, "both, as a picture")):
        typer.echo(f"{folder / name}  ({what})")
    brain, *_, verdict = in_words(found)
    typer.echo(f"{brain}\n{verdict}")
    raise typer.Exit(0 if found.ok else 1)


app.command(cls=BidsCommand)(bids)


def _warn(warnings: list[str]) -> None:
    for text in warnings:
        typer.echo(f"cpmae: warning: {text}", err=True)
