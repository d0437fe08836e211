"""What of a comparison depends on whether its networks classify or detect: size, words and pictures."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from gcnet.comparison.results import Picture
from gcnet.data.decode import ImageError
from gcnet.data.images.source import ImageSource
from gcnet.tasks.classification.task import ClassificationTask
from gcnet.tasks.detection.task import DetectionTask, build_detector
from gcnet.visualization.annotations import draw_annotations

_PICTURES, _SIDE = 12, 160
_LISTED = 3  # classes named under a picture


def input_size(task: ClassificationTask | DetectionTask) -> tuple[int, int]:
    """Height and width in pixels of what the network sees; of a detector the short and the long side."""
    if isinstance(task, ClassificationTask):
        size = task.splits.preprocessing.image_size
        return size, size
    network = replace(task.settings.network, weights=None)
    detector = replace(task.settings.detector, backbone_weights=None)
    with torch.device("meta"):  # without numbers: only its transform is looked at
        built = build_detector(replace(task.settings, network=network, detector=detector), len(task.classes))
    transform: Any = built.transform
    return transform.min_size[-1], transform.max_size


def sample_pictures(task: ClassificationTask | DetectionTask) -> tuple[Picture, ...]:
    """Some validation images as small PNGs, with boxes and masks if there are any; unreadable ones are passed over."""
    if isinstance(task, ClassificationTask):
        return _pictures(len(task.splits.val), partial(_classified, task.splits.val))
    return _pictures(len(task.val), partial(_annotated, task))


def _pictures(count: int, read: Callable[[int], tuple[Image.Image, str]]) -> tuple[Picture, ...]:
    found: list[Picture] = []
    for turn in range(min(_PICTURES, count)):
        try:
            image, label = read(turn * count // min(_PICTURES, count))
        except ImageError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        stream = io.BytesIO()
        image.save(stream, format="png")
        found.append(Picture(label, base64.b64encode(stream.getvalue()).decode()))
    return tuple(found)


def _classified(source: ImageSource, index: int) -> tuple[Image.Image, str]:
    return source.read(index), source.classes[source.label(index)]


def _annotated(task: DetectionTask, index: int) -> tuple[Image.Image, str]:
    names = dict(zip(task.val.category_ids, task.val.classes, strict=True))
    annotations = task.val.annotations(index)
    return draw_annotations(task.val.read(index), annotations), _listed(names[a["category_id"]] for a in annotations)


def _listed(names: Iterable[str]) -> str:
    counts = Counter(names)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(_LISTED)) or "nothing"
