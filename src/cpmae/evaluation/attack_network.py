"""Attackers 1 and 2: a siamese ResNet18 over pictures of the head, the similarity network (SQN) of CP-MAE's paper.

ResNet18 as in He et al., CVPR 2016, narrower. Front, left and right view are its three channels. It is trained so
that two scans of one identity point the same way among a batch of others (InfoNCE, van den Oord et al. 2018).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cpmae.batch.records import digest
from cpmae.evaluation.work import Arrays
from cpmae.io.output import make_folder, write_pieces

_VIEWS = 3  # the first of render.VIEWS: front, left, right
_TEMPERATURE = 0.1
_SAVE_EVERY = 50  # steps


@dataclass(frozen=True)
class NetworkSettings:
    """How a network is made and trained."""

    steps: int = 1200
    batch: int = 32  # identities
    learning_rate: float = 1e-3
    width: int = 32  # channels of the first block; 64 in the paper of ResNet
    pixels: int = 100
    seed: int = 0


class _Block(nn.Module):
    """Two 3x3 convolutions with a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.around = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.around(x), inplace=True)


class SimilarityNetwork(nn.Module):
    """(B, 3, H, W) float32 pictures to (B, 128) unit vectors; two scans are as similar as their vectors' product."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        w = settings.width
        layers: list[nn.Module] = [nn.Conv2d(_VIEWS, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(3, 2, 1))
        for stage, (inputs, outputs) in enumerate(((w, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w))):
            layers += [_Block(inputs, outputs, 1 if stage == 0 else 2), _Block(outputs, outputs, 1)]
        self.features = nn.Sequential(*layers)
        self.project = nn.Linear(8 * w, 128)

    def forward(self, pictures: Tensor) -> Tensor:
        return F.normalize(self.project(self.features(pictures).mean((2, 3))), dim=1)


def train(
    pairs: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    settings: NetworkSettings,
    checkpoint: Path,
    tell: Callable[[str], None],
    start: SimilarityNetwork | None = None,
) -> SimilarityNetwork:
    """Teach a network which pictures belong together.

    Args:
        pairs: pictures of two scans of each identity, (identities, views, H, W) uint8 each.
        checkpoint: file that is written every `_SAVE_EVERY` steps, and from which a killed run goes on.
        start: a network to go on from.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(settings.seed)
    network = SimilarityNetwork(settings)
    if start is not None:
        network.load_state_dict(start.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=0.01)
    done = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        done = int(kept["step"])
    one, other = (torch.from_numpy(p[:, :_VIEWS]) for p in pairs)
    batch = min(settings.batch, len(one))
    network.train()
    for step in range(done, settings.steps):
        rng = np.random.default_rng([settings.seed, step])  # so that a continued run draws what an unbroken one does
        who = torch.from_numpy(rng.choice(len(one), batch, replace=False))
        pictures = torch.cat([_augmented(side[who], settings.pixels, rng) for side in (one, other)])
        first, second = network(pictures).chunk(2)
        similarity = first @ second.T / _TEMPERATURE
        target = torch.arange(batch)
        loss = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(step, settings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == settings.steps:
            right = float((similarity.argmax(1) == target).float().mean())
            tell(
                f"similarity network: step {step + 1} of {settings.steps}, "
                f"loss {float(loss.detach()):.2f}, {right:.0%} right"
            )
            _save(checkpoint, {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})
    return network.eval()


def similarities(
    network: SimilarityNetwork, probes: Sequence[Arrays], gallery: Sequence[Arrays]
) -> NDArray[np.float64]:
    """Cosine of the vectors of all pairs, (probes, gallery)."""
    first, second = (_embed(network, np.stack([f["renders"] for f in side])) for side in (probes, gallery))
    return (first @ second.T).double().numpy()


def checkpoint_name(settings: NetworkSettings, data: object) -> str:
    """A file name that is another one for other settings and data."""
    return f"network-{digest([asdict(settings), data])[:16]}.pt"


def fine_tuning(settings: NetworkSettings) -> NetworkSettings:
    """The settings of attacker 2, which goes on from attacker 1."""
    return replace(settings, steps=max(settings.steps // 4, 1), learning_rate=settings.learning_rate / 2)


@torch.inference_mode()
def _embed(network: SimilarityNetwork, renders: NDArray[np.uint8]) -> Tensor:
    pictures = torch.from_numpy(renders[:, :_VIEWS])
    return torch.cat([network(_sized(part, network.settings.pixels)) for part in pictures.split(64)])


def _sized(pictures: Tensor, pixels: int) -> Tensor:
    small = F.interpolate(pictures.float(), (pixels, pixels), mode="area")
    return small / 64 - 2


def _augmented(pictures: Tensor, pixels: int, rng: np.random.Generator) -> Tensor:
    """Turned, shifted, lit, blurred and made noisy at random, one draw for the views of a head."""
    out = _sized(pictures, pixels)
    count = len(out)
    angle = torch.from_numpy(np.deg2rad(rng.normal(0, 3, count))).float()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
    theta[:, :, 2] = torch.from_numpy(rng.normal(0, 0.03, (count, 2)))
    grid = F.affine_grid(theta, list(out.shape), align_corners=False)
    out = F.grid_sample(out, grid, padding_mode="border", align_corners=False)
    out = out * torch.from_numpy(rng.uniform(0.8, 1.2, (count, 1, 1, 1))).float()
    out = out + torch.from_numpy(rng.normal(0, 0.1, (count, 1, 1, 1))).float()
    soft = F.avg_pool2d(out, 3, 1, 1)
    share = torch.from_numpy(rng.uniform(0, 1, (count, 1, 1, 1))).float()
    out = share * soft + (1 - share) * out
    return out + torch.from_numpy(rng.normal(0, 0.1, out.shape)).float()


def _learning_rate(step: int, settings: NetworkSettings) -> float:
    warm = max(settings.steps // 20, 1)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * (0.5 + 0.5 * float(np.cos(np.pi * (step - warm) / max(settings.steps - warm, 1))))


def _save(path: Path, state: dict[str, object]) -> None:
    make_folder(path.parent)
    content = BytesIO()
    torch.save(state, content)  # into a file, it hides what is wrong with the disk behind an error of its own
    write_pieces(path, [content.getvalue()])
