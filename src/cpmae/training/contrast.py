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

# tissue: (T1 in ms, T2 in ms, proton density relative to water). Outside the brain the density also holds what coils,
# saturation and chemical shift take away, set by eye to the outer percentiles of real T1w heads; the T2 of fat is the
# long one that trains of refocusing pulses see.
TISSUE_PROPERTIES = {
    "white matter": (900, 72, 0.70),
    "grey matter": (1400, 95, 0.82),
    "deep grey matter": (1200, 80, 0.80),
    "csf": (4000, 1200, 1.0),
    "lesion": (1300, 150, 0.85),
    "blood": (1700, 120, 0.35),  # much of it flows away before it is read out
    "air": (1000, 50, 0.0),
    "eye": (3500, 800, 0.98),
    "muscle": (1300, 38, 0.5),
    "orbit": (500, 100, 0.38),
    "mucosa": (1100, 110, 0.58),
    "skin": (420, 140, 0.20),
    "cord": (950, 78, 0.6),
    "bone": (1000, 4, 0.12),
    "marrow": (480, 120, 0.26),
    "fat": (370, 150, 0.26),
}

# T2w and PD scans are trains of spin echoes as a rule, whose quick refocusing undoes the J-coupling of fat and makes it
# bright (Henkelman et al., J Magn Reson Imaging 1992); some of them suppress fat in part
FATTY = ("fat", "orbit", "marrow", "skin")
FAT_OF_ECHO_TRAINS = (2.0, 6.0)  # against the densities above; a real T2w scan of fast spin echoes asks for 4

# how often each is drawn
SEQUENCES = {"mprage": 0.45, "spgr": 0.15, "t1 spin echo": 0.1, "t2": 0.12, "pd": 0.06, "flair": 0.08, "t2*": 0.04}


def draw_contrast(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Intensities of one scan, T1w seven times in ten.

    Returns:
        brain: (64,) float32, intensity for each anatomy value; only the brain structures are filled in.
        paints: (len(PAINTS),) float32, intensity of what lies outside the brain, in the same unit.
    """
    tissue = tissue_intensities(str(rng.choice(list(SEQUENCES), p=list(SEQUENCES.values()))), rng)
    brain = np.zeros(STRUCTURE + 1, np.float32)
    for label, index in BRAIN_STRUCTURES.items():
        brain[index] = tissue[STRUCTURE_TISSUE[label]] * np.exp(rng.normal(0, 0.04))
    paints = np.array([tissue[name] for name in PAINTS], np.float32)
    unit = max(float(np.abs(brain[N_OUTSIDE:]).max()), 1e-6)
    return brain / unit, paints / unit


def tissue_intensities(kind: str, rng: np.random.Generator, wobble: float = 0.06) -> dict[str, float]:
    """Signal of each tissue in a sequence of `SEQUENCES`, its properties varied by the relative `wobble`."""
    signal = _sequence(kind, rng)
    train = rng.uniform(*FAT_OF_ECHO_TRAINS) if kind in ("t2", "pd") else 1.0
    tissue = {}
    for name, properties in TISSUE_PROPERTIES.items():
        t1, t2, density = np.array(properties) * np.exp(rng.normal(0, wobble, 3) if wobble else 0)
        if name == "blood" and wobble:
            density *= rng.uniform(0.2, 2.5)  # slow or fast, in plane or through it
        elif name in FATTY:
            density *= train
        tissue[name] = signal(t1, t2, density)
    return tissue


def _sequence(kind: str, rng: np.random.Generator) -> Callable[[float, float, float], float]:
    """(T1, T2, proton density) to signal, of a pulse sequence with random parameters; times in ms."""
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
    }[kind]
    return lambda t1, t2, pd: pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)
