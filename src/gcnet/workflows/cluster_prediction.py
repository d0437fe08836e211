"""Predictions on a Ray cluster: Ray Data assigns batches of images to predictors on its nodes."""

import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gcnet.data.images.image_input import ImageInput, StoredFile
from gcnet.devices import choose_device, place_network
from gcnet.errors import Failure, UserError, printable
from gcnet.ray_cluster import RETRIES, Share, reason_of, require_assigned_gpu
from gcnet.remote_files import is_remote
from gcnet.tasks.settings import PredictSettings
from gcnet.tasks.trained import open_trained
from gcnet.workflows.prediction_records import RecordPredictor, Records, batches_of


def predicted_by_cluster(
    settings: PredictSettings, images: Sequence[ImageInput], batch_size: int, share: Share, count: int
) -> Iterator[Records]:
    """Yield the records of each batch in order; a batch is predicted again where its node dies.

    Args:
        settings: of the prediction; all nodes see the model file and the images at the same paths.
        images: image files, at URLs or in shards.
        batch_size: images per forward pass.
        share: resources of each predictor.
        count: largest number of predictors.

    Raises:
        UserError: Ray Data is not installed, an output of the network is not finite, or processes end repeatedly.
    """
    try:
        import ray.data
        from ray.exceptions import RayError
    except ImportError:
        raise UserError('`cluster` requires Ray Data, which is not installed: pip install "gcnet[ray]"') from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs errors with their tracebacks
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{"images": json.dumps([_row(image) for image in batch])} for batch in batches_of(images, batch_size)]
    data: Any = ray.data.from_items(rows, override_num_blocks=min(len(rows), max(4 * count, 200)))
    with warnings.catch_warnings():  # Ray 2.60 to 2.63 say that 2.64 has no max_restarts
        warnings.simplefilter("ignore", DeprecationWarning)
        predicted = data.map(
            _NodePredictor,
            fn_constructor_args=(settings, str(Path.cwd())),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=RETRIES,
        )
    try:
        for row in predicted.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield json.loads(row["records"])
    except RayError as error:
        raise Failure(
            f"a node of the Ray cluster cannot predict, or its process ended {RETRIES + 1} times: {reason_of(error)}"
        ) from error


def _row(image: ImageInput) -> list[Any]:
    return [image.name, *(image.content if isinstance(image.content, StoredFile) else ())]


def _image(name: str, *stored: Any) -> ImageInput:
    return ImageInput(name, StoredFile(*stored) if stored else Path(name))


class _NodePredictor:
    """A predictor in a process of a node, with the model of the settings."""

    def __init__(self, settings: PredictSettings, folder: str) -> None:
        self._settings, self._folder = settings, folder
        self._predict: RecordPredictor | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            images = [_image(*values) for values in json.loads(row["images"])]
            if self._predict is None:  # an error in __init__ would not be its sentence alone
                self._predict = self._open()
            _require_folders(images)
            return {"records": json.dumps(self._predict(images)), "error": ""}
        except UserError as error:
            return {"records": "", "error": str(error)}

    def _open(self) -> RecordPredictor:
        settings = self._settings
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise _not_shared(self._folder, str(error.strerror)) from error
        require_assigned_gpu()
        loaded = open_trained(settings.model, settings.weights, image_size=settings.preprocessing.image_size)
        place_network(loaded.trained.model, choose_device(settings.device))
        return RecordPredictor(*loaded.task.configured_predictor(loaded, settings))


def _require_folders(images: Sequence[ImageInput]) -> None:
    """Check that this node has the folders and shards of images; a single missing image is skipped."""
    contents = [image.content for image in images]
    shards = {content.place for content in contents if isinstance(content, StoredFile)}
    folders = {str(content.parent) for content in contents if isinstance(content, Path)}
    for place in sorted(shards | folders):
        if not is_remote(place) and not Path(place).exists():
            raise _not_shared(place, "no such file or folder")


def _not_shared(place: str, reason: str) -> UserError:
    return UserError(
        f"the nodes of the Ray cluster must share the images, the model and the current folder; {socket.gethostname()} "
        f"cannot read {printable(place)}: {reason}"
    )
