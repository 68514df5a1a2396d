"""How heads are replaced."""

from dataclasses import dataclass

# another number whenever the same seed, brain and weights give other voxels: results of both are not to be mixed
DRAWING = 2


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

    def replaced(self) -> str:
        """What is replaced, in the words in which results say so; 40 ASCII characters or fewer."""
        if self.region == "face":
            return "face and ears"
        if self.margin_mm:
            return f"all but the brain and {self.margin_mm:.3g} mm around it"
        return "everything outside the brain"
