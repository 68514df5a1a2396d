"""How processes that work side by side share the cores of a machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WAITING = "OMP_WAIT_POLICY"


def cores() -> int:
    """Those that this process may use, where the system can tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def shared(count: int) -> Iterator[None]:
    """Processes that start in the block compute with their share of the cores; what the user said stays.

    One variable of the user for threads is enough to leave all alone: torch takes MKL's number before OpenMP's. Heads
    are drawn with two threads whatever the share is, and threads that wait must then not hold a core: two workers on
    two cores do 1.5 times what one does, and half of it where they wait busily.

    Args:
        count: how many such processes there will be.
    """
    mine = {} if any(n in os.environ for n in _THREADS) else dict.fromkeys(_THREADS, str(max(1, cores() // count)))
    if count > 1 and _WAITING not in os.environ:
        mine[_WAITING] = "passive"
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


def exports(count: int) -> list[str]:
    """Lines of a shell script, after which programs compute with `count` threads; what the user said stays.

    Dask gives its workers one thread where the environment says nothing, for each variable by itself.
    """
    threads = str(count)
    for name in _THREADS:
        threads = f"${{{name}:-{threads}}}"
    return [f"export {name}=${{{name}:-{threads}}}" for name in _THREADS]
