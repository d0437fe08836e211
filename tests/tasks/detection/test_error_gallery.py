"""The page of the worst images: which they are, what is marked in them, and that it needs nothing else."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages, FolderReader
from gcnet.data.coco.masks import compressed_runs
from gcnet.data.coco.open import SceneReader
from gcnet.data.scenes import Scenes
from gcnet.tasks.detection.error_gallery import CAPTION, SHOWN_ON_PAGE, Mark, draw_marks, fit, summary, write_worst
from gcnet.tasks.detection.matching import match_images
from tasks.shaken import as_results, shaken

Content = dict[str, Any]
ALL = range(1, 12)


@pytest.fixture(scope="module")
def scenes() -> CocoImages:
    generated = Scenes(11)
    return CocoImages(generated.coco_annotations(), SceneReader(generated))


def headings(page: str) -> list[tuple[str, str]]:
    return re.findall(r"<h2>(.*?)<span class=\"counts\">(.*?)</span></h2>", page)


def test_the_worst_images_are_shown_with_their_counts_and_nothing_from_elsewhere(
    scenes: CocoImages, tmp_path: Path
) -> None:
    perfect = [one for one in as_results(scenes.content) if one["image_id"] != 4]
    third = [one for one in perfect if one["image_id"] == 7][:2]
    results = [one for one in perfect if one["image_id"] != 7] + third
    outcomes = match_images(scenes.content, results, ALL)
    assert write_worst(scenes, outcomes, tmp_path, about="a <model> on scenes") == ("worst.png", "worst.html")
    page = (tmp_path / "worst.html").read_text()
    assert headings(page) == [
        ("000003.png", "F1 0.00: 0 found, 6 missed, 0 false"),
        ("000006.png", "F1 0.50: 2 found, 4 missed, 0 false"),
    ]
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert not re.search(r"<script|https?://|src=\"(?!data:)|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "a &lt;model&gt; on scenes" in page
    assert "2 of 11 images have an error; in all 56 of 66 objects were found, 10 missed, and 0 detections" in page
    assert CAPTION in page
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.width > 1000


def test_without_an_error_there_is_nothing_to_show(scenes: CocoImages, tmp_path: Path) -> None:
    outcomes = match_images(scenes.content, as_results(scenes.content), ALL)
    assert write_worst(scenes, outcomes, tmp_path, about="") == ()
    assert list(tmp_path.iterdir()) == []


def test_names_are_text_and_images_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    content = Scenes(3).coco_annotations()
    for image in content["images"]:
        image["file_name"] = f"<b>{image['id']}\n$x_1$</b>.png"
    (tmp_path / "<b>2\n$x_1$<").mkdir()
    Scenes(3).read(1).save(tmp_path / content["images"][1]["file_name"])
    images = CocoImages(content, FolderReader(tmp_path, content["images"]))
    write_worst(images, match_images(content, [], [1, 2, 3]), tmp_path, about="")
    assert headings((tmp_path / "worst.html").read_text()) == [
        (r"&lt;b&gt;2\n$x_1$&lt;/b&gt;.png", "F1 0.00: 0 found, 6 missed, 0 false")
    ]


def test_no_more_images_are_shown_than_a_page_holds(tmp_path: Path) -> None:
    generated = Scenes(SHOWN_ON_PAGE + 5)
    many = CocoImages(generated.coco_annotations(), SceneReader(generated))
    outcomes = match_images(many.content, shaken(many.content), range(1, SHOWN_ON_PAGE + 6))
    assert all(outcome.missed for outcome in outcomes)
    write_worst(many, outcomes, tmp_path, about="")
    assert len(headings((tmp_path / "worst.html").read_text())) == SHOWN_ON_PAGE
    assert summary(outcomes).startswith(f"{SHOWN_ON_PAGE + 5} of {SHOWN_ON_PAGE + 5} images have an error")


def mark(kind: Any, rows: slice, columns: slice, *, text: str = "") -> Mark:
    mask = np.zeros((20, 30), dtype=bool)
    mask[rows, columns] = True
    box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
    return Mark({"bbox": box, "segmentation": compressed_runs(mask)}, kind, text)


def test_masks_are_tinted_where_they_are_in_an_image_of_any_size() -> None:
    for scale in (1, 4):
        image = Image.new("RGB", (30 * scale, 20 * scale))
        drawn = np.asarray(draw_marks(image, [mark("wrong", slice(4, 12), slice(6, 16))], (20, 30)))
        expected = np.zeros((20, 30), dtype=bool)
        expected[4:12, 6:16] = True
        expected = expected.repeat(scale, axis=0).repeat(scale, axis=1)
        touched = drawn.any(axis=2)
        touched[: 4 * scale] = touched[12 * scale :] = False  # an empty text's patch
        expected[: 4 * scale] = False
        assert np.array_equal(touched, expected)


def test_right_wrong_and_crowds_have_colours_of_their_own_and_what_is_wrong_lies_on_top() -> None:
    kinds = ("wrong", "right", "crowd")
    marks = [mark(kind, slice(2, 18), slice(2, 28)) for kind in kinds]
    alone = [np.asarray(draw_marks(Image.new("RGB", (30, 20)), [one], (20, 30)))[17, 15] for one in marks]
    assert len({tuple(colour) for colour in alone}) == 3
    together = np.asarray(draw_marks(Image.new("RGB", (30, 20)), marks, (20, 30)))
    assert tuple(together[17, 15]) == tuple(alone[0]), "the frame of what is wrong"


def test_texts_do_not_cover_each_other() -> None:
    image = Image.new("RGB", (300, 200))
    one, other = mark("wrong", slice(8, 12), slice(6, 16), text="first"), mark("right", slice(8, 12), slice(6, 16))
    other = Mark(other.entry, "right", "second")
    both = np.asarray(draw_marks(image, [one, other], (20, 30))).astype(int)
    single = np.asarray(draw_marks(image, [one], (20, 30))).astype(int)
    assert np.array_equal(both[66:80, 60:90], single[66:80, 60:90]), "the patch above the box stays the first's"
    assert not np.array_equal(both, single)


@pytest.mark.parametrize(
    ("size", "fitted"), [((64, 64), (384, 384)), ((640, 480), (440, 330)), ((3, 900), (1, 440)), ((440, 1), (440, 1))]
)
def test_images_are_shrunk_or_enlarged_by_whole_factors(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit(Image.new("RGB", size), 440).size == fitted
