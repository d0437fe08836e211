"""The models of a page: predictions and attention of one image at a time, within a time limit."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from gcnet.demo.settings import DemoSettings
from gcnet.devices import choose_device
from gcnet.errors import UserError, printable
from gcnet.models.card import network_name
from gcnet.tasks.detection.predict import ObjectPredictor
from gcnet.tasks.predictor import Inference
from gcnet.tasks.results import AttentionReader, PredictionResult
from gcnet.tasks.settings import AnalyzeSettings
from gcnet.tasks.trained import TaskModel, describe_loaded, model_path, open_trained
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps, Point

_T = TypeVar("_T")


class Worker:
    """Runs one function at a time in a thread of its own.

    Args:
        timeout: seconds that a caller waits for a result.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gcnet-demo")

    def __call__(self, function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """Return the result of `function`, called with `arguments` and `options`.

        Raises:
            UserError: there is no result within the time limit.
        """
        future = self._executor.submit(function, *arguments, **options)
        try:
            return future.result(self.timeout)
        except OutOfTime:
            future.cancel()
            raise UserError(f"no result within {self.timeout:g} seconds; try a smaller image, or again later") from None

    def close(self) -> None:
        """Cancel the functions that wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class DemoModel:
    """A model of a page.

    Args:
        loaded: the network on its device.
        name: unique name on the page.
        run: worker of the page.

    Attributes:
        network: its network and blocks, such as "resnet50 + gc".
        is_detector: whether it detects objects, rather than classifying images.
        classes: class names.
    """

    def __init__(self, loaded: TaskModel, name: str, run: Worker) -> None:
        self.name, self.network = name, network_name(loaded.trained.model)
        self._predictor = loaded.task.predictor(loaded, Inference())
        self.is_detector, self.classes = isinstance(self._predictor, ObjectPredictor), self._predictor.names
        self._open_reader = partial(loaded.task.attention_reader, loaded)
        self._origin, self._run = loaded.origin, run
        self._reader: AttentionReader | None = None
        self._last: tuple[Path, ImageMaps] | None = None

    def predict(self, path: Path, *, topk: int, threshold: float) -> PredictionResult:
        """Return the prediction for an image file.

        Args:
            path: image file.
            topk: number of classes, of a classifier.
            threshold: minimum score, of a detector.

        Raises:
            UserError: the image cannot be read, an option is out of range, or the time limit is exceeded.
        """
        option = {"threshold": threshold} if self.is_detector else {"topk": topk}
        result = self._run(self._predictor, path, **option)
        for skipped in result.skipped:
            raise UserError(f"{printable(path.name)}: {skipped.reason}")
        return result

    def attention(self, path: Path) -> ImageMaps:
        """Return the attention maps of an image file; those of the last file are kept.

        Args:
            path: image file.

        Raises:
            UserError: the image cannot be read, or the time limit is exceeded.
        """
        if self._last is None or self._last[0] != path:
            self._last = None  # frees its memory first
            self._last = (path, self._run(self._read, path))
        return self._last[1]

    def _read(self, path: Path) -> ImageMaps:
        if self._reader is None:
            self._reader = self._open_reader(AnalyzeSettings(model=self._origin, images=(path,)))
        maps = self._reader.read(path)
        return replace(maps, layers=tuple(map(_without_features, maps.layers)))


def _without_features(layer: LayerMaps) -> LayerMaps:
    """The layer without inputs and outputs of the module, which need more memory than its maps."""
    return replace(layer, attention=replace(layer.attention, input=None, added=None))


def open_models(settings: DemoSettings, note: Callable[[str], None]) -> tuple[list[DemoModel], Worker]:
    """Open the models of a page.

    Args:
        settings: of the page.
        note: called with lines that describe each model.

    Returns:
        The models and their worker.

    Raises:
        UserError: no such model, or no preprocessing.
    """
    device = choose_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    named = [origin for origin in settings.models if model_path(origin, download=settings.download) is None]
    if settings.weights is not None and not named:
        raise UserError("`weights` requires a model given by name; model files and run folders have their own")
    run, models = Worker(settings.timeout), []
    for origin, name in zip(settings.models, short_names(settings.models), strict=True):
        weights = settings.weights if origin in named else None
        loaded = open_trained(origin, weights, download=settings.download)
        loaded.trained.model.to(device)
        for line in describe_loaded(loaded):
            note(line)
        models.append(DemoModel(loaded, name, run))
    return models, run


def short_names(origins: Sequence[str]) -> list[str]:
    """Return the last part of each of the `origins`, preceded by its folder where two would be equal."""
    names = [os.path.basename(os.path.normpath(origin)) for origin in origins]
    if len(set(names)) == len(names):
        return names
    return [os.path.join(*Path(os.path.normpath(origin)).parts[-2:]) for origin in origins]


def point_in_image(maps: ImageMaps, point: Point) -> Point:
    """Return a point of the whole image, as fractions of width and height.

    Args:
        maps: of the image.
        point: in the part that the network saw, as fractions of its width and height.
    """
    left, top, right, bottom = maps.region
    return left + point[0] * (right - left), top + point[1] * (bottom - top)


def point_in_region(maps: ImageMaps, point: Point) -> Point:
    """Return a point of the part of an image that the network saw, as fractions of its width and height.

    Args:
        maps: of the image.
        point: in the whole image, as fractions of its width and height.

    Raises:
        UserError: the point is outside of that part.
    """
    left, top, right, bottom = maps.region
    x, y = (point[0] - left) / (right - left), (point[1] - top) / (bottom - top)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise UserError(
            f"the network sees x from {max(left, 0):.3f} to {min(right, 1):.3f} and y from {max(top, 0):.3f} to "
            f"{min(bottom, 1):.3f}, as fractions of the image; found {point[0]:.4g}, {point[1]:.4g}"
        )
    return x, y


def attention_values(maps: ImageMaps, point: Point) -> list[dict[str, Any]]:
    """Return the attention of a query in each layer as JSON values.

    Args:
        maps: of an image.
        point: the query, in the part of the image that the network saw.

    Returns:
        For each layer `name`, `kind`, `shared` (whether all queries have one map), `windows` (whether queries attend
        within windows only), `query` (row and column), `query_grid` and `grid` (rows and columns), and `attention`:
        rows of ratios to uniform attention.
    """
    values = []
    for layer in maps.layers:
        attention = layer.attention
        row, column = divmod(layer.position(point), attention.grid[1])
        values.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "shared": attention.is_shared,
                "windows": attention.windows is not None,
                "query": [row, column],
                "query_grid": list(attention.grid),
                "grid": list(attention.key_grid),
                "attention": [[float(f"{ratio:.5g}") for ratio in line] for line in layer.map_of(point).tolist()],
            }
        )
    return values
