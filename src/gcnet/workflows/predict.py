"""Settings of `gcnet predict`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gcnet.arguments import POSITIONAL, advanced
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError, printable

_OF_CLASSIFIERS = ("top",)
_OF_DETECTORS = ("threshold", "classes", "detections_per_image", "labels")


@dataclass(frozen=True)
class PredictSettings:
    """Predict the classes of images with a classifier, or the objects in them with a detector.

    Damaged files are skipped and listed. The exit code is 0 if at least one image could be read, else 1.

    Examples:
      gcnet predict photo.jpg --model runs/first
      gcnet predict photos --model detector.safetensors --threshold 0.7 --output annotated
    """

    paths: tuple[Path, ...] = field(metadata=POSITIONAL)
    """Image files, or folders to search for images."""
    model: str
    """Model file, run folder (its best weights are used), or a model name with `weights`."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", or a published version such as IMAGENET1K_V1."""
    top: int | None = None
    """Classifiers: number of classes to print (default: 5)."""
    threshold: float | None = None
    """Detectors: minimum score, 0 to 1 (default: 0.5)."""
    classes: str | None = None
    """Detectors: only these classes, separated by commas."""
    detections_per_image: int | None = advanced(None)
    """Detectors: maximum detections per image (default: as trained, 100)."""
    labels: Literal["auto", "on", "off"] | None = None
    """Detectors: class and score beside objects in annotated images; auto (default) skips labels that would overlap,
    and all labels with more than 30 objects."""
    json: str | None = None
    """Write predictions to this JSON file (- for standard output); detections in COCO's annotation format with
    scores."""
    output: Path | None = None
    """Classifiers: write a contact sheet to this PNG file. Detectors: write an annotated copy of each image to
    this folder."""
    csv: Path | None = None
    """Write predictions to this CSV file, a row for each class or object."""
    overwrite: bool = False
    """Overwrite existing files of `json`, `csv` and `output`."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    batch_size: int | None = None
    """Batch size (default: 32; 1 for detectors)."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.paths:
            raise UserError(
                "gcnet predict needs at least one image or folder, as in: gcnet predict --model FILE photo.jpg"
            )
        for name in ("top", "batch_size", "detections_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"`{name}` must be at least 1, found {value}")
        files = {"json": None if self.json in (None, "-") else Path(self.json), "csv": self.csv, "output": self.output}
        for name, file in files.items():
            if file is not None and file.is_file():
                self.refuse_existing(name, file)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"`threshold` is a score, from 0 to 1; found {self.threshold}")

    def refuse_existing(self, name: str, file: Path) -> None:
        """Refuse to replace a file without `overwrite`.

        Raises:
            UserError: naming the file.
        """
        if not self.overwrite:
            raise UserError(f"`{name}`: {printable(file)} exists already; `overwrite` replaces it")

    def require_classifier(self) -> None:
        """Refuse what is for detectors only, and a contact sheet that is no PNG file.

        Raises:
            UserError: for the first of it.
        """
        self._refuse(_OF_DETECTORS, "detectors", "classifier")
        if self.output is not None and self.output.suffix.lower() != ".png":
            raise UserError(f"`output` of a classifier is a PNG file whose name ends in .png, found {self.output}")

    def require_detector(self) -> None:
        """Refuse what is for classifiers only, and a file in place of the folder of pictures.

        Raises:
            UserError: for the first of it.
        """
        self._refuse(_OF_CLASSIFIERS, "classifiers", "detector")
        if given := self.preprocessing.given():
            raise UserError(f"{given[0]} belongs to classifiers, and {self.model} is a detector")
        if self.output is None or self.output.is_dir():
            return
        if self.output.exists() or self.output.suffix.lower() in (".png", ".jpg", ".jpeg"):
            raise UserError(f"`output` of a detector is a folder for a picture of each image, found {self.output}")

    def refuse_folder_of(self, paths: Sequence[Path]) -> None:
        """Refuse pictures among the images, of which the next prediction would take them for one.

        Raises:
            UserError: `output` is the folder of an image.
        """
        if self.output is not None and os.path.realpath(self.output) in {
            os.path.realpath(path.parent) for path in paths
        }:
            raise UserError(
                f"`output` must be another folder than that of the images, found {printable(self.output)}: its "
                "pictures would be taken for images"
            )

    def _refuse(self, names: tuple[str, ...], theirs: str, found: str) -> None:
        for name in names:
            value: Any = getattr(self, name)
            if value is not None:
                raise UserError(f"`{name}` belongs to {theirs}, and {self.model} is a {found}")
