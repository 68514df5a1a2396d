"""`cpmae bids`: the BIDS App form, https://bids-apps.neuroimaging.io."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from cpmae.cli_options import (
    DEFAULT_EXTRACTOR,
    AllowUnusualMask,
    BrainExtractor,
    Device,
    Fat,
    Margin,
    Metadata,
    Region,
    Weights,
)

_MANY = ("--participant-label", "--session-label")


class BidsCommand(TyperCommand):
    """Takes several labels after one option, `--participant-label 01 02`, as BIDS Apps do, once the three arguments
    have been given; `--participant-label 01 --participant-label 02` works in every place. Their definition spells it
    `--participant_label`, which is taken too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_none = {o for p in self.params if getattr(p, "is_flag", False) for o in p.opts} | {"--help"}
        spread: list[str] = []
        arguments, words = 0, list(args)
        while words:
            word = words.pop(0)
            if word.startswith("--"):
                name, *value = word.split("=", 1)
                word = "=".join([name.replace("_", "-"), *value])
            spread.append(word)
            if not word.startswith("-"):
                arguments += 1
            elif "=" not in word and word not in takes_none and words:
                spread.append(words.pop(0))
                while word in _MANY and arguments >= 3 and words and not words[0].startswith("-"):
                    spread += [word, words.pop(0)]
        return super().parse_args(ctx, spread)


def bids(
    bids_dir: Annotated[Path, typer.Argument(help="Root of a BIDS data set.", show_default=False)],
    output_dir: Annotated[Path, typer.Argument(help="Folder for the results; made if missing.", show_default=False)],
    level: Annotated[
        Literal["participant", "group"],
        typer.Argument(help="De-identify scans, or sum up what was done.", show_default=False),
    ],
    participant_label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL...", help="Only these subjects, with or without sub-.")
    ] = None,
    session_label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL...", help="Only these sessions, with or without ses-.")
    ] = None,
    bids_filter_file: Annotated[
        Path | None, typer.Option(help="JSON of queries; a scan is taken if its entities fit one of them.")
    ] = None,
    placement: Annotated[
        Literal["derivative", "raw"],
        typer.Option(help="Files under derived names, or a data set to share under the original names."),
    ] = "derivative",
    n_procs: Annotated[int, typer.Option(min=1, help="Scans at a time, each in a process (or Slurm job).")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on the Dask cluster of this scheduler.")
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Work in jobs of Slurm, through dask-jobqueue.")] = False,
    subject_key: Annotated[
        Path | None, typer.Option(help="A secret, with which a person gets the same head in every run.")
    ] = None,
    keep_column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Keep this column of the tables too (repeat it).")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove results of scans that the data set no longer has.")
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Write before/after pictures and a page of them here. They show the original faces."),
    ] = None,
    brain_extractor: BrainExtractor = None,
    margin_mm: Margin = 0.0,
    region: Region = "nonbrain",
    fat: Annotated[
        Fat,
        typer.Option(help="How sequences show fat; by default as sidecars and suffixes say, else bright."),
    ] = "auto",
    metadata: Annotated[
        Metadata,
        typer.Option(help="Clean headers, sidecars and tables of what may identify, or keep them."),
    ] = "basic",
    device: Device = "auto",
    weights: Weights = None,
    allow_unusual_mask: AllowUnusualMask = False,
) -> None:
    """De-identify a BIDS data set. A run that was stopped goes on where it was, with the same command."""
    from cpmae.errors import SettingsError

    if sys.platform == "win32":  # which lacks the locks that tell the living from the dead
        raise SettingsError("cpmae bids does not run on Windows, use Linux, macOS or the Windows Subsystem for Linux")
    from cpmae.bids import app
    from cpmae.bids.dataset import LEFT_OUT, NOT_ASKED, dated_labels, not_in_input
    from cpmae.bids.plan import Settings
    from cpmae.io.bids import choose, find
    from cpmae.options import Options
    from cpmae.progress import progress_table
    from cpmae.subject_key import read_key

    if scheduler and slurm:
        raise typer.BadParameter("give --scheduler or --slurm, not both")
    dataset = find(bids_dir)
    queries = _queries(bids_filter_file) if bids_filter_file else None
    scans = choose(dataset.scans, participant_label or (), session_label or (), queries)
    if level == "group":
        counts = app.group(dataset, scans, output_dir)
        typer.echo(f"{output_dir / 'summary.tsv'}: {_in_words(counts)}")
        raise typer.Exit(0 if counts["done"] == counts.total() - counts[NOT_ASKED] > 0 else 1)
    settings = Settings(
        placement=placement,
        options=Options(
            brain_extractor=brain_extractor or DEFAULT_EXTRACTOR,
            margin_mm=margin_mm,
            region=region,
            fat=fat,
            clean_metadata=metadata == "basic",
            device=device,
            allow_unusual_mask=allow_unusual_mask,
        ),
        weights=weights,
        key=read_key(subject_key) if subject_key else None,
        keep_columns=tuple(keep_column or ()),
        pictures=pictures,
    )
    with progress_table(len(scans)) as tell:
        counts = app.participant(
            dataset,
            scans,
            output_dir,
            settings,
            tell=tell,
            n_procs=n_procs,
            scheduler=scheduler,
            slurm=slurm,
            prune=prune,
        )
    failed = counts["failed"] + counts["crashed"]
    before = f", {counts['skipped']} were done before" if counts["skipped"] else ""
    typer.echo(f"{output_dir}: {counts['done']} scans done{before}, {failed} failed")
    if kept := counts["kept"]:
        typer.echo(
            f"{kept} of these stay as an earlier run made them, with whatever options, since {bids_dir} lacks files "
            "that they are made of; fetch them (datalad get) and run again"
        )
    if others := len((output_dir / LEFT_OUT).read_text("utf-8").splitlines()) - 1:
        typer.echo(f"{output_dir / LEFT_OUT}: {others} lines on what else is in {bids_dir} and not in the results")
    if gone := len(not_in_input(dataset, output_dir)):
        typer.echo(
            f"{output_dir} has {gone} more {'scan' if gone == 1 else 'scans'}, which {bids_dir} no longer has: "
            "withdrawn or renamed? --prune removes them, and the group level lists them"
        )
    if several := app.of_several_heads(output_dir):
        typer.echo(
            f"people whose scans have different heads: {several}; do all scans of a person in one run, or every run "
            "with the same --subject-key FILE and options"
        )
    if dated := dated_labels(scans):
        which = f"{dated[0]}{f' and {len(dated) - 1} more' if len(dated) > 1 else ''}"
        typer.echo(f"labels that may be dates, which the names of results keep: {which}; rename them before you share")
    if pictures:
        typer.echo(f"{pictures / 'index.html'}: look at every scan; keep this folder as private as the scans")
    if failed:
        typer.echo(
            f"cpmae: {failed} {'scan' if failed == 1 else 'scans'} failed, see {output_dir / 'failures.tsv'}", err=True
        )
    raise typer.Exit(1 if failed else 0)


def _in_words(counts: Counter[str]) -> str:
    """What the scans of a data set have become; those that no run was asked for are no failures."""
    from cpmae.bids.dataset import NOT_ASKED, NOT_IN_INPUT

    asked = counts.total() - counts[NOT_ASKED] - counts[NOT_IN_INPUT]
    parts = [f"{counts['done']} of {asked} scans done{' that were asked for' if counts[NOT_ASKED] else ''}"]
    parts += [f"{counts[state]} {state}" for state in ("failed", "missing", NOT_IN_INPUT) if counts[state]]
    text = ", ".join(parts)
    return f"{text}; the data set has {counts[NOT_ASKED]} more, {NOT_ASKED} in any run" if counts[NOT_ASKED] else text


def _queries(path: Path) -> dict[str, dict[str, object]]:
    from cpmae.errors import SettingsError

    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"the filter file {path} cannot be read as JSON ({error}), correct it") from error
    if not isinstance(found, dict) or not all(isinstance(query, dict) for query in found.values()):
        raise SettingsError(f'the filter file {path} is not of the form {{"t1w": {{"suffix": "T1w"}}}}, correct it')
    return found
