"""Which device the networks run on."""

import torch

from cpmae.errors import DeviceError


def usable_device(name: str) -> str:
    """`name`, or for "auto" cuda where it is there. mps must be asked for: many versions of PyTorch lack parts there.

    Raises:
        DeviceError: it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        usable = ", ".join(n for n, yes in there.items() if yes)
        raise DeviceError(f"there is no device {name!r} here, choose auto or one of {usable}")
    return name
