"""What attackers get to see of a scan: pictures of its surface, depths of its surface, and its non-brain voxels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from cpmae import canonical
from cpmae.canonical import Pose
from cpmae.errors import CpmaeError
from cpmae.evaluation.baselines import Method
from cpmae.evaluation.identities import HeadScan
from cpmae.evaluation.population import Scan, compute_missing
from cpmae.evaluation.render import VIEWS, brain_frame, depth_maps, framed_surface, render_views
from cpmae.evaluation.work import Arrays, Cache, Failure
from cpmae.models import vqvae
from cpmae.volume import Volume

VERSION = 3  # of what is kept; another number and nothing kept before is used
STEP_MM = 4  # of the volumes
CLEARANCE_MM = 8  # from where a template brain reaches to what counts as outside of any brain


@dataclass(frozen=True)
class FeatureTask:
    """Methods on one scan, which is drawn or read once."""

    scan: Scan
    methods: tuple[Method, ...]
    seed: int
    cache: Cache


def feature_key(scan: Scan, method: Method, seed: int) -> dict[str, Any]:
    """What decides the features of a scan after a method."""
    return {"version": VERSION, "scan": scan.key, "method": method.key, "seed": seed}


def compute_person(tasks: tuple[FeatureTask, ...]) -> list[Failure]:
    """`compute_features` on scans of one person, in one process, since an identity is drawn with all its scans."""
    return [failure for task in tasks for failure in compute_features(task)]


def compute_features(task: FeatureTask) -> list[Failure]:
    """Fill the cache; what failed."""

    def key(method: Method) -> dict[str, Any]:
        return feature_key(task.scan, method, task.seed)

    def compute(head: HeadScan, pose: Pose, methods: list[Method]) -> list[Failure]:
        failures = []
        for method in methods:
            try:
                result = method(head, task.seed)
            except CpmaeError as error:
                failures.append(Failure(task.scan.name, method.name, str(error)))
                continue
            task.cache.save(features(result, head, pose), task.scan.name, **key(method))
        return failures

    return compute_missing(task.scan, task.cache, task.methods, key, compute)


def features(volume: Volume, head: HeadScan, pose: Pose) -> Arrays:
    """See the module's first line.

    Args:
        volume: a scan, before or after a method.
        head: the untouched scan with its brain, which gives frame and intensity unit.
        pose: of that brain.

    Returns:
        `renders` (5, 200, 200) uint8; `depth` (N,) float32 mm; `outside` (48, 60, 64) float16, intensity in units of
        the brain's, 0 where a brain may be or this one is; `brain` (48, 60, 64) float16, the brain mask's share of
        each voxel at true size.
    """
    surface = framed_surface(volume, brain_frame(pose))
    unit = canonical.brain_unit(head.volume, head.brain)
    everything = np.ones(volume.shape, bool)
    conformed = canonical.conform(Volume(np.asarray(volume.data, np.float32), volume.affine), everything, pose, unit)
    at_true_size = Pose(brain_frame(pose), pose.overlap, pose.stray_ml)
    mask = Volume(head.brain.astype(np.float32), volume.affine)
    brain = canonical.conform(mask, everything, at_true_size, canonical.Unit(0.0, 1.0))
    own = canonical.conform(mask, everything, pose, canonical.Unit(0.0, 1.0))
    outside = ~may_be_brain() & (_means(own.data) == 0)
    return {
        "renders": render_views(surface, VIEWS),
        "depth": depth_maps(surface),
        "outside": (_means(np.clip(conformed.data, 0, 4)) * outside).astype(np.float16),
        "brain": _means(brain.data).astype(np.float16),
    }


def may_be_brain() -> NDArray[np.bool_]:
    """Where any brain reaches, and `CLEARANCE_MM` more, (48, 60, 64) bool; the same for everybody."""
    template = torch.from_numpy(canonical.template_brain())[None, None]
    shape = tuple(n // STEP_MM for n in canonical.GRID_SHAPE)
    reach = 2 * (CLEARANCE_MM // STEP_MM) + 1
    near = F.max_pool3d(F.interpolate(template, shape, mode="trilinear", align_corners=False), reach, 1, reach // 2)
    return near[0, 0].numpy() > 0.02


def _means(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over blocks of `STEP_MM` of a volume that `canonical.conform` made."""
    source = torch.from_numpy(np.ascontiguousarray(data))[None, None]
    return F.avg_pool3d(source, STEP_MM // vqvae.STEP_MM)[0, 0].numpy()
