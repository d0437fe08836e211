"""The evaluation of a converted detector gives the twelve numbers of mmdet's evaluation of its own detector."""

import json
from pathlib import Path
from typing import Any

import pytest

from gcnet import convert_checkpoint
from gcnet.data.coco.annotated_images import CocoImages, FolderReader
from gcnet.data.coco.loading import DetectionDataset, build_detection_loader
from gcnet.data.sampler import EvaluationSampler
from gcnet.tasks.detection.metrics import evaluate_detector
from oracle.original_code import OriginalCode

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

CONFIG, SIZE = "mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco", (333, 200)
IMAGES = (139, 802, 6818)  # in 5001, with these weights, rounding decides which proposals are suppressed


def objects_from(detections: list[dict[str, Any]], category_ids: list[int]) -> list[dict[str, Any]]:
    """Annotations like some of the detections, with boxes moved to the right and masks kept."""
    result: list[dict[str, Any]] = []
    for image in detections:
        for place, (box, label, mask) in enumerate(zip(image["bboxes"], image["labels"], image["masks"], strict=True)):
            left, top, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            if place % 3 or min(width, height) < 4:
                continue
            moved = left + width * 0.04 * (place % 5)
            result.append({"id": len(result) + 1, "image_id": image["image_id"], "category_id": category_ids[label]})
            result[-1] |= {"bbox": [moved, top, width, height], "area": width * height}
            result[-1] |= {"segmentation": mask, "iscrowd": 0}
    return result


@pytest.mark.parametrize("annotated", ["objects of COCO", "objects like detections"])
def test_evaluation_gives_the_numbers_of_mmdet(
    annotated: str, original_code: OriginalCode, data_root: Path, tmp_path: Path
) -> None:
    folder = data_root / "coco-mini"
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] in IMAGES]
    images = {image["id"]: folder / "val2017" / image["file_name"] for image in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in images]
    options = {"config": CONFIG, "seed": 1, "size": SIZE}
    files = {identity: str(path) for identity, path in images.items()}
    original_code("detector_evaluation.detect", path=tmp_path / "detections.json", images=files, **options)
    if annotated != "objects of COCO":
        detections = json.loads((tmp_path / "detections.json").read_text())
        content["annotations"] = objects_from(detections, [entry["id"] for entry in content["categories"]])
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    expected = original_code("detector_evaluation.evaluate", annotations=tmp_path / "annotations.json")

    image = next(iter(files.values()))
    original_code("detectors.checkpoint", path=tmp_path / "checkpoint.pth", image=image, **options)
    model: Any = convert_checkpoint(tmp_path / "checkpoint.pth")
    model.transform.max_size, model.transform.min_size = SIZE[0], (SIZE[1],)
    part = CocoImages(content, FolderReader(folder / "val2017", content["images"]))
    order = EvaluationSampler(len(part), batch_size=1)
    loader: Any = build_detection_loader(DetectionDataset(part, with_objects=False), order)
    result = evaluate_detector(model, loader, lambda: part.content, part.category_ids)
    for kind, numbers in (("bbox", result.boxes.numbers), ("segm", result.masks.numbers)):
        ours = {name: -1.0 if value is None else value for name, value in numbers.items()}
        print(kind, ours, expected[kind])
        assert ours == pytest.approx(expected[kind], abs=5.01e-4)  # mmdet rounds to three places
    if annotated != "objects of COCO":
        assert expected["bbox"]["AP"] > 0.05 and expected["segm"]["AP"] > 0.05
