"""The command line: one function a command. What the commands do is elsewhere, and imported when they run."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from cpmae import __version__
from cpmae.cli_evaluate import evaluate
from cpmae.cli_train import train
from cpmae.errors import CpmaeError

if TYPE_CHECKING:
    from cpmae.verify import Verification

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
            typer.echo(f"cpmae: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(cls=_Sentences, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")


def main() -> None:
    """Entry point of the command `cpmae`."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(number: int, frame: object) -> None:
    """SIGTERM as an exception: `finally` blocks and context managers then remove temporary files."""
    raise SystemExit(128 + number)


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


BrainMask = Annotated[Path | None, typer.Option(help="Brain mask on the scan's grid, not 0 in the brain.")]
BrainExtractor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What finds the brain: deepbet (the default), robex, hd-bet, or 'command:TOOL {input} {mask}'.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")]


@app.command()
def deidentify(
    input: Annotated[Path, typer.Argument(help="The scan, .nii or .nii.gz.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The result, .nii or .nii.gz.", show_default=False)],
    brain_mask: BrainMask = None,
    brain_extractor: BrainExtractor = None,
    margin_mm: Annotated[float, typer.Option(min=0, max=30, help="Keep this much around the brain too.")] = 0.0,
    region: Annotated[
        Literal["nonbrain", "face"],
        typer.Option(help="Replace all outside the brain, or face and ears alone."),
    ] = "nonbrain",
    metadata: Annotated[
        Literal["basic", "keep"],
        typer.Option(help="Empty the header's text and drop its extensions, which can hold names, or keep them."),
    ] = "basic",
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same file; by default a secret one is drawn."),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the networks run.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="A .safetensors file with its .json beside it.")] = None,
    save_brain_mask: Annotated[Path | None, typer.Option(help="Write the brain mask here, .nii or .nii.gz.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write a before/after picture here, .png. It shows the original face.")
    ] = None,
    as_json: AsJson = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist already.")] = False,
    allow_unusual_mask: Annotated[
        bool, typer.Option("--allow-unusual-mask", help="Warn of a brain mask of unusual place or shape, and go on.")
    ] = False,
) -> None:
    """Replace everything outside the brain by a head that nobody has; the brain stays exact."""
    from cpmae.files import Options, deidentify_file

    _one_of_two(brain_mask, brain_extractor)
    options = Options(
        brain_extractor=brain_extractor or "deepbet",
        margin_mm=margin_mm,
        region=region,
        clean_metadata=metadata == "basic",
        seed=seed,
        device=device,
        allow_unusual_mask=allow_unusual_mask,
    )
    with _progress() as tell:
        result = deidentify_file(
            input,
            output,
            options,
            brain_mask=brain_mask,
            save_brain_mask=save_brain_mask,
            picture=picture,
            weights=weights,
            overwrite=overwrite,
            progress=tell,
        )
    _warn(result.warnings)
    kept, new = result.account["protected_voxels"], result.account["replaced_voxels"]
    typer.echo(json.dumps(result.account, indent=2) if as_json else f"{output}: {kept:,} voxels kept, {new:,} replaced")


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(help="The scan that was de-identified.", show_default=False)],
    result: Annotated[Path, typer.Argument(help="What came out.", show_default=False)],
    brain_mask: BrainMask = None,
    brain_extractor: BrainExtractor = None,
    as_json: AsJson = False,
) -> None:
    """Check a result against its original: is the brain exact, and what of the rest survived? Exit code 0 or 1."""
    from cpmae.brain import extract_brain, load_brain_mask
    from cpmae.io import nifti
    from cpmae.verify import verify as compare

    _one_of_two(brain_mask, brain_extractor)
    first, second = nifti.read(original), nifti.read(result)
    if brain_mask:
        mask = load_brain_mask(brain_mask, first.stored.shape, first.affine)
    else:
        with _progress() as tell:
            tell("finding the brain")
            mask = extract_brain(first.scaled(), brain_extractor or "deepbet")
    found = compare(first, second, mask, separate_files=not original.samefile(result))
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(_in_words(found)))
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Where the files go; made if missing.")] = Path("demo")) -> None:
    """De-identify the packaged example head, which is a synthetic one, and show what came out."""
    from cpmae.io import nifti
    from cpmae.io.together import write_together
    from cpmae.report.picture import before_after
    from cpmae.verify import verify as compare

    _make_folder(folder)
    with resources.as_file(resources.files("cpmae") / "weights" / EXAMPLE) as example, _progress() as tell:
        scan = nifti.read(example)
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
    brain, *_, verdict = _in_words(found)
    typer.echo(f"{brain}\n{verdict}")
    raise typer.Exit(0 if found.ok else 1)


def _one_of_two(brain_mask: Path | None, brain_extractor: str | None) -> None:
    if brain_mask and brain_extractor:
        raise typer.BadParameter("give --brain-mask or --brain-extractor, not both")


def _make_folder(folder: Path) -> None:
    from cpmae.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made ({error.strerror}), choose another name") from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows the stage on stderr while the block runs, if a person looks at it."""
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def _warn(warnings: list[str]) -> None:
    for text in warnings:
        typer.echo(f"cpmae: warning: {text}", err=True)


def _in_words(found: "Verification") -> list[str]:
    """Brain first, verdict last."""
    differing = "another grid" if found.protected_differing is None else f"{found.protected_differing:,} differ"
    header = [name for name, same in found.header.items() if not same]
    return [
        f"brain    {found.protected_voxels:,} voxels, {differing} from the original",
        f"header   {', '.join(header)} differ" if header else f"header   {', '.join(found.header)}: equal",
        f"outside  {_share(found.outside_equal)} of the voxels equal, correlation {_number(found.outside_correlation)}",
        f"face     {_share(found.face_equal)} of the voxels equal, correlation {_number(found.face_correlation)}, "
        f"surface {_number(found.face_distance_mm, ' mm')} away (median)",
        "verified" if found.ok else f"NOT verified: {'; '.join(found.failures)}",
    ]


def _share(value: float | None) -> str:
    return "not measured: how much" if value is None else f"{value:.1%}"


def _number(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.2f}{unit}"
