"""`gcnet.predict`: predicts classes or objects for image files."""

import json
import logging
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gcnet.arguments import plain_arguments
from gcnet.data.images.find_inputs import find_inputs
from gcnet.data.images.image_input import ImageInput
from gcnet.devices import choose_device, in_several_processes, is_first_process, place_network
from gcnet.errors import UserError
from gcnet.ray_cluster import connected
from gcnet.storage import write_atomic
from gcnet.tasks.registry import refuse_settings_of_other_tasks
from gcnet.tasks.results import PredictionResult
from gcnet.tasks.settings import PredictSettings
from gcnet.tasks.trained import TaskModel, describe_loaded, open_trained
from gcnet.text_files import csv_bytes
from gcnet.training.checksums import describe_names, describe_weights
from gcnet.training.distributed import Processes, processes_joined
from gcnet.workflows.cluster_prediction import predicted_by_cluster
from gcnet.workflows.prediction_records import (
    PredictionFile,
    RecordPredictor,
    predicted_by_processes,
    require_pyarrow,
    write_records,
)

_logger = logging.getLogger(__name__)


def run_prediction(settings: PredictSettings) -> PredictionResult | PredictionFile:
    """`predict` of settings; writes the pictures or records of `output`, but not `json` and `csv`.

    Args:
        settings: of the prediction.

    Returns:
        The predictions and the skipped files of all processes.

    Raises:
        UserError: no such network or images, or settings that do not fit the network.
    """
    device = choose_device(settings.device)
    if settings.cluster is not None and in_several_processes():
        raise UserError("`cluster` starts the predictors; start the command without torchrun")
    with processes_joined(device) as processes:  # from here on, an error that all processes have is reported once
        images = find_inputs(settings.paths, note=_logger.warning if processes.first else lambda _: None)
        processes.require_same(lambda: describe_names(image.name for image in images))
        loaded = open_trained(
            settings.model, settings.weights, image_size=settings.preprocessing.image_size, download=settings.download
        )
        processes.require_same(lambda: describe_weights(loaded.trained.model))
        refuse_settings_of_other_tasks(settings, loaded.task, f"{settings.model} is a {loaded.task.noun}")
        place_network(loaded.trained.model, device)
        for line in describe_loaded(loaded, settings) if processes.first else ():
            _logger.info(line)
        if processes.world > 1 and processes.first:
            _logger.info("%d processes share the images", processes.world)
        if settings.writes_records:
            return _write_records(loaded, images, settings, processes)
        return loaded.task.predict(loaded, images, settings, processes)


def _write_records(
    loaded: TaskModel, images: Sequence[ImageInput], settings: PredictSettings, processes: Processes
) -> PredictionFile:
    """Predict batch by batch, here or on a cluster, and have the first process write the records."""
    assert settings.output is not None
    output = settings.output
    if output.suffix.lower() == ".parquet":
        require_pyarrow()
    predict = RecordPredictor(*loaded.task.configured_predictor(loaded, settings))
    predict = predict.with_batch_size(len(images), processes)
    types = predict.predictor.record_types
    if settings.cluster is not None:
        with connected(settings.cluster) as cluster:
            assert cluster is not None
            share = cluster.share(settings.device)
            batches = predicted_by_cluster(settings, images, predict.batch_size, share, cluster.count(share))
            return write_records(output, batches, types, images=len(images))
    batches = predicted_by_processes(predict, images, processes)
    if processes.first:
        result = write_records(output, batches, types, images=len(images))
        return processes.from_first(result)
    deque(batches, maxlen=0)
    return processes.from_first(None)


@plain_arguments(PredictSettings)
def predict(settings: PredictSettings) -> PredictionResult | PredictionFile:
    """Predict the classes of images with a classifier, or the objects in them with a detector.

    Returns:
        The predictions by image and the skipped files; `str()` gives a table, `to_dict()` plain values. With
        a .jsonl or .parquet file as `output`, the file and the numbers of images.

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
    if isinstance(predictions, PredictionResult) and is_first_process():
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
