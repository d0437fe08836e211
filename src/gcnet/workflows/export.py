"""`gcnet.export`: exports a trained network for other runtimes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcnet.arguments import plain_arguments
from gcnet.data.dataset import Skipped
from gcnet.data.decode import ImageError
from gcnet.data.images.image_input import ImageInput
from gcnet.data.images.inputs import image_inputs
from gcnet.data.images.sources import evenly_spread
from gcnet.data.scenes import Scenes
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import Failure, UserError, printable
from gcnet.exporters.comparison import Difference, compare_outputs
from gcnet.exporters.formats import FORMATS, ExportedFunction, exported_content, require_libraries
from gcnet.exporters.graph import ExportGraph
from gcnet.exporters.metadata import model_metadata
from gcnet.exporters.quantization import quantize_onnx
from gcnet.exporters.settings import ExportSettings
from gcnet.storage import write_atomic
from gcnet.tasks.results import EvaluationResult
from gcnet.tasks.settings import EvaluateSettings
from gcnet.tasks.trained import TaskModel, describe_loaded, open_trained
from gcnet.training.distributed import Processes

_GENERATED = (128, 160, 128)  # sides of generated images in pixels
_CALIBRATED = 200  # images
_COMPARED = 32  # images of `calibrate`
_BATCH = 3
_IN_GRAPH = PreprocessingSettings(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # the file normalizes
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """Result of `gcnet.export`; `str()` gives the differences from PyTorch, accuracies and the files.

    Attributes:
        files: size in bytes of each file.
        differences: largest differences from PyTorch's outputs.
        images: number of images compared.
        skipped: images that could not be read.
        metadata: metadata of the file.
        before: evaluation before quantization on labeled images of `calibrate`; else None.
        after: evaluation after quantization; else None.
    """

    files: Mapping[Path, int]
    differences: tuple[Difference, ...]
    images: int
    skipped: tuple[Skipped, ...]
    metadata: Mapping[str, str]
    before: EvaluationResult | None = None
    after: EvaluationResult | None = None

    def __str__(self) -> str:
        """Return a line for each difference, accuracy and file."""
        lines = [f"{difference}, {self.images} images" for difference in self.differences]
        for title, result in (("float32", self.before), ("int8", self.after)):
            if result is not None:
                values = ", ".join(f"{name} {value}" for name, value in result.summary().items())
                lines.append(f"{title}: {values}, {result.images:,} images")
        return "\n".join([*lines, *(f"{path}: {_size(size)}" for path, size in self.files.items())])


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.0f} KB"


def run_export(settings: ExportSettings) -> Exported:
    """`export` of settings.

    Args:
        settings: of the export.

    Returns:
        As `export`.

    Raises:
        UserError: as `export`.
        Failure: as `export`.
    """
    form = FORMATS[settings.format_name]
    require_libraries(settings.format_name)
    images = _inputs(settings)
    loaded = _open(settings)
    graph = _described(loaded.task.export_graph(loaded, settings), loaded)
    before = None if settings.calibrate is None else _accuracy(loaded, settings)
    skipped: list[Skipped] = []
    content = exported_content(settings.format_name, graph)
    if settings.calibrate is not None:
        calibration = evenly_spread(image_inputs(settings.calibrate), _CALIBRATED)
        content = (quantize_onnx(content[0], _readable(graph, calibration, skipped)),)
    run = form.run(content)
    compared = list(_readable(graph, images, skipped))
    differences = compare_outputs(graph, run, _batches(graph, compared))
    _require_equal(differences)
    if any(difference.detections == 0 for difference in differences):
        _logger.warning(
            "there is no detection in these images, so that no scores and boxes were compared: "
            "give `images` with objects"
        )
    after = None if before is None else _accuracy(loaded.with_model(_ExportedNetwork(graph.module, run)), settings)
    _write(settings, content)
    sizes = {path: len(data) for path, data in zip(settings.files, content, strict=True)}
    return Exported(sizes, differences, len(compared), tuple(dict.fromkeys(skipped)), graph.metadata, before, after)


@plain_arguments(ExportSettings)
def export(settings: ExportSettings) -> Exported:
    """Export a trained network to ONNX, torch.export or OpenVINO, and compare its outputs with PyTorch's.

    Returns:
        The differences, the files and the metadata.

    Raises:
        UserError: no such network or images, a library is missing, or the settings do not fit the network.
        Failure: the outputs differ by more than the tolerance, or the format cannot hold the network; nothing is
            written.

    Example:
        >>> model = gcnet.create_model("gc_scenes_resnet")
        >>> gcnet.save_model(model, "scenes.safetensors", preprocessing={"image_size": 64})
        >>> exported = gcnet.export("scenes.safetensors", output="scenes.onnx", dynamic="batch,size")
        >>> exported.differences[0].is_within
        True
    """
    return run_export(settings)


def _open(settings: ExportSettings) -> TaskModel:
    side = settings.image_size[0] if settings.image_size else None
    loaded = open_trained(settings.model, settings.weights, image_size=side, download=settings.download)
    for line in describe_loaded(loaded):
        _logger.info(line)
    return loaded


def _described(graph: ExportGraph, loaded: TaskModel) -> ExportGraph:
    """The graph with the metadata of every task."""
    source = Path(loaded.weights)
    common = model_metadata(loaded.trained.model, task=loaded.task.name, source=source if source.is_file() else None)
    return replace(graph, metadata={**common, **graph.metadata})


def _inputs(settings: ExportSettings) -> list[ImageInput]:
    """Images to compare."""
    given = settings.images or settings.calibrate
    if given:
        return evenly_spread(image_inputs(given), _COMPARED)
    return image_inputs([Scenes(1, size=size, seed=size).read(0) for size in _GENERATED])


def _readable(graph: ExportGraph, inputs: Sequence[ImageInput], skipped: list[Skipped]) -> Iterator[Tensor]:
    """The images as tensors; unreadable ones are added to `skipped`."""
    count = 0
    for item in inputs:
        try:
            yield graph.prepare(item)
            count += 1
        except ImageError as error:
            skipped.append(Skipped(item.name, error.reason))
    if not count:
        raise UserError(f"none of the images could be read, such as {printable(inputs[0].name)}")


def _batches(graph: ExportGraph, images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Batches to compare: each image alone, and of dynamic axes also three at once and another size."""
    first = images[0][None]
    for image in images:
        yield image[None].expand(len(graph.example) if 0 not in graph.dynamic_axes else 1, -1, -1, -1)
    if 0 in graph.dynamic_axes:
        same = [image for image in images if image.shape == images[0].shape]
        yield torch.stack((same * _BATCH)[:_BATCH])
    if 2 in graph.dynamic_axes:
        height, width = first.shape[2:]
        yield F.interpolate(first, (height + 32, width + 64), mode="bilinear")


def _require_equal(differences: Sequence[Difference]) -> None:
    if not all(difference.is_within for difference in differences):
        found = "; ".join(str(difference) for difference in differences)
        raise Failure(f"the outputs of the file differ too much from PyTorch's, and nothing was written: {found}")


def _write(settings: ExportSettings, content: Sequence[bytes]) -> None:
    """Write the files, the one that users open last."""
    settings.file.parent.mkdir(parents=True, exist_ok=True)
    for path, data in reversed(list(zip(settings.files, content, strict=True))):
        write_atomic(path, data)


class _ExportedNetwork(nn.Module):
    """An exported file in the place of its network.

    Args:
        network: in PyTorch, for its device.
        run: the file as a function of images.
    """

    def __init__(self, network: nn.Module, run: ExportedFunction) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.run(image[None])[0] for image in images])


def _accuracy(loaded: TaskModel, settings: ExportSettings) -> EvaluationResult | None:
    """The evaluation on the images of `calibrate`, None without labels."""
    is_file = isinstance(loaded.trained.model, _ExportedNetwork)
    preprocessing = replace(
        PreprocessingSettings() if not is_file else _IN_GRAPH,
        image_size=settings.image_size[0] if settings.image_size else None,
    )
    data = str((settings.calibrate or Path()).resolve())
    try:
        return loaded.task.evaluate(
            loaded, EvaluateSettings(settings.model, settings.weights, data, preprocessing=preprocessing), Processes()
        )
    except Failure:
        raise
    except UserError as error:
        _logger.warning("accuracy is not measured: %s", error)
        return None
