"""Attention maps of images: computed, drawn, and put on a page."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gcnet.cli.files import report_note, report_skipped, report_written
from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from gcnet.tasks.trained import TrainedClassifier, TrainedDetector
    from gcnet.visualization.attention_maps import ImageMaps, LayerMaps
    from gcnet.workflows.analyze import AnalyzeSettings

IMAGES = 12


def draw(network: "TrainedClassifier | TrainedDetector", settings: "AnalyzeSettings") -> int:
    """Draw the attention on each image, and write the page; 0 if at least one image worked, 1 if none did."""
    from PIL import Image

    from gcnet.cli.progress import progress_bar
    from gcnet.data.dataset import Skipped
    from gcnet.data.decode import ImageError
    from gcnet.visualization.attention_maps import choose_points

    look, rows = _way_to_look(network, settings)
    choose_points(settings.points, Image.new("RGB", (1, 1)))  # a point that cannot be is said before all else
    paths, skipped = _chosen(settings), []
    drawn = _Drawn(rows, settings, len(paths))
    with progress_bar("images", len(paths)) as progress:
        for path in paths:
            try:
                drawn.add(look(path))
            except ImageError as error:
                skipped.append(Skipped(str(path), error.reason))
            progress(1)
    if drawn.count:
        drawn.finish()
    report_skipped(skipped, drawn.count, "analyzed")
    return 0 if drawn.count else 1


def _way_to_look(
    network: "TrainedClassifier | TrainedDetector", settings: "AnalyzeSettings"
) -> "tuple[Callable[[Path], ImageMaps], Sequence[str]]":
    """What looks at an image file, and the name of each label's row of gates."""
    from gcnet.models.outputs import check_classifier
    from gcnet.tasks.classification.attention import look_at
    from gcnet.tasks.detection.attention import look_at_objects
    from gcnet.tasks.trained import TrainedDetector, find_preprocessing
    from gcnet.visualization.gates import ALL_IMAGES

    if isinstance(network, TrainedDetector):
        return partial(look_at_objects, network), [ALL_IMAGES]
    preprocessing = find_preprocessing(network, settings.preprocessing, settings.weights or settings.model)
    check_classifier(network.model, preprocessing.image_size, network.num_classes)
    print(f"preprocessing: {preprocessing}", file=sys.stderr)
    names = [f"taken for {name}" for name in network.names()]
    return partial(look_at, network, preprocessing=preprocessing), names


def _chosen(settings: "AnalyzeSettings") -> "list[Path]":
    from gcnet.data.images.listing import find_images
    from gcnet.data.images.sources import evenly_spread

    paths = find_images(settings.images, note=report_note)
    count = min(settings.limit or IMAGES, len(paths))
    if count < len(paths):
        print(f"{count} of {len(paths)} images, evenly spread; --limit takes another number", file=sys.stderr)
    return evenly_spread(paths, count)


class _Drawn:
    """What is written about images, one after the other, so that the attention of one only is in memory."""

    def __init__(self, rows: "Sequence[str]", settings: "AnalyzeSettings", total: int) -> None:
        from gcnet.visualization.attention_page import Page
        from gcnet.visualization.gates import GateMeans

        self._rows, self._settings = rows, settings
        self._page = Page(f"Attention maps of {settings.model}", total)
        self._gates = GateMeans()
        self._answers: list[str] = []
        self._layers: list[str] = []
        self._files: list[str] = []

    @property
    def count(self) -> int:
        """Images so far."""
        return len(self._answers)

    def add(self, maps: "ImageMaps") -> None:
        """Draw the pictures of an image."""
        from gcnet.visualization.attention_figures import plot_queries, plot_shared
        from gcnet.visualization.attention_maps import choose_points

        if not maps.layers and not maps.gates:
            raise UserError(
                f"{self._settings.model} has neither attention over positions nor gates of channels to show"
                + (f"; {maps.unread}" if maps.unread else "")
            )
        if maps.unread and not self.count:
            print(maps.unread, file=sys.stderr)
        folder = self._settings.output
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.count + 1:02}-{re.sub(r'[^A-Za-z0-9.-]+', '_', maps.path.stem)[:60]}"
        if plot_queries(maps, choose_points(self._settings.points, maps.image), folder / f"{stem}-queries.png"):
            self._files.append(f"{stem}-queries.png")
        if plot_shared(maps, folder / f"{stem}-shared.png"):
            self._files.append(f"{stem}-shared.png")
        if maps.layers:
            self._page.add(maps)
        self._gates.add(maps.gates, [maps.label])
        self._answers.append(f"{printable(maps.path)}: {maps.answer}")
        self._layers = self._layers or [_line(layer) for layer in maps.layers]

    def finish(self) -> None:
        """Write the page and the picture of gates, and say what there is."""
        from gcnet.storage import write_atomic
        from gcnet.visualization.attention_figures import plot_gates

        folder, gates = self._settings.output, self._gates
        if gates.names:
            names = [self._rows[label] for label in gates.labels]
            plot_gates(gates.rows(), names, folder / "gates.png", images=self.count)
            self._files.insert(0, "gates.png")
        if self._layers:
            write_atomic(folder / "index.html", self._page.render().encode("utf-8", "backslashreplace"))
            self._files.insert(0, "index.html")
        if self._layers and len(self._page) < self.count:
            print(f"index.html has room for {len(self._page)} of {self.count} images", file=sys.stderr)
        print("\n".join(self._answers))
        if self._layers:
            print("\n".join(["", f"{'layer':<32}  {'positions':>9}  maps", *self._layers]))
        report_written(self._files, folder)


def _line(layer: "LayerMaps") -> str:
    """What a layer is: its name, its positions, and what maps it has."""
    attention = layer.attention
    height, width = attention.grid
    heads = attention.weights.shape[-2 if attention.is_shared else -3]
    kinds = "one for all queries" if attention.is_shared else "one for each query"
    windows = "" if attention.windows is None else ", in windows"
    several = f", mean of {heads} heads" if heads > 1 else ""
    return f"{layer.name or layer.kind:<32}  {f'{height} x {width}':>9}  {kinds}{windows}{several}"
