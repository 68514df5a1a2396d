"""Which arithmetic is fast where a network runs."""

from contextlib import AbstractContextManager, nullcontext

import torch


def fast_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on CUDA and on CPUs that compute in it; plain float32 elsewhere.

    A CPU without bfloat16 instructions emulates them, several times slower than float32. The same machine always gets
    the same arithmetic, so that a seed gives the same bytes.
    """
    able = device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16())
    return torch.autocast(device.type, torch.bfloat16) if able else full_precision(device)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Plain float32, whatever is fast around; versions of PyTorch that know no autocast on a device refuse its name."""
    able = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if able else nullcontext()


def _cpu_has_bfloat16() -> bool:
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private names, so each may go
    return any(getattr(torch.cpu, name, bool)() for name in tests)
