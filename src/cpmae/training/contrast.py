"""Tissue intensities as a pulse sequence would give them.

T1, T2 and proton density near 3 T, rounded from the usual compilations (Stanisz et al., Magn Reson Med 2005;
Bojorquez et al., Magn Reson Imaging 2017; fat, marrow and skin after de Bazelaire et al., Radiology 2004), varied a
little for each head. A real sequence ties the grey of fat and muscle to that of the brain, and that tie is what lets
the brain alone say how the rest of the head should look.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cpmae.models.tissue import PAINTS
from cpmae.training.anatomy import BRAIN_STRUCTURES, N_OUTSIDE, STRUCTURE, STRUCTURE_TISSUE

# tissue: (T1 in ms, T2 in ms, proton density relative to water)
TISSUE_PROPERTIES = {
    "white matter": (900, 72, 0.70),
    "grey matter": (1400, 95, 0.82),
    "deep grey matter": (1200, 80, 0.80),
    "csf": (4000, 1200, 1.0),
    "lesion": (1300, 150, 0.85),
    "blood": (1700, 120, 0.35),  # much of it flows away before it is read out
    "air": (1000, 50, 0.0),
    "eye": (3500, 800, 0.98),
    "muscle": (1300, 38, 0.75),
    "orbit": (500, 75, 0.50),
    "mucosa": (1100, 100, 0.80),
    "skin": (420, 75, 0.42),  # fat and marrow: less than water's, as coils, saturation and chemical shift leave it
    "cord": (950, 78, 0.70),
    "bone": (1000, 4, 0.12),
    "marrow": (480, 75, 0.38),
    "fat": (370, 85, 0.48),
}


def draw_contrast(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Intensities of one scan, T1w seven times in ten.

    Returns:
        brain: (64,) float32, intensity for each anatomy value; only the brain structures are filled in.
        paints: (len(PAINTS),) float32, intensity of what lies outside the brain, in the same unit.
    """
    signal = _sequence(rng)
    tissue = {}
    for name, (t1, t2, pd) in TISSUE_PROPERTIES.items():
        wobble = np.exp(rng.normal(0, 0.06, 3))
        if name == "blood":
            wobble[2] = rng.uniform(0.2, 2.5)
        tissue[name] = signal(t1 * wobble[0], t2 * wobble[1], pd * wobble[2])
    brain = np.zeros(STRUCTURE + 1, np.float32)
    for label, index in BRAIN_STRUCTURES.items():
        brain[index] = tissue[STRUCTURE_TISSUE[label]] * np.exp(rng.normal(0, 0.04))
    paints = np.array([tissue[name] for name in PAINTS], np.float32)
    unit = max(float(np.abs(brain[N_OUTSIDE:]).max()), 1e-6)
    return brain / unit, paints / unit


def _sequence(rng: np.random.Generator) -> Callable[[float, float, float], float]:
    """(T1, T2, proton density) to signal, of a pulse sequence with random parameters; times in ms."""
    kind = rng.choice(
        ["mprage", "spgr", "t1 spin echo", "t2", "pd", "flair", "t2*"], p=[0.45, 0.15, 0.1, 0.12, 0.06, 0.08, 0.04]
    )
    if kind == "mprage":
        ti, gap = rng.uniform(750, 1150), rng.uniform(600, 1200)
        return lambda t1, t2, pd: pd * abs(1 - 2 * np.exp(-ti / t1) + np.exp(-(ti + gap) / t1)) * np.exp(-3 / t2)
    if kind in ("spgr", "t2*"):
        if kind == "spgr":
            tr, te, flip = rng.uniform(8, 30), rng.uniform(2, 6), np.deg2rad(rng.uniform(12, 35))
        else:
            tr, te, flip = rng.uniform(400, 900), rng.uniform(15, 30), np.deg2rad(rng.uniform(15, 35))

        def gradient_echo(t1: float, t2: float, pd: float) -> float:
            e1 = np.exp(-tr / t1)
            return pd * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-te / (0.7 * t2))

        return gradient_echo
    if kind == "flair":
        tr, ti, te = rng.uniform(7000, 10000), rng.uniform(2200, 2600), rng.uniform(80, 130)
        return lambda t1, t2, pd: pd * abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)
    tr, te = {
        "t1 spin echo": (rng.uniform(400, 700), rng.uniform(8, 18)),
        "t2": (rng.uniform(3000, 6500), rng.uniform(75, 120)),
        "pd": (rng.uniform(2000, 4000), rng.uniform(10, 30)),
    }[str(kind)]
    return lambda t1, t2, pd: pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)
