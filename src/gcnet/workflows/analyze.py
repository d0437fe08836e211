"""Settings of `gcnet analyze`."""

from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL
from gcnet.data.settings import DataSettings, PreprocessingSettings
from gcnet.errors import UserError

_OF_IMAGES = ("points",)
_OF_CLASSIFIERS = ("download_dir", "batch_size")
_OF_STATISTICS = ("data", "download_dir", "batch_size", "scene_distance", "seed")


@dataclass(frozen=True)
class AnalyzeSettings:
    """Show what a trained network attends to in images, or measure over a data set how much that depends on where.

    Images become PNG files, and one page on which a click shows the map of that query in every layer. `statistics`
    gives the average distances between positions of inputs, outputs and attention (Table 1 of the paper) for every
    layer, and says where a gc block would do. Channel weights of gates are drawn by class. Of a detector, the backbone
    is shown and measured.
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights), or a network by name (then with `weights`)."""
    images: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Image files, or folders that are searched for images."""
    weights: str | None = None
    """Weights for a network by name: a file, "pretrained", or the name of published ones such as IMAGENET1K_V1."""
    points: tuple[str, ...] = ("auto",)
    """Query points: auto (four of different colours), grid (three by three), or X,Y from 0 to 1 each, such as
    0.5,0.25 for half the width and a quarter of the height."""
    statistics: bool = False
    """Measure the distances over the images of `data` instead."""
    data: str | None = None
    """Statistics: scenes (generated), scenes-control, cifar10, cifar100, a folder with val/ or with class folders, or
    a CSV. For detectors scenes, scenes-control, a folder laid out as COCO publishes its own, or an annotation file."""
    download_dir: str = "data"
    """Statistics: folder of downloaded data sets (cifar10, cifar100)."""
    scene_distance: int | None = None
    """Statistics, scenes: pixels between the reference patch and the nearest shape (default: half of a 64 px image)."""
    seed: int = 0
    """Statistics: seed of generated scenes."""
    batch_size: int | None = None
    """Statistics of classifiers: images at a time (default: 8); those of a detector go one by one."""
    limit: int | None = None
    """Use only so many images, evenly spread over all (default: 12 for pictures, 100 for statistics)."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""
    output: Path = Path("analysis")
    """Folder for the pictures and the page, or for statistics.csv and statistics.png."""

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
