"""Planted issues are found, each with its image and annotation, and resolved; clean data has none."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gcnet.data.coco.inspection import PARTS, inspect, read_annotations
from gcnet.data.coco.issues import ISSUE_KINDS, Issue, issue_summary
from gcnet.data.scenes import Scenes
from gcnet.errors import UserError

Content = dict[str, Any]
SIZE, BOX = 64, [11, 13, 17, 19]  # image 3 gets one more annotation, of polygons
POLYGON = [11, 13, 28, 13, 28, 32, 11, 32]
COLUMN = [SIZE * 11 + 13, 19, SIZE * 53 - 32]  # runs of the first column of the polygon


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


def change_category(**values: Any) -> Callable[[Content], None]:
    def plant(content: Content) -> None:
        category = content["categories"][2]
        for annotation in content["annotations"]:
            if annotation["category_id"] == category["id"]:
                annotation["category_id"] = values["id"]
        category.update(values)

    return plant


def without(part: str, key: str) -> Callable[[Content], None]:
    return lambda content: content[part][2 if part == "images" else -1].pop(key)


def runs(**values: Any) -> Callable[[Content], None]:
    size = [SIZE, SIZE]
    return change(segmentation={"size": size, "counts": [SIZE * SIZE - 300, 300]} | values)


def copied(part: str, **values: Any) -> Callable[[Content], None]:
    return lambda content: content[part].append({**content[part][-1], **values})


# Kind of issue, how it is planted, image id and annotation id that must be named.
PLANTED: dict[str, tuple[str, Callable[[Content], None], object, object]] = {
    "category without a name": (
        "category without id or name",
        lambda c: c["categories"].append({"id": 99}),
        None,
        None,
    ),
    "category that is a text": ("category without id or name", lambda c: c["categories"].append("cat"), None, None),
    "category id as text": ("category id not an integer", change_category(id="3"), None, None),
    "category id that is a name": ("category id not an integer", change_category(id="c"), None, None),
    "category named by half a character": (
        "category name not valid Unicode",
        lambda c: c["categories"][2].update(name="a\ud800"),
        None,
        None,
    ),
    "category id twice": ("repeated category id", copied("categories", name="other"), None, None),
    "category name twice": ("repeated category name", copied("categories", id=77), None, None),
    "image without a file": ("image without id or file name", lambda c: c["images"][-1].pop("file_name"), None, None),
    "image id that is a list": ("image without id or file name", lambda c: c["images"][-1].update(id=[9]), None, None),
    "image id as text": ("image id not an integer", lambda c: c["images"][-1].update(id="9"), "9", None),
    "image id as float": ("image id not an integer", lambda c: c["images"][-1].update(id=9.0), 9, None),
    "image id beyond 2^53": ("image id not an integer", lambda c: c["images"][-1].update(id=10**30), 10**30, None),
    "image without a height": ("missing image size", without("images", "height"), 3, None),
    "image with a height of null": ("missing image size", change_image(height=None), 3, None),
    "width as float": ("image size not an integer", change_image(width=float(SIZE)), 3, None),
    "width as text": ("image size not an integer", change_image(width=str(SIZE)), 3, None),
    "width of 0": ("missing image size", change_image(width=0), 3, None),
    "height of -1": ("missing image size", change_image(height=-1), 3, None),
    "image of 10^15 pixels": ("invalid image size", change_image(width=30_000_000, height=30_000_000), 3, None),
    "image twice": ("repeated image", copied("images", id=9), 9, None),
    "file twice": ("repeated file name", copied("images", id=78), 78, None),
    "path to above": ("path outside the image folder", change_image(file_name="../nothing.png"), 3, None),
    "path with a NUL": ("path outside the image folder", change_image(file_name="a\0b.png"), 3, None),
    "path with half a character": ("missing image file", change_image(file_name="a\ud800.png"), 3, None),
    "absolute path": ("path outside the image folder", change_image(file_name="/etc/hostname"), 3, None),
    "no such file": ("missing image file", change_image(file_name="nothing.png"), 3, None),
    "damaged file": ("unreadable image", change_image(file_name="damaged.png"), 3, None),
    "size of another file": ("image size mismatch", change_image(width=65), 3, None),
    "annotation that is null": (
        "annotation that is not an object",
        lambda c: c["annotations"].append(None),
        None,
        None,
    ),
    "no box": ("missing bbox", without("annotations", "bbox"), 3, 500),
    "no id": ("annotation id missing", without("annotations", "id"), 3, None),
    "id 0": ("annotation id not an integer above 0", change(id=0), 3, 0),
    "id as text": ("annotation id not an integer above 0", change(id="500"), 3, "500"),
    "id that is a UUID": ("annotation id not an integer above 0", change(id="a-b"), 3, "a-b"),
    "id beyond 2^53": ("annotation id not an integer above 0", change(id=10**30), 3, 10**30),
    "id twice": ("repeated annotation id", change(id=1), 3, 1),
    "image that is not there": ("unknown image", change(image_id=44), None, 500),
    "image that is not named": ("unknown image", without("annotations", "image_id"), None, 500),
    "category that is not there": ("unknown category", change(category_id=44), 3, 500),
    "category_id as text": ("image_id or category_id not an integer", change(category_id="2"), 3, 500),
    "image_id as float": ("image_id or category_id not an integer", change(image_id=3.0), 3, 500),
    "box of three numbers": ("invalid bbox", change(bbox=[1, 2, 3]), 3, 500),
    "box of words": ("invalid bbox", change(bbox=["a", 2, 3, 4]), 3, 500),
    "box of numbers as text": ("numbers as text", change(bbox=list(map(str, BOX))), 3, 500),
    "box with a NaN": ("invalid bbox", change(bbox=[1, 2, float("nan"), 3]), 3, 500),
    "infinite box": ("invalid bbox", change(bbox=[1, 2, float("inf"), 3]), 3, 500),
    "box beyond floating point": ("invalid bbox", change(bbox=[1, 2, 10**400, 3]), 3, 500),
    "flat box": ("invalid bbox", change(bbox=[1, 2, 3, 0]), 3, 500),
    "negative box": ("invalid bbox", change(bbox=[9, 9, -3, -2]), 3, 500),
    "flat box alone": ("neither bbox nor mask", change(bbox=[1, 2, 3, 0], segmentation=[]), 3, 500),
    "no box and no mask": ("neither bbox nor mask", change(bbox=None, segmentation=None), 3, 500),
    "box outside the image": ("bbox apart from the mask", change(bbox=[SIZE + 2, 2, 3, 4]), 3, 500),
    "no iscrowd": ("missing iscrowd", without("annotations", "iscrowd"), 3, 500),
    "iscrowd null": ("missing iscrowd", change(iscrowd=None), 3, 500),
    "iscrowd false": ("iscrowd not an integer", change(iscrowd=False), 3, 500),
    "iscrowd as float": ("iscrowd not an integer", change(iscrowd=1.0), 3, 500),
    "iscrowd as text": ("iscrowd not an integer", change(iscrowd="0"), 3, 500),
    "crowd of two": ("invalid iscrowd", change(iscrowd=2), 3, 500),
    "segmentation of texts": ("unknown segmentation", change(segmentation=[["a"]]), 3, 500),
    "flat polygon": ("segmentation nested unusually", change(segmentation=POLYGON), 3, 500),
    "list of points": (
        "segmentation nested unusually",
        change(segmentation=[POLYGON[:2], POLYGON[2:4], POLYGON[4:6], POLYGON[6:]]),
        3,
        500,
    ),
    "polygon within another list": ("segmentation nested unusually", change(segmentation=[[POLYGON]]), 3, 500),
    "polygon as points in a list": (
        "segmentation nested unusually",
        change(segmentation=[[POLYGON[:2], POLYGON[2:4], POLYGON[4:6], POLYGON[6:]]]),
        3,
        500,
    ),
    "polygon of numbers as text": ("numbers as text", change(segmentation=[list(map(str, POLYGON))]), 3, 500),
    "polygon of two points": ("polygon of fewer than three points", change(segmentation=[POLYGON[:4]]), 3, 500),
    "odd polygon": ("odd number of polygon coordinates", change(segmentation=[[*POLYGON, 7]]), 3, 500),
    "polygon with a NaN": ("polygon not finite", change(segmentation=[[float("nan"), *POLYGON[1:]]]), 3, 500),
    "polygon beyond floating point": ("polygon not finite", change(segmentation=[[10**400, *POLYGON[1:]]]), 3, 500),
    "polygon far out": ("polygon far outside the image", change(segmentation=[[*POLYGON, 1e9, 20]]), 3, 500),
    "runs of another size": ("RLE size mismatch", runs(size=[SIZE, 10**6]), 3, 500),
    "runs too short": ("invalid RLE", runs(counts=[3, 4]), 3, 500),
    "runs of nonsense": ("invalid RLE", runs(counts="!!"), 3, 500),
    "runs of a number of 14 characters": ("invalid RLE", runs(counts="o" * 13 + "0"), 3, 500),
    "runs without counts": ("invalid RLE", runs(counts=None), 3, 500),
    "runs as floats": ("RLE numbers not integers", runs(counts=list(map(float, COLUMN))), 3, 500),
    "runs with a size of floats": ("RLE numbers not integers", runs(size=[float(SIZE), SIZE], counts=COLUMN), 3, 500),
    "runs with a size as text": ("numbers as text", runs(size=[f"{SIZE}", SIZE], counts=COLUMN), 3, 500),
    "runs as text": ("numbers as text", runs(counts=list(map(str, COLUMN))), 3, 500),
    "mask elsewhere": ("bbox apart from the mask", runs(), 3, 500),
    "no area": ("invalid area", without("annotations", "area"), 3, 500),
    "negative area": ("invalid area", change(area=-5), 3, 500),
    "area beyond floating point": ("invalid area", change(area=10**400), 3, 500),
    "area that is not a number": ("invalid area", change(area=float("nan")), 3, 500),
    "the same again": ("repeated annotation", copied("annotations", id=501), 3, 501),
}
# As above, but nothing is changed.
NOTED: dict[str, tuple[str, Callable[[Content], None]]] = {
    "box half out": ("bbox over the edge", change(bbox=[-7, 13, 40, 19])),
    "box outside alone": ("bbox outside the image", change(bbox=[SIZE, 2, 3, 4], segmentation={})),
    "loose box": ("bbox unlike the mask", change(bbox=[1, 2, 60, 60])),
    "mask without a pixel": ("mask without pixels", runs(counts=[SIZE * SIZE])),
    "area larger than the box": ("area larger than the bbox", change(area=5000)),
}
WHOLE_FILE = {"boxes in another format", "polygons in another format", "image id of several files"}


def test_every_kind_of_issue_is_planted() -> None:
    assert {kind for kind, *_ in (*PLANTED.values(), *NOTED.values())} | WHOLE_FILE == set(ISSUE_KINDS)


def test_clean_data_has_no_issue_and_stays_as_it_is(scenes: tuple[Content, Path]) -> None:
    content, folder = scenes
    before = copy.deepcopy(content)
    inspection = inspect(content, folder)
    assert (inspection.issues, inspection.notes) == ((), ())
    assert inspection.clean == content == before


@pytest.mark.parametrize(("kind", "plant", "image_id", "annotation_id"), PLANTED.values(), ids=PLANTED)
def test_a_planted_issue_is_found_named_and_resolved(
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
    assert [(issue.kind, issue.image_id, issue.annotation_id) for issue in inspection.issues] == [
        (kind, image_id, annotation_id)
    ]
    assert json.dumps(content) == planted, "the content itself is not changed"
    again = inspect(inspection.clean, folder)
    assert (again.issues, again.dropped) == ((), 0)
    if kind != "category id not an integer":  # annotations get the new id
        others = [annotation for annotation in original["annotations"][:-1] if annotation["image_id"] != 3]
        assert [one for one in inspection.clean["annotations"] if one in others] == others, "the others are kept"
    if ISSUE_KINDS[kind].action == "repaired":
        assert [len(inspection.clean[part]) for part in PARTS] == [len(original[part]) for part in PARTS], (
            "nothing is lost"
        )


@pytest.mark.parametrize(("kind", "plant"), NOTED.values(), ids=NOTED)
def test_valid_but_unusual_entries_are_noted_and_kept(
    scenes: tuple[Content, Path], kind: str, plant: Callable[[Content], None]
) -> None:
    content = copy.deepcopy(scenes[0])
    plant(content)
    inspection = inspect(content, scenes[1])
    assert inspection.issues == ()
    assert kind in [note.kind for note in inspection.notes]
    assert inspection.clean == content


def resolved(scenes: tuple[Content, Path], plant: Callable[[Content], None]) -> Content:
    content = copy.deepcopy(scenes[0])
    plant(content)
    return inspect(content).clean


def test_a_box_is_taken_from_the_mask(scenes: tuple[Content, Path]) -> None:
    assert last(resolved(scenes, change(bbox=[1, 2, 0, 4])))["bbox"] == BOX


def test_an_invalid_polygon_is_dropped_and_valid_ones_are_kept(scenes: tuple[Content, Path]) -> None:
    assert last(resolved(scenes, change(segmentation=[POLYGON[:4], POLYGON])))["segmentation"] == [POLYGON]


def test_an_object_whose_mask_is_invalid_keeps_its_box(scenes: tuple[Content, Path]) -> None:
    kept = last(resolved(scenes, runs(counts=[3, 4])))
    assert (kept["bbox"], kept["segmentation"]) == (BOX, [])


@pytest.mark.parametrize("empty", [None, [], {}])
def test_objects_without_a_segmentation_are_valid(scenes: tuple[Content, Path], empty: object) -> None:
    content = copy.deepcopy(scenes[0])
    last(content)["segmentation"] = empty
    assert inspect(content).issues == ()
    del last(content)["segmentation"]
    assert inspect(content).issues == ()


def test_crowds_drawn_as_polygons_stay_crowds(scenes: tuple[Content, Path]) -> None:
    content = copy.deepcopy(scenes[0])
    last(content)["iscrowd"] = 1
    inspection = inspect(content)
    assert (inspection.issues, last(inspection.clean)) == ((), last(content))


def test_a_lacking_area_is_the_masks_or_the_boxs(scenes: tuple[Content, Path]) -> None:
    assert last(resolved(scenes, without("annotations", "area")))["area"] == 17 * 19
    assert last(resolved(scenes, change(area=None, segmentation=None)))["area"] == 17 * 19


def test_new_ids_are_unused_in_the_file(scenes: tuple[Content, Path]) -> None:
    assert last(resolved(scenes, change(id=1)))["id"] == max(one["id"] for one in scenes[0]["annotations"][:-1]) + 1


def test_annotations_of_a_category_named_before_go_to_the_first(scenes: tuple[Content, Path]) -> None:
    def plant(content: Content) -> None:
        copied("categories", id=77)(content)
        last(content)["category_id"] = 77

    clean = resolved(scenes, plant)
    assert last(clean)["category_id"] == scenes[0]["categories"][-1]["id"]
    assert clean["categories"] == scenes[0]["categories"]


def test_annotations_dropped_with_their_image_are_counted(scenes: tuple[Content, Path]) -> None:
    content, folder = copy.deepcopy(scenes[0]), scenes[1]
    content["images"][2]["file_name"] = "nothing.png"
    inspection = inspect(content, folder, workers=3)
    assert inspection.dropped == sum(one["image_id"] == 3 for one in content["annotations"])
    assert len(inspection.issues) == 1


def test_several_files_of_one_id_never_share_annotations(scenes: tuple[Content, Path]) -> None:
    content, folder = copy.deepcopy(scenes[0]), scenes[1]
    content["images"][3]["id"] = 3
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 4]
    inspection = inspect(content, folder)
    assert [issue.kind for issue in inspection.issues] == ["image id of several files"] * 2
    assert inspection.dropped == sum(one["image_id"] == 3 for one in content["annotations"])
    assert not [one for one in inspection.clean["images"] if one["file_name"] in ("000002.png", "000003.png")]


def test_a_missing_size_is_that_of_the_upright_file(scenes: tuple[Content, Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 40)).save(tmp_path / "turned.jpg", exif=exif)
    content = {**scenes[0], "images": [{"id": 1, "file_name": "turned.jpg"}], "annotations": []}
    assert inspect(content, tmp_path).clean["images"][0] == {
        "id": 1,
        "file_name": "turned.jpg",
        "height": 50,
        "width": 40,
    }
    assert [issue.kind for issue in inspect(content).issues] == ["invalid image size"]


def test_an_issue_is_one_line_with_image_and_annotation() -> None:
    issue = Issue("invalid bbox", "bbox [1, 2, 3, 0]", 3, 17, "a.jpg")
    assert str(issue) == "image 3 (a.jpg), annotation 17: bbox [1, 2, 3, 0]"
    assert str(Issue("missing image file", "no such file", 3, None, "a\n\x1b[2J.jpg")) == (
        r"image 3 (a\n\x1b[2J.jpg): no such file"
    )
    assert issue_summary([issue, issue]) == "repaired: 2 x invalid bbox"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", 'expected a list "images"'),
        ('{"images": [], "annotations": {}}', 'expected a list "annotations"'),
    ],
)
def test_other_kinds_of_files_are_errors_of_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=sentence) as raised:
        read_annotations(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" \n", "is empty"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        ("\n<!DOCTYPE html><html>", "is an HTML page: the download failed"),
    ],
)
def test_files_of_other_types_given_as_json_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_annotations(tmp_path / "a.json")


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
@pytest.mark.slow
def test_real_annotations_have_no_issue(data_root: Path, annotations: str, images: str) -> None:
    assert inspect(read_annotations(data_root / annotations), data_root / images).issues == ()
