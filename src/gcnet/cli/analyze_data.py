"""Query-dependence statistics of a network over a data set."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gcnet.cli.files import report_notes, report_skipped, report_written
from gcnet.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from gcnet.analysis.attention import Attention
    from gcnet.analysis.query_independence import Interval, Layer
    from gcnet.data.dataset import Skipped
    from gcnet.data.images.sources import ImageSource
    from gcnet.data.loader import Batch, Loader
    from gcnet.data.settings import Preprocessing
    from gcnet.tasks.trained import TrainedClassifier, TrainedDetector
    from gcnet.visualization.gates import GateMeans
    from gcnet.workflows.analyze import AnalyzeSettings

BATCH_SIZE = 8
_TITLES = ("input", "output", "attention", "js divergence")
_KEYS = ("input", "added", "attention", "divergence")  # of a layer's intervals


def measure(network: "TrainedClassifier | TrainedDetector", settings: "AnalyzeSettings") -> int:
    """Measure, print and write; 0 if at least one image worked, 1 if none did."""
    from gcnet.analysis.capture import describe_unread
    from gcnet.analysis.query_independence import measure_layers
    from gcnet.analysis.replacement import reading
    from gcnet.cli.analyze_detector import open_detector_run
    from gcnet.models.outputs import evaluating
    from gcnet.tasks.trained import TrainedDetector
    from gcnet.visualization.gates import GateMeans

    gates = GateMeans()
    run = open_detector_run(network, settings) if isinstance(network, TrainedDetector) else open_run(network, settings)
    unread: list[str] = []
    with evaluating(network.model):
        layers = measure_layers(
            run.model,
            run.images(),
            on_gates=lambda found: gates.add(found, run.labels),
            on_unread=unread.extend,
            part=run.part,
        )
    report_skipped(run.skipped, run.worked, "measured")
    if not run.worked:
        return 1
    missed = describe_unread(run.model, unread)
    if not layers and not gates.names:
        raise UserError(
            f"{settings.model} has neither attention over positions nor gates of channels to measure"
            + (f"; {missed}" if missed else "")
        )
    if missed:
        print(missed, file=sys.stderr)
    settings.output.mkdir(parents=True, exist_ok=True)
    if layers and all(layer.is_shared for layer in layers):
        print(
            "nothing to measure: every layer has one attention map for all positions by construction, so that maps and"
        )
        print("outputs do not differ between positions; only the inputs are shown\n")
    if layers:
        _print_table(layers)
    print(f"\n{reading(run.model, layers)}")
    written = _write_layers(layers, settings) if layers else []
    report_written([*written, *_write_gates(gates, run.classes, run.worked, settings)], settings.output)
    return 0


def open_run(network: "TrainedClassifier", settings: "AnalyzeSettings") -> "Run":
    """The images of --data, prepared for the network."""
    from gcnet.data.coco.open import is_coco
    from gcnet.data.images.open import open_evaluation

    if is_coco(settings.data or ""):
        raise UserError(f"--data takes images of classes, and {settings.data} is in COCO's format, for detectors")
    given = settings.data_settings(network.preprocessing.image_size if network.preprocessing else None)
    source, preprocessing = open_evaluation(given, settings.seed, preprocessing=network.preprocessing)
    report_notes(source.notes)
    return Run(_loader(source, preprocessing, settings), network, len(source), source.classes)


class Run:
    """The images of a loader, batch by batch on the network's device, with the labels of the last batch at hand."""

    def __init__(
        self, loader: "Loader[Batch]", network: "TrainedClassifier", total: int, classes: tuple[str, ...]
    ) -> None:
        self._loader, self._total = loader, total
        self.model, self.classes = network.model, classes
        self._device = next(self.model.parameters()).device
        self.labels: list[int] = []
        self.skipped: list[Skipped] = []
        self.worked = 0

    def images(self) -> "Iterator[Tensor]":
        """Images (N, 3, H, W) of each batch that holds any."""
        from gcnet.cli.progress import progress_bar

        with progress_bar("images", self._total) as progress:
            for batch in self._loader:
                self.labels = batch.labels.tolist()
                self.skipped += batch.skipped
                self.worked += len(batch)
                if len(batch):
                    yield batch.images.to(self._device)
                progress(len(batch) + len(batch.skipped))

    @staticmethod
    def part(attention: "Attention") -> "Attention":
        """All of it is measured."""
        return attention


def _loader(source: "ImageSource", preprocessing: "Preprocessing", settings: "AnalyzeSettings") -> "Loader[Batch]":
    from gcnet.data.dataset import ClassificationDataset
    from gcnet.data.loader import build_loader
    from gcnet.data.sampler import EvaluationSampler
    from gcnet.data.transforms import build_eval_transform

    images = ClassificationDataset(source, build_eval_transform(preprocessing))
    sampler = EvaluationSampler(len(source), batch_size=settings.batch_size or BATCH_SIZE)
    return build_loader(images, sampler, image_size=preprocessing.image_size)


def _print_table(layers: "list[Layer]") -> None:
    print(f"average distance between positions, {layers[0].images:,} images; 95 % intervals over images")
    print("cosine from 0 (the same) over 0.5 (unrelated) to 1; js divergence in nats, up to 0.69\n")
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    titles = _TITLES[:1] if all(layer.is_shared for layer in layers) else _TITLES
    print(f"{'layer':<{width}}  " + "  ".join(f"{title:<23}" for title in titles).rstrip())
    for layer in layers:
        rows = ["one map", "one map"] if layer.is_shared else [_cell(layer.attention), _cell(layer.divergence)]
        cells = [_cell(layer.input), _cell(layer.added), *rows][: len(titles)]
        print(f"{layer.name:<{width}}  " + "  ".join(f"{cell:<23}" for cell in cells).rstrip())


def _cell(interval: "Interval | None") -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ({interval.low:.4f}-{interval.high:.4f})"


def _write_layers(layers: "list[Layer]", settings: "AnalyzeSettings") -> list[str]:
    from gcnet.storage import write_atomic
    from gcnet.text_files import csv_bytes
    from gcnet.visualization.attention_figures import plot_distances

    bounds = [f"{'output' if key == 'added' else key}{end}" for key in _KEYS for end in ("", "_low", "_high")]
    rows: list[list[object]] = []
    rows.append(["layer", "kind", "positions", "channels", "images", "shared", *bounds, "divergence_error"])
    for layer in layers:
        grid = "x".join(map(str, layer.grid))
        rows.append(
            [layer.name, layer.kind, grid, layer.channels, layer.images, layer.is_shared]
            + [value for key in _KEYS for value in _numbers(getattr(layer, key))]
            + [f"{layer.divergence_error:.2g}"]
        )
    write_atomic(settings.output / "statistics.csv", csv_bytes(rows))
    plot_distances(layers, settings.output / "statistics.png")
    return ["statistics.csv", "statistics.png"]


def _numbers(interval: "Interval | None") -> list[str]:
    values = (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)
    return ["" if value is None else f"{value:.6g}" for value in values]


def _write_gates(gates: "GateMeans", classes: tuple[str, ...], images: int, settings: "AnalyzeSettings") -> list[str]:
    from gcnet.visualization.attention_figures import plot_gates

    if not gates.names:
        return []
    names = [classes[label] for label in gates.labels]
    plot_gates(gates.rows(), names, settings.output / "gates.png", images=images)
    return ["gates.png"]
