"""How heads are replaced."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cpmae.sequence import fat_is_suppressed

# another number whenever the same seed, brain and weights give other voxels: results of both are not to be mixed
DRAWING = 6

REGIONS = ("nonbrain", "face")
MAX_MARGIN_MM = 30
FAT = ("auto", "bright", "suppressed")


@dataclass(frozen=True)
class Options:
    """Plain values, so that they travel to workers; see `pipeline.deidentify`, which takes each by its name.

    Raises:
        ValueError: for a value out of range.
    """

    brain_extractor: str = "deepbet"
    margin_mm: float = 0.0
    region: str = "nonbrain"
    clean_metadata: bool = True
    seed: int | None = None
    device: str = "auto"
    allow_unusual_mask: bool = False
    noise_number: int = 0
    fat: str = "auto"

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise ValueError(f"there is no region {self.region!r}, choose one of {', '.join(REGIONS)}")
        if not 0 <= self.margin_mm <= MAX_MARGIN_MM:
            raise ValueError(f"the margin is {self.margin_mm:g} mm, choose 0 to {MAX_MARGIN_MM}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"the seed is {self.seed}, choose 0 to 2^63 - 1")
        if self.noise_number < 0:
            raise ValueError(f"the number of the noise is {self.noise_number}, choose 0 or more")
        if self.fat not in FAT:
            raise ValueError(f"fat is {self.fat!r}, choose one of {', '.join(FAT)}")

    @property
    def fat_suppressed(self) -> bool:
        return self.fat == "suppressed"

    def for_sequence(self, fields: Mapping[str, Any]) -> "Options":
        """With the fat that a DICOM header or JSON sidecar tells of, if that was left open."""
        known = self.fat != "auto" or not fat_is_suppressed(fields)
        return self if known else replace(self, fat="suppressed")

    def replaced(self) -> str:
        """What is replaced, in the words in which results say so; 40 ASCII characters or fewer."""
        if self.region == "face":
            return "face and ears"
        if self.margin_mm:
            return f"all but the brain and {self.margin_mm:.3g} mm around it"
        return "everything outside the brain"
