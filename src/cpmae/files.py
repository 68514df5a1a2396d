"""A scan in one file, de-identified into another: what single runs, data sets and batches share."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpmae import __version__, metadata, metadata_json
from cpmae.account import MARK
from cpmae.brain import load_brain_mask
from cpmae.compare import same_header
from cpmae.errors import OutputError, ScanError
from cpmae.io import forms, nifti
from cpmae.io.mask import mask_scan
from cpmae.io.run import RunMean
from cpmae.io.sidecar import dumped, sidecar_of
from cpmae.io.sidecar import read as read_sidecar
from cpmae.io.together import Writer, check_outputs, text_writer, write_together
from cpmae.options import Options

if TYPE_CHECKING:
    from cpmae.drawn_head import Head
    from cpmae.models.head import HeadModel
    from cpmae.pipeline import Deidentified
    from cpmae.pipeline_run import DeidentifiedRun
    from cpmae.volume import Volume


def deidentify_file(
    input: Path,
    output: Path,
    options: Options,
    *,
    brain_mask: Path | None = None,
    save_brain_mask: Path | None = None,
    save_replaced_mask: Path | None = None,
    picture: Path | None = None,
    weights: "str | Path | HeadModel | None" = None,
    head: "Head | None" = None,
    sidecar: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    beside: Sequence[tuple[Path, Writer]] = (),
    staging: Path | None = None,
) -> "Deidentified | DeidentifiedRun":
    """De-identify the scan `input`, 3-D or 4-D, and write all outputs or none.

    Args:
        input: a scan's file: .nii, .nii.gz, .mgz, .mgh, or either of a pair, .hdr and .img.
        output: .nii, .nii.gz, or of the input's own form.
        options: how.
        brain_mask: a mask on the grid of the input, which then is not searched for.
        save_brain_mask: where the brain mask goes.
        save_replaced_mask: where the mask of what was replaced goes, 1 there.
        picture: where a before/after picture goes, .png; it shows the original face. Of a 4-D file, the mean volumes.
        weights: a weight file or a model from `checkpoint.load`; the package's own if None.
        head: of another scan's result, to be used again; see `pipeline.deidentify`.
        sidecar: if `input` has a JSON sidecar beside it, write one beside `output`, cleaned as the header is. For
            `options.fat` "auto" it is read in any case.
        overwrite: replace outputs that exist.
        progress: called with the name of each stage.
        beside: further files to write with the result.
        staging: a folder on the outputs' file system for what is not complete yet, but for the picture; beside each
            output if None.

    Raises:
        OutputError and what `pipeline.deidentify` raises.
    """
    tell = progress or (lambda stage: None)
    if not os.path.lexists(input):  # before anything is said of the output's name, which may be right for a folder
        raise ScanError(f"{input} does not exist, check the path")
    if picture and staging is None:  # data sets have one folder of pictures, and look at that
        check_private(picture)
    described = sidecar_of(input) if os.path.isfile(sidecar_of(input)) else None
    sidecar = sidecar and described is not None
    check_outputs(
        [*(file for p in (input, brain_mask) if p for file in forms.files_of(p)), *([described] if described else [])],
        [p for p in (save_brain_mask, save_replaced_mask) if p],
        [p for p in (picture,) if p],
        own=(*forms.result_files(input, output), *([sidecar_of(output)] if sidecar else [])),
        overwrite=overwrite,
    )
    tell("reading")
    run = forms.open_scan(input)
    fields = None
    if described and (sidecar or options.fat == "auto"):
        try:
            said = read_sidecar(described)
        except ScanError as error:
            raise error if sidecar else ScanError(f"{error}, or say of the fat what it would (--fat)") from error
        options = options.for_sequence(said)
        fields = metadata_json.sidecar(said, options, f"cpmae {__version__}") if sidecar else None
    mask = load_brain_mask(brain_mask, run.shape, run.affine) if brain_mask else None
    result: Deidentified | DeidentifiedRun
    before: Callable[[], Volume]  # the input's intensities, for the picture alone
    if run.count > 1:
        from cpmae.pipeline_run import deidentify_run  # and with it torch, after the questions that need none

        result = of_run = deidentify_run(run, options, brain_mask=mask, weights=weights, head=head, progress=tell)
        made, before = of_run.volumes(), lambda: of_run.mean
    else:
        from cpmae.pipeline import deidentify_scan

        scan = run.only()
        result = of_scan = deidentify_scan(scan, options, brain_mask=mask, weights=weights, head=head, progress=tell)
        made, before = iter([of_scan.image.stored]), scan.scaled
    marked = (metadata.clean_nifti(run) if options.clean_metadata else run).marked(MARK)
    if wrong := [name for name, same in same_header(run, marked).items() if not same]:
        raise ScanError(f"the result's header failed its own check ({', '.join(wrong)}), nothing is written")
    tell("writing")
    # The result takes its name last: where it is, all the rest is too, and where anything failed it is not.
    files: list[tuple[Path, Writer]] = []
    late: list[tuple[Path, Writer]] = []
    if picture:
        from cpmae.report.picture import before_after

        after = RunMean(marked)
        made = after.added(made)  # so that the volumes are made once
        late = [(picture, lambda path: before_after(before(), after.mean(), result.brain_mask, path, result.protected))]
    grid = marked.volume(np.zeros(run.shape, run.dtype, order="F"))
    if save_brain_mask:
        files.append((save_brain_mask, lambda path: nifti.write(path, mask_scan(grid, result.brain_mask))))
    if save_replaced_mask:
        replaced = mask_scan(grid, ~result.protected).marked("voxels that were replaced")
        files.append((save_replaced_mask, lambda path: nifti.write(path, replaced)))
    if fields is not None:
        files.append((sidecar_of(output), text_writer(dumped(fields))))
    files += [*beside, *forms.writers(output, marked, made)]
    other = sidecar_of(output)
    if other.is_file() and other not in [path for path, _ in files]:
        result.warnings.append(
            f"{other.name} lies beside the result and is not of this run: see whether it names somebody"
        )
    write_together(files, staging, late, overwrite=overwrite)
    return result


def check_private(place: Path) -> None:
    """Nobody who shares a result should share an original face with it.

    Args:
        place: of a picture, of a folder of pictures, or of what else is kept of originals.

    Raises:
        OutputError: if it lies in what cpmae made of a DICOM study or a data set.
    """
    for folder in (place.resolve(), *place.resolve().parents):
        described = folder / "dataset_description.json"
        steps: Any = []
        if os.path.isfile(described):
            with suppress(ScanError):  # not ours to complain of
                steps = read_sidecar(described).get("GeneratedBy")
        ours = isinstance(steps, list) and any(isinstance(s, dict) and s.get("Name") == "cpmae" for s in steps)
        with suppress(OSError):  # a folder above that may not be read
            ours = ours or any(folder.glob("study-[0-9][0-9]*/series-[0-9][0-9][0-9]*/[0-9]*.dcm"))
        if ours:
            raise OutputError(
                f"{place} lies in the result {folder}, and would show the original face; choose a place outside of it"
            )


def draw_head(input: Path, options: Options, weights: "str | Path | HeadModel | None" = None) -> "Head":
    """The head that `deidentify_file` draws for a scan without a given mask, alone. Raises as that does."""
    from cpmae import drawn_head

    return drawn_head.draw_head(forms.open_scan(input).mean(), options, weights, input.name)
