"""Settings of `gcnet analyze`."""

from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL, advanced
from gcnet.data.settings import DataSettings, PreprocessingSettings
from gcnet.errors import UserError

_OF_IMAGES = ("points",)
_OF_CLASSIFIERS = ("download_dir", "batch_size")
_OF_STATISTICS = ("data", "download_dir", "batch_size", "scene_distance", "seed")


@dataclass(frozen=True)
class AnalyzeSettings:
    """Draw attention maps of a trained model, or measure how much its attention depends on the query.

    For images, writes PNG files and a page that shows the map of any query position in every layer. With `statistics`,
    writes the average distances between positions of inputs, outputs and attention (Table 1 of the paper). Channel
    weights of gates are drawn by class. For a detector, its backbone is analyzed.

    Examples:
      gcnet analyze runs/first photo.jpg
      gcnet analyze runs/first --statistics --data photos
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights are used), or a model name with `weights`."""
    images: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Image files, or folders to search for images."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", or a published version such as IMAGENET1K_V1."""
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
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""
    output: Path = Path("analysis")
    """Folder for images and index.html, or for statistics.csv and statistics.png."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"`{name}` must be at least 1, found {value}")
        if self.statistics and self.data is None:
            raise UserError("`statistics` are measured over a data set: give `data`")
        if self.statistics and self.images:
            raise UserError(f"`statistics` are measured over `data`, not over images named; found {self.images[0]}")
        if not self.statistics and not self.images:
            raise UserError(
                "gcnet analyze needs images, or `statistics` with `data`, as in: gcnet analyze FILE photo.jpg"
            )
        self._refuse(_OF_IMAGES if self.statistics else _OF_STATISTICS)

    def _refuse(self, names: tuple[str, ...]) -> None:
        for name in names:
            if getattr(self, name) != getattr(AnalyzeSettings, name):
                where = "pictures of images, and `statistics` are asked for" if self.statistics else "`statistics`"
                raise UserError(f"`{name}` belongs to {where}")

    def require_detector(self) -> None:
        """Refuse what is for classifiers only.

        Raises:
            UserError: for the first of it.
        """
        generates = self.statistics and self.data_settings().is_generated
        for name in _OF_CLASSIFIERS:
            if getattr(self, name) != getattr(AnalyzeSettings, name):
                raise UserError(f"`{name}` belongs to classifiers, and {self.model} is a detector")
        given = self.preprocessing.given()
        if generates:
            given = [flag for flag in given if not flag.startswith("`image_size=")]
        if given:
            raise UserError(f"{given[0]} belongs to classifiers, and {self.model} is a detector")

    def data_settings(self, size: int | None = None) -> DataSettings:
        """The settings of the images of `data`; `size` is the side of the images that the network is for, if known."""
        return DataSettings(
            data=self.data or "",
            download_dir=self.download_dir,
            **self.preprocessing.for_data(size),
            limit_val=self.limit or 100,
            scene_distance=self.scene_distance,
        )
