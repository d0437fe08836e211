"""Evaluates a classifier, prints and writes its accuracy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.cli.files import report_notes
from gcnet.cli.network_header import report_network
from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from gcnet.data.images.sources import ImageSource
    from gcnet.data.settings import Preprocessing
    from gcnet.tasks.classification.metrics import ClassificationResult
    from gcnet.tasks.trained import TrainedClassifier
    from gcnet.training.distributed import Processes
    from gcnet.workflows.evaluate import EvaluateSettings

LISTED_CONFUSIONS = 10
LISTED_CLASSES = 100
BATCH_SIZE = 64


def run_classifier(settings: "EvaluateSettings", network: "TrainedClassifier", processes: "Processes") -> None:
    """Evaluate the classifier, print the result and write what --output asks for."""
    source, preprocessing = open_images(settings, network, processes)
    result = judge(network, source, preprocessing, settings, processes)
    if processes.first:
        _print_result(result, source.classes)
        if settings.output is not None:
            _write(result, source.classes, preprocessing, settings, settings.output)


def open_images(
    settings: "EvaluateSettings", network: "TrainedClassifier", processes: "Processes"
) -> "tuple[ImageSource, Preprocessing]":
    """The images of --data in the order of the network's classes, and how they are prepared for it."""
    from gcnet.data.coco.open import is_coco
    from gcnet.data.images.open import open_evaluation
    from gcnet.data.images.probe import unused_depth_note
    from gcnet.models.outputs import check_classifier

    if is_coco(settings.data):
        raise UserError(f"{settings.data} is for detectors, in COCO's format, and {settings.model} is a classifier")
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
        raise UserError(f"{error}; --data names other images than the generated scenes") from error
    if processes.first:
        depth_note = unused_depth_note(source, preprocessing.bit_depth)
        report_notes(source.notes if depth_note is None else (*source.notes, depth_note))
    _check_outputs(network, source, settings)
    check_classifier(network.model, preprocessing.image_size, network.num_classes)
    if network.class_names is None and processes.first:
        _say_assumed_order(source.classes, settings)
    if processes.first:
        report_network(network.model, str(settings.model), settings.weights)
        print(
            f"data: {printable(settings.data)}: {len(source):,} images, {len(source.classes):,} classes",
            file=sys.stderr,
        )
        print(f"preprocessing: {preprocessing}", file=sys.stderr)
    return source, preprocessing


def _check_outputs(network: "TrainedClassifier", source: "ImageSource", settings: "EvaluateSettings") -> None:
    if network.num_classes != len(source.classes):
        raise UserError(
            f"{settings.weights or settings.model} has {network.num_classes} classes{_listed(network.class_names)} and "
            f"{settings.data} {len(source.classes)}{_listed(source.classes)}; an evaluation needs the same classes in "
            "both"
        )


def _listed(classes: tuple[str, ...] | None) -> str:
    """The first class names, in parentheses; nothing where none are known."""
    if not classes:
        return ""
    return f" ({printable(', '.join(classes[:5]))}{', ...' if len(classes) > 5 else ''})"


def _say_assumed_order(classes: tuple[str, ...], settings: "EvaluateSettings") -> None:
    order = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    print(
        f"gcnet: {settings.weights or settings.model} names no classes; its outputs are taken to mean, in this order, "
        f"{order}",
        file=sys.stderr,
    )


def judge(
    network: "TrainedClassifier",
    source: "ImageSource",
    preprocessing: "Preprocessing",
    settings: "EvaluateSettings",
    processes: "Processes",
) -> "ClassificationResult":
    """The accuracy of the network on the images, in these processes together."""
    from gcnet.cli.progress import progress_bar
    from gcnet.data.dataset import ClassificationDataset
    from gcnet.data.loader import build_loader
    from gcnet.data.sampler import EvaluationSampler
    from gcnet.data.transforms import build_eval_transform
    from gcnet.tasks.classification.metrics import evaluate_classifier

    images = ClassificationDataset(source, build_eval_transform(preprocessing))
    size = settings.batch_size or BATCH_SIZE
    sampler = EvaluationSampler(len(source), batch_size=size, rank=processes.rank, world=processes.world)
    batches = build_loader(images, sampler, settings.workers, image_size=preprocessing.image_size)
    share = sum(len(keys) for keys in sampler)
    device = next(network.model.parameters()).device
    with progress_bar("images", share, shown=processes.first) as progress:
        return evaluate_classifier(
            network.model, batches, num_classes=len(source.classes), device=device, progress=progress
        )


def _print_result(result: "ClassificationResult", classes: tuple[str, ...]) -> None:
    low, high = result.interval
    for skipped in result.skipped:
        print(f"skipped {printable(skipped.name)}: {skipped.reason}", file=sys.stderr)
    print(f"images   {result.images:,} evaluated, {len(result.skipped):,} skipped")
    print(f"top-1    {result.top1:.2%} ({result.correct:,} of {result.images:,}; 95% interval {low:.2%} to {high:.2%})")
    if len(classes) > 5:
        print(f"top-5    {result.top5:.2%}")
    print(f"loss     {result.loss:.4f} (mean cross-entropy, nats)")
    names = [printable(name) for name in classes]
    width = max(map(len, names))
    if len(classes) <= LISTED_CLASSES:
        print(f"\n{'class':<{width}}  {'images':>7}  {'correct':>7}  {'top-1':>7}")
    for label, name in enumerate(names if len(classes) <= LISTED_CLASSES else ()):
        images, correct = sum(result.confusion[label]), result.confusion[label][label]
        share = f"{correct / images:.2%}" if images else "-"
        print(f"{name:<{width}}  {images:>7,}  {correct:>7,}  {share:>7}")
    worst = result.worst_confusions(LISTED_CONFUSIONS)
    if worst:
        print("\nmost frequent confusions (true class, predicted class, images)")
    for true, predicted, count in worst:
        print(f"{names[true]:<{width}}  {names[predicted]:<{width}}  {count:>5,}")


def _write(
    result: "ClassificationResult",
    classes: tuple[str, ...],
    preprocessing: "Preprocessing",
    settings: "EvaluateSettings",
    folder: Path,
) -> None:
    from gcnet.storage import write_atomic
    from gcnet.text_files import csv_bytes, json_bytes
    from gcnet.visualization.plots import plot_confusion
    from gcnet.visualization.style import figure_caption

    folder.mkdir(parents=True, exist_ok=True)
    origin = {"model": settings.model, "weights": settings.weights, "data": settings.data}
    content = origin | {"preprocessing": preprocessing.to_dict()} | result.to_dict(classes)
    write_atomic(folder / "results.json", json_bytes(content))
    rows: list[list[object]] = [["class", "images", "correct", "top1_fraction"]]
    for name, row, share, label in zip(classes, result.confusion, result.per_class, range(len(classes)), strict=True):
        rows.append([name, sum(row), row[label], "" if share is None else f"{share:.6f}"])
    write_atomic(folder / "per_class.csv", csv_bytes(rows))
    caption = figure_caption(Path(settings.data).name, Path(str(settings.model)).name)
    plot_confusion(result.confusion, classes, folder / "confusion.png", caption=caption)
    print(f"\nwrote results.json, per_class.csv and confusion.png into {folder}")
