"""How heads are replaced."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cpmae.sequence import fat_is_suppressed

# another number whenever the same seed, brain and weights give other voxels: results of both are not to be mixed
DRAWING = 3

FAT = ("auto", "bright", "suppressed")


@dataclass(frozen=True)
class Options:
    """Plain values, so that they travel to workers; see `pipeline.deidentify`, which takes each by its name."""

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
