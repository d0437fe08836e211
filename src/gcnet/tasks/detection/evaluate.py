"""Evaluates a trained detector, or a file of detections, on annotated images."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gcnet.compilation import uncompiled
from gcnet.data.coco.annotated_images import CocoImages, CocoSplit
from gcnet.data.coco.issues import count_kinds
from gcnet.data.coco.loading import DetectionDataset, build_detection_loader, image_to_tensor
from gcnet.data.dataset import Skipped
from gcnet.data.loader import choose_workers
from gcnet.data.sampler import EvaluationSampler
from gcnet.devices import autocast_dtype
from gcnet.errors import UserError, explained_out_of_memory, printable
from gcnet.models.detector.heads import limit_detections
from gcnet.models.outputs import evaluating
from gcnet.progress_bar import progress_bar
from gcnet.storage import write_atomic
from gcnet.tasks.batch_size import advice_for, find_batch_size
from gcnet.tasks.detection.coco_metrics import DEFINITIONS, NUMBERS
from gcnet.tasks.detection.error_gallery import write_error_gallery
from gcnet.tasks.detection.inference import detector_results, largest_images
from gcnet.tasks.detection.matching import match_images
from gcnet.tasks.detection.metrics import (
    DetectorResult,
    evaluate_detector,
    metric_key,
    open_ground_truth,
    score_detections,
    score_in_first,
)
from gcnet.tasks.detection.precision_recall_plot import plot_precision_recall
from gcnet.tasks.detection.results import box_format_note, read_detections
from gcnet.tasks.detection.trained import TrainedDetector, describe_resizing
from gcnet.tasks.inference_record import inference_record
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.results import EvaluationResult, assumed_order_note
from gcnet.tasks.settings import EvaluateSettings
from gcnet.text_files import csv_bytes, json_bytes
from gcnet.training.checksums import describe_annotated
from gcnet.training.distributed import Processes
from gcnet.visualization.style import figure_caption

_BATCH_SIZE = 1
_LARGEST_BATCH = 8  # tried by "auto"
_LISTED_CLASSES = 100
_PLURALS = {"box": "boxes", "mask": "masks"}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectorEvaluation(EvaluationResult):
    """Result of `gcnet.evaluate` for a detector or a file of detections.

    Attributes:
        metrics: average precision of boxes and masks, and all detections.
        part: the annotated images.
        origin: model, weights, results and data of the settings, and how a detector ran (`machine`).
        repair: whether invalid annotations were repaired or skipped.
        network: name of the network or of the file of detections, for figures.
    """

    metrics: DetectorResult
    part: CocoSplit = field(repr=False)
    origin: Mapping[str, Any]
    repair: bool
    network: str = ""

    @property
    def images(self) -> int:
        """Number of evaluated images."""
        return len(self.metrics.image_ids)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read."""
        return self.metrics.skipped

    @property
    def scores(self) -> dict[str, float | None]:
        """COCO metrics from 0 to 1: `bbox_AP_fraction`, `bbox_AP50_fraction`, ..., and likewise `segm_...` of masks."""
        return self.metrics.scores()

    def __str__(self) -> str:
        """Return the COCO metrics, and AP by class."""
        return "\n".join([*self._totals(), *self._numbers(), *self._by_class()])

    def to_dict(self) -> dict[str, Any]:
        issues = self.part.issues
        return {
            **self.origin,
            **self.metrics.to_dict(),
            "repair": self.repair,
            "repaired": count_kinds(issues, "repaired"),
            "skipped_annotations": count_kinds(issues, "skipped"),
            "issues": [asdict(issue) | {"action": issue.action} for issue in issues],
        }

    def write(self, folder: Path) -> list[str]:
        """Write results.json, per_class.csv, detections.json of a detector, PR curves and the error gallery.

        Args:
            folder: output folder; created if it does not exist.

        Returns:
            Names of the files written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        metrics, images = self.metrics, self.part.images
        write_atomic(folder / "results.json", json_bytes(self.to_dict()))
        write_atomic(folder / "per_class.csv", csv_bytes(self._table()))
        written = ["results.json", "per_class.csv"]
        if self.origin["results"] is None:
            write_atomic(folder / "detections.json", json.dumps(metrics.results).encode())
            written.append("detections.json")
        about = (Path(self.origin["data"]).name, self.network, f"{self.images:,} images")
        caption = figure_caption(*about)
        plot_precision_recall(metrics.boxes, metrics.masks, folder / "precision_recall.png", caption=caption)
        matches = match_images(images.content, metrics.results, metrics.image_ids)
        gallery = write_error_gallery(images, matches, folder, about=about)
        if not gallery:
            _logger.warning("no error gallery: no readable image has errors")
        return [*written, "precision_recall.png", *gallery]

    def _totals(self) -> list[str]:
        metrics = self.metrics
        lines = [
            f"images   {self.images:,} evaluated, {len(metrics.skipped):,} skipped",
            f"objects  {sum(metrics.objects.values()):,} of {len(metrics.objects):,} classes",
        ]
        with_masks = self.images if metrics.masks is None else metrics.masks.images
        if with_masks < self.images:
            lines.append(f"masks    evaluated on {with_masks:,} images; in the others some objects have no mask")
        if metrics.is_coco_subset:
            lines += ["", "Subset of COCO val2017: not comparable to published AP, which uses all 5,000 images."]
        return lines

    def _numbers(self) -> list[str]:
        width = max(map(len, DEFINITIONS))
        kinds = self.metrics.kinds()
        heads = "".join(f"  {_PLURALS[kind]:>5}" for kind in kinds)
        lines = ["", f"{'':<5}  {'times 100, mean over the classes':<{width}}{heads}"]
        for name, definition in zip(NUMBERS, DEFINITIONS, strict=True):
            values = "".join(f"  {_hundredths(result.numbers[name]):>5}" for result in kinds.values())
            lines.append(f"{name:<5}  {definition:<{width}}{values}")
        return lines

    def _by_class(self) -> list[str]:
        listed = list(self.metrics.objects.items())[:_LISTED_CLASSES]
        width = max(len("class"), *(len(printable(name)) for name, _ in listed))
        kinds = self.metrics.kinds()
        heads = "".join(f"  {'AP ' + kind:>7}" for kind in kinds)
        lines = ["", f"{'class':<{width}}  {'objects':>7}{heads}"]
        for name, count in listed:
            values = "".join(f"  {_hundredths(result.per_class[name]):>7}" for result in kinds.values())
            lines.append(f"{printable(name):<{width}}  {count:>7,}{values}")
        more = len(self.metrics.objects) - len(listed)
        return [*lines, f"and {more:,} more in per_class.csv"] if more else lines

    def _table(self) -> list[list[object]]:
        kinds = self.metrics.kinds()
        rows: list[list[object]] = [["class", "objects", *map(metric_key, kinds)]]
        for name, count in self.metrics.objects.items():
            values = (result.per_class[name] for result in kinds.values())
            rows.append([name, count, *("" if value is None else f"{value:.6f}" for value in values)])
        return rows


def _hundredths(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def evaluate(loaded: LoadedModel, settings: EvaluateSettings, processes: Processes) -> DetectorEvaluation:
    """Evaluate a detector on the images of `settings.data`.

    Args:
        loaded: a `TrainedDetector` on its device.
        settings: settings of the evaluation.
        processes: processes that share the images.

    Returns:
        The evaluation over the images of all processes.

    Raises:
        UserError: the data do not exist, or have other classes than the detector.
    """
    detector = loaded.trained
    assert isinstance(detector, TrainedDetector)
    if settings.detections_per_image is not None:
        limit_detections(detector.model, settings.detections_per_image)
    part = _open_part(settings, processes, needs_images=True)
    images = part.images
    _check_classes(detector, images, settings)
    if processes.first:
        if detector.class_names is None:
            _logger.warning(assumed_order_note(settings.weights or settings.model, "labels", images.classes))
        counts = f"{len(images):,} images, {len(images.classes):,} classes of objects"
        _logger.info("data: %s: %s, %s", settings.data, counts, describe_resizing(detector.model))
    processes.require_same(lambda: describe_annotated(images))
    size = _batch_size(detector, len(images), settings, processes)
    metrics = _measure(detector, images, settings, processes, size)
    machine = inference_record(detector.model, settings) | {"batch_size": size}
    origin = _origin(settings) | {"model": loaded.source, "machine": machine}
    return DetectorEvaluation(metrics, part, origin, settings.repair, loaded.title)


def evaluate_results(settings: EvaluateSettings, processes: Processes) -> DetectorEvaluation:
    """Evaluate the detections in the file `settings.results`.

    Args:
        settings: settings of the evaluation.
        processes: processes of the run; only the first reads the file and logs.

    Returns:
        The evaluation.

    Raises:
        UserError: the file or the annotations do not exist, or do not match.
    """
    part = _open_part(settings, processes, needs_images=False)
    images, name = part.images, str(settings.results)

    def score() -> DetectorResult:
        content = images.content
        results, skipped = read_detections(name, content, part.image_ids, part.category_ids)
        if note := box_format_note(results, content):
            _logger.warning("%s: %s", name, note)
        if skipped:
            _logger.warning("%s results are of skipped images and are ignored", f"{skipped:,}")
        return score_detections(content, results, [images.image_id(index) for index in range(len(images))])

    metrics = score_in_first(processes, score)
    return DetectorEvaluation(metrics, part, _origin(settings), settings.repair, Path(name).name)


def _origin(settings: EvaluateSettings) -> dict[str, Any]:
    results = None if settings.results is None else str(settings.results)
    return {"model": settings.model, "weights": settings.weights, "results": results, "data": settings.data}


def _open_part(settings: EvaluateSettings, processes: Processes, *, needs_images: bool) -> CocoSplit:
    part = open_ground_truth(
        settings.data_settings(None), settings.seed, needs_images=needs_images, repairs=settings.repair
    )
    if processes.first:
        for note in part.reports():
            _logger.warning(note)
    return part


def _has_all_classes(detector: TrainedDetector, images: CocoImages) -> bool:
    """Whether the detector has every class of the data under the same id; torchvision's have ids without objects."""
    names = dict(zip(detector.category_ids, detector.class_names or (), strict=False))
    return all(names.get(number) == name for number, name in zip(images.category_ids, images.classes, strict=True))


def _check_classes(detector: TrainedDetector, images: CocoImages, settings: EvaluateSettings) -> None:
    if _has_all_classes(detector, images):
        return
    origin, names = settings.weights or settings.model, detector.class_names
    count = len(detector.category_ids)
    if count != len(images.classes):
        raise UserError(
            f"{origin} has {count} classes and {settings.data} {len(images.classes)}; an evaluation needs the same "
            f"classes in both"
        )
    for number, (name, other) in enumerate(zip(names or images.classes, images.classes, strict=True), start=1):
        if name != other:
            raise UserError(
                f"{origin} and {settings.data} need the same classes in the same order; class {number} is "
                f'"{name}" in the former and "{other}" in the latter'
            )


def _batch_size(detector: TrainedDetector, images: int, settings: EvaluateSettings, processes: Processes) -> int:
    """The batch size of the settings, or the largest that fits."""
    if settings.batch_size != "auto":
        return settings.batch_size or _BATCH_SIZE
    device = next(detector.model.parameters()).device
    autocast = autocast_dtype(settings.precision, device)

    def run(size: int) -> None:
        batch = [image_to_tensor(image).to(device) for image in largest_images(detector.model, size)]
        with (
            evaluating(detector.model) as network,
            uncompiled(network),
            torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
        ):
            detector_results(network, batch, range(size), detector.category_ids)

    return find_batch_size(run, most=_LARGEST_BATCH, images=images, device=device, processes=processes)


def _measure(
    detector: TrainedDetector, images: CocoImages, settings: EvaluateSettings, processes: Processes, size: int
) -> DetectorResult:
    order = EvaluationSampler(len(images), batch_size=size, rank=processes.rank, world=processes.world)
    device = next(detector.model.parameters()).device
    workers = choose_workers(settings.workers, device, batches=len(order))
    samples = DetectionDataset(images, with_objects=False)
    batches = build_detection_loader(samples, order, workers, pin_memory=device.type == "cuda")
    with (
        explained_out_of_memory(size, advice=advice_for(size)),
        progress_bar("images", sum(len(keys) for keys in order), shown=processes.first) as progress,
    ):
        return evaluate_detector(
            detector.model,
            batches,
            lambda: images.content,
            detector.category_ids if _has_all_classes(detector, images) else images.category_ids,
            device=device,
            autocast=autocast_dtype(settings.precision, device),
            progress=progress,
            processes=processes,
        )
