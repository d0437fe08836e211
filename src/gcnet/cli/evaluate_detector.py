"""Evaluates a detector or a file of detections, prints and writes its average precision."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcnet.cli.files import report_notes
from gcnet.cli.network_header import describe_resizing, report_network
from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from gcnet.data.coco.annotated_images import CocoImages, CocoSplit
    from gcnet.tasks.detection.evaluate import DetectorResult
    from gcnet.tasks.trained import TrainedDetector
    from gcnet.training.distributed import Processes
    from gcnet.workflows.evaluate import EvaluateSettings

LISTED_CLASSES = 100
_PLURALS = {"box": "boxes", "mask": "masks"}
BATCH_SIZE = 1


def run_detector(settings: "EvaluateSettings", detector: "TrainedDetector | None", processes: "Processes") -> None:
    """Evaluate the detector, or without one the results, print what was found and write what --output asks for."""
    from gcnet.tasks.detection.evaluate import open_truth

    images = settings.data_settings(None)
    needs_images = detector is not None
    part = open_truth(images, settings.seed, needs_images=needs_images, repairs=settings.repair)
    if processes.first:
        report_notes(part.reports())
    if detector is None:
        result = _judge_results(part, settings)
    else:
        _check_classes(detector, part.images, settings, processes)
        if processes.first:
            _report_header(detector, part.images, settings)
        result = _judge_model(detector, part.images, settings, processes)
    if processes.first:
        _print_result(result)
        if settings.output is not None:
            _write(result, part, settings, settings.output)


def _report_header(detector: "TrainedDetector", images: "CocoImages", settings: "EvaluateSettings") -> None:
    report_network(detector.model, str(settings.model), settings.weights)
    found = f"{len(images):,} images, {len(images.classes):,} classes of objects"
    print(f"data: {printable(settings.data)}: {found}, {describe_resizing(detector.model)}", file=sys.stderr)


def _check_classes(
    detector: "TrainedDetector", images: "CocoImages", settings: "EvaluateSettings", processes: "Processes"
) -> None:
    origin, names = settings.weights or settings.model, detector.class_names
    count = len(detector.category_ids)
    if count != len(images.classes):
        raise UserError(
            f"{origin} has {count} classes and {settings.data} {len(images.classes)}; an evaluation needs the same "
            f"classes in both"
        )
    if names is None:
        if processes.first:
            order = ", ".join(images.classes[:3]) + (", ..." if len(images.classes) > 3 else "")
            print(
                f"gcnet: {origin} names no classes; its labels are taken to mean, in this order, {order}",
                file=sys.stderr,
            )
        return
    for number, (ours, theirs) in enumerate(zip(names, images.classes, strict=True), start=1):
        if ours != theirs:
            raise UserError(
                f"{origin} and {settings.data} need the same classes in the same order; class {number} is "
                f'"{ours}" in the former and "{theirs}" in the latter'
            )


def _judge_results(part: "CocoSplit", settings: "EvaluateSettings") -> "DetectorResult":
    from gcnet.tasks.detection.evaluate import judge
    from gcnet.tasks.detection.results import box_format_note, read_detections

    images = part.images
    results, skipped = read_detections(str(settings.results), images.content, part.image_ids, part.category_ids)
    if note := box_format_note(results, images.content):
        report_notes([f"{printable(str(settings.results))}: {note}"])
    if skipped:
        report_notes([f"{skipped:,} results are of skipped images, and do not count"])
    return judge(images.content, results, [images.image_id(index) for index in range(len(images))])


def _judge_model(
    detector: "TrainedDetector", images: "CocoImages", settings: "EvaluateSettings", processes: "Processes"
) -> "DetectorResult":
    from gcnet.cli.progress import progress_bar
    from gcnet.data.coco.loading import DetectionDataset, build_detection_loader
    from gcnet.data.sampler import EvaluationSampler
    from gcnet.tasks.detection.evaluate import evaluate_detector

    size = settings.batch_size or BATCH_SIZE
    order = EvaluationSampler(len(images), batch_size=size, rank=processes.rank, world=processes.world)
    batches = build_detection_loader(DetectionDataset(images, with_objects=False), order, settings.workers)
    with progress_bar("images", sum(len(keys) for keys in order), shown=processes.first) as progress:
        return evaluate_detector(
            detector.model,
            batches,
            images.content,
            images.category_ids,
            device=next(detector.model.parameters()).device,
            progress=progress,
            gather=processes.gather,
        )


def _print_result(result: "DetectorResult") -> None:
    from gcnet.tasks.detection.metrics import DEFINITIONS, NUMBERS

    for skipped in result.skipped:
        print(f"skipped {printable(skipped.name)}: {skipped.reason}", file=sys.stderr)
    print(f"images   {len(result.image_ids):,} evaluated, {len(result.skipped):,} skipped")
    print(f"objects  {sum(result.objects.values()):,} of {len(result.objects):,} classes")
    with_masks = len(result.image_ids) if result.masks is None else result.masks.images
    if with_masks < len(result.image_ids):
        print(f"masks    evaluated on {with_masks:,} images; in the others some objects have no mask")
    if result.is_coco_subset:
        print("\nSo few of COCO's images give no COCO result: that takes all 5,000 of its validation set.")
    width = max(map(len, DEFINITIONS))
    kinds = result.kinds()
    heads = "".join(f"  {_PLURALS[kind]:>5}" for kind in kinds)
    print(f"\n{'':<5}  {'times 100, mean over the classes':<{width}}{heads}")
    for name, definition in zip(NUMBERS, DEFINITIONS, strict=True):
        values = "".join(f"  {_hundredths(found.numbers[name]):>5}" for found in kinds.values())
        print(f"{name:<5}  {definition:<{width}}{values}")
    _print_classes(result)


def _print_classes(result: "DetectorResult") -> None:
    listed = list(result.objects.items())[:LISTED_CLASSES]
    width = max(len("class"), *(len(printable(name)) for name, _ in listed))
    kinds = result.kinds()
    heads = "".join(f"  {'AP ' + kind:>7}" for kind in kinds)
    print(f"\n{'class':<{width}}  {'objects':>7}{heads}")
    for name, count in listed:
        values = "".join(f"  {_hundredths(found.per_class[name]):>7}" for found in kinds.values())
        print(f"{printable(name):<{width}}  {count:>7,}{values}")
    if len(result.objects) > len(listed):
        print(f"and {len(result.objects) - len(listed):,} more, which --output writes down")


def _hundredths(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _write(result: "DetectorResult", part: "CocoSplit", settings: "EvaluateSettings", folder: Path) -> None:
    from gcnet.storage import write_atomic
    from gcnet.tasks.detection.error_gallery import write_error_gallery
    from gcnet.tasks.detection.matching import match_images
    from gcnet.tasks.detection.precision_recall import plot_precision_recall
    from gcnet.text_files import csv_bytes, json_bytes
    from gcnet.visualization.style import figure_caption

    folder.mkdir(parents=True, exist_ok=True)
    images = part.images
    judged = None if settings.results is None else str(settings.results)
    origin = {"model": settings.model, "weights": settings.weights, "results": judged, "data": settings.data}
    write_atomic(folder / "results.json", json_bytes(origin | result.to_dict() | _ground_truth(part, settings)))
    write_atomic(folder / "per_class.csv", csv_bytes(_table(result)))
    written = ["results.json", "per_class.csv"]
    if judged is None:
        write_atomic(folder / "detections.json", json.dumps(result.results).encode())
        written.append("detections.json")
    about = f"{Path(settings.model or str(judged)).name} on {Path(settings.data).name}"
    caption = figure_caption(about, f"{len(result.image_ids):,} images")
    plot_precision_recall(result.boxes, result.masks, folder / "precision_recall.png", caption=caption)
    outcomes = match_images(images.content, result.results, result.image_ids)
    gallery = write_error_gallery(images, outcomes, folder, about=about)
    if not gallery:
        print("gcnet: no error gallery: no image has errors, or none of these can be read", file=sys.stderr)
    written += ["precision_recall.png", *gallery]
    print(f"\nwrote {', '.join(written[:-1])} and {written[-1]} into {folder}")


def _ground_truth(part: "CocoSplit", settings: "EvaluateSettings") -> dict[str, Any]:
    """What was repaired or skipped in the annotations: counts by kind, and each issue."""
    from gcnet.data.coco.issues import count_kinds

    return {
        "repair": settings.repair,
        "repaired": count_kinds(part.issues, "repaired"),
        "skipped_annotations": count_kinds(part.issues, "skipped"),
        "issues": [asdict(issue) | {"action": issue.action} for issue in part.issues],
    }


def _table(result: "DetectorResult") -> list[list[object]]:
    kinds = result.kinds()
    rows: list[list[object]] = [["class", "objects", *(f"{kind}_AP" for kind in kinds)]]
    for name, count in result.objects.items():
        values = (found.per_class[name] for found in kinds.values())
        rows.append([name, count, *("" if value is None else f"{value:.6f}" for value in values)])
    return rows
