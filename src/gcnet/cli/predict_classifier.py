"""Classifies images, prints and writes the predictions."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.cli.files import report_note, report_skipped, write_csv, write_json
from gcnet.cli.network_header import report_network
from gcnet.errors import printable

if TYPE_CHECKING:
    from gcnet.tasks.classification.predict import Predictions
    from gcnet.tasks.trained import TrainedClassifier
    from gcnet.workflows.predict import PredictSettings

TOP = 5
BATCH_SIZE = 32


def classify(network: "TrainedClassifier", paths: Sequence[Path], settings: "PredictSettings") -> int:
    """Classify the images; 0 if at least one worked, 1 if none did."""
    from gcnet.cli.progress import progress_bar
    from gcnet.data.images.probe import unused_depth_note
    from gcnet.data.images.sources import FileImages
    from gcnet.models.outputs import check_classifier
    from gcnet.tasks.classification.predict import draw_predictions, predict_images
    from gcnet.tasks.trained import find_preprocessing

    preprocessing = find_preprocessing(network, settings.preprocessing, settings.weights or settings.model)
    check_classifier(network.model, preprocessing.image_size, network.num_classes)
    images = FileImages(Path(), [str(path) for path in paths], [0] * len(paths), ["unknown"])
    if note := unused_depth_note(images, preprocessing.bit_depth):
        report_note(note)
    report_network(network.model, settings.model, settings.weights)
    print(f"preprocessing: {preprocessing}", file=sys.stderr)
    with progress_bar("images", len(paths)) as progress:
        predictions = predict_images(
            network,
            paths,
            preprocessing=preprocessing,
            top=settings.top or TOP,
            batch_size=settings.batch_size or BATCH_SIZE,
            device=next(network.model.parameters()).device,
            progress=progress,
        )
    if settings.json != "-":
        _print_table(predictions)
    report_skipped(predictions.skipped, len(predictions.images), "classified")
    if settings.json is not None:
        write_json({"model": settings.model, **predictions.to_dict()}, settings.json)
    if settings.csv is not None:
        write_csv(_table(predictions), settings.csv)
    if settings.output is not None and predictions.images:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        shown = draw_predictions(predictions.images, settings.output)
        print(f"contact sheet of {shown} of {len(predictions.images)} images: {settings.output}", file=sys.stderr)
    return 0 if predictions.images else 1


def _table(predictions: "Predictions") -> "Iterator[Sequence[object]]":
    """A row for each image and class, the likeliest first."""
    yield "image", "class", "probability"
    for one in predictions.images:
        for name, probability in one.classes:
            yield one.path, name, f"{probability:.6f}"


def _print_table(predictions: "Predictions") -> None:
    if not predictions.images:
        return
    names = [printable(one.path) for one in predictions.images]
    width = max(map(len, names))
    classes = max(5, *(len(printable(name)) for one in predictions.images for name, _ in one.classes))
    places = len(predictions.images[0].classes)
    ranks = "".join(f"  {f'top {place + 1}':<{classes}}  {'prob.':>6}" for place in range(places))
    print(f"{'image':<{width}}{ranks}")
    for name, one in zip(names, predictions.images, strict=True):
        best = "".join(f"  {printable(label):<{classes}}  {probability:>6.1%}" for label, probability in one.classes)
        print(f"{name:<{width}}{best}")
