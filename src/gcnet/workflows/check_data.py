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
    """Find the problems of a data set before training.

    Annotations in COCO's format: invalid entries, and a copy without them; of a folder also images in several splits.
    Class folders or a CSV: unreadable and skipped files, duplicates, images in several splits, sizes, class balance.

    Exit code 0 for clean data, 1 where problems were found.
    """

    data: Path = field(metadata=POSITIONAL)
    """An annotation file (JSON), a folder of class folders, or a CSV."""
    images: Path | None = None
    """Folder of the images of an annotation file, each of which is then read, or of a CSV."""
    fix: Path | None = None
    """Annotations: write a copy without the problems to this file, which must not exist yet."""
    convert: Path | None = None
    """Convert YOLO labels (a data.yaml, or a folder) or Pascal VOC annotations (a folder) to COCO annotations in this
    JSON file; with splits, one file for each: NAME_train.json, NAME_val.json."""
    output: Path | None = None
    """Folder for the report (JSON) and pictures: images.png (of annotations with `images`), of annotations also
    labels.png."""
    max_listed: int = 5
    """Problems of each kind that are printed; the report has them all."""
    workers: int = min(8, os.cpu_count() or 1)
    """Images read at a time."""

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
