"""Planted faults are found, each with its image and annotation, and mended; clean data has none."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gcnet.data.coco.faults import KINDS, Fault
from gcnet.data.coco.inspection import inspect, read_annotations
from gcnet.data.scenes import Scenes
from gcnet.errors import UserError

Content = dict[str, Any]
SIZE, BOX = 64, [11, 13, 17, 19]  # image 3 gets one more annotation, of polygons
POLYGON = [11, 13, 28, 13, 28, 32, 11, 32]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, Path]:
    """Five generated images with their annotations, one of polygons and a crowd among them, and their folder."""
    folder = tmp_path_factory.mktemp("scenes")
    Scenes(5, size=SIZE).write_coco(folder, folder / "annotations.json")
    content = read_annotations(folder / "annotations.json")
    content["annotations"].append(
        {"id": 500, "image_id": 3, "category_id": 2, "bbox": BOX, "area": 323, "iscrowd": 0, "segmentation": [POLYGON]}
    )
    content["annotations"][7]["iscrowd"] = 1
    content["images"].append({"id": 9, "file_name": "empty.png", "width": 5, "height": 7})
    Image.new("RGB", (5, 7)).save(folder / "empty.png")
    return content, folder


def last(content: Content) -> Content:
    return content["annotations"][-1]


def change(**values: Any) -> Callable[[Content], None]:
    return lambda content: last(content).update(values)


def change_image(**values: Any) -> Callable[[Content], None]:
    return lambda content: content["images"][2].update(values)


def without(part: str, key: str) -> Callable[[Content], None]:
    return lambda content: content[part][2 if part == "images" else -1].pop(key)


def runs(**values: Any) -> Callable[[Content], None]:
    size = [SIZE, SIZE]
    return change(segmentation={"size": size, "counts": [SIZE * SIZE - 300, 300]} | values)


def copied(part: str, **values: Any) -> Callable[[Content], None]:
    return lambda content: content[part].append({**content[part][-1], **values})


# Kind of fault, how it is planted, image id and annotation id that must be named.
PLANTED: dict[str, tuple[str, Callable[[Content], None], object, object]] = {
    "category without a name": ("category without a key", lambda c: c["categories"].append({"id": 99}), None, None),
    "category that is a text": ("category without a key", lambda c: c["categories"].append("cat"), None, None),
    "category id twice": ("repeated category id", copied("categories", name="other"), None, None),
    "category name twice": ("repeated category name", copied("categories", id=77), None, None),
    "image without a height": ("image without a key", without("images", "height"), None, None),
    "image with a text as id": ("image without a key", lambda c: c["images"][-1].update(id="9"), None, None),
    "image without pixels": ("impossible image size", change_image(width=0), 3, None),
    "image id twice": ("repeated image id", copied("images", id=3, file_name="000001.png"), 3, None),
    "file twice": ("repeated file name", copied("images", id=78), 78, None),
    "path to above": ("path outside the image folder", change_image(file_name="../000002.png"), 3, None),
    "absolute path": ("path outside the image folder", change_image(file_name="/etc/hostname"), 3, None),
    "no such file": ("missing image file", change_image(file_name="nothing.png"), 3, None),
    "damaged file": ("unreadable image", change_image(file_name="damaged.png"), 3, None),
    "size of another file": ("image of another size", change_image(width=65), 3, None),
    "annotation without a box": ("annotation without a key", without("annotations", "bbox"), None, None),
    "annotation that is null": ("annotation without a key", lambda c: c["annotations"].append(None), None, None),
    "id 0": ("annotation id not above 0", change(id=0), 3, 0),
    "id twice": ("repeated annotation id", change(id=1), 3, 1),
    "image that is not there": ("unknown image", change(image_id=44), None, 500),
    "category that is not there": ("unknown category", change(category_id=44), 3, 500),
    "box of three numbers": ("box not of four numbers", change(bbox=[1, 2, 3]), 3, 500),
    "box of texts": ("box not of four numbers", change(bbox=["1", 2, 3, 4]), 3, 500),
    "box with a NaN": ("box not finite", change(bbox=[1, 2, float("nan"), 3]), 3, 500),
    "infinite box": ("box not finite", change(bbox=[1, 2, float("inf"), 3]), 3, 500),
    "box beyond floating point": ("box not finite", change(bbox=[1, 2, 10**400, 3]), 3, 500),
    "flat box": ("box without area", change(bbox=[1, 2, 3, 0]), 3, 500),
    "negative box": ("box without area", change(bbox=[9, 9, -3, -2]), 3, 500),
    "box beside the image": ("box outside the image", change(bbox=[SIZE, 2, 3, 4]), 3, 500),
    "box half out": ("box over the edge", change(bbox=[-7, 13, 40, 19]), 3, 500),
    "crowd of two": ("iscrowd neither 0 nor 1", change(iscrowd=2), 3, 500),
    "crowd of polygons": ("crowd without run lengths", change(iscrowd=1), 3, 500),
    "segmentation of texts": ("segmentation of no known form", change(segmentation=[["a"]]), 3, 500),
    "no polygons": ("segmentation of no known form", change(segmentation=[]), 3, 500),
    "polygon of two points": ("polygon of fewer than three points", change(segmentation=[POLYGON[:4]]), 3, 500),
    "odd polygon": ("odd number of polygon coordinates", change(segmentation=[POLYGON[:7]]), 3, 500),
    "polygon with a NaN": ("polygon not finite", change(segmentation=[[float("nan"), *POLYGON[1:]]]), 3, 500),
    "polygon beyond floating point": ("polygon not finite", change(segmentation=[[10**400, *POLYGON[1:]]]), 3, 500),
    "polygon far out": ("polygon over the edge", change(segmentation=[[*POLYGON, 1e9, 20]]), 3, 500),
    "runs of another size": ("run lengths of another size", runs(size=[SIZE, 10**6]), 3, 500),
    "runs too short": ("broken run lengths", runs(counts=[3, 4]), 3, 500),
    "runs of nonsense": ("broken run lengths", runs(counts="!!"), 3, 500),
    "runs without counts": ("broken run lengths", runs(counts=None), 3, 500),
    "mask without a pixel": ("empty mask", runs(counts=[SIZE * SIZE]), 3, 500),
    "mask elsewhere": ("box apart from the mask", runs(), 3, 500),
    "no area": ("impossible area", without("annotations", "area"), 3, 500),
    "negative area": ("impossible area", change(area=-5), 3, 500),
    "area beyond floating point": ("impossible area", change(area=10**400), 3, 500),
    "area that is not a number": ("impossible area", change(area=float("nan")), 3, 500),
    "area larger than the box": ("impossible area", change(area=5000), 3, 500),
    "the same again": ("repeated annotation", copied("annotations", id=501), 3, 501),
}


def test_every_kind_of_fault_is_planted() -> None:
    assert {kind for kind, *_ in PLANTED.values()} == set(KINDS)


def test_clean_data_has_no_fault_and_stays_as_it_is(scenes: tuple[Content, Path]) -> None:
    content, folder = scenes
    before = copy.deepcopy(content)
    inspection = inspect(content, folder)
    assert inspection.faults == ()
    assert inspection.clean == content == before


@pytest.mark.parametrize(("kind", "plant", "image_id", "annotation_id"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found_named_and_mended(
    scenes: tuple[Content, Path],
    kind: str,
    plant: Callable[[Content], None],
    image_id: object,
    annotation_id: object,
) -> None:
    original, folder = scenes
    (folder / "damaged.png").write_bytes((folder / "000001.png").read_bytes()[:200])
    content = copy.deepcopy(original)
    plant(content)
    planted = json.dumps(content)
    inspection = inspect(content, folder)
    assert [(fault.kind, fault.image_id, fault.annotation_id) for fault in inspection.faults] == [
        (kind, image_id, annotation_id)
    ]
    assert json.dumps(content) == planted, "the content itself is not changed"
    again = inspect(inspection.clean, folder)
    assert (again.faults, again.left_out) == ((), 0)
    others = [annotation for annotation in original["annotations"][:-1] if annotation["image_id"] != 3]
    assert [one for one in inspection.clean["annotations"] if one in others] == others, "the others are kept"


def mended(scenes: tuple[Content, Path], plant: Callable[[Content], None]) -> Content:
    content = copy.deepcopy(scenes[0])
    plant(content)
    return inspect(content).clean


def test_a_box_is_cut_off_at_the_edge(scenes: tuple[Content, Path]) -> None:
    assert last(mended(scenes, change(bbox=[-7, 13, 40, 90])))["bbox"] == [0, 13, 33, SIZE - 13]


def test_half_a_pixel_beyond_the_edge_is_rounding(scenes: tuple[Content, Path]) -> None:
    box = [11, 13, SIZE - 11 + 0.4, 19]
    assert last(mended(scenes, change(bbox=box)))["bbox"] == box


def test_a_bad_polygon_goes_and_the_good_one_beside_it_stays(scenes: tuple[Content, Path]) -> None:
    assert last(mended(scenes, change(segmentation=[POLYGON[:4], POLYGON])))["segmentation"] == [POLYGON]


def test_a_lacking_area_is_the_masks_or_the_boxs(scenes: tuple[Content, Path]) -> None:
    assert last(mended(scenes, without("annotations", "area")))["area"] == 17 * 19
    assert last(mended(scenes, change(area=None, segmentation=None)))["area"] == 17 * 19


def test_a_new_id_is_one_that_no_annotation_had(scenes: tuple[Content, Path]) -> None:
    assert last(mended(scenes, change(id=1)))["id"] == max(one["id"] for one in scenes[0]["annotations"][:-1]) + 1


def test_annotations_of_a_category_named_before_go_to_the_first(scenes: tuple[Content, Path]) -> None:
    def plant(content: Content) -> None:
        copied("categories", id=77)(content)
        last(content)["category_id"] = 77

    clean = mended(scenes, plant)
    assert last(clean)["category_id"] == scenes[0]["categories"][-1]["id"]
    assert clean["categories"] == scenes[0]["categories"]


def test_what_goes_with_its_image_is_counted_and_is_no_fault_of_its_own(scenes: tuple[Content, Path]) -> None:
    content, folder = copy.deepcopy(scenes[0]), scenes[1]
    content["images"][2]["file_name"] = "nothing.png"
    inspection = inspect(content, folder, workers=3)
    assert inspection.left_out == sum(one["image_id"] == 3 for one in content["annotations"])
    assert len(inspection.faults) == 1


def test_a_fault_is_one_line_with_its_place() -> None:
    fault = Fault("box without area", "bbox [1, 2, 3, 0]", 3, 17, "a.jpg")
    assert str(fault) == "image 3 (a.jpg), annotation 17: bbox [1, 2, 3, 0]"
    assert str(Fault("missing image file", "no such file", 3, None, "a\n\x1b[2J.jpg")) == (
        r"image 3 (a\n\x1b[2J.jpg): no such file"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", 'expected a list "images"'),
        ('{"images": [], "annotations": {}}', 'expected a list "annotations"'),
    ],
)
def test_a_file_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=sentence) as raised:
        read_annotations(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


def test_a_mistyped_file_gets_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(UserError, match="did you mean .*instances.json"):
        read_annotations(tmp_path / "instanses.json")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("coco-mini/annotations/instances_train2017.json", "coco-mini/train2017"),
        ("coco-mini/annotations/instances_val2017.json", "coco-mini/val2017"),
        ("nuclei256/annotations/instances_val.json", "nuclei256/val"),
    ],
)
def test_genuine_annotations_have_no_fault(data_root: Path, annotations: str, images: str) -> None:
    assert inspect(read_annotations(data_root / annotations), data_root / images).faults == ()
