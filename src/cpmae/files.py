"""A scan in one file, de-identified into another: what single runs, data sets and batches share."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpmae import metadata
from cpmae.brain import load_brain_mask
from cpmae.io import forms, nifti
from cpmae.io.mask import mask_scan
from cpmae.io.together import Writer, check_outputs, write_together

if TYPE_CHECKING:
    from cpmae.models.head import HeadModel
    from cpmae.pipeline import Deidentified


@dataclass(frozen=True)
class Options:
    """How heads are replaced, as `pipeline.deidentify` takes it; plain values, so that they travel to workers."""

    brain_extractor: str = "deepbet"
    margin_mm: float = 0.0
    region: str = "nonbrain"
    clean_metadata: bool = True
    seed: int | None = None
    device: str = "auto"
    allow_unusual_mask: bool = False


def deidentify_file(
    input: Path,
    output: Path,
    options: Options,
    *,
    brain_mask: Path | None = None,
    save_brain_mask: Path | None = None,
    picture: Path | None = None,
    weights: "str | Path | HeadModel | None" = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    beside: "Callable[[Deidentified], Sequence[tuple[Path, Writer]]] | None" = None,
    staging: Path | None = None,
) -> "Deidentified":
    """De-identify the scan `input` and write all outputs or none.

    Args:
        input: a scan's file: .nii, .nii.gz, .mgz, .mgh, or either of a pair, .hdr and .img.
        output: .nii, .nii.gz, or of the input's own form.
        options: how.
        brain_mask: a mask on the grid of the input, which then is not searched for.
        save_brain_mask: where the brain mask goes.
        picture: where a before/after picture goes, .png; it shows the original face.
        weights: a weight file or a model from `checkpoint.load`; the package's own if None.
        overwrite: replace outputs that exist.
        progress: called with the name of each stage.
        beside: further files to write with the result, which it is given; they replace what is there.
        staging: a folder on the outputs' file system for what is not complete yet; beside the outputs if None.

    Raises:
        OutputError and what `pipeline.deidentify` raises.
    """
    tell = progress or (lambda stage: None)
    check_outputs(
        [file for p in (input, brain_mask) if p for file in forms.files_of(p)],
        [p for p in (save_brain_mask,) if p],
        [p for p in (picture,) if p],
        own=forms.result_files(input, output),
        overwrite=overwrite,
    )
    tell("reading")
    run = forms.open_scan(input)
    scan = run.only()
    mask = load_brain_mask(brain_mask, scan.stored.shape, scan.affine) if brain_mask else None
    from cpmae import pipeline  # and with it torch, after the questions that need neither

    result = pipeline.deidentify(scan, brain_mask=mask, weights=weights, progress=tell, **asdict(options))
    tell("writing")
    # The result takes its name last: where it is, all the rest is too, and where anything failed it is not.
    files: list[tuple[Path, Writer]] = []
    if picture:
        from cpmae.report.picture import before_after

        before, after = scan.scaled(), result.image.scaled()
        files.append((picture, lambda path: before_after(before, after, result.brain_mask, path)))
    if save_brain_mask:
        files.append((save_brain_mask, lambda path: nifti.write(path, mask_scan(scan, result.brain_mask))))
    run = metadata.clean_nifti(run) if options.clean_metadata else run
    run = run.marked(result.image.header["descrip"].item().decode("ascii"))
    files += beside(result) if beside else ()
    write_together([*files, *forms.writers(output, run, [result.image.stored])], staging)
    return result
