"""Statistics of attention over a data set: how much it depends on the query position, layer by layer."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcnet.analysis.capture import describe_unread
from gcnet.analysis.query_independence import (
    Distances,
    Interval,
    Layer,
    combine_batches,
    describe_dependence,
    measure_batches,
)
from gcnet.data.dataset import Skipped
from gcnet.errors import UserError, explained_out_of_memory
from gcnet.models.outputs import evaluating
from gcnet.storage import write_atomic
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.tasks.trained import TaskModel
from gcnet.text_files import csv_bytes
from gcnet.training.distributed import ALONE, Processes
from gcnet.visualization.attention_figures import plot_distances, plot_gates
from gcnet.visualization.gates import GateMeans
from gcnet.visualization.style import figure_caption

_TITLES = ("input", "output", "attention", "js divergence")
_KEYS = ("input", "added", "attention", "divergence")  # attributes of a layer
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionStatistics:
    """Result of `gcnet.analyze` with `statistics`; `str()` gives a table.

    Attributes:
        layers: average distances between positions by layer (Table 1 of arXiv 1904.11492).
        summary: the result in a sentence or two.
        images: number of images measured.
        skipped: images that could not be read.
        gates: mean channel weights of gates by class.
        classes: names of the classes of the images.
        source: names of the data set and the network, for figures.
    """

    layers: tuple[Layer, ...]
    summary: str
    images: int
    skipped: tuple[Skipped, ...]
    gates: GateMeans = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    source: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The distances of each layer, and the result in a sentence or two."""
        lines = []
        if self.layers and all(layer.is_shared for layer in self.layers):
            lines += [
                "query-independent by construction: every layer has one attention map for all positions, so that maps",
                "and outputs do not differ between positions; only the inputs are shown",
                "",
            ]
        return "\n".join([*lines, *(self._table() if self.layers else []), "", self.summary])

    def _table(self) -> list[str]:
        lines = [
            f"average distance between positions, {self.layers[0].images:,} images; 95 % intervals over images",
            "cosine distance: 0 equal, 0.5 unrelated, 1 opposite; Jensen-Shannon (js) divergence: nats, at most 0.69",
            "",
        ]
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        titles = _TITLES[:1] if all(layer.is_shared for layer in self.layers) else _TITLES
        lines.append(f"{'layer':<{width}}  " + "  ".join(f"{title:<23}" for title in titles).rstrip())
        for layer in self.layers:
            maps = ["one map", "one map"] if layer.is_shared else [_cell(layer.attention), _cell(layer.divergence)]
            cells = [_cell(layer.input), _cell(layer.added), *maps][: len(titles)]
            lines.append(f"{layer.name:<{width}}  " + "  ".join(f"{cell:<23}" for cell in cells).rstrip())
        return lines

    def write(self, folder: Path) -> list[str]:
        """Write statistics.csv and statistics.png, and gates.png if there are gates.

        Args:
            folder: of the files; created if it does not exist.

        Returns:
            Names of the files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        caption = figure_caption(*self.source, f"{self.images:,} images")
        if self.layers:
            write_atomic(folder / "statistics.csv", csv_bytes(self._rows()))
            plot_distances(self.layers, folder / "statistics.png", caption=caption)
            files += ["statistics.csv", "statistics.png"]
        if self.gates.names:
            names = [self.classes[label] for label in self.gates.labels]
            plot_gates(self.gates.rows(), names, folder / "gates.png", images=self.images, caption=caption)
            files.append("gates.png")
        return files

    def _rows(self) -> list[list[object]]:
        bounds = [f"{'output' if key == 'added' else key}{end}" for key in _KEYS for end in ("", "_low", "_high")]
        rows: list[list[object]] = [
            ["layer", "kind", "positions", "channels", "images", "shared", *bounds, "divergence_error"]
        ]
        for layer in self.layers:
            grid = "x".join(map(str, layer.grid))
            rows.append(
                [layer.name, layer.kind, grid, layer.channels, layer.images, layer.is_shared]
                + [value for key in _KEYS for value in _numbers(getattr(layer, key))]
                + [f"{layer.divergence_error:.2g}"]
            )
        return rows


def measure_attention(
    loaded: TaskModel, settings: AnalyzeSettings, processes: Processes = ALONE
) -> AttentionStatistics:
    """Measure how much the attention of a network depends on the query position.

    Args:
        loaded: a trained network on its device.
        settings: of the analysis.
        processes: processes that share the images; all of them get the statistics of all images.

    Returns:
        The statistics; of no layers if no image could be read.

    Raises:
        UserError: the network has nothing to measure, or the data do not exist.
    """
    gates, unread = GateMeans(), list[str]()
    images = loaded.task.measured_images(loaded, settings, processes)
    advice = None if images.batch_size > 1 else "use smaller images"
    with evaluating(loaded.trained.model), explained_out_of_memory(images.batch_size, advice=advice):
        batches = measure_batches(
            images.model,
            images.images(),
            on_gates=lambda weights: gates.add(weights, images.labels),
            on_unread=unread.extend,
            part=images.part,
        )
    own = _Share(list(zip(images.batches, batches, strict=True)), images.worked, images.skipped, gates, unread)
    whole = _merged(processes.gather(own))
    layers = combine_batches(images.model, [batch for _, batch in whole.batches])
    missed = describe_unread(images.model, whole.unread)
    if whole.images and not layers and not whole.gates.names:
        raise UserError(
            f"{settings.model} has neither attention over positions nor gates of channels to measure"
            + (f"; {missed}" if missed else "")
        )
    if missed and processes.first:
        _logger.info(missed)
    text = describe_dependence(images.model, layers) if whole.images else ""
    source = Path(settings.data or "").name, loaded.title
    return AttentionStatistics(
        tuple(layers), text, whole.images, tuple(whole.skipped), whole.gates, images.classes, source
    )


@dataclass(frozen=True)
class _Share:
    """Measurements of the images of one process, or of all."""

    batches: list[tuple[int, list[tuple[str, Distances]]]]
    images: int
    skipped: list[Skipped]
    gates: GateMeans
    unread: list[str]


def _merged(shares: Sequence[_Share]) -> _Share:
    """The measurements of all processes, with batches in the order of the images."""
    if len(shares) == 1:
        return shares[0]
    gates = GateMeans()
    for share in shares:
        gates.merge(share.gates)
    return _Share(
        sorted((batch for share in shares for batch in share.batches), key=lambda batch: batch[0]),
        sum(share.images for share in shares),
        sorted((skipped for share in shares for skipped in share.skipped), key=lambda skipped: skipped.name),
        gates,
        list(dict.fromkeys(name for share in shares for name in share.unread)),
    )


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f}-{interval.high:.4f})"


def _numbers(interval: Interval | None) -> list[str]:
    values = (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)
    return ["" if value is None else f"{value:.6g}" for value in values]
