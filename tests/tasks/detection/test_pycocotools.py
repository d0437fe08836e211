"""On random valid annotations of every form, our masks and our numbers are those of pycocotools."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.inspection import inspect
from gcnet.data.coco.masks import segmentation_mask
from gcnet.tasks.detection.coco_metrics import NUMBERS, evaluate_detections
from tasks.random_coco import Content, as_pycocotools, pycocotools_numbers, random_file

REPAIRS = {"invalid area"}  # areas may be missing


def differences(seed: int) -> list[str]:
    """Where we differ from pycocotools on a random file."""
    content, results = random_file(seed)
    truth = as_pycocotools(content)
    inspection = inspect(content)
    found = [str(issue) for issue in inspection.issues if issue.kind not in REPAIRS]
    clean = inspection.clean
    found += [str(one) for one in _different_masks(clean, truth)]
    for kind in ("bbox", "segm"):
        if not results or (kind == "segm" and not all(one["segmentation"] for one in clean["annotations"])):
            continue
        reference = pycocotools_numbers(truth, results, kind)
        ours = evaluate_detections(clean, results, kind=kind).numbers
        for name, value in zip(NUMBERS, reference, strict=True):
            expected = None if value < 0 else value
            if ours[name] != pytest.approx(expected, abs=1e-12):
                found.append(f"{kind} {name}: {ours[name]} for {expected}")
    return [f"file {seed}: {one}" for one in found]


def _different_masks(clean: Content, truth: Any) -> list[str]:
    """Annotations whose mask, in evaluation or in training, is not pycocotools' to the bit."""
    found = []
    images = CocoImages(clean, lambda _: Image.new("RGB", (1, 1)))
    for index, image in enumerate(clean["images"]):
        training = {
            one["id"]: mask for one, mask in zip(images.annotations(index), images.objects(index).masks, strict=True)
        }
        for one in (one for one in clean["annotations"] if one["image_id"] == image["id"]):
            expected = np.zeros((image["height"], image["width"]), dtype=bool)
            if one["segmentation"]:
                expected = truth.annToMask(truth.anns[one["id"]]).astype(bool)
                mask = segmentation_mask(one["segmentation"], image["height"], image["width"])
                if not np.array_equal(mask, expected):
                    found.append(f"mask of annotation {one['id']} in evaluation")
            if one["id"] in training and not np.array_equal(training[one["id"]].bool().numpy(), expected):
                found.append(f"mask of annotation {one['id']} in training")
    return found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("start", range(0, 60, 20))
def test_masks_and_numbers_are_pycocotools_on_random_files(start: int) -> None:
    assert [one for seed in range(start, start + 20) for one in differences(seed)] == []


@pytest.mark.scale
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_masks_and_numbers_are_pycocotools_on_a_thousand_random_files(start: int) -> None:
    assert [one for seed in range(start, start + 100) for one in differences(seed)] == []
