"""What a header says of the pulse sequence that the brain does not show."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# attributes of DICOM by their keywords, which BIDS and dcm2niix give to the same things
_SUPPRESSING = {
    "ScanOptions": {"FS", "SFS", "FATSAT", "WE"},  # WE: water alone is excited
    "ScanningSequence": {"EP"},  # fat would lie centimetres from where it is, and so it is suppressed in all of them
    "EchoPlanarPulseSequence": {"YES"},
    "SpectrallySelectedSuppression": {"FAT"},
    "SpectrallySelectedExcitation": {"WATER"},
}
FIELDS = tuple(_SUPPRESSING)
ECHO_PLANAR = frozenset({"bold", "cbv", "sbref", "dwi", "asl", "m0scan", "epi"})  # suffixes of BIDS


def fat_is_suppressed(fields: Mapping[str, Any]) -> bool:
    """Whether a sequence takes away the signal of fat, as far as `FIELDS` of a DICOM header or a JSON sidecar say.

    Values are strings or lists of them; sidecars have several in one string too, as PFP_FS.
    """
    return any(_words(fields.get(name)) & values for name, values in _SUPPRESSING.items())


def _words(value: Any) -> set[str]:
    values = [value] if isinstance(value, str) else value if isinstance(value, Iterable) else []
    return {word for text in values if isinstance(text, str) for word in re.split(r"[\\/_]", text.strip().upper())}
