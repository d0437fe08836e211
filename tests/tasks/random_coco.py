"""Random valid COCO annotations of every form, with detections, and what pycocotools makes of them."""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Content = dict[str, Any]


def random_file(seed: int) -> tuple[Content, list[Content]]:
    """A valid annotation file, and detections with boxes and masks."""
    generator = np.random.default_rng(seed)
    categories = [{"id": int(number), "name": f"class {number}"} for number in generator.permutation(9)[:3] + 1]
    images = [
        {
            "id": int(identity),
            "file_name": f"{identity}.png",
            "height": int(generator.integers(1, 130)),
            "width": int(generator.integers(1, 130)),
        }
        for identity in generator.permutation(99)[: generator.integers(1, 5)] + 1
    ]
    boxes_only = generator.random() < 0.15
    annotations: list[Content] = []
    for image in images:
        for _ in range(_count(generator)):
            annotation = _annotation(generator, image, categories, boxes_only)
            annotations.append({"id": len(annotations) + 1, **annotation})
    # Ids in no order, and none twice.
    for annotation, identity in zip(annotations, generator.permutation(len(annotations)) + 7, strict=True):
        annotation["id"] = int(identity)
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, _detections(generator, content)


def _count(generator: np.random.Generator) -> int:
    """Objects of an image: often none, or a few, sometimes many."""
    return int(generator.choice([0, 1, 2, 5, 40], p=[0.15, 0.25, 0.3, 0.25, 0.05]))


def _annotation(generator: np.random.Generator, image: Content, categories: list[Content], boxes_only: bool) -> Content:
    segmentation, box = _shape(generator, image)
    annotation: Content = {
        "image_id": image["id"],
        "category_id": categories[generator.integers(len(categories))]["id"],
        "bbox": [float(value) for value in box],
        "iscrowd": int(generator.random() < 0.15),
        "segmentation": segmentation,
        # Makes annotations of the same shape differ.
        "number": int(generator.integers(2**40)),
    }
    if generator.random() < 0.3:
        left, top, right, bottom = np.floor(box[0]), np.floor(box[1]), box[0] + box[2], box[1] + box[3]
        annotation["bbox"] = [int(left), int(top), int(np.ceil(right) - left), int(np.ceil(bottom) - top)]
    if generator.random() < 0.7:
        annotation["area"] = float(np.round(box[2] * box[3] * generator.uniform(0.3, 1.0), 3)) or 0.5
    if boxes_only and generator.random() < 0.7:
        annotation["segmentation"] = [[], None, {}][generator.integers(3)]
    return annotation


def _shape(generator: np.random.Generator, image: Content) -> tuple[Any, list[float]]:
    """A segmentation of any form, and a box around it, which may end beyond the image."""
    height, width = image["height"], image["width"]
    form = generator.choice(["inside", "edge", "around", "parts", "tiny", "degenerate", "runs", "text"])
    if form in ("runs", "text"):
        return _runs(generator, height, width, as_text=form == "text")
    size = np.array([width, height])
    points = generator.integers(3, 12)
    if form == "inside":
        parts = [generator.uniform(0, 1, (points, 2)) * size]
    elif form == "edge":
        parts = [generator.uniform(-0.6, 1.3, (points, 2)) * size]
        parts[0][0] = size * generator.uniform(0, 1, 2)
    elif form == "around":
        parts = [(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * 1.5 - 0.25) * size]
    elif form == "parts":
        parts = [
            generator.uniform(-0.1, 1.1, (generator.integers(3, 6), 2)) * size for _ in range(generator.integers(2, 5))
        ]
    elif form == "tiny":
        parts = [generator.uniform(0, 1, 2) * size + generator.uniform(0, 0.9, (3, 2))]
    else:  # a line, or one point several times
        ends = generator.uniform(0, 1, (2, 2)) * size
        parts = [ends[generator.integers(0, 2, points)] if generator.random() < 0.5 else np.repeat(ends[:1], 3, axis=0)]
    if generator.random() < 0.4:
        parts = [np.round(part) for part in parts]
    every = np.concatenate(parts)
    start = every.min(axis=0)
    sides = np.maximum(every.max(axis=0) - start, 0.5)
    return [part.ravel().tolist() for part in parts], [*start.tolist(), *sides.tolist()]


def _runs(generator: np.random.Generator, height: int, width: int, *, as_text: bool) -> tuple[Any, list[float]]:
    from pycocotools import mask as coco

    kind = generator.random()
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    if kind < 0.6:
        top, left = generator.integers(0, height), generator.integers(0, width)
        mask[top : top + generator.integers(1, 70), left : left + generator.integers(1, 70)] = 1
    elif kind < 0.8:
        mask[:] = generator.random((height, width)) < 0.5
    elif kind < 0.95:
        mask[:] = 1
    encoded = coco.encode(mask)
    rows, columns = np.nonzero(mask)
    box = (
        [float(columns.min()), float(rows.min()), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]
        if len(rows)
        else [0.0, 0.0, 1.0, 1.0]
    )
    if as_text:
        return {"size": [height, width], "counts": encoded["counts"].decode()}, box
    changes = np.flatnonzero(np.diff(mask.ravel(order="F"))) + 1
    lengths = np.diff(np.concatenate([[0], changes, [height * width]])).tolist()
    return {"size": [height, width], "counts": lengths if not mask[0, 0] else [0, *lengths]}, box


def _detections(generator: np.random.Generator, content: Content) -> list[Content]:
    """Detections near the objects, of other classes now and then, and of nothing; scores with ties."""
    from pycocotools import mask as coco

    truth = as_pycocotools(content)
    results = []
    for image in content["images"]:
        height, width = image["height"], image["width"]
        near = [one for one in truth.dataset["annotations"] if one["image_id"] == image["id"]]
        for number in range(int(generator.choice([0, len(near), 2 * len(near), 130], p=[0.1, 0.5, 0.35, 0.05]))):
            mask = np.zeros((height, width), dtype=np.uint8)
            category = content["categories"][generator.integers(3)]["id"]
            box = generator.uniform(0, 1, 4) * [width, height, width, height]
            if near and generator.random() < 0.8:
                one = near[number % len(near)]
                category = one["category_id"] if generator.random() < 0.8 else category
                box = np.array(one["bbox"]) + generator.normal(0, 2, 4) * (generator.random() < 0.7)
                mask = truth.annToMask(one) if one["segmentation"] else mask
                mask = np.roll(mask, int(generator.integers(-2, 3)), axis=int(generator.integers(2)))
            else:
                mask[int(box[1]) : int(box[1] + box[3]), int(box[0]) : int(box[0] + box[2])] = 1
            encoded = coco.encode(np.asfortranarray(mask))
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [float(box[0]), float(box[1]), float(max(box[2], 0)), float(max(box[3], 0))],
                    "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
                    "score": round(float(generator.random()), 1 + int(generator.integers(3))),
                }
            )
    return results


def as_pycocotools(content: Content) -> Any:
    """The file as pycocotools' COCO; only areas that are missing are filled in."""
    from pycocotools import mask as coco
    from pycocotools.coco import COCO

    with _quiet():
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        for one in truth.dataset["annotations"]:
            if "area" not in one:
                one["area"] = (
                    float(coco.area(truth.annToRLE(one))) if one["segmentation"] else one["bbox"][2] * one["bbox"][3]
                )
    return truth


def pycocotools_numbers(truth: Any, results: list[Content], kind: str) -> list[float]:
    """COCOeval's twelve numbers, -1 where there is nothing to find."""
    from pycocotools.cocoeval import COCOeval

    results = copy.deepcopy(results)
    if kind == "segm":  # or COCO would take areas from the boxes
        for result in results:
            del result["bbox"]
    with _quiet():
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


@contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
