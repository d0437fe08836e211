"""Detections in COCO's result format, with masks pasted in chunks to limit memory."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads

from gcnet.tasks.detection.coco_metrics import coco_results

_PASTED_PIXELS = 2**25
"""Mask pixels pasted at a time: 128 MiB of float32, or one larger mask."""


class RawDetections(NamedTuple):
    """Detections of one image in coordinates of the resized image.

    Attributes:
        values: `boxes` (n, 4) in pixels of the resized image, `labels` (n,), `scores` (n,) and, of a detector with
            masks, `masks` (n, 1, side, side).
        size: height and width of the resized image in pixels.
        original: height and width of the original image in pixels.
    """

    values: dict[str, Tensor]
    size: tuple[int, int]
    original: tuple[int, int]


def detect(network: Any, images: Sequence[Tensor], *, threshold: float | None = None) -> list[RawDetections]:
    """Run a detector without pasting masks.

    Args:
        network: a `GeneralizedRCNN` in evaluation mode.
        images: images (3, H, W).
        threshold: minimum score, exclusive; None for that of the network. The detections are the same as if filtered
            afterwards, since non-maximum suppression depends only on higher scores, but fewer masks are computed.

    Returns:
        Detections of each image.
    """
    if not images:
        return []
    batch, _ = network.transform(list(images))
    features = network.backbone(batch.tensors)
    if isinstance(features, Tensor):
        features = {"0": features}
    proposals, _ = network.rpn(batch, features)
    heads = network.roi_heads if threshold is None else _with_threshold(network.roi_heads, threshold)
    detections, _ = heads(features, proposals, batch.image_sizes)
    return [
        RawDetections(values, size, (image.shape[-2], image.shape[-1]))
        for values, size, image in zip(detections, batch.image_sizes, images, strict=True)
    ]


def _with_threshold(module: nn.Module, threshold: float) -> Any:
    """A copy of heads with another score threshold and the same parameters; the original may be in use elsewhere."""
    copied: Any = copy.copy(module)
    copied._modules = {
        name: child if child is None else _with_threshold(child, threshold) for name, child in module._modules.items()
    }
    if isinstance(copied, RoIHeads):
        copied.score_thresh = threshold
    return copied


def of_classes(detections: RawDetections, labels: Int[Tensor, " classes"]) -> RawDetections:
    """Select detections by class.

    Args:
        detections: of one image.
        labels: int64 labels to keep, from 1.

    Returns:
        The detections whose label is one of `labels`.
    """
    kept = torch.isin(detections.values["labels"], labels)
    return detections._replace(values={name: value[kept] for name, value in detections.values.items()})


def pasted_results(
    network: Any, detections: RawDetections, image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Paste the masks of an image, and convert its detections to COCO's result format.

    Args:
        network: the detector.
        detections: detections of `detect`.
        image_id: id of the image.
        category_ids: category id of each label, in the order of the labels.

    Returns:
        Results as of `coco_results`.
    """
    results: list[dict[str, Any]] = []
    for part in chunks(len(detections.values["scores"]), detections.original):
        values = {name: value[part] for name, value in detections.values.items()}
        pasted = network.transform.postprocess([values], [detections.size], [detections.original])
        results += coco_results(pasted, [image_id], category_ids)
    return results


def detector_results(
    network: nn.Module, images: Sequence[Tensor], image_ids: Sequence[int], category_ids: Sequence[int]
) -> tuple[list[dict[str, Any]], bool]:
    """Run a detector, and convert its detections to COCO's result format.

    A network other than `GeneralizedRCNN` pastes all masks of a batch at once.

    Args:
        network: detector in evaluation mode.
        images: images (3, H, W).
        image_ids: id of each image.
        category_ids: category id of each label, in the order of the labels.

    Returns:
        Results as of `coco_results`, and whether all of them have masks.
    """
    if not images:
        return [], True
    if not isinstance(network, GeneralizedRCNN):
        values: Sequence[Mapping[str, Tensor]] = network(list(images))
        return coco_results(values, image_ids, category_ids), all("masks" in detections for detections in values)
    raw = detect(network, images)
    results = [
        result
        for detections, image_id in zip(raw, image_ids, strict=True)
        for result in pasted_results(network, detections, image_id, category_ids)
    ]
    return results, all("masks" in detections.values for detections in raw)


def largest_images(network: Any, count: int) -> list[Image.Image]:
    """Return images of noise that need the most memory: resized to the largest size, alternately wide and high.

    A batch with both is padded to a square.

    Args:
        network: the detector.
        count: number of images.
    """
    transform = network.transform
    short, long = min(transform.min_size[-1], transform.max_size), transform.max_size
    generator = np.random.default_rng(0)
    sizes = (short, long), (long, short)  # height and width
    pair = [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return [pair[index % 2] for index in range(count)]


def chunks(count: int, size: tuple[int, int]) -> Iterator[slice]:
    """Split masks into chunks that fit into memory as floating point.

    Args:
        count: number of masks.
        size: height and width of a mask in pixels.

    Returns:
        A slice for each chunk.
    """
    step = max(1, _PASTED_PIXELS // max(size[0] * size[1], 1))
    return (slice(start, start + step) for start in range(0, count, step))
