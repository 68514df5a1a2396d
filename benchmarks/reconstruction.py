"""How well the VQ-VAEs give back heads they have not seen: field, tissues, brain intensities, codebook use.

python benchmarks/reconstruction.py RUN LABEL_MAP [LABEL_MAP ...]     RUN is the folder of `cpmae train vqvae`

Each label map's head is registered to the run's atlas. What codes lose is the difference between the head through its
own field and the head through the decoded one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from cpmae.canonical import MODEL_SHAPE
from cpmae.models import checkpoint
from cpmae.models.atlas import Atlas
from cpmae.models.field import GRID_SHAPE, control_shape, dense, warp_volume
from cpmae.models.paint import paint_atlas
from cpmae.models.precision import fast_autocast
from cpmae.models.tissue import BRAIN, TISSUES
from cpmae.models.vqvae import FINE, STEP_MM, code_shape
from cpmae.registration import register
from cpmae.training import anatomy, groupwise, synth
from cpmae.training.data import brain_median
from cpmae.training.vqvae import VQVAEs

# relative to the brain's median: air, csf, blood, eye, muscle, orbit, mucosa, skin, cord, bone, marrow, fat
PAINTS_T1W = (0.0, 0.3, 0.5, 0.3, 0.6, 1.1, 0.8, 1.4, 1.1, 0.12, 1.2, 1.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("label_maps", type=Path, nargs="+")
    arguments = parser.parse_args()
    state = torch.load(arguments.run / "vqvae.pt", weights_only=True)
    model = VQVAEs(checkpoint.config_from(state["config"]).vqvae)
    model.load_state_dict(state["vqvae"])
    model.eval().to(memory_format=torch.channels_last_3d)
    for path in arguments.label_maps:
        print(
            json.dumps(
                {"head": path.name.split(".")[0]} | measure(model, Atlas(*state["atlas"]), synth.load_anatomy(path))
            )
        )


def from_atlas(atlas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An atlas of `TISSUES` and `BRAIN` in the form of an anatomy; its brain is one piece of white matter."""
    white = anatomy.BRAIN_STRUCTURES[2] | anatomy.IN_BRAIN_MASK
    return np.where(atlas == BRAIN, white, atlas).astype(np.uint8)


def measure(model: VQVAEs, atlas: Atlas, values: NDArray[np.uint8]) -> dict:
    template = groupwise.soft_classes(from_atlas(atlas.labels().numpy()))
    field = register(groupwise.soft_classes(values), template, iterations=(60, 40), bending=groupwise.BENDING)
    small = np.ascontiguousarray(values[::STEP_MM, ::STEP_MM, ::STEP_MM])
    head = synth.scan(small, np.random.default_rng(0), mask_jitter=0)
    brain = head.brain.float()[None, None]
    image = (head.image / brain_median(head.image, head.brain))[None, None]
    with torch.inference_mode(), fast_autocast(torch.device("cpu")):
        codes = model.non_brain.encode(field[None], torch.ones(1, 1, *code_shape(FINE)))
        decoded = model.non_brain.decode(codes.coarse, codes.fine, brain)[0]
        vectors, brain_codes = model.brain.encode(image * brain, brain)
        found_brain = model.brain.decode(vectors).float() * brain
    near = F.avg_pool3d((head.tissue != 0).float()[None, None], FINE // STEP_MM)[0, 0] > 0
    apart = torch.linalg.vector_norm(dense(decoded - field, control_shape()), dim=0)[near]
    through = [warp_volume(atlas.labels().float()[None], dense(f, MODEL_SHAPE), "nearest")[0] for f in (field, decoded)]
    dice = {}
    for index, name in enumerate((*TISSUES, "brain")):
        real, found = ((t == index) for t in through)
        dice[name] = round(float(2 * (found & real).sum() / (found.sum() + real.sum()).clamp(min=1)), 3)
    assert index == BRAIN
    flat = torch.zeros(GRID_SHAPE)
    painted = paint_atlas(atlas, torch.tensor(PAINTS_T1W), flat, flat)[None]
    real, found = (warp_volume(painted, dense(f, MODEL_SHAPE))[0] for f in (field, decoded))
    clean = (head.clean / brain_median(head.image, head.brain))[None, None] * brain
    return {
        "field_mm": {"mean": round(float(apart.mean()), 2), "p95": round(float(apart.quantile(0.95)), 2)},
        "dice": dice,
        "non_brain": _intensity(found, real),
        "brain": _intensity(found_brain[0, 0], clean[0, 0]),
        "coarse_codes_used": len(codes.coarse_codes.unique()),
        "fine_codes_used": len(codes.fine_codes.unique()),
        "brain_codes_used": len(brain_codes.unique()),
    }


def _intensity(found: Tensor, real: Tensor) -> dict:
    error = float((found - real).square().mean())
    top = float(real.max())
    ssim = structural_similarity(found.numpy(), real.numpy(), data_range=top)
    return {
        "l1": round(float((found - real).abs().mean()), 4),
        "psnr_db": round(10 * float(np.log10(top**2 / error)), 2),
        "ssim": round(float(ssim), 4),
    }


if __name__ == "__main__":
    main()
