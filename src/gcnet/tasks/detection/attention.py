"""Attention maps of a detector's backbone, with its detections."""

from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from gcnet.analysis.attention import Attention
from gcnet.analysis.capture import capture, describe_unread
from gcnet.analysis.padding import Padding
from gcnet.data.coco.loading import image_to_tensor
from gcnet.models.outputs import evaluating
from gcnet.tasks.detection.predict import read_image
from gcnet.tasks.trained import TrainedDetector
from gcnet.visualization.attention_maps import ImageMaps, layer_maps

_THRESHOLD = 0.5


def look_at_objects(detector: TrainedDetector, path: Path) -> ImageMaps:
    """Attention maps of the backbone for an image file that the detector gets alone.

    The network pads what it has resized on the right and below. Queries and keys there are left out; in uniform
    attention all keys have weight 1, those there as well. The answer counts the objects with a score above 0.5.

    Raises:
        ImageError: the file cannot be read, or is too narrow to be resized.
    """
    network: Any = detector.model
    device = next(network.parameters()).device
    with evaluating(network):
        image = read_image(path, network)
        batch, _ = network.transform([image_to_tensor(image).to(device)])
        height, width = batch.image_sizes[0]
        padding = Padding((height, width), tuple(batch.tensors.shape[-2:]))

        def inside(attention: Attention) -> Attention:
            return padding.without_keys(padding.without_queries(attention))

        with capture(network.backbone, keep=inside) as found:
            features = network.backbone(batch.tensors)
        answer = _answer(detector, batch, features)
    layers = layer_maps(network.backbone, found.attention)
    unread = describe_unread(network.backbone, found.unread)
    return ImageMaps(path, image.resize((width, height)), 0, answer, layers, tuple(found.gates), unread)


def _answer(detector: TrainedDetector, batch: Any, features: dict[str, Tensor]) -> str:
    """The objects by class, as in "2 cube, 1 ball"."""
    network: Any = detector.model
    proposals, _ = network.rpn(batch, features)
    objects = network.roi_heads(features, proposals, batch.image_sizes)[0][0]
    labels = objects["labels"][objects["scores"] > _THRESHOLD].tolist()
    counts = Counter(detector.names()[label - 1] for label in labels).most_common()
    return ", ".join(f"{count} {name}" for name, count in counts) or "no objects"
