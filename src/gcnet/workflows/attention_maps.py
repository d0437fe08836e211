"""Attention maps of image files, drawn into a folder with a page."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError
from gcnet.data.images.listing import find_images
from gcnet.data.images.sources import evenly_spread
from gcnet.errors import UserError, explained_out_of_memory, printable
from gcnet.progress_bar import progress_bar
from gcnet.storage import write_atomic
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.tasks.trained import TaskModel
from gcnet.visualization.attention_figures import plot_gates, plot_queries, plot_shared
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps, choose_points
from gcnet.visualization.attention_page import Page
from gcnet.visualization.gates import GateMeans
from gcnet.visualization.style import figure_caption, folder_title

IMAGES = 12
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionLayer:
    """Layer with attention maps; `str()` gives a row of a table.

    Attributes:
        name: of the module, or its kind if it is the network itself.
        grid: rows and columns of the query positions.
        heads: number of attention heads.
        is_shared: whether all queries have the same map.
        has_windows: whether queries attend within windows only.
    """

    name: str
    grid: tuple[int, int]
    heads: int
    is_shared: bool
    has_windows: bool

    def __str__(self) -> str:
        """Name, positions and kind of maps."""
        height, width = self.grid
        maps = "one for all queries" if self.is_shared else "one for each query"
        windows = ", in windows" if self.has_windows else ""
        heads = f", mean of {self.heads} heads" if self.heads > 1 else ""
        return f"{self.name:<32}  {f'{height} x {width}':>9}  {maps}{windows}{heads}"


@dataclass(frozen=True)
class AttentionMaps:
    """Result of `gcnet.analyze` for images; `str()` gives predictions and layers.

    Attributes:
        predictions: of each image, by its path.
        layers: with attention maps.
        skipped: files that could not be read.
        files: names of the files written into `output`.
    """

    predictions: dict[str, str]
    layers: tuple[AttentionLayer, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[str, ...]

    @property
    def images(self) -> int:
        """Number of images analyzed."""
        return len(self.predictions)

    def __str__(self) -> str:
        """The prediction of each image, and a table of the layers."""
        lines = [f"{printable(path)}: {prediction}" for path, prediction in self.predictions.items()]
        table = ["", f"{'layer':<32}  {'positions':>9}  maps", *map(str, self.layers)] if self.layers else []
        return "\n".join([*lines, *table])


def draw_attention_maps(loaded: TaskModel, settings: AnalyzeSettings) -> AttentionMaps:
    """Draw the attention maps of image files, and write a page of them.

    Args:
        loaded: a trained network on its device.
        settings: of the analysis; files go into `output`.

    Returns:
        Predictions, layers and the files written.

    Raises:
        UserError: no such images, or the network has nothing to show.
    """
    reader = loaded.task.attention_reader(loaded, settings)
    choose_points(settings.points, Image.new("RGB", (1, 1)))  # an invalid point is an error before the first image
    paths, skipped = _choose_images(settings), []
    drawing = _Drawing(reader.row_names, settings, loaded.title, len(paths))
    with (
        explained_out_of_memory(1, "one at a time", advice="use smaller images"),
        progress_bar("images", len(paths)) as progress,
    ):
        for path in paths:
            try:
                drawing.add(reader.read(path))
            except ImageError as error:
                skipped.append(Skipped(str(path), error.reason))
            progress(1)
    files = drawing.finish()
    return AttentionMaps(drawing.predictions, tuple(drawing.layers), tuple(skipped), tuple(files))


def _choose_images(settings: AnalyzeSettings) -> list[Path]:
    paths = find_images(settings.images, note=_logger.warning)
    count = min(settings.limit or IMAGES, len(paths))
    if count < len(paths):
        _logger.info("%d of %d images, evenly spread; `limit` sets the number", count, len(paths))
    return evenly_spread(paths, count)


class _Drawing:
    """Draws image after image, so that the attention of only one is in memory."""

    def __init__(self, row_names: Sequence[str], settings: AnalyzeSettings, network: str, total: int) -> None:
        self._row_names, self._settings, self._network = row_names, settings, network
        self._page = Page(f"Attention maps of {settings.model}", total)
        self._gates = GateMeans()
        self._files: list[str] = []
        self.predictions: dict[str, str] = {}
        self.layers: list[AttentionLayer] = []

    def add(self, maps: ImageMaps) -> None:
        """Draw the pictures of an image."""
        if not maps.layers and not maps.gates:
            raise UserError(
                f"{self._settings.model} has neither attention over positions nor gates of channels to show"
                + (f"; {maps.unread}" if maps.unread else "")
            )
        if maps.unread and not self.predictions:
            _logger.info(maps.unread)
        folder = self._settings.output
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{len(self.predictions) + 1:02}-{re.sub(r'[^A-Za-z0-9.-]+', '_', maps.path.stem)[:60]}"
        caption = figure_caption(maps.path.name, self._network)
        points = choose_points(self._settings.points, maps.image)
        if plot_queries(maps, points, folder / f"{stem}-queries.png", caption=caption):
            self._files.append(f"{stem}-queries.png")
        if plot_shared(maps, folder / f"{stem}-shared.png", caption=caption):
            self._files.append(f"{stem}-shared.png")
        if maps.layers:
            self._page.add(maps)
        self._gates.add(maps.gates, [maps.label])
        self.predictions[str(maps.path)] = maps.answer
        self.layers = self.layers or [_attention_layer(layer) for layer in maps.layers]

    def finish(self) -> list[str]:
        """Write the page and the figure of gates; return the names of all files."""
        folder, gates, count = self._settings.output, self._gates, len(self.predictions)
        if gates.names:
            names = [self._row_names[label] for label in gates.labels]
            source = folder_title(self.predictions)
            caption = figure_caption(source, self._network, f"{count} image{'s' * (count != 1)}")
            plot_gates(gates.rows(), names, folder / "gates.png", images=count, caption=caption)
            self._files.insert(0, "gates.png")
        if self.layers:
            write_atomic(folder / "index.html", self._page.render().encode("utf-8", "backslashreplace"))
            self._files.insert(0, "index.html")
        if self.layers and len(self._page) < count:
            _logger.info("index.html has room for %d of %d images", len(self._page), count)
        return self._files


def _attention_layer(layer: LayerMaps) -> AttentionLayer:
    attention = layer.attention
    height, width = attention.grid
    heads = attention.weights.shape[-2 if attention.is_shared else -3]
    has_windows = attention.windows is not None
    return AttentionLayer(layer.name or layer.kind, (height, width), heads, attention.is_shared, has_windows)
