"""`gcnet.predict`: predicts classes or objects for image files."""

import json
import logging
import sys
from pathlib import Path

from gcnet.arguments import plain_arguments
from gcnet.data.images.listing import find_images
from gcnet.devices import choose_device
from gcnet.storage import write_atomic
from gcnet.tasks.registry import refuse_settings_of_other_tasks
from gcnet.tasks.results import PredictionResult
from gcnet.tasks.settings import PredictSettings
from gcnet.tasks.trained import describe_loaded, open_trained
from gcnet.text_files import csv_bytes

_logger = logging.getLogger(__name__)


def run_prediction(settings: PredictSettings) -> PredictionResult:
    """`predict` of settings; writes the pictures of `output`, but not `json` and `csv`.

    Args:
        settings: of the prediction.

    Returns:
        The predictions and the skipped files.

    Raises:
        UserError: no such network or images, or settings that do not fit the network.
    """
    device = choose_device(settings.device)
    paths = find_images(settings.paths, note=_logger.warning)
    loaded = open_trained(
        settings.model, settings.weights, image_size=settings.preprocessing.image_size, download=settings.download
    )
    refuse_settings_of_other_tasks(settings, loaded.task, f"{settings.model} is a {loaded.task.noun}")
    loaded.trained.model.to(device)
    for line in describe_loaded(loaded):
        _logger.info(line)
    return loaded.task.predict(loaded, paths, settings)


@plain_arguments(PredictSettings)
def predict(settings: PredictSettings) -> PredictionResult:
    """Predict the classes of images with a classifier, or the objects in them with a detector.

    Returns:
        The predictions by image and the skipped files; `str()` gives a table, `to_dict()` plain values.

    Raises:
        UserError: no such network or images, or settings that do not fit the network.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (80, 64)).save("black.png")
        >>> model = gcnet.create_model("gc_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> predictions = gcnet.predict("black.png", model="scenes.safetensors", topk=2)
        >>> len(predictions.images[0].classes)
        2
    """
    predictions = run_prediction(settings)
    write_tables(predictions, settings)
    return predictions


def write_tables(predictions: PredictionResult, settings: PredictSettings) -> None:
    """Write the files of `json` and `csv`; their folders are created.

    Args:
        predictions: of `run_prediction`.
        settings: of the prediction; "-" as `json` is standard output.
    """
    if settings.json is not None:
        content = json.dumps({"model": settings.model, **predictions.to_dict()}, indent=2) + "\n"
        if settings.json == "-":
            sys.stdout.write(content)
        else:
            Path(settings.json).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(Path(settings.json), content.encode())
    if settings.csv is not None:
        settings.csv.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(settings.csv, csv_bytes(predictions.rows()))
