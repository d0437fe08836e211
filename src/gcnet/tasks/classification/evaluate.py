"""Evaluates a trained classifier on labeled images."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gcnet.compilation import uncompiled
from gcnet.data.coco.open import is_coco
from gcnet.data.dataset import ClassificationDataset, Skipped
from gcnet.data.images.open import open_evaluation
from gcnet.data.images.probe import unused_depth_note
from gcnet.data.images.sources import ImageSource
from gcnet.data.loader import build_loader, choose_workers
from gcnet.data.sampler import EvaluationSampler
from gcnet.data.settings import BUILT_IN, Preprocessing
from gcnet.data.transforms import build_eval_transform
from gcnet.devices import autocast_dtype
from gcnet.errors import UserError, explained_out_of_memory, printable
from gcnet.models.outputs import check_classifier, class_scores, evaluating
from gcnet.progress_bar import progress_bar
from gcnet.storage import write_atomic
from gcnet.tasks.batch_size import advice_for, find_batch_size
from gcnet.tasks.classification.metrics import MOST_CLASSES_IN_MATRIX, ClassificationResult, evaluate_classifier
from gcnet.tasks.classification.trained import TrainedClassifier
from gcnet.tasks.inference_record import inference_record
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.results import EvaluationResult, assumed_order_note
from gcnet.tasks.settings import EvaluateSettings
from gcnet.text_files import csv_bytes, json_bytes
from gcnet.training.checksums import describe_labeled
from gcnet.training.distributed import Processes
from gcnet.visualization.plots import plot_confusion
from gcnet.visualization.style import figure_caption

_BATCH_SIZE = 64
_LARGEST_BATCH = 256  # tried by "auto"
_LISTED_CONFUSIONS = 10
_LISTED_CLASSES = 100
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierEvaluation(EvaluationResult):
    """Result of `gcnet.evaluate` for a classifier.

    Attributes:
        metrics: accuracy, loss and confusion matrix.
        classes: class names, in the order of the logits.
        preprocessing: preprocessing of the images.
        origin: model, weights and data of the settings, and how the network ran (`machine`).
        network: name of the network, for figures.
    """

    metrics: ClassificationResult
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    origin: Mapping[str, Any]
    network: str = ""

    @property
    def images(self) -> int:
        """Number of evaluated images."""
        return self.metrics.images

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""
        return self.metrics.skipped

    @property
    def scores(self) -> dict[str, float | None]:
        """`top1_fraction`, `top5_fraction`, and `loss` in nats."""
        return {
            "top1_fraction": self.metrics.top1,
            "top5_fraction": self.metrics.top5,
            "loss": self.metrics.loss,
        }

    def summary(self) -> dict[str, str]:
        """Return top-1 accuracy with its 95% interval, and the loss."""
        low, high = self.metrics.interval
        return {"top-1": f"{self.metrics.top1:.2%} ({low:.2%}-{high:.2%})", "loss": f"{self.metrics.loss:.4f}"}

    def __str__(self) -> str:
        """Return overall and per-class accuracy, and the most frequent confusions."""
        return "\n".join([*self._totals(), *self._by_class(), *self._confusions()])

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.origin,
            "preprocessing": self.preprocessing.to_dict(),
            **self.metrics.to_dict(self.classes),
        }

    def write(self, folder: Path) -> list[str]:
        """Write results.json, per_class.csv and, with at most 1000 classes, confusion.png.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        metrics = self.metrics
        write_atomic(folder / "results.json", json_bytes(self.to_dict()))
        rows: list[list[object]] = [["class", "images", "correct", "top1_fraction"]]
        for name, counts, share in zip(self.classes, metrics.counts(), metrics.per_class, strict=True):
            rows.append([name, *counts, "" if share is None else f"{share:.6f}"])
        write_atomic(folder / "per_class.csv", csv_bytes(rows))
        if len(self.classes) > MOST_CLASSES_IN_MATRIX:
            return ["results.json", "per_class.csv"]
        caption = figure_caption(Path(self.origin["data"]).name, self.network, f"{metrics.images:,} images")
        plot_confusion(metrics.confusion, self.classes, folder / "confusion.png", caption=caption)
        return ["results.json", "per_class.csv", "confusion.png"]

    def _totals(self) -> list[str]:
        metrics = self.metrics
        low, high = metrics.interval
        lines = [
            f"images   {metrics.images:,} evaluated, {len(metrics.skipped):,} skipped",
            f"top-1    {metrics.top1:.2%} ({metrics.correct:,} of {metrics.images:,}; "
            f"95% interval {low:.2%} to {high:.2%})",
        ]
        if len(self.classes) > 5:
            lines.append(f"top-5    {metrics.top5:.2%}")
        return [*lines, f"loss     {metrics.loss:.4f} (mean cross-entropy, nats)"]

    def _by_class(self) -> list[str]:
        if len(self.classes) > _LISTED_CLASSES:
            return []
        width = self._width()
        lines = ["", f"{'class':<{width}}  {'images':>7}  {'correct':>7}  {'top-1':>7}"]
        for name, (images, correct) in zip(self.classes, self.metrics.counts(), strict=True):
            share = f"{correct / images:.2%}" if images else "-"
            lines.append(f"{printable(name):<{width}}  {images:>7,}  {correct:>7,}  {share:>7}")
        return lines

    def _confusions(self) -> list[str]:
        worst = self.metrics.worst_confusions(_LISTED_CONFUSIONS)
        names, width = [printable(name) for name in self.classes], self._width()
        lines = [
            f"{names[true]:<{width}}  {names[predicted]:<{width}}  {count:>5,}" for true, predicted, count in worst
        ]
        return ["", "most frequent confusions (true class, predicted class, images)", *lines] if lines else []

    def _width(self) -> int:
        return max(len(printable(name)) for name in self.classes)


def evaluate(loaded: LoadedModel, settings: EvaluateSettings, processes: Processes) -> ClassifierEvaluation:
    """Evaluate a classifier on the images of `settings.data`.

    Args:
        loaded: a `TrainedClassifier` on its device.
        settings: settings of the evaluation.
        processes: processes that share the images.

    Returns:
        The evaluation over the images of all processes.

    Raises:
        UserError: the data do not exist, or have other classes than the network.
    """
    network = loaded.trained
    assert isinstance(network, TrainedClassifier)
    source, preprocessing, notes = _open_images(network, settings)
    if processes.first:
        for note in notes:
            _logger.warning(note)
        _logger.info("data: %s: %s images, %d classes", settings.data, f"{len(source):,}", len(source.classes))
        _logger.info("preprocessing: %s", preprocessing)
    processes.require_same(lambda: describe_labeled(source))
    size = _batch_size(network, len(source), preprocessing, settings, processes)
    metrics = measure(network, source, preprocessing, settings, processes, batch_size=size)
    machine = inference_record(network.model, settings) | {"batch_size": size}
    origin = {"model": loaded.source, "weights": settings.weights, "data": settings.data, "machine": machine}
    return ClassifierEvaluation(metrics, source.classes, preprocessing, origin, loaded.title)


def _batch_size(
    network: TrainedClassifier,
    images: int,
    preprocessing: Preprocessing,
    settings: EvaluateSettings,
    processes: Processes,
) -> int:
    """The batch size of the settings, or the largest that fits."""
    if settings.batch_size != "auto":
        return settings.batch_size or _BATCH_SIZE
    device, side = next(network.model.parameters()).device, preprocessing.image_size

    def run(size: int) -> None:
        batch = torch.zeros(size, 3, side, side)
        with evaluating(network.model) as model, uncompiled(model):
            class_scores(model, batch, device=device, autocast=autocast_dtype(settings.precision, device))

    return find_batch_size(run, most=_LARGEST_BATCH, images=images, device=device, processes=processes)


def measure(
    network: TrainedClassifier,
    source: ImageSource,
    preprocessing: Preprocessing,
    settings: EvaluateSettings,
    processes: Processes,
    *,
    batch_size: int,
) -> ClassificationResult:
    """Compute the metrics of a classifier on labeled images.

    Args:
        network: the classifier on its device.
        source: the images.
        preprocessing: preprocessing of the images.
        settings: precision and workers.
        processes: processes that share the images.
        batch_size: images per forward pass.

    Returns:
        The metrics over the images of all processes.
    """
    images = ClassificationDataset(source, build_eval_transform(preprocessing))
    sampler = EvaluationSampler(len(source), batch_size=batch_size, rank=processes.rank, world=processes.world)
    device = next(network.model.parameters()).device
    workers = choose_workers(settings.workers, device, batches=len(sampler), in_memory=source.in_memory)
    batches = build_loader(
        images, sampler, workers, pin_memory=device.type == "cuda", image_size=preprocessing.image_size
    )
    share = sum(len(keys) for keys in sampler)
    with (
        explained_out_of_memory(batch_size, advice=advice_for(batch_size)),
        progress_bar("images", share, shown=processes.first) as progress,
    ):
        return evaluate_classifier(
            network.model,
            batches,
            num_classes=len(source.classes),
            device=device,
            autocast=autocast_dtype(settings.precision, device),
            progress=progress,
            processes=processes,
        )


def _open_images(
    network: TrainedClassifier, settings: EvaluateSettings
) -> tuple[ImageSource, Preprocessing, list[str]]:
    """Return the images with labels in the class order of the network, their preprocessing, and notes."""
    if settings.data not in BUILT_IN and is_coco(settings.data):
        raise UserError(f"{settings.data} is for detectors, in COCO's format, but {settings.model} is a classifier")
    size = network.preprocessing.image_size if network.preprocessing else None
    try:
        source, preprocessing = open_evaluation(
            settings.data_settings(size),
            settings.seed,
            split_seed=settings.seed,
            classes=network.class_names,
            preprocessing=network.preprocessing,
        )
    except UserError as error:
        if settings.data != "scenes":
            raise
        raise UserError(f"{error}; `data` names other images than the generated scenes") from error
    notes = [*source.notes]
    if depth_note := unused_depth_note(source, preprocessing.bit_depth):
        notes.append(depth_note)
    _check_classes(network, source, settings)
    check_classifier(network.model, preprocessing.image_size, network.num_classes)
    if network.class_names is None:
        notes.append(assumed_order_note(settings.weights or settings.model, "outputs", source.classes))
    return source, preprocessing, notes


def _check_classes(network: TrainedClassifier, source: ImageSource, settings: EvaluateSettings) -> None:
    if network.num_classes != len(source.classes):
        raise UserError(
            f"{settings.weights or settings.model} has {network.num_classes} classes{_listed(network.class_names)} and "
            f"{settings.data} {len(source.classes)}{_listed(source.classes)}; an evaluation needs the same classes in "
            "both"
        )


def _listed(classes: tuple[str, ...] | None) -> str:
    """Return the first class names in parentheses, or an empty string."""
    if not classes:
        return ""
    return f" ({printable(', '.join(classes[:5]))}{', ...' if len(classes) > 5 else ''})"
