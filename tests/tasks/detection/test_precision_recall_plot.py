"""Curves of precision over recall show what was judged, for any number of classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from gcnet.data.scenes import Scenes
from gcnet.tasks.detection.metrics import score_detections
from gcnet.tasks.detection.precision_recall_plot import plot_precision_recall
from gcnet.visualization.style import BLUE, GREEN, VERMILION
from tasks.shaken import as_results, shaken

Content = dict[str, Any]


def rows_of(path: Path, color: str) -> np.ndarray:
    """The rows of the picture's left panel in which a color occurs, as shares of the height."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))[:, : picture.width // 4]
    near = np.abs(pixels - 255.0 * np.array(to_rgb(color))).max(axis=2) < 2
    return np.flatnonzero(near.any(axis=1)) / len(pixels)


def drawn(content: Content, results: list[Content], path: Path) -> Path:
    result = score_detections(content, results, [image["id"] for image in content["images"]])
    plot_precision_recall(result.boxes, result.masks, path)
    return path


def test_a_perfect_detector_stays_at_the_top_and_one_that_finds_nothing_at_the_bottom(tmp_path: Path) -> None:
    content = Scenes(5).coco_annotations()
    best = rows_of(drawn(content, as_results(content), tmp_path / "best.png"), GREEN)
    worst = rows_of(drawn(content, [], tmp_path / "worst.png"), GREEN)
    assert len(best)
    assert best.max() < 0.1
    assert worst.min() > 0.8
    between = drawn(content, shaken(content), tmp_path / "between.png")
    assert np.ptp(rows_of(between, BLUE)) > 0.5


@pytest.mark.parametrize("classes", [1, 10, 11])
def test_any_number_of_classes_is_drawn(tmp_path: Path, classes: int) -> None:
    content = Scenes(7).coco_annotations()
    content["categories"] = [{"id": number, "name": f"$x_{number}$"} for number in range(1, classes + 1)]
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = number % max(classes - 1, 1) + 1  # the last one has no object
    path = drawn(content, shaken(content), tmp_path / "curves.png")
    assert len(rows_of(path, VERMILION))


def test_without_an_object_there_is_no_line(tmp_path: Path) -> None:
    path = drawn({**Scenes(3).coco_annotations(), "annotations": []}, [], tmp_path / "curves.png")
    assert not len(rows_of(path, BLUE))
