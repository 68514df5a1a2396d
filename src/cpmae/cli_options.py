"""Options that several commands have, and what they print alike."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cpmae.options import MAX_MARGIN_MM

BrainMask = Annotated[Path | None, typer.Option(help="Brain mask on the scan's grid, not 0 in the brain.")]
BrainExtractor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What finds the brain: deepbet (the default), robex, hd-bet, or 'command:TOOL {input} {mask}'.",
    ),
]
DEFAULT_EXTRACTOR = "deepbet"
Margin = Annotated[float, typer.Option(min=0, max=MAX_MARGIN_MM, help="Keep this much around the brain too.")]
Region = Annotated[
    Literal["nonbrain", "face"], typer.Option(help="Replace all outside the brain, or face and ears alone.")
]
Fat = Literal["auto", "bright", "suppressed"]  # what these two say depends on what the command reads
Metadata = Literal["basic", "keep"]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the networks run.")]
Weights = Annotated[Path | None, typer.Option(help="A .safetensors file with its .json beside it.")]
AllowUnusualMask = Annotated[
    bool, typer.Option("--allow-unusual-mask", help="Warn of a brain mask of unusual place or shape, and go on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")]


def one_of_two(brain_mask: Path | None, brain_extractor: str | None) -> None:
    """Refuse a mask that is given together with a tool that finds one."""
    if brain_mask and brain_extractor:
        raise typer.BadParameter("give --brain-mask or --brain-extractor, not both")
