"""A classifier as a static graph for `gcnet export`."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcnet.data.images.image_input import ImageInput
from gcnet.data.settings import Preprocessing, PreprocessingSettings
from gcnet.data.transforms import image_pixels, resize_and_crop, unit_range
from gcnet.errors import UserError, printable
from gcnet.exporters.graph import ExportGraph, dynamic_axes
from gcnet.exporters.settings import ExportSettings
from gcnet.insertion.fuse import fuse
from gcnet.insertion.model_copies import deep_copy
from gcnet.models.outputs import check_classifier, class_outputs
from gcnet.tasks.classification.trained import TrainedClassifier, find_preprocessing
from gcnet.tasks.loaded import LoadedModel

_TOLERANCES = {"float32": 1e-4, "fp16": 0.01, "int8": 0.5}
_SMALLEST_LOGIT = 1e-6  # of relative differences: the new class layer of a ViT gives zeros


class ExportedClassifier(nn.Module):
    """Images in [0, 1] to logits, with the normalization of the preprocessing.

    Args:
        network: the classifier, in eval mode.
        preprocessing: preprocessing of its images.
        half: run the network in float16; input and output stay float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, half: bool = False) -> None:
        super().__init__()
        self.network = deep_copy(network).half() if half else network
        self.dtype = torch.float16 if half else torch.float32
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return the logits (N, classes) float32.

        Args:
            images: (N, 3, H, W) float32 in [0, 1].
        """
        normalized = ((images - self.mean) / self.std).to(self.dtype)
        return (class_outputs(self.network(normalized)).logits.float(),)


def export_graph(loaded: LoadedModel, settings: ExportSettings) -> ExportGraph:
    """Return a classifier as a static graph: images (N, 3, H, W) in [0, 1] -> logits (N, classes).

    Args:
        loaded: a `TrainedClassifier` on the CPU.
        settings: settings of the export.

    Raises:
        UserError: the network has no preprocessing, does not run on images of this size, or `image_size` is not square.
    """
    network = loaded.trained
    assert isinstance(network, TrainedClassifier)
    if len(set(settings.image_size)) > 1:
        raise UserError(
            f"`image_size` of a classifier is one side of its square images, found {settings.image_size[0]} "
            f"{settings.image_size[1]}; `dynamic=batch,size` allows images of any size"
        )
    side = settings.image_size[0] if settings.image_size else None
    preprocessing = find_preprocessing(network, PreprocessingSettings(side), loaded.weights)
    size = preprocessing.image_size
    check_classifier(network.model, size, network.num_classes)
    axes = dynamic_axes(settings.dynamic_axes("batch"))
    if 2 in axes and not _runs_at(network, size):
        raise UserError(
            f"`dynamic=size` requires a network for images of any size, but {printable(loaded.origin)} takes images of "
            f"{size} x {size} pixels only"
        )

    def prepare(image: ImageInput) -> Tensor:
        return unit_range(image_pixels(resize_and_crop(image.open(bit_depth=preprocessing.bit_depth), preprocessing)))

    exported = fuse(network.model) if settings.fuse else network.model
    return ExportGraph(
        ExportedClassifier(exported, preprocessing, half=settings.precision == "fp16").eval(),
        ("logits",),
        torch.rand(2 if 0 in axes else 1, 3, size, size),
        prepare,
        axes,
        ExportedClassifier(network.model, preprocessing).eval(),
        {"class_names": json.dumps(network.names()), "preprocessing": json.dumps(_before_the_graph(preprocessing))},
        dict.fromkeys(
            ("probability", "logit, relative to the largest"), settings.tolerance or _TOLERANCES[settings.precision]
        ),
        _differences,
    )


def _before_the_graph(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessing without mean and std, which are part of the graph."""
    values = preprocessing.to_dict() | {"resize": preprocessing.resize or preprocessing.image_size}
    return {name: value for name, value in values.items() if name not in ("mean", "std")}


def _runs_at(network: TrainedClassifier, size: int) -> bool:
    """Whether the network also runs on images that are larger and not square."""
    try:
        check_classifier(network.model, size + 32, network.num_classes)
    except UserError:
        return False
    return True


def _differences(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, float]:
    logits, others = expected[0].double(), outputs[0].double()
    relative = (logits - others).abs() / logits.abs().amax(1, keepdim=True).clamp(min=_SMALLEST_LOGIT)
    probability = (logits.softmax(1) - others.softmax(1)).abs()
    return {"probability": float(probability.max()), "logit, relative to the largest": float(relative.max())}
