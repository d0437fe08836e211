"""Pictures of annotations show each box and mask at its place."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcnet.data.coco.inspection import read_annotations
from gcnet.data.scenes import Scenes
from gcnet.visualization.annotations import draw_annotated_sheet, draw_annotations, plot_label_statistics

ANNOTATION = {"category_id": 1, "bbox": [5, 3, 7, 11], "segmentation": [[6, 4, 10, 4, 10, 12, 6, 12]]}


def test_a_mask_is_tinted_and_a_box_framed() -> None:
    drawn = np.asarray(draw_annotations(Image.new("RGB", (23, 19)), [ANNOTATION]))
    touched = drawn.any(axis=2)
    frame = np.zeros((19, 23), dtype=bool)
    frame[3:14, 5:12] = True
    assert touched[4:12, 6:10].all()
    assert not touched[~frame].any()
    assert (drawn[3, 5] == drawn[13, 11]).all(), "opposite corners of the frame"
    assert not touched[12:13, 6:11].any(), "inside the box, outside the mask"


def test_a_box_without_a_mask_and_of_less_than_a_pixel_is_drawn() -> None:
    drawn = draw_annotations(Image.new("RGB", (7, 5)), [{"category_id": 3, "bbox": [2.2, 1.4, 0.3, 0.2]}])
    assert np.asarray(drawn).any(axis=2).sum() >= 1


def test_the_sheet_passes_over_images_that_are_not_there(tmp_path: Path) -> None:
    Scenes(3).write_coco(tmp_path, tmp_path / "annotations.json")
    content = read_annotations(tmp_path / "annotations.json")
    (tmp_path / content["images"][1]["file_name"]).unlink()
    assert draw_annotated_sheet(content, tmp_path, tmp_path / "sheet.png") == 2
    assert draw_annotated_sheet(content, tmp_path, tmp_path / "one.png", count=1) == 1
    assert draw_annotated_sheet(content, tmp_path / "nowhere", tmp_path / "none.png") == 0
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("count", [0, 1, 40])
def test_statistics_of_any_number_of_objects_are_drawn(tmp_path: Path, count: int) -> None:
    content = Scenes(7).coco_annotations()
    content["annotations"] = content["annotations"][:count]
    content["categories"][0]["name"] = "$x_1$"
    plot_label_statistics(content, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.width > picture.height > 500
