"""Every attacker on every method: from the features of probes and gallery to tables of scores."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpmae import canonical
from cpmae.batch.records import digest
from cpmae.errors import MethodError
from cpmae.evaluation import attack_face, attack_network, attack_volume
from cpmae.evaluation.attack_network import NetworkSettings, SimilarityNetwork
from cpmae.evaluation.baselines import METHODS, Method, resolve
from cpmae.evaluation.features import FeatureTask, compute_person, feature_key
from cpmae.evaluation.identities import Recipe, silhouettes
from cpmae.evaluation.population import TRAINING_NUMBER, Person, synthetic
from cpmae.evaluation.render import SIZE, VIEWS, brain_frame, framed_surface, render_views
from cpmae.evaluation.work import Arrays, Cache, Failure, run_all

ATTACKERS = {
    "SQN": "siamese ResNet18 over renders, trained on other identities' untouched scans",
    "SQN adaptive": "the same, trained further to match this method's results with untouched scans",
    "dlib": "face recogniser off the shelf, picture from the front",
    "volume": "correlation of the voxels where no brain reaches",
    "surface": "distance of the head's surfaces",
    "face": "distance of the faces' surfaces alone, which a brain tells least of",
    "brain": "no attack on a method: what the kept brain's shape tells by itself",
    "brain to head": "no attack on a method: which head the kept brain's shape makes likely",
}
PICTURES_VERSION = 2  # of what networks learn from; another number and they learn again
_VOLUME = {
    "volume": attack_volume.correlations,
    "surface": attack_volume.surface_closeness,
    "face": attack_volume.face_closeness,
    "brain": attack_volume.brain_correlations,
    "brain to head": attack_volume.surfaces_told_by_brain,
}


@dataclass(frozen=True)
class Training:
    """How attackers 1 and 2 are taught.

    Attributes:
        recipe: of the identities, which are never in a test.
        identities: for attacker 1, as silhouettes.
        adaptive_identities: for attacker 2, as whole scans through the method.
        network: settings of attacker 1; attacker 2 goes on from there.
        cache: where pictures and networks are kept.
        workers: processes.
        seed: given to methods.
    """

    recipe: Recipe
    identities: int
    adaptive_identities: int
    network: NetworkSettings
    cache: Cache
    workers: int
    seed: int


def scores(
    attacker: str, probes: Sequence[Arrays], gallery: Sequence[Arrays], network: SimilarityNetwork | None = None
) -> tuple[NDArray, dict[str, float]]:
    """What an attacker makes of features, (probes, gallery), and what else is to be told of it.

    Args:
        network: of "SQN" and "SQN adaptive".

    Returns:
        the scores; and of "dlib" as `detection_rate` the share of probes that show a face.

    Raises:
        MissingExtraError: dlib is not installed.
    """
    if attacker == "dlib":
        table, detected = attack_face.face_scores(probes, gallery)
        return table, {"detection_rate": detected}
    if network is not None and attacker in ("SQN", "SQN adaptive"):
        return attack_network.similarities(network, probes, gallery), {}
    return _VOLUME[attacker](probes, gallery), {}


def similarity_network(training: Training, tell: Callable[[str], None]) -> SimilarityNetwork:
    """Attacker 1: taught on silhouettes of identities that are in no test."""
    numbers = range(TRAINING_NUMBER, TRAINING_NUMBER + training.identities)
    tasks = [(training.recipe, number, training.cache) for number in numbers]
    pictures = dict(run_all(_silhouette_pictures, tasks, training.workers, tell, "pictures to learn from"))
    first, second = (np.stack([pictures[n][side] for n in range(len(tasks))]) for side in ("first", "second"))
    name = attack_network.checkpoint_name(
        training.network, [PICTURES_VERSION, training.recipe.settings(), training.identities]
    )
    return attack_network.train((first, second), training.network, training.cache.folder / name, tell)


def adaptive_network(
    method: Method, training: Training, start: SimilarityNetwork, tell: Callable[[str], None]
) -> tuple[SimilarityNetwork, list[Failure]]:
    """Attacker 2: attacker 1 taught on to match results of a method with other scans of the same identities.

    Raises:
        MethodError: the method failed on all but a few of the identities.
    """
    first = TRAINING_NUMBER * 2
    people = synthetic(training.recipe, range(first, first + training.adaptive_identities))
    failures = fill(people, [method], training.cache, training.seed, training.workers, tell)
    found = [collect(p, method, training.cache, training.seed) for p in people]
    pictures = [(probe["renders"], other["renders"]) for probe, other in found if probe and other]
    if len(pictures) < 4:
        raise MethodError(f"{method.name} failed on all but {len(pictures)} of the identities to learn from")
    pairs = np.stack([p[0] for p in pictures]), np.stack([p[1] for p in pictures])
    settings = attack_network.fine_tuning(training.network)
    what = [PICTURES_VERSION, training.recipe.settings(), training.identities, method.key, training.seed, len(pictures)]
    name = attack_network.checkpoint_name(settings, what)
    return attack_network.train(pairs, settings, training.cache.folder / name, tell, start), failures


def fill(
    people: Iterable[Person],
    methods: Sequence[Method],
    cache: Cache,
    seed: int,
    workers: int,
    tell: Callable[[str], None],
) -> list[Failure]:
    """Compute what is missing in the cache: every method on the probes, ORIGINAL on the gallery."""
    tasks = [
        (
            FeatureTask(person.probe, tuple(methods), _seed_of(person, seed), cache),
            FeatureTask(person.gallery, (untouched(),), seed, cache),
        )
        for person in people
    ]
    return [failure for _, failed in run_all(compute_person, tasks, workers, tell, "people") for failure in failed]


def collect(person: Person, method: Method, cache: Cache, seed: int) -> tuple[Arrays | None, Arrays | None]:
    """Features of a person's probe after a method, and of the gallery's scan; None where they failed."""
    return (
        cache.load(person.probe.name, **feature_key(person.probe, method, _seed_of(person, seed))),
        cache.load(person.gallery.name, **feature_key(person.gallery, untouched(), seed)),
    )


def untouched() -> Method:
    """ORIGINAL, in which the attacker has the gallery."""
    return resolve([METHODS[0]], [], None, None)[0][0]


def _seed_of(person: Person, seed: int) -> int:
    """A seed of its own for each probe: one head for everybody would be no fair test."""
    return seed + int(digest(person.name)[:8], 16)


def _silhouette_pictures(task: tuple[Recipe, int, Cache]) -> Arrays:
    """Pictures of both scans of an identity, (views, H, W) uint8 each, made or kept."""
    recipe, number, cache = task

    def drawn() -> Arrays:
        pictures = []
        for head in silhouettes(recipe, number):
            frame = brain_frame(canonical.align(head.brain, head.volume.affine))
            pictures.append(render_views(framed_surface(head.volume, frame), VIEWS[:3], SIZE // 2))
        return {"first": pictures[0], "second": pictures[1]}

    return cache.get(drawn, "silhouette", version=PICTURES_VERSION, number=number, **recipe.settings())
