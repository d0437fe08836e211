"""Settings of `gcnet evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import advanced
from gcnet.data.settings import DataSettings, PreprocessingSettings
from gcnet.errors import UserError

_OF_CLASSIFIERS = ("download_dir", "download")
_OF_NETWORKS = ("weights", "batch_size", "workers", "device")


@dataclass(frozen=True)
class EvaluateSettings:
    """Evaluate a trained model: accuracy of a classifier, COCO average precision of a detector.

    Damaged images are skipped and listed. Under torchrun, the processes share the images.

    Examples:
      gcnet evaluate --model runs/first --data photos
      gcnet evaluate --model resnet50 --weights pretrained --data imagenet --limit 1000
      gcnet evaluate --results detections.json --data coco
    """

    model: str | None = None
    """Model file, run folder (its best weights are used), or a model name with `weights`."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", or a published version such as IMAGENET1K_V1."""
    data: str = "scenes"
    """Data: scenes or scenes-control (generated), cifar10, cifar100, a folder with val/ or with class folders,
    or a CSV. Detectors: scenes, scenes-control, a folder with COCO annotations, or an annotation file."""
    val: str | None = advanced(None)
    """Validation data, if `data` holds training data only, as in training."""
    images: str | None = advanced(None)
    """Image folder of a CSV or annotation file (default: found beside it)."""
    val_fraction: float | None = advanced(None)
    """Evaluate the fraction of `data` held out in training with the same `val_fraction` and `seed`."""
    results: Path | None = None
    """Evaluate these detections (JSON in COCO's result format) instead of a model."""
    download_dir: str = advanced("data")
    """Folder of downloaded data sets (cifar10, cifar100)."""
    download: bool = advanced(False)
    """Download cifar10 or cifar100 if missing; nothing is downloaded otherwise."""
    limit: int | None = None
    """Maximum number of images, evenly spread; for scenes the number to generate."""
    scene_distance: int | None = advanced(None)
    """Generated scenes: pixels between the reference patch and the nearest shape (default: half of a 64-pixel
    image)."""
    batch_size: int | None = None
    """Batch size per process (default: 64; 1 for detectors)."""
    detections_per_image: int | None = advanced(None)
    """Detectors: maximum detections per image (default: as trained, 100)."""
    workers: int = 0
    """DataLoader workers per process."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available. Under torchrun, each process uses its own GPU."""
    seed: int = advanced(0)
    """Random seed of generated scenes, and of `val_fraction`."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    repair: bool = advanced(True)
    """Detectors: repair or skip invalid annotations; without it, they are evaluated as pycocotools reads them."""
    output: Path | None = None
    """Folder for results.json, per_class.csv and plots; for detectors also detections.json and the error gallery."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before anything is loaded."""
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"`batch_size` must be at least 1, found {self.batch_size}")
        if self.detections_per_image is not None and self.detections_per_image < 1:
            raise UserError(f"`detections_per_image` must be at least 1, found {self.detections_per_image}")
        if self.results is not None:
            self._check_results()
        elif self.model is None:
            raise UserError("gcnet evaluate needs `model`, a model file or a name, or `results`, a file of detections")
        self.data_settings(None)

    def _check_results(self) -> None:
        if self.model is not None:
            raise UserError("`results` are evaluated instead of a model's; give one of `model` and `results`")
        if flag := self._given(_OF_NETWORKS):
            raise UserError(f"{flag} belongs to a network, and `results` are evaluated without one")

    def data_settings(self, size: int | None) -> DataSettings:
        """The settings of the images; `size` is the side that the network was trained on, if known."""
        return DataSettings(
            data=self.data,
            val=self.val,
            images=self.images,
            val_fraction=self.val_fraction,
            download_dir=self.download_dir,
            download=self.download,
            **self.preprocessing.for_data(size),
            limit_val=self.limit,
            scene_distance=self.scene_distance,
            workers=self.workers,
        )

    def require_detector(self) -> None:
        """Refuse what is for classifiers only.

        Raises:
            UserError: for the first of it.
        """
        found = f"{self.model} is a detector" if self.results is None else "`results` are those of a detector"
        if flag := self._given(_OF_CLASSIFIERS):
            raise UserError(f"{flag} belongs to classifiers, and {found}")
        given = self.preprocessing.given()
        if self.data_settings(None).is_generated:
            given = [flag for flag in given if not flag.startswith("`image_size=")]
        if given:
            raise UserError(f"{given[0]} belongs to classifiers, and {found}")

    def _given(self, names: tuple[str, ...]) -> str | None:
        """The first flag among these that is not at its default."""
        changed = (name for name in names if getattr(self, name) != getattr(EvaluateSettings, name))
        return next((_flag(name, getattr(self, name)) for name in changed), None)


def _flag(name: str, value: object) -> str:
    return f"`{name}`" if value is True else f"`{name}={value}`"
