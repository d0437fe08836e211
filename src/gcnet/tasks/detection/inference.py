"""Detections in COCO's result format, with masks pasted a few at a time to bound memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from gcnet.tasks.detection.coco_metrics import coco_results

_PASTED_PIXELS = 2**25
"""Pixels of masks pasted at a time: 128 MiB of float32, or one mask where that is larger."""


class Found(NamedTuple):
    """Detections in one image, before they are scaled back to it.

    Attributes:
        values: `boxes` (n, 4) in pixels of the resized image, `labels` (n,), `scores` (n,) and, if the detector
            predicts masks, `masks` (n, 1, side, side).
        size: height and width of the resized image.
        original: height and width of the image.
    """

    values: dict[str, Tensor]
    size: tuple[int, int]
    original: tuple[int, int]


def detect(network: Any, images: Sequence[Tensor]) -> list[Found]:
    """What a `GeneralizedRCNN` in evaluation mode computes of images (3, H, W) before it pastes the masks."""
    if not images:
        return []
    batch, _ = network.transform(list(images))
    features = network.backbone(batch.tensors)
    if isinstance(features, Tensor):
        features = {"0": features}
    proposals, _ = network.rpn(batch, features)
    found, _ = network.roi_heads(features, proposals, batch.image_sizes)
    return [
        Found(values, size, (image.shape[-2], image.shape[-1]))
        for values, size, image in zip(found, batch.image_sizes, images, strict=True)
    ]


def pasted_results(network: Any, found: Found, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of an image as `coco_results` gives them."""
    results: list[dict[str, Any]] = []
    for part in chunks(len(found.values["scores"]), found.original):
        values = {name: value[part] for name, value in found.values.items()}
        pasted = network.transform.postprocess([values], [found.size], [found.original])
        results += coco_results(pasted, [image_id], category_ids)
    return results


def detector_results(
    network: nn.Module, images: Sequence[Tensor], image_ids: Sequence[int], category_ids: Sequence[int]
) -> tuple[list[dict[str, Any]], bool]:
    """The detections in a batch of images as `coco_results` gives them, and whether all of them have masks.

    Other networks than `GeneralizedRCNN` paste all masks of a batch themselves.
    """
    if not images:
        return [], True
    if not isinstance(network, GeneralizedRCNN):
        values: Sequence[Mapping[str, Tensor]] = network(list(images))
        return coco_results(values, image_ids, category_ids), all("masks" in one for one in values)
    found = detect(network, images)
    results = [
        result
        for one, image_id in zip(found, image_ids, strict=True)
        for result in pasted_results(network, one, image_id, category_ids)
    ]
    return results, all("masks" in one.values for one in found)


def chunks(count: int, size: tuple[int, int]) -> Iterator[slice]:
    """Slices of `count` masks of a size (height, width), each few enough to be in memory in floating point."""
    step = max(1, _PASTED_PIXELS // max(size[0] * size[1], 1))
    return (slice(start, start + step) for start in range(0, count, step))
