"""Attacker 3: a face recogniser off the shelf, dlib's, on pictures of the head from the front."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cpmae.evaluation.render import VIEWS
from cpmae.evaluation.work import Arrays
from cpmae.extras import package_folder, require

_SHAPE, _RECOGNISER = "shape_predictor_68_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"


def face_scores(probes: Sequence[Arrays], gallery: Sequence[Arrays]) -> tuple[NDArray[np.float64], float]:
    """Minus the distance of dlib's face descriptors, (probes, gallery), -inf where one of the two shows no face.

    Returns:
        the scores, and the share of probes that show a face.

    Raises:
        MissingExtraError: dlib or its models are not installed.
    """
    describe = load_recogniser()
    first, second = ([describe(f["renders"][VIEWS.index("front")]) for f in side] for side in (probes, gallery))
    scores = [
        [-float(np.linalg.norm(a - b)) if a is not None and b is not None else -np.inf for b in second] for a in first
    ]
    return np.array(scores), float(np.mean([a is not None for a in first]))


def load_recogniser() -> Callable[[NDArray[np.uint8]], NDArray[np.float64] | None]:
    """A function from a grey picture (H, W) uint8 to a descriptor (128,) float64, or None where no face is found."""
    dlib = require("dlib", "dlib-bin", "cpmae[evaluate]")
    # the package's own __init__ wants pkg_resources, which newer setuptools do not have
    models = package_folder("face_recognition_models", "cpmae[evaluate]") / "models"
    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(models / _SHAPE))
    network = dlib.face_recognition_model_v1(str(models / _RECOGNISER))

    def describe(picture: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        image = np.ascontiguousarray(np.repeat(picture[..., None], 3, axis=2))
        faces = detector(image, 1)
        if not faces:
            return None
        largest = max(faces, key=lambda box: box.area())
        return np.array(network.compute_face_descriptor(image, landmarks(image, largest)))

    return describe
