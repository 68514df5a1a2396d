"""How well the VQ-VAEs give back heads they have not seen: tissues, intensities, codebook use.

python benchmarks/reconstruction.py RUN LABEL_MAP [LABEL_MAP ...]     RUN is the folder of `cpmae train vqvae`
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity

from cpmae.models import checkpoint
from cpmae.models.paint import blend, mixes
from cpmae.models.precision import fast_autocast
from cpmae.models.tissue import TISSUES
from cpmae.training import synth
from cpmae.training.data import STANDARD_PAINTS, brain_unit, standard_image
from cpmae.training.vqvae import VQVAEs


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
        print(json.dumps({"head": path.name.split(".")[0]} | measure(model, synth.load_anatomy(path))))


@torch.inference_mode()
def measure(model: VQVAEs, values: np.ndarray) -> dict:
    head = synth.scan(values, np.random.default_rng(0), mask_jitter=0)
    brain = head.brain.float()[None, None]
    outside = standard_image(head.tissue)
    image = (head.image / brain_unit(head.image, head.brain))[None, None]
    with fast_autocast(torch.device("cpu")):
        codes = model.non_brain.encode(outside[None, None], brain)
        tissue = model.non_brain.decode(codes.coarse, codes.fine, brain)[0].argmax(0)
        layers = model.non_brain.decode_mixed(codes.coarse, codes.fine, brain, mixes(torch.tensor(STANDARD_PAINTS)))
        vectors, brain_codes = model.brain.encode(image * brain, brain)
        found_brain = model.brain.decode(vectors).float() * brain
    zero = torch.zeros(head.tissue.shape)
    free = ~head.brain
    dice = {}
    for index, name in enumerate(TISSUES):
        found, real = (tissue == index) & free, (head.tissue == index) & free
        dice[name] = round(float(2 * (found & real).sum() / (found.sum() + real.sum()).clamp(min=1)), 3)
    clean = (head.clean / brain_unit(head.image, head.brain))[None, None]
    return {
        "tissue_dice": dice,
        "non_brain": _intensity(blend(layers[0], zero, zero) * free, outside * free),
        "brain": _intensity(found_brain[0, 0], (clean * brain)[0, 0]),
        "coarse_codes_used": len(codes.coarse_codes.unique()),
        "fine_codes_used": len(codes.fine_codes.unique()),
        "brain_codes_used": len(brain_codes.unique()),
    }


def _intensity(found: torch.Tensor, real: torch.Tensor) -> dict:
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
