"""Generated detections and annotations in the numbers of COCO val2017, and a process that evaluates them."""

import json
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

HEIGHT, WIDTH, CATEGORIES, DETECTIONS = 480, 640, 80, 100


def ellipse(box: Sequence[float]) -> list[float]:
    """Return a polygon of 24 corners within a box (left, top, width, height)."""
    left, top, width, height = box
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    corners = [left + width / 2 * (1 + np.cos(angles)), top + height / 2 * (1 + np.sin(angles))]
    return np.stack(corners, axis=1).round(2).ravel().tolist()


def generate(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations of about 7.5 objects per image, and 100 detections per image near them."""
    from faster_coco_eval.core.mask import frPyObjects

    random = np.random.default_rng(7)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        count = int(random.integers(1, 15))
        size = random.uniform(8, 300, (count, 2))
        boxes = np.concatenate([random.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - size), size], axis=1).round(2)
        labels = random.integers(1, CATEGORIES + 1, count)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
            annotations.append(entry | {"area": box[2] * box[3] * np.pi / 4, "segmentation": [ellipse(box)]})
        near = boxes[np.arange(DETECTIONS) % count] + random.normal(0, 5, (DETECTIONS, 4))
        near = np.clip(near, [0, 0, 4, 4], [WIDTH - 8, HEIGHT - 8, 300, 300])
        masks = frPyObjects([ellipse(box) for box in near.tolist()], HEIGHT, WIDTH)
        others = random.integers(1, CATEGORIES + 1, DETECTIONS)
        for number, (box, mask, score) in enumerate(
            zip(near.tolist(), masks, random.uniform(size=DETECTIONS).tolist(), strict=True)
        ):
            label = int(labels[number] if number < count else others[number])
            runs = {"size": mask["size"], "counts": mask["counts"].decode()}
            result = {"image_id": image, "category_id": label, "bbox": box, "score": score, "segmentation": runs}
            results.append(result)
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"category {n}"} for n in range(1, CATEGORIES + 1)],
    }
    return content, results


def evaluate_alone(content: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """Return COCO's twelve metrics of boxes and of masks by faster-coco-eval alone."""
    from faster_coco_eval import COCO, COCOeval_faster

    numbers: list[float] = []
    for kind in ("bbox", "segm"):
        if kind == "segm":
            for result in results:
                del result["bbox"]  # so that it takes the areas of the masks
        truth = COCO(content)
        evaluation = COCOeval_faster(truth, truth.loadRes(results), kind, print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        numbers += evaluation.stats[:12].tolist()
    return numbers


def evaluate_by_gcnet(content: dict[str, Any], results: list[dict[str, Any]]) -> list[float | None]:
    """Return COCO's twelve metrics of boxes and of masks by gcnet."""
    from gcnet.tasks.detection.metrics import score_detections

    scored = score_detections(content, results, [image["id"] for image in content["images"]])
    return [value for kind in scored.kinds().values() for value in kind.numbers.values()]


if __name__ == "__main__":
    import faster_coco_eval  # noqa: F401

    import gcnet.tasks.detection.metrics  # noqa: F401

    content, results = generate(int(sys.argv[2]))
    start = time.process_time()
    numbers = {"alone": evaluate_alone, "gcnet": evaluate_by_gcnet}[sys.argv[1]](content, results)
    seconds = time.process_time() - start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"numbers": numbers, "seconds": seconds, "megabytes": megabytes}))
