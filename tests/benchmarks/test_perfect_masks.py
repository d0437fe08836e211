"""Masks as coarse as a mask head's: what fits the grid comes back whole, the rest the better the finer the grid is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.perfect_masks import perfect_results
from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.masks import compressed_runs, runs_mask
from gcnet.data.coco.open import open_coco
from gcnet.data.settings import DataSettings
from gcnet.tasks.detection import inference as inference
from gcnet.tasks.detection.coco_metrics import evaluate_detections
from tasks.shaken import as_results

Content = dict[str, Any]

HEIGHT, WIDTH = 101, 131


def images_of(*masks: np.ndarray) -> CocoImages:
    annotations = []
    for number, mask in enumerate(masks, start=1):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotations.append(
            {
                "id": number,
                "image_id": 7,
                "category_id": 30 + number,
                "bbox": [int(value) for value in box],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": compressed_runs(mask),
            }
        )
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": one["category_id"], "name": f"class {one['id']}"} for one in annotations],
        "annotations": annotations,
    }
    return CocoImages(content, lambda _: Image.new("RGB", (WIDTH, HEIGHT)))


def mask_of(result: Content) -> np.ndarray:
    return runs_mask(result["segmentation"]["counts"], HEIGHT, WIDTH)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def test_rectangles_of_a_few_pixels_per_cell_are_reconstructed_exactly() -> None:
    masks = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    masks[0, 3:70, 5:72] = True
    masks[1, 90:93, 100:131] = True
    masks[2, 50, 60] = True
    results = perfect_results(images_of(*masks))
    assert [one["category_id"] for one in results] == [31, 32, 33]
    assert [one["image_id"] for one in results] == [7, 7, 7]
    assert results[0]["bbox"] == [5, 3, 67, 67]
    for result, mask in zip(results, masks, strict=True):
        assert np.array_equal(mask_of(result), mask)


def test_masks_handled_one_at_a_time_give_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = np.random.default_rng(0).random((4, HEIGHT, WIDTH)) < 0.5
    whole = perfect_results(images_of(*masks), 7)
    monkeypatch.setattr(inference, "_PASTED_PIXELS", 1)
    assert perfect_results(images_of(*masks), 7) == whole


def test_large_rectangles_lose_at_most_half_a_cell_at_each_corner() -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:94, 5:124] = True
    corners = mask.copy()
    corners[3 + 91 // 14 : 94 - 91 // 14] = False
    corners[:, 5 + 119 // 14 : 124 - 119 // 14] = False
    lost = mask_of(perfect_results(images_of(mask), 7)[0]) != mask  # a cell is 13 x 17 pixels
    assert lost.any()
    assert not (lost & ~corners).any()


def test_a_disc_is_reconstructed_better_on_a_finer_grid() -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    disc = (rows - 50) ** 2 + (columns - 60) ** 2 <= 40**2
    overlaps = [overlap(mask_of(perfect_results(images_of(disc), side)[0]), disc) for side in (7, 14, 28, 81)]
    assert overlaps == sorted(overlaps)
    assert overlaps[0] < 0.95
    assert overlaps[2] > 0.97
    assert overlaps[3] == 1.0, "a cell a pixel"


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=["train", "val"])
def test_on_genuine_images_28_cells_a_side_cost_some_points(data_root: Path, part: int) -> None:
    images = open_coco(DataSettings(str(data_root / "coco-mini")))[part].images
    results = perfect_results(images)
    assert len(results) == len(as_results(images.content))
    masks = evaluate_detections(images.content, results, kind="segm").numbers
    boxes = evaluate_detections(images.content, results, kind="bbox").numbers
    print(f"mask AP of the oracle at 28 x 28: {masks['AP']:.4f}, of its boxes {boxes['AP']:.4f}")
    assert boxes["AP"] == pytest.approx(1.0)
    assert 0.93 < masks["AP"] < 0.98
    assert masks["AP50"] > 0.999
