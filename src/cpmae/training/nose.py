"""The passages of the nose, which label maps do not have: there it is one piece of mucosa, and shines as one."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cpmae import canonical
from cpmae.models.tissue import TISSUES

_AIR, _MUCOSA = TISSUES.index("air"), TISSUES.index("mucosa")
# the usual anatomy, mm: half the septum's thickness, how far the passage beside it reaches, and how high, how far apart
# and how steep the three passages are that the conchae leave between them
_SEPTUM, _BESIDE_SEPTUM = 1.5, 3.5
_MEATUS, _CONCHA, _SLOPE, _LOWEST = 3.0, 13.0, 0.5, -80.0
_LINING = 2.5  # stays


def with_passages(atlas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An atlas whose nose has a septum, conchae, and air between them; symmetric if it was.

    Args:
        atlas: GRID_SHAPE, index of `TISSUES` or `BRAIN`, on the canonical grid of 1 mm.
    """
    x, _, up = (np.arange(n) - o for n, o in zip(atlas.shape, canonical.GRID_ORIGIN, strict=True))
    aside = np.abs(x + 0.5)[:, None, None]  # of the middle of the grid, between two voxels
    beside_septum = (aside >= _SEPTUM) & (aside < _BESIDE_SEPTUM)
    between_conchae = (aside >= _BESIDE_SEPTUM) & ((up - _SLOPE * aside - _LOWEST) % _CONCHA < _MEATUS)
    inside = ndimage.distance_transform_edt(np.isin(atlas, (_AIR, _MUCOSA))) > _LINING
    return np.where((atlas == _MUCOSA) & inside & (beside_septum | between_conchae), np.uint8(_AIR), atlas)
