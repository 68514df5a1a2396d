"""The way of a 4-D file: one brain mask and one head for the whole run, the intensities followed volume by volume.

Given mask, seed and grid, each volume of the result is a function of the protected voxels of all volumes alone.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpmae import brain_search, brightness, canonical, compose, drawn_head, lending, metadata, motion
from cpmae.account import MARK, account_of
from cpmae.brain import MaskLike
from cpmae.brain_search import MAX_NOT_FINITE, Found
from cpmae.compare import equal_voxels
from cpmae.drawn_head import Head
from cpmae.errors import ScanError
from cpmae.generate import paint_shares, paints_for
from cpmae.io import header, nifti
from cpmae.io.run import NiftiRun, RunMean
from cpmae.models.checkpoint import load_model
from cpmae.models.device import usable_device
from cpmae.models.head import HeadModel
from cpmae.models.palette import brain_depth, brain_profile
from cpmae.models.tissue import PAINTS
from cpmae.options import Options
from cpmae.volume import Volume, voxel_sizes

COARSE_MM = 1.75  # voxels from which the shares of the paints are made at 2 mm
MOST_AT_ONCE = 4, 2**25  # volumes that are made side by side, and their voxels: memory is bounded on many cores


@dataclass(frozen=True)
class DeidentifiedRun:
    """A result, as `pipeline.Deidentified`; its volumes are made while they are taken.

    Attributes:
        run: the original under the result's header.
        volumes: starts one pass over the result's stored numbers, (X, Y, Z) each; all passes give the same.
        mean: the original's mean volume, in which the brain was found.
    """

    run: NiftiRun
    volumes: Callable[[], Iterator[NDArray]]
    mean: Volume
    brain_mask: NDArray[np.bool_]
    protected: NDArray[np.bool_]
    account: dict[str, Any]
    warnings: list[str]
    head: Head


def deidentify_run(
    run: NiftiRun,
    options: Options,
    *,
    brain_mask: MaskLike | None = None,
    weights: str | Path | HeadModel | None = None,
    head: Head | None = None,
    progress: Callable[[str], None] | None = None,
) -> DeidentifiedRun:
    """Put a head that nobody has around the brain in every volume of a 4-D run.

    Args:
        run: as opened by `io.forms.open_scan`.
        options, weights, head, progress: as the arguments of `pipeline.deidentify`.
        brain_mask: as the argument of `pipeline.deidentify`; found in the mean of the volumes if None.

    Raises:
        As `pipeline.deidentify`; while the volumes are taken, ScanError for one that cannot be de-identified.
    """
    tell = progress or (lambda stage: None)
    noise, generator, texture = drawn_head.generators(options.seed, options.noise_number)
    device = usable_device(options.device)
    header.check_grid(run.header, run.path.name)
    tell("reading all volumes")
    total = RunMean(run)
    looked_at = (partial(motion.middle, v, run.slope, run.affine) for v in total.added(run.stored_volumes()))
    at_once, voxels = MOST_AT_ONCE
    threads = max(1, min(torch.get_num_threads(), at_once, voxels // math.prod(run.shape)))
    middles = list(_side_by_side(looked_at, threads))
    mean = total.mean() if run.count > 1 else run.mean()
    nifti.check_is_scan(mean, run.path.name)

    model = load_model(weights, device)

    tell("finding the brain")
    there = head.pose if head else None
    found = brain_search.find(mean, brain_mask, options, device, there, header.doubts(run.header))
    found.warnings.extend(_moved(run, middles, found.mask))

    tell("generating a head")
    looked = drawn_head.look_at_brain(mean, found, options.region)
    head = drawn_head.draw(model, found, looked, generator, head)
    paints = paints_for(model, looked.conformed, options.fat_suppressed)
    shares = _shares(model, head, found, looked, run, paints, texture)
    # from here on as files have it, first axis fastest: a third of the time
    found = replace(found, mask=np.asfortranarray(found.mask), protected=np.asfortranarray(found.protected))
    depth = brain_depth(found.mask.T, voxel_sizes(run.affine)[::-1])

    colours = partial(model.paints, fat_suppressed=options.fat_suppressed)
    seeds = torch.randint(2**32, (run.count,), generator=noise).tolist()  # so that no volume waits for another

    def made(stored: NDArray, seed: int) -> NDArray:
        return _replaced(run, stored, found, colours, shares, depth, torch.Generator().manual_seed(seed))

    def volumes() -> Iterator[NDArray]:
        waiting = (partial(made, stored, seed) for stored, seed in zip(run.stored_volumes(), seeds, strict=True))
        for number, volume in enumerate(_side_by_side(waiting, threads), 1):
            tell(f"volume {number} of {run.count}")
            yield volume

    clean = metadata.clean_nifti(run) if options.clean_metadata else run
    account = account_of(run, found, options, brain_mask is not None, model) | {"volumes": run.count}
    return DeidentifiedRun(
        clean.marked(MARK), volumes, mean, found.mask, found.protected, account, account["warnings"], head
    )


def _side_by_side(works: Iterable[Callable[[], NDArray]], threads: int) -> Iterator[NDArray]:
    """What each of these gives, in their order; the next few are done meanwhile, by so many threads."""
    done: deque[Future[NDArray]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for work in works:
            done.append(pool.submit(work))
            if len(done) > threads:
                yield done.popleft().result()
        while done:
            yield done.popleft().result()
    finally:  # also where whoever takes them stops
        pool.shutdown(cancel_futures=True)


def _moved(run: NiftiRun, middles: list[NDArray[np.float64]], mask: NDArray[np.bool_]) -> list[str]:
    """A warning if the brain lies elsewhere in the volume in which the head lies farthest off."""
    number = motion.farthest(middles)
    if number is None:
        return []
    stored = next(islice(run.stored_volumes(), number, None))
    if lending.lent_mask_fits(run.volume(stored).scaled(), mask)[0]:
        return []
    return [
        f"somebody moved: the brain in volume {number + 1} of {run.count} lies elsewhere than the mask of all of "
        "them, so that part of it is replaced and other tissue is kept; realign the run, or take such volumes out"
    ]


def _shares(
    model: HeadModel,
    head: Head,
    found: Found,
    looked: drawn_head.Brain,
    run: NiftiRun,
    paints: Tensor,
    texture: torch.Generator,
) -> NDArray[np.float32]:
    """What each of `PAINTS` adds to every volume, (len(PAINTS), Z, Y, X): transposed, as the order counts."""
    step = 2 if float(voxel_sizes(run.affine).min()) >= COARSE_MM else 1

    def native(layer: Tensor) -> NDArray[np.float32]:
        return canonical.resample_like(layer.numpy(), found.pose, run.shape, run.affine).T

    shares = np.empty((len(PAINTS), *run.shape[::-1]), np.float32)
    mean = torch.zeros(())  # the mean volume's head
    layers = paint_shares(model, head.field, looked.conformed.mask, texture, step)
    for share, paint, layer in zip(shares, paints, layers, strict=True):
        mean = mean + paint * layer
        share[:] = native(layer)
    if looked.kept is not None:
        shares *= native(brightness.gain(mean, looked.kept, looked.conformed))
    return shares


def _replaced(
    run: NiftiRun,
    stored: NDArray,
    found: Found,
    colours: Callable[[NDArray[np.float32]], Tensor],
    shares: NDArray[np.float32],
    depth: NDArray[np.float32],
    noise: torch.Generator,
) -> NDArray:
    """One volume's stored numbers, new outside the protected region.

    Args:
        colours: a brain's profile to the paints.
        shares: (len(PAINTS), Z, Y, X), what each paint adds.
        depth: of the brain's voxels, of `mask.T`, below its surface, mm.
    """
    scan = run.volume(stored)
    volume = scan.scaled()
    inside = volume.data.T[found.mask.T]
    finite = np.isfinite(inside)
    if finite.mean() < 1 - MAX_NOT_FINITE:
        raise ScanError(f"{1 - finite.mean():.1%} of the brain is NaN or infinite in a volume; repair or drop it")
    unit = canonical.brain_unit(volume, found.mask)
    profile = brain_profile(np.nan_to_num(unit.rescale(inside), nan=0, posinf=0, neginf=0), depth)
    # and no product of matrices, whose rounding depends on how many threads share it
    values = np.einsum("p,pzyx->zyx", colours(profile).numpy(), shares)
    values = compose.with_noise(values, compose.noise_level(volume, found.mask) / unit.scale, noise)
    result = compose.compose(scan, found.protected, unit.unscale(values.T))
    kept = found.protected.T
    if not equal_voxels(stored.T[kept], result.stored.T[kept]).all():
        raise ScanError("a volume of the result failed its own check; nothing is written")
    return result.stored
