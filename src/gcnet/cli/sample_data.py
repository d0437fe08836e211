"""`gcnet sample-data`: writes a small generated data set to try the commands on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError

SUMMARY = "write a small generated data set to try the commands on"


@dataclass(frozen=True)
class Settings:
    """Write a small generated data set: photos in class folders, or COCO annotations.

    Examples:
      gcnet sample-data photos --output photos
      gcnet sample-data coco --output coco
    """

    kind: Literal["photos", "coco"] = field(metadata=POSITIONAL)
    """photos (classification, 128 images of 4 classes) or coco (detection, 32 images with boxes and masks)."""
    output: Path | None = None
    """New or empty folder (default: photos or coco)."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        """Check the seed."""
        if self.seed < 0:
            raise UserError(f"--seed must be 0 or more, found {self.seed}")


def run(settings: Settings) -> int:
    """Write the data set.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.data.sample_data import SAMPLES
    from gcnet.errors import printable

    folder = settings.output or Path(settings.kind)
    count = SAMPLES[settings.kind](folder, seed=settings.seed)
    print(f"wrote {count} generated images to {printable(folder)}")
    return 0
