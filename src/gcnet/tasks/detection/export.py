"""A detector as a static graph for `gcnet export`."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.images.image_input import ImageInput
from gcnet.errors import UserError
from gcnet.exporters.graph import ExportGraph, dynamic_axes
from gcnet.exporters.settings import ExportSettings
from gcnet.insertion.fuse import fuse
from gcnet.models.detector.static_detector import StaticDetector
from gcnet.tasks.detection.predict import require_resizable
from gcnet.tasks.detection.trained import TrainedDetector
from gcnet.tasks.loaded import LoadedModel

_EXAMPLE_SIZE = (96, 128)  # of the traced images where the size is dynamic
_LOWEST_SCORE = 0.05  # of detections, the threshold of the heads
_SCORE, _BOX, _MASK = "score", "box in pixels", "mask probability"
_TOLERANCES = {
    "onnx": {_SCORE: 1e-4, _BOX: 0.1, _MASK: 1e-3},
    "torch-export": {_SCORE: 1e-4, _BOX: 0.1, _MASK: 1e-3},
    # OpenVINO computes the positions of resized pixels in float32: single pixels differ by one 8-bit level.
    "openvino": {_SCORE: 0.01, _BOX: 1.0, _MASK: 0.05},
}


def detector_graph(loaded: LoadedModel, settings: ExportSettings) -> ExportGraph:
    """Return a detector as a static graph; the outputs are those of `StaticDetector`.

    Args:
        loaded: a `TrainedDetector` on the CPU.
        settings: settings of the export.

    Raises:
        UserError: the settings do not suit detectors.
    """
    detector = loaded.trained
    assert isinstance(detector, TrainedDetector)
    _check(settings)
    axes = dynamic_axes(settings.dynamic_axes("batch,size"))
    size = _image_size(detector.model, settings, is_dynamic=2 in axes)
    reference, tolerances = StaticDetector(detector.model).eval(), _TOLERANCES[settings.format_name]
    module = StaticDetector(fuse(detector.model)).eval() if settings.fuse else reference

    def prepare(item: ImageInput) -> Tensor:
        image = item.open()
        require_resizable(image, item.path or item.name, detector.model)
        return image_to_tensor(image if 2 in axes else image.resize(size[::-1]))

    return ExportGraph(
        module,
        module.output_names,
        torch.rand(2 if 0 in axes else 1, 3, *size),
        prepare,
        axes,
        reference,
        metadata={
            "class_names": json.dumps(detector.names()),
            "category_ids": json.dumps(detector.category_ids),
            "mask_border": module.transform.mask_border,
        },
        tolerances=tolerances | {_SCORE: settings.tolerance or tolerances[_SCORE]},
        differences=lambda *results: detection_differences(
            *(dict(zip(module.output_names, result, strict=True)) for result in results)
        ),
        count=lambda result: int(_is_compared(result[module.output_names.index("scores")]).sum()),
    )


def _check(settings: ExportSettings) -> None:
    if settings.precision != "float32":
        raise UserError(f"`precision` of a detector must be float32, found {settings.precision}")


def _image_size(model: Any, settings: ExportSettings, *, is_dynamic: bool) -> tuple[int, int]:
    """Return the height and width of the traced images in pixels."""
    if settings.image_size:
        return settings.image_size[0], settings.image_size[-1]
    return _EXAMPLE_SIZE if is_dynamic else (model.transform.min_size[-1], model.transform.max_size)


_MARGIN = 1e-3  # detections whose score is this close to the lowest one are not compared


def detection_differences(expected: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest differences between two results of `StaticDetector` for the same images.

    Each detection is compared with the nearest of its class, since equal scores have no order. If there is none, its
    score is the difference.

    Args:
        expected: outputs by name.
        outputs: other outputs by name.

    Returns:
        Differences of "score", "box in pixels" and, with masks, "mask probability".
    """
    largest = {_SCORE: 0.0, _BOX: 0.0} | ({_MASK: 0.0} if "masks" in expected else {})
    for index in range(len(expected["count"])):
        ours, others = ({name: values[index] for name, values in side.items()} for side in (expected, outputs))
        for first, second in ((ours, others), (others, ours)):
            for name, values in _differences(first, second).items():
                largest[name] = float(torch.cat([values, values.new_tensor([largest[name]])]).max())  # NaN stays NaN
    return largest


def _is_compared(scores: Tensor, lowest: float = 0.0) -> Tensor:
    """Whether each of the scores (..., D), descending, is above those of detections that the other result may lack."""
    return scores > scores[..., -1:].clamp(min=max(lowest, _LOWEST_SCORE)) + _MARGIN


def _differences(image: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The differences of each detection in an image from its counterpart, by quantity."""
    rows = torch.nonzero(_is_compared(image["scores"], lowest=float(other["scores"][-1])))[:, 0]
    same = image["labels"][rows, None] == other["labels"]
    distances = (image["boxes"][rows, None] - other["boxes"]).abs().amax(dim=-1).where(same, torch.inf)
    nearest, matches = distances.min(dim=1)
    missing = nearest.isinf()
    score = (image["scores"][rows] - other["scores"][matches]).abs()
    differences = {_SCORE: torch.where(missing, image["scores"][rows], score), _BOX: nearest[~missing]}
    if "masks" in image:
        masks = (image["masks"][rows] - other["masks"][matches]).abs().amax(dim=(1, 2))
        differences[_MASK] = masks[~missing]
    return differences
