"""The error gallery shows the images with most errors, self-contained."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages, FolderReader
from gcnet.data.coco.open import SceneReader
from gcnet.data.scenes import Scenes
from gcnet.tasks.detection.error_gallery import CAPTION, _summary, write_error_gallery
from gcnet.tasks.detection.matching import match_images
from tasks.shaken import as_results, shaken

Content = dict[str, Any]
ALL = range(1, 12)


@pytest.fixture(scope="module")
def scenes() -> CocoImages:
    generated = Scenes(11)
    return CocoImages(generated.coco_annotations(), SceneReader(generated))


def headings(page: str) -> list[tuple[str, str]]:
    return re.findall(r"<h3>(.*?)<span class=\"counts\">(.*?)</span></h3>", page)


def test_the_gallery_is_sorted_by_f1_and_self_contained(scenes: CocoImages, tmp_path: Path) -> None:
    perfect = [one for one in as_results(scenes.content) if one["image_id"] != 4]
    third = [one for one in perfect if one["image_id"] == 7][:2]
    results = [one for one in perfect if one["image_id"] != 7] + third
    matches = match_images(scenes.content, results, ALL)
    assert write_error_gallery(scenes, matches, tmp_path, about=("scenes", "a <model>")) == (
        "error_gallery.png",
        "error_gallery.html",
    )
    page = (tmp_path / "error_gallery.html").read_text()
    assert headings(page) == [
        ("000003.png", "F1 0.0: 0 TP, 6 FN, 0 FP"),
        ("000006.png", "F1 50.0: 2 TP, 4 FN, 0 FP"),
    ]
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert not re.search(r"<script|https?://|src=\"(?!data:)|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "scenes, a &lt;model&gt;: all 2 images with errors" in page
    assert "2 of 11 images have errors; 56 of 66 objects detected, 10 false negatives, 0 false positives" in page
    assert CAPTION in page
    with Image.open(tmp_path / "error_gallery.png") as picture:
        assert picture.width > 1000


def test_without_errors_nothing_is_written(scenes: CocoImages, tmp_path: Path) -> None:
    matches = match_images(scenes.content, as_results(scenes.content), ALL)
    assert write_error_gallery(scenes, matches, tmp_path, about=()) == ()
    assert list(tmp_path.iterdir()) == []


def test_names_are_escaped_and_unreadable_images_are_skipped(tmp_path: Path) -> None:
    content = Scenes(3).coco_annotations()
    for image in content["images"]:
        image["file_name"] = f"<b>{image['id']}\n$x_1$</b>.png"
    (tmp_path / "<b>2\n$x_1$<").mkdir()
    Scenes(3).read(1).save(tmp_path / content["images"][1]["file_name"])
    images = CocoImages(content, FolderReader(tmp_path, content["images"]))
    write_error_gallery(images, match_images(content, [], [1, 2, 3]), tmp_path, about=())
    assert headings((tmp_path / "error_gallery.html").read_text()) == [
        (r"&lt;b&gt;2\n$x_1$&lt;/b&gt;.png", "F1 0.0: 0 TP, 6 FN, 0 FP")
    ]


def test_the_number_of_images_on_the_page_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcnet.tasks.detection.error_gallery.SHOWN_ON_PAGE", 3)
    generated = Scenes(5)
    many = CocoImages(generated.coco_annotations(), SceneReader(generated))
    matches = match_images(many.content, shaken(many.content), range(1, 6))
    assert all(match.false_negatives for match in matches)
    write_error_gallery(many, matches, tmp_path, about=())
    assert len(headings((tmp_path / "error_gallery.html").read_text())) == 3
    assert _summary(matches).startswith("5 of 5 images have errors")
