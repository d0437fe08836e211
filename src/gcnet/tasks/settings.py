"""Settings of the commands on trained networks and data: evaluate, predict, analyze and check-data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gcnet.arguments import POSITIONAL, advanced
from gcnet.children import available_cores
from gcnet.data.downloads import check_download
from gcnet.data.settings import DataSettings, PreprocessingSettings, check_workers
from gcnet.errors import UserError, is_url, no_folder, printable
from gcnet.remote_files import check_without_secret

MODEL_SUFFIX = ".safetensors"
RECORD_SUFFIXES = (".jsonl", ".parquet")
_OF_NETWORKS = ("weights", "download", "batch_size", "workers", "fuse", "precision", "compile", "device")
_OF_IMAGES = ("points",)
_OF_STATISTICS = ("data", "download_dir", "batch_size", "scene_distance", "seed")


def _check_positive(name: str, value: int | str | None) -> None:
    if isinstance(value, int) and value < 1:
        raise UserError(f"`{name}` must be at least 1, found {value}")


class CommandSettings:
    """Settings of a command, some of which apply to some tasks only."""

    def given(self, name: str) -> list[str]:
        """Return the settings that differ from their defaults, as named in errors: a setting or those of a group.

        Args:
            name: setting or group.
        """
        value = getattr(self, name)
        if isinstance(value, PreprocessingSettings):
            skipped = "`image_size=" if self._is_generated else ""
            return [given for given in value.given() if not (skipped and given.startswith(skipped))]
        return [] if value == getattr(type(self), name) else [f"`{name}=False`" if value is False else f"`{name}`"]

    @property
    def _is_generated(self) -> bool:
        """Whether the images are generated, in the image size of the settings."""
        return False


@dataclass(frozen=True)
class EvaluateSettings(CommandSettings):
    """Evaluate a trained model: accuracy of a classifier, COCO average precision of a detector.

    Damaged images are skipped and listed. Under torchrun, the processes share the images.

    Examples:
      gcnet evaluate --model runs/first --data photos
      gcnet evaluate --model resnet50 --weights pretrained --download --data imagenet --limit 1000
      gcnet evaluate --results detections.json --data coco
    """

    model: str | None = field(default=None, metadata=POSITIONAL)
    """Model file or run folder (its best weights are used), also at a URL such as s3://bucket/run; model on the Hugging
    Face Hub (hf://user/name), published checkpoint (`gcnet models --published` lists them), or a model name with
    `weights`."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", a published version such as IMAGENET1K_V1, hf://user/name,
    or a published checkpoint."""
    data: str = "scenes"
    """scenes or scenes-control (generated), cifar10, cifar100, a folder with val/ or with class folders,
    a CSV, or shards. Detectors: scenes, scenes-control, a folder with COCO annotations, or an annotation file. Also at
    a URL such as s3://bucket/photos."""
    val: str | None = advanced(None)
    """Validation data, if `data` holds training data only, as in training."""
    images: str | None = advanced(None)
    """Image folder of a CSV or annotation file (default: next to it)."""
    val_fraction: float | None = advanced(None)
    """Evaluate the fraction of `data` held out in training with the same `val_fraction` and `seed`."""
    results: Path | None = None
    """Evaluate these detections (JSON in COCO's result format) instead of a model."""
    download_dir: str = advanced("data")
    """Folder of downloaded data sets (cifar10, cifar100)."""
    download: bool = False
    """Download cifar10, cifar100, a model on the Hub or published weights; nothing is downloaded otherwise."""
    limit: int | None = None
    """Maximum number of images, evenly spread; for scenes the number to generate."""
    scene_distance: int | None = advanced(None)
    """Generated scenes: pixels between the reference patch and the nearest shape (default: half of a 64-pixel
    image)."""
    batch_size: int | Literal["auto"] | None = None
    """Batch size per process (default: 64; 1 for detectors); auto is the largest that fits in memory, by trial, up to
    256 (8 for detectors)."""
    detections_per_image: int | None = advanced(None)
    """Detectors: maximum detections per image (default: as trained, 100)."""
    workers: int | None = None
    """DataLoader workers of each process (default: on a GPU the CPU cores per process, at most 8, and 0 on a CPU or for
    images in memory)."""
    fuse: bool = False
    """Evaluate a fused copy of the network (gcnet.fuse): faster, with the same outputs up to rounding."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    """Precision: float32, or half precision by autocast in bf16 or fp16; auto is bf16 on GPUs that support it."""
    compile: bool = advanced(False)
    """Compile the network, or the backbone of a detector, with torch.compile."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available. Under torchrun, each process uses its own GPU."""
    seed: int = advanced(0)
    """Random seed of generated scenes, and of `val_fraction`."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    """Image preprocessing, if it differs from that of the model."""
    repair: bool = advanced(True)
    """Detectors: repair or skip invalid annotations; without it, they are evaluated as pycocotools reads them."""
    output: Path | None = None
    """Folder for results.json, per_class.csv and plots; for detectors also detections.json and the error gallery."""

    def __post_init__(self) -> None:
        """Refuse invalid settings, before anything is loaded."""
        for name in ("batch_size", "detections_per_image", "limit"):
            _check_positive(name, getattr(self, name))
        if self.results is not None:
            self._check_results()
        elif self.model is None:
            raise UserError("gcnet evaluate requires `model` (model file, run folder or name) or `results` (JSON file)")
        if self.download:
            check_download((self.model,), self.data, weights=(self.weights,))
        self.data_settings(None)

    def _check_results(self) -> None:
        if self.model is not None:
            raise UserError("`results` are evaluated instead of a model's; give one of `model` and `results`")
        if names := [name for setting in _OF_NETWORKS for name in self.given(setting)]:
            raise UserError(f"{names[0]} requires a network, and `results` are evaluated without one")

    def data_settings(self, size: int | None) -> DataSettings:
        """Return the data settings; `size` is the image size of the network in pixels, if known."""
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

    @property
    def _is_generated(self) -> bool:
        return self.data_settings(None).is_generated


@dataclass(frozen=True)
class PredictSettings(CommandSettings):
    """Predict the classes of images with a classifier, or the objects in them with a detector.

    Damaged files are skipped and listed. Under torchrun, the processes share the images. The exit code is 0 if at least
    one image could be read, else 1.

    Examples:
      gcnet predict photo.jpg --model runs/first
      gcnet predict photos --model detector.safetensors --threshold 0.7 --output annotated
    """

    paths: tuple[Path, ...] = field(metadata=POSITIONAL)
    """Image files, or folders to search for images. Shards such as "shards/val-*.tar" are taken as well, and URLs such
    as s3://bucket/photos."""
    model: str
    """Model file or run folder (its best weights are used), also at a URL such as s3://bucket/run; model on the Hugging
    Face Hub (hf://user/name), published checkpoint (`gcnet models --published` lists them), or a model name with
    `weights`."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", a published version such as IMAGENET1K_V1, hf://user/name,
    or a published checkpoint."""
    download: bool = False
    """Download a model on the Hub or published weights; nothing is downloaded otherwise."""
    topk: int | None = None
    """Classifiers: number of classes to print (default: 5)."""
    threshold: float | None = None
    """Detectors: minimum score, 0 to 1 (default: 0.5)."""
    classes: str | None = None
    """Detectors: only these classes, separated by commas."""
    detections_per_image: int | None = advanced(None)
    """Detectors: maximum detections per image (default: as trained, 100)."""
    labels: Literal["auto", "on", "off"] | None = None
    """Detectors: class and score next to objects in annotated images; auto (default) skips labels that would overlap,
    and all labels with more than 30 objects."""
    json: str | None = None
    """Write predictions to this JSON file (- for standard output); detections in COCO's annotation format with
    scores."""
    output: Path | None = None
    """Classifiers: write a contact sheet to this PNG file. Detectors: write an annotated copy of each image to
    this folder. For any number of images: write a record per image to a .jsonl or .parquet file."""
    csv: Path | None = None
    """Write predictions to this CSV file, a row for each class or object."""
    overwrite: bool = False
    """Overwrite existing files of `json`, `csv` and `output`."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    """Image preprocessing, if it differs from that of the model."""
    batch_size: int | Literal["auto"] | None = None
    """Batch size per process (default: 32; 1 for detectors); auto is the largest that fits in memory, by trial, up to
    128 (8 for detectors)."""
    fuse: bool = advanced(True)
    """Predict with a fused copy of the network (gcnet.fuse): faster, with the same outputs up to rounding."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    """Precision: float32, or half precision by autocast in bf16 or fp16; auto is bf16 on GPUs that support it."""
    compile: bool = advanced(False)
    """Compile the network, or the backbone of a detector, with torch.compile."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""
    cluster: str | None = None
    """Predict on this Ray cluster: HOST:PORT of its head node, or auto; all nodes must share the model and the images.
    Requires the extra "ray", and `output` to a .jsonl or .parquet file."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.writes_records and (self.json is not None or self.csv is not None):
            raise UserError(f"`json` and `csv` hold all predictions in memory; `output={self.output}` excludes them")
        if self.cluster is not None and not self.writes_records:
            raise UserError("`cluster` requires `output` to a .jsonl or .parquet file")
        if not self.paths:
            raise UserError("`paths` must contain at least one image or folder")
        if self.download:
            check_download((self.model,), weights=(self.weights,))
        for name in ("topk", "batch_size", "detections_per_image"):
            _check_positive(name, getattr(self, name))
        if self.cluster is not None and self.batch_size == "auto":
            raise UserError("with `cluster`, `batch_size` must be a number, the same on all nodes; found auto")
        files = {"json": None if self.json in (None, "-") else Path(self.json), "csv": self.csv, "output": self.output}
        for name, file in files.items():
            if file is not None and file.is_file():
                self.refuse_existing(name, file)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"`threshold` must be a score from 0 to 1, found {self.threshold}")

    @property
    def writes_records(self) -> bool:
        """Whether `output` is a file with a record per image."""
        return self.output is not None and self.output.suffix.lower() in RECORD_SUFFIXES

    def refuse_existing(self, name: str, file: Path) -> None:
        """Refuse to replace a file without `overwrite`.

        Args:
            name: setting of the file.
            file: an existing file.

        Raises:
            UserError: `overwrite` is not set.
        """
        if not self.overwrite:
            raise UserError(f"`{name}`: {printable(file)} exists already; `overwrite` replaces it")


@dataclass(frozen=True)
class AnalyzeSettings(CommandSettings):
    """Draw attention maps of a trained model, or measure how much its attention depends on the query.

    For images, writes PNG files and a page that shows the map of any query position in every layer. With `statistics`,
    writes the average distances between positions of inputs, outputs and attention (Table 1 of the paper). Channel
    weights of gates are drawn by class. For a detector, its backbone is analyzed. Under torchrun, the processes share
    the images of `statistics`.

    Examples:
      gcnet analyze runs/first photo.jpg
      gcnet analyze runs/first --statistics --data photos
    """

    model: str = field(metadata=POSITIONAL)
    """Model file or run folder (its best weights are used), also at a URL such as s3://bucket/run; model on the Hugging
    Face Hub (hf://user/name), published checkpoint (`gcnet models --published` lists them), or a model name with
    `weights`."""
    images: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Image files, or folders to search for images."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", a published version such as IMAGENET1K_V1, hf://user/name,
    or a published checkpoint."""
    download: bool = False
    """Download a model on the Hub or published weights; nothing is downloaded otherwise."""
    points: tuple[str, ...] = ("auto",)
    """Query points: auto (four of different colors), grid (3 x 3), or X,Y in [0, 1] such as 0.5,0.25."""
    statistics: bool = False
    """Measure query dependence over `data` instead of drawing maps."""
    data: str | None = None
    """Data for `statistics`: scenes or scenes-control (generated), cifar10, cifar100, a folder with val/ or with
    class folders, or a CSV. Detectors: scenes, scenes-control, a folder with COCO annotations, or an annotation
    file."""
    download_dir: str = advanced("data")
    """Folder of downloaded data sets (cifar10, cifar100)."""
    scene_distance: int | None = advanced(None)
    """Generated scenes: pixels between the reference patch and the nearest shape (default: half of a 64-pixel
    image)."""
    seed: int = advanced(0)
    """Random seed of generated scenes."""
    batch_size: int | None = advanced(None)
    """Batch size of classifiers (default: 8; detectors use 1)."""
    limit: int | None = None
    """Maximum number of images, evenly spread (default: 12 for maps, 100 for statistics)."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    """Image preprocessing, if it differs from that of the model."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""
    output: Path = Path("analysis")
    """Folder for images and index.html, or for statistics.csv and statistics.png."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if self.download:
            check_download((self.model,), weights=(self.weights,))
        for name in ("batch_size", "limit"):
            _check_positive(name, getattr(self, name))
        if self.statistics and self.data is None:
            raise UserError("`statistics` are measured over a data set: give `data`")
        if self.statistics and self.images:
            raise UserError(f"`statistics` are measured over `data`, not over `images`; found {self.images[0]}")
        if not self.statistics and not self.images:
            raise UserError("gcnet analyze needs `images`, or `statistics` with `data`")
        self._refuse(_OF_IMAGES if self.statistics else _OF_STATISTICS)

    def _refuse(self, names: tuple[str, ...]) -> None:
        for name in names:
            if getattr(self, name) != getattr(AnalyzeSettings, name):
                where = "is for images, not for `statistics`" if self.statistics else "requires `statistics`"
                raise UserError(f"`{name}` {where}")

    @property
    def _is_generated(self) -> bool:
        return self.statistics and self.data_settings().is_generated

    def data_settings(self, size: int | None = None) -> DataSettings:
        """Return the settings of `data`; `size` is the image size of the network in pixels, if known."""
        return DataSettings(
            data=self.data or "",
            download_dir=self.download_dir,
            **self.preprocessing.for_data(size),
            limit_val=self.limit or 100,
            scene_distance=self.scene_distance,
        )


@dataclass(frozen=True)
class CheckDataSettings(CommandSettings):
    """Find issues of a data set before training.

    COCO annotations: invalid entries, and images in several splits. Class folders or a CSV: damaged and skipped files,
    duplicates, images in several splits, image sizes, class balance. The exit code is 0 without issues, else 1.

    Examples:
      gcnet check-data photos
      gcnet check-data annotations.json --images images --fix fixed.json
      gcnet check-data data.yaml --convert annotations.json
    """

    data: Path = field(metadata=POSITIONAL)
    """Annotation file (JSON), folder of class folders, or CSV. Shards are taken as well, and URLs of each."""
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
    workers: int = min(8, available_cores())
    """Number of images read in parallel (default: number of CPU cores, at most 8)."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        check_without_secret(self.data)
        if self.images is not None:
            check_without_secret(self.images, "`images`")
            if not (is_url(self.images) or self.images.is_dir()):
                raise UserError(f"`images` takes a folder, but {no_folder(self.images)}")
        if self.fix is not None and self.fix.exists():
            raise UserError(f"`fix` must not exist yet, found {self.fix}; take another name")
        if self.convert is not None and (self.convert.suffix.lower() != ".json" or self.convert.exists()):
            raise UserError(f"`convert` takes the name of a new .json file, found {self.convert}")
        if self.convert is not None and (self.fix is not None or self.output is not None):
            raise UserError("`convert` only converts: check its result with another gcnet check-data")
        if self.max_listed < 0:
            raise UserError(f"`max_listed` must be 0 or more, found {self.max_listed}")
        check_workers(self.workers, least=1)
