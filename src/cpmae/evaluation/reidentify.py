"""Can people be recognised after de-identification? Every attacker on every method, over one population."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpmae.errors import MethodError, MissingExtraError
from cpmae.evaluation import attackers, memorisation
from cpmae.evaluation.attackers import Training
from cpmae.evaluation.baselines import Method
from cpmae.evaluation.metrics import recognise
from cpmae.evaluation.population import Person
from cpmae.evaluation.results import Results
from cpmae.evaluation.work import Arrays, Cache

Tell = Callable[[str], None]
_EXAMPLES = 4  # synthetic identities in the pictures


@dataclass(frozen=True)
class Compared:
    """Features of all people whom a method did: probes after it, and the gallery of the same people first.

    `probes[i]` and `gallery[i]` are one identity; people whose probe failed stay in the gallery, behind.
    """

    probes: list[Arrays]
    gallery: list[Arrays]


def reidentify(
    people: Sequence[Person],
    methods: Sequence[Method],
    attacker_names: Sequence[str],
    training: Training,
    results: Results,
    tell: Tell,
) -> None:
    """Fill `results`: a row for each method and attacker, failures, pictures, and what memorisation shows."""
    results.failures += attackers.fill(people, methods, training.cache, training.seed, training.workers, tell)
    network = None
    if {"SQN", "SQN adaptive"} & set(attacker_names):
        network = attackers.similarity_network(training, tell)
    for method in methods:
        compared = _compared(people, method, training.cache, training.seed)
        if len(compared.probes) < 2:
            results.skipped.append((method.name, f"it did {len(compared.probes)} of {len(people)} scans, 2 are needed"))
            continue
        for attacker in attacker_names:
            tell(f"{attacker} on {method.name}")
            try:
                used = network
                if attacker == "SQN adaptive" and network is not None:
                    used, failures = attackers.adaptive_network(method, training, network, tell)
                    results.failures += failures
                scores, extra = attackers.scores(attacker, compared.probes, compared.gallery, used)
            except (MissingExtraError, MethodError) as error:
                results.skipped.append((f"{attacker} on {method.name}", str(error)))
                continue
            _add(results, method.name, attacker, scores, extra)
    _add_examples(results, people, methods, training)
    results.extra["memorisation"] = memorisation.distances(people, methods, training)


def _compared(people: Sequence[Person], method: Method, cache: Cache, seed: int) -> Compared:
    found = [attackers.collect(p, method, cache, seed) for p in people]
    whole = [(probe, other) for probe, other in found if probe is not None and other is not None]
    alone = [other for probe, other in found if probe is None and other is not None]
    return Compared([p for p, _ in whole], [g for _, g in whole] + alone)


def _add(results: Results, method: str, attacker: str, scores: NDArray, extra: dict[str, Any]) -> None:
    """One row in the form that others read, and the rest of the figures beside it."""
    found = asdict(recognise(scores, results.settings["seed"]))
    names = ("rank1", "rank1_ci", "rank5", "auc", "eer", "chance", "n")
    row = {"method": method, "attacker": attacker} | {name: found.pop(name) for name in names}
    results.rows.append(row)
    results.details.append({"method": method, "attacker": attacker} | found | extra)


def _add_examples(results: Results, people: Sequence[Person], methods: Sequence[Method], training: Training) -> None:
    """Pictures for the page, of synthetic heads alone."""
    shown = [p for p in people if p.probe.synthetic][:_EXAMPLES]
    for method in methods:
        for person in shown:
            probe, _ = attackers.collect(person, method, training.cache, training.seed)
            if probe is not None:
                results.pictures.setdefault(method.name, []).append(np.concatenate(list(probe["renders"][[0, 3]]), 1))
