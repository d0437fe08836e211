"""Settings of `gcnet evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path

from gcnet.data.settings import DataSettings, PreprocessingSettings
from gcnet.errors import UserError

_OF_CLASSIFIERS = ("download_dir", "download")
_OF_NETWORKS = ("weights", "batch_size", "workers", "device")


@dataclass(frozen=True)
class EvaluateSettings:
    """Measure how well a trained network does on the validation images of a data set.

    A classifier by its accuracy, a detector by COCO's average precision of boxes and masks; which it is, the model file
    says. Damaged images are skipped, counted and named. Also runs in several processes under torchrun.
    """

    model: str | None = None
    """Model file, run folder (its best weights), or a network by name (then with `weights`)."""
    weights: str | None = None
    """Weights for a network by name: a file, "pretrained", or the name of published ones such as IMAGENET1K_V1."""
    data: str = "scenes"
    """scenes (generated), scenes-control, cifar10, cifar100, a folder with val/ or with class folders, or a CSV. For
    detectors scenes, scenes-control, a folder of images with COCO annotations, or an annotation file (JSON)."""
    val: str | None = None
    """Validation data, where `data` are the training data of `gcnet train`."""
    images: str | None = None
    """Folder of the images of a CSV or an annotation file (default: found beside it)."""
    val_fraction: float | None = None
    """Evaluate the share of `data` that `gcnet train` held out with the same `val_fraction` and `seed`."""
    results: Path | None = None
    """Evaluate the detections in this file (JSON, COCO's result format) instead of a model's."""
    download_dir: str = "data"
    """Folder of downloaded data sets (cifar10, cifar100)."""
    download: bool = False
    """Fetch cifar10 or cifar100 where they are missing; without it the network is never used."""
    limit: int | None = None
    """Use only so many images, evenly spread over the set (scenes: generate so many)."""
    scene_distance: int | None = None
    """Scenes: pixels between the reference patch and the nearest shape (default: half of a 64 px image)."""
    batch_size: int | None = None
    """Images per batch, in each process (default: 64; of detectors 1)."""
    detections_per_image: int | None = None
    """Detectors: detections of an image at most (default: as trained, 100; COCO's AP counts 100 of each class)."""
    workers: int = 0
    """Loading processes; 0 loads in the main process."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N; under torchrun each process takes its own GPU."""
    seed: int = 0
    """Seed of generated scenes, and of the choice of images with `val_fraction`."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    repair: bool = True
    """Detectors: repair or skip invalid annotations, and report them; `repair=False` evaluates on the annotations as
    pycocotools loads them."""
    output: Path | None = None
    """Folder for results.json, per_class.csv and pictures; of detectors also for detections.json and worst.html."""

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
