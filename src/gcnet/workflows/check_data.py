"""Settings of `gcnet check-data`."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL
from gcnet.data.settings import check_workers
from gcnet.errors import UserError, no_folder

_OF_ANNOTATIONS = ("fix",)


@dataclass(frozen=True)
class CheckDataSettings:
    """Find issues of a data set before training.

    COCO annotations: invalid entries, and images in several splits. Class folders or a CSV: damaged and skipped files,
    duplicates, images in several splits, image sizes, class balance. The exit code is 0 without issues, else 1.

    Examples:
      gcnet check-data photos
      gcnet check-data annotations.json --images images --fix fixed.json
      gcnet check-data data.yaml --convert annotations.json
    """

    data: Path = field(metadata=POSITIONAL)
    """Annotation file (JSON), folder of class folders, or CSV."""
    images: Path | None = None
    """Image folder of an annotation file or CSV; images of annotations are read only if it is given."""
    fix: Path | None = None
    """Write a copy of the annotations without issues to this new file."""
    convert: Path | None = None
    """Convert YOLO labels (data.yaml or folder) or Pascal VOC annotations (folder) to COCO annotations in this
    new JSON file; splits become NAME_train.json, NAME_val.json."""
    output: Path | None = None
    """Folder for a JSON report and images.png; for annotations also labels.png."""
    max_listed: int = 5
    """Issues printed for each kind; the report lists all."""
    workers: int = min(8, os.cpu_count() or 1)
    """Number of images read in parallel (default: number of CPU cores, at most 8)."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.images is not None and not self.images.is_dir():
            raise UserError(f"`images` takes a folder, and {no_folder(self.images)}")
        if self.fix is not None and self.fix.exists():
            raise UserError(f"`fix` must not exist yet, found {self.fix}; take another name")
        if self.convert is not None and (self.convert.suffix.lower() != ".json" or self.convert.exists()):
            raise UserError(f"`convert` takes the name of a new .json file, found {self.convert}")
        if self.convert is not None and (self.fix is not None or self.output is not None):
            raise UserError("`convert` only converts: check its result with another gcnet check-data")
        if self.max_listed < 0:
            raise UserError(f"`max_listed` must be 0 or more, found {self.max_listed}")
        check_workers(self.workers, least=1)

    def require_images(self) -> None:
        """Refuse what belongs to annotations.

        Raises:
            UserError: for the first such flag.
        """
        for name in _OF_ANNOTATIONS:
            if getattr(self, name) is not None:
                raise UserError(f"`{name}` belongs to annotations, and {self.data} holds labeled images")
