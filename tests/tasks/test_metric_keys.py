"""Keys of fractions in files end in `_fraction`, and old keys are read under the new ones."""

import numpy as np
import pytest

from gcnet.renamed import METRIC_KEYS, upgraded_metrics
from gcnet.tasks.classification.metrics import ClassificationResult
from gcnet.tasks.detection.coco_metrics import NUMBERS, DetectionResult
from gcnet.tasks.detection.metrics import DetectorResult
from gcnet.tasks.registry import TASKS


def test_scores_of_all_tasks_are_fractions() -> None:
    columns = [score.column for task in TASKS.values() for score in task.all_scores]
    assert len(columns) >= 3
    assert all(column.endswith("_fraction") for column in columns)


def test_numbers_of_a_classifier_have_suffixes_also_by_class() -> None:
    result = ClassificationResult(
        3, (), 2 / 3, (0.2, 0.9), 1.0, 0.7, (0.5, 1.0, None), ((0, 0, 1), (0, 1, 1), (1, 1, 1))
    )
    written = result.to_dict(["cat", "dog", "owl"])
    assert written["per_class"] == {
        "cat": {"images": 2, "correct": 1, "top1_fraction": 0.5},
        "dog": {"images": 1, "correct": 1, "top1_fraction": 1.0},
        "owl": {"images": 0, "correct": 0, "top1_fraction": None},
    }
    floats = {name for name, value in written.items() if isinstance(value, float)}
    assert {name for name in floats if not name.endswith("_fraction")} == {"loss"}


def test_numbers_of_a_detector_have_suffixes_also_by_class() -> None:
    numbers = {name: 0.25 for name in NUMBERS}
    boxes, masks = (
        DetectionResult(kind, numbers, {"cat": 0.5}, 3, np.zeros((10, 101, 1))) for kind in ("bbox", "segm")
    )
    written = DetectorResult(boxes, masks, (1, 2, 3), {"cat": 4}, (), []).to_dict()
    assert {f"{kind}_{name}_fraction" for kind in ("bbox", "segm") for name in NUMBERS} <= written.keys()
    assert all(name.endswith("_fraction") for name, value in written.items() if isinstance(value, float))
    assert written["per_class"] == {"cat": {"objects": 4, "bbox_AP_fraction": 0.5, "segm_AP_fraction": 0.5}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"mask_ap": 0.1, "box_ap50": 0.2}, {"segm_AP_fraction": 0.1, "bbox_AP50_fraction": 0.2}),
        ({"segm_AP": 0.1, "bbox_AP50": 0.2}, {"segm_AP_fraction": 0.1, "bbox_AP50_fraction": 0.2}),
        ({"top1": 0.3, "val_loss": 2.0}, {"top1_fraction": 0.3, "val_loss": 2.0}),
    ],
    ids=["version 1", "version 2", "classifier"],
)
def test_rows_with_old_keys_are_read_under_the_new_ones(old: dict[str, float], new: dict[str, float]) -> None:
    assert upgraded_metrics(old) == new
    assert upgraded_metrics(new) == new


def test_no_new_key_is_an_old_one_of_another() -> None:
    assert not METRIC_KEYS.keys() & set(METRIC_KEYS.values())
