"""YOLO labels and Pascal VOC annotations as COCO annotations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.coco.annotated import HEIGHT, WIDTH, content, write_images
from gcnet.cli import main
from gcnet.data.coco.conversion.voc import convert_voc, is_voc, read_xml
from gcnet.data.coco.conversion.yolo import convert_yolo, is_yolo
from gcnet.data.coco.masks import segmentation_mask
from gcnet.data.coco.open import open_coco
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def boxes(content: dict[str, Any]) -> list[tuple[str, str, list[float]]]:
    """Image, class and box of each object."""
    names = {one["id"]: one["file_name"] for one in content["images"]}
    classes = {one["id"]: one["name"] for one in content["categories"]}
    return [(names[one["image_id"]], classes[one["category_id"]], one["bbox"]) for one in content["annotations"]]


def kinds(problems: Any) -> list[str]:
    return [problem.kind for problem in problems]


YAMLS = {
    "Ultralytics": "path: ../datasets/pets\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n",
    "list of names": "train: images/train\nval: images/val\nnc: 2\nnames: ['cat', 'dog']\n",
    "another machine": "path: /content/pets\ntrain: /content/pets/images/train\nval: images/val\nnames: [cat, dog]\n",
    "numbers as text": "train: images/train\nval: images/val\nnames: {'0': cat, '1': dog}\n",
    "lists of images": "train: train.txt\nval: [images/val]\nnames: [cat, dog]\n",
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_a_data_yaml_is_converted_split_by_split(tmp_path: Path, text: str):
    write_images(tmp_path / "images", ["train/a.png", "train/b.png", "val/c.png"])
    write(tmp_path / "train.txt", "./images/train/a.png\n./images/train/b.png\n")
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.2 0.4\n0 0.25 0.5 0.5 1.0\n")
    write(tmp_path / "labels/val/c.txt", "")
    converted = convert_yolo(write(tmp_path / "data.yaml", text))
    assert is_yolo(tmp_path / "data.yaml")
    assert is_yolo(tmp_path)
    assert [len(converted.splits[split]["images"]) for split in ("train", "val")] == [2, 1]
    assert boxes(converted.splits["train"]) == [
        ("images/train/a.png", "dog", pytest.approx([0.4 * WIDTH, 0.3 * HEIGHT, 0.2 * WIDTH, 0.4 * HEIGHT])),
        ("images/train/a.png", "cat", pytest.approx([0, 0, 0.5 * WIDTH, HEIGHT])),
    ]
    assert kinds(converted.problems) == ["image without a label file, kept without objects"]


def test_roboflows_yolo_export_is_converted(tmp_path: Path):
    write_images(tmp_path, ["train/images/a.png", "valid/images/b.png"])
    write(tmp_path / "train/labels/a.txt", "0 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "valid/labels/b.txt", "0 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    converted = convert_yolo(tmp_path)
    assert {split: len(content["annotations"]) for split, content in converted.splits.items()} == {"train": 1, "val": 1}


def test_a_darknet_export_of_cvat_is_converted(tmp_path: Path):
    write_images(tmp_path, ["obj_train_data/a.png"])
    write(tmp_path / "obj_train_data/a.txt", "1 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.png\n")
    assert is_yolo(tmp_path)
    converted = convert_yolo(tmp_path)
    assert [(name, label) for name, label, _ in boxes(converted.splits["train"])] == [("obj_train_data/a.png", "dog")]
    assert converted.problems == ()


def test_captions_beside_images_are_no_labels(tmp_path: Path):
    write_images(tmp_path, ["cat/a.png"])
    write(tmp_path / "cat/a.txt", "a cat on a mat in a house\n")
    write(tmp_path / "labels.txt", "cat\ndog\n")
    assert not is_yolo(tmp_path)


def test_the_only_yaml_that_names_classes_is_the_data_yaml_of_a_folder(tmp_path: Path):
    write_images(tmp_path / "images", ["train/a.png"])
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "hyp.yaml", "lr0: 0.01\n")
    write(tmp_path / "coco8.yaml", YAMLS["list of names"])
    assert [label for _, label, _ in boxes(convert_yolo(tmp_path).splits["train"])] == ["dog"]


def test_labels_without_an_image_are_reported(tmp_path: Path):
    write_images(tmp_path / "images", ["a.png"])
    for name in ("a", "b"):
        write(tmp_path / f"labels/{name}.txt", "1 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "images/b.heic", "")
    write(tmp_path / "labels/classes.txt", "cat\ndog\n")
    write(tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024}}')  # Label Studio
    assert [str(one) for one in convert_yolo(tmp_path).problems] == ["labels/b.txt: no image with this name"]
    with pytest.raises(UserError, match="holds YOLO labels: convert them"):
        open_coco(DataSettings(str(tmp_path)))


def test_polygons_become_masks(tmp_path: Path):
    write_images(tmp_path / "images", ["a.png"])
    write(tmp_path / "labels/a.txt", "0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    write(tmp_path / "classes.txt", "cat\n")
    annotation = convert_yolo(tmp_path).splits[""]["annotations"][0]
    assert annotation["bbox"] == [0, 0, WIDTH / 2, HEIGHT / 2]
    assert annotation["segmentation"] == [[0, 0, WIDTH / 2, 0, WIDTH / 2, HEIGHT / 2, 0, HEIGHT / 2]]
    assert annotation["area"] == pytest.approx(WIDTH * HEIGHT / 4, abs=1e-3)


def test_labels_next_to_the_images_are_found(tmp_path: Path):
    write_images(tmp_path, ["a.png", "b.png"])
    write(tmp_path / "a.txt", "0 0.5 0.5 0.2 0.4 0.97\n")  # a prediction, with its confidence
    write(tmp_path / "classes.txt", "cat\ndog\n")
    content = convert_yolo(tmp_path).splits[""]
    assert [name for name, _, _ in boxes(content)] == ["a.png"]
    assert [one["name"] for one in content["categories"]] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.2 0.4", "class 2 of 2 classes"),
        ("-1 0.5 0.5 0.2 0.4", "class -1 of 2 classes"),
        ("0.5 0.5 0.5 0.2 0.4", "class 0.5 of 2 classes"),
        ("0 10 12 5 5", "not in shares of the image's sides"),
        ("0 0.5 0.5 0 0.4", "a box without area"),
        ("0 0.5 0.5 nan 0.4", "not finite"),
        ("cat 0.5 0.5 0.2 0.4", "not numbers"),
        ("0 0.5 0.5", "3 values, expected 5 of a box"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 values, expected 5"),
    ],
)
def test_invalid_labels_are_skipped_with_the_reason(tmp_path: Path, line: str, reason: str):
    write_images(tmp_path / "images", ["a.png"])
    write(tmp_path / "labels/a.txt", f"0 0.5 0.5 0.2 0.4\n{line}\n")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    converted = convert_yolo(tmp_path)
    assert len(converted.splits[""]["annotations"]) == 1
    assert [reason in problem.details for problem in converted.problems] == [True]
    assert converted.problems[0].file_name == "images/a.png"


def test_an_image_is_labeled_as_it_is_shown(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/a.jpg", exif=exif)
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 1 1\n")
    converted = convert_yolo(tmp_path)
    assert boxes(converted.splits[""]) == [("images/a.jpg", "0", [0, 0, HEIGHT, WIDTH])]
    assert kinds(converted.problems) == ["no class names"]


def test_a_split_without_images_is_skipped_and_reported(tmp_path: Path):
    write_images(tmp_path / "train" / "images", ["a.png"])
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat]\n"
    converted = convert_yolo(write(tmp_path / "data.yaml", text))
    assert list(converted.splits) == ["train"]
    assert kinds(converted.problems)[:2] == ["missing images of val, skipped", "missing images of test, skipped"]


def test_a_training_on_other_labels_names_their_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_images(tmp_path / "images" / "train", ["a.png"])
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    for data in (tmp_path, tmp_path / "data.yaml"):
        arguments = ["--data", str(data), "--output", str(tmp_path.with_name(f"{tmp_path.name}-run"))]
        assert main(["train", "--model", "faster_rcnn_cifar_resnet20", *arguments]) == 2
        assert f"holds YOLO labels: convert them to COCO annotations with gcnet check-data {data} --convert" in (
            capsys.readouterr().err
        )


def test_coco_annotations_beside_yolo_labels_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    names = write_images(tmp_path / "images" / "train", ["a.png"])
    write(tmp_path / "annotations" / "instances_train.json", json.dumps(content(names)))
    assert main(["check-data", str(tmp_path)]) == 0
    assert "issues       0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("names: [a", "is not YAML"),
        ("- a\n- b\n", "is not a YOLO data set: expected the keys train, val and names"),
        ("names: [cat]\n", "is not a YOLO data set: expected the keys train, val and names"),
        ("train: nowhere\nnames: [cat]\n", 'has no "nowhere", which its data.yaml names'),
        ("train: ../../..\nnames: [cat]\n", r'has no "\.\./\.\./\.\."'),
        ("train: images\nnames: {1: cat}\n", "names must count from 0 without gaps, found 1"),
        ("train: images\nnames: 3\n", "names must list the classes, found 3"),
        ("train: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("train: images\nnames: [cat\nval: images\n", "is not YAML: expected ',' or ']', but got ':' in line 3"),
    ],
)
def test_a_data_yaml_that_is_none_is_refused(tmp_path: Path, text: str, reason: str):
    write_images(tmp_path / "images", ["a.png"])
    with pytest.raises(UserError, match=reason):
        convert_yolo(write(tmp_path / "data.yaml", text))


def voc(name: str, *objects: tuple[str, tuple[float, ...]], size: tuple[int, int] | None = (WIDTH, HEIGHT)) -> str:
    corners = ("xmin", "ymin", "xmax", "ymax")
    listed = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for label, box in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><folder>x</folder><filename>{name}</filename>{sides}{listed}</annotation>"


def write_voc(root: Path) -> None:
    write_images(root / "JPEGImages", ["a.png", "b.png", "c.png"])
    write(root / "Annotations/a.xml", voc("a.png", ("dog", (3, 2, 12, 9)), ("cat", (1, 1, WIDTH, HEIGHT))))
    write(root / "Annotations/b.xml", voc("b.png"))
    write(root / "Annotations/c.xml", voc("C:\\photos\\c.png", ("cat", (5, 5, 6, 6)), size=None))


def test_voc_boxes_count_pixels_from_1_and_include_the_last(tmp_path: Path):
    write_voc(tmp_path)
    assert is_voc(tmp_path)
    converted = convert_voc(tmp_path)
    assert boxes(converted.splits[""]) == [
        ("JPEGImages/a.png", "dog", [2, 1, 10, 8]),
        ("JPEGImages/a.png", "cat", [0, 0, WIDTH, HEIGHT]),
        ("JPEGImages/c.png", "cat", [4, 4, 2, 2]),
    ]
    assert (len(converted.splits[""]["images"]), converted.problems) == (3, ())


def test_voc_boxes_with_a_coordinate_of_0_count_from_0(tmp_path: Path):
    write_images(tmp_path, ["a.png"])
    write(tmp_path / "a.xml", voc("a.png", ("cat", (0, 0, 10, 8)), ("cat", (2.5, 1, 4, 3))))
    assert [box for _, _, box in boxes(convert_voc(tmp_path).splits[""])] == [[0, 0, 10, 8], [2.5, 1, 1.5, 2]]


def test_voc_splits_are_those_of_its_lists_or_folders(tmp_path: Path):
    write_voc(tmp_path / "lists")
    write(tmp_path / "lists/ImageSets/Main/train.txt", "a\nb\n")
    write(tmp_path / "lists/ImageSets/Main/val.txt", "c 1\ngone -1\n")
    converted = convert_voc(tmp_path / "lists")
    assert {split: len(content["images"]) for split, content in converted.splits.items()} == {"train": 2, "val": 1}
    assert kinds(converted.problems) == ["listed without an annotation"]
    for split in ("train", "valid"):
        write_images(tmp_path / "folders" / split, [f"{split}.png"])
        write(tmp_path / f"folders/{split}/{split}.xml", voc(f"{split}.png", ("cat", (3, 2, 12, 9))))
    assert set(convert_voc(tmp_path / "folders").splits) == {"train", "val"}


def test_voc_files_that_cannot_be_used_are_skipped_with_the_reason(tmp_path: Path):
    write_voc(tmp_path)
    write(tmp_path / "Annotations/gone.xml", voc("gone.png", ("cat", (3, 2, 12, 9))))
    write(tmp_path / "Annotations/other.xml", "<annotations/>")
    write(tmp_path / "Annotations/text.xml", "no xml")
    write(tmp_path / "Annotations/b.xml", voc("b.png", ("", (3, 2, 12, 9)), ("cat", (9, 2, 3, 9)), size=(7, 7)))
    problems = convert_voc(tmp_path).problems
    assert sorted(kinds(problems)) == [
        "annotation without an image, skipped",
        "image of another size, skipped",
        "object without name or box, skipped",
        "unreadable annotation, skipped",
        "unreadable annotation, skipped",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037"])
def test_xml_with_a_document_type_is_refused(tmp_path: Path, encoding: str):
    entities = '<!DOCTYPE a [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>'
    head = f"<?xml version='1.0' encoding='{encoding}'?>"
    declared = head.encode("ascii" if encoding == "cp037" else encoding)  # cp037 is none of ASCII
    file = tmp_path / "a.xml"
    file.write_bytes(declared + entities.encode("utf-16-le" if encoding == "utf-16" else encoding))
    with pytest.raises(UserError, match="document type|not XML"):
        read_xml(file)


def test_check_data_converts_and_prints_the_training_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = tmp_path / "pets", tmp_path / "out" / "pets.json"
    write_images(data / "images", ["train/a.png", "train/b.png", "val/c.png"])
    for name in ("train/a", "train/b", "val/c"):
        write(data / f"labels/{name}.txt", "1 0.5 0.5 0.2 0.4\n")
    write(data / "data.yaml", YAMLS["Ultralytics"])
    assert main(["check-data", str(data), "--convert", str(output)]) == 0
    printed = capsys.readouterr().out
    train, val = output.with_name("pets_train.json"), output.with_name("pets_val.json")
    assert f"wrote {train}: 2 images, 2 objects, 2 classes" in printed
    assert f"--data {train} --val {val} --images {data}" in printed
    parts = open_coco(DataSettings(str(train), val=str(val), images=str(data)))
    assert [part.images.read(0).size for part in parts] == [(WIDTH, HEIGHT)] * 2
    assert [part.reports() for part in parts] == [[], []]
    assert main(["check-data", str(data), "--convert", str(output)]) == 2
    assert "--convert must not exist yet" in capsys.readouterr().err
    assert main(["check-data", str(data)]) == 2
    assert "holds YOLO labels: convert them to COCO annotations by --convert FILE.json first" in capsys.readouterr().err


def test_problems_of_a_conversion_are_counted_and_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_voc(tmp_path / "voc")
    write(tmp_path / "voc/Annotations/text.xml", "no xml")
    assert main(["check-data", str(tmp_path / "voc"), "--convert", str(tmp_path / "o.json")]) == 1
    assert "unreadable annotation, skipped: 1" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "o.json").read_text())["images"]) == 3
    assert main(["check-data", str(tmp_path / "voc/JPEGImages"), "--convert", str(tmp_path / "p.json")]) == 2
    assert "--convert takes a YOLO data.yaml" in capsys.readouterr().err


def test_masks_of_voc_objects_go_by_their_numbers(tmp_path: Path):
    objects = (("dog", (3, 2, 12, 9)), ("cat", (9, 2, 3, 9)), ("cat", (5, 5, 14, 14)), ("dog", (1, 1, 4, 4)))
    write_images(tmp_path / "JPEGImages", ["a.png"])
    write(tmp_path / "Annotations/a.xml", voc("a.png", *objects))
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    numbers[1:9, 2:12] = 1
    numbers[4:14, 4:14] = 3
    numbers[15:17, 15:17] = 4
    (tmp_path / "SegmentationObject").mkdir()
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / "SegmentationObject/a.png")
    converted = convert_voc(tmp_path)
    first, second, third = converted.splits[""]["annotations"]
    assert np.array_equal(segmentation_mask(first["segmentation"], HEIGHT, WIDTH), numbers == 1)
    assert np.array_equal(segmentation_mask(second["segmentation"], HEIGHT, WIDTH), numbers == 3)
    assert [second["area"], "segmentation" in third] == [100, False]
    assert kinds(converted.problems) == ["invalid box, skipped", "mask unlike the box, skipped"]


def test_an_image_of_the_same_name_is_taken_from_the_folder_nearest_to_the_annotation(tmp_path: Path):
    for split, label in (("train", "cat"), ("valid", "dog")):
        write_images(tmp_path, [f"{split}/images/1.png"])
        write(tmp_path / f"{split}/annotations/1.xml", voc("1.png", (label, (3, 2, 12, 9))))
    write_images(tmp_path, ["SegmentationClass/1.png"])
    found = [one for content in convert_voc(tmp_path).splits.values() for one in boxes(content)]
    assert [(name, label) for name, label, _ in found] == [("train/images/1.png", "cat"), ("valid/images/1.png", "dog")]


def test_lists_of_voc_may_name_images_with_spaces_suffixes_and_flags(tmp_path: Path):
    write_images(tmp_path / "JPEGImages", ["my photo 1.png", "b.png", "c.png"])
    for name in ("my photo 1", "b", "c"):
        write(tmp_path / f"Annotations/{name}.xml", voc(f"{name}.png", ("cat", (3, 2, 12, 9))))
    write(tmp_path / "ImageSets/Main/train.txt", "my photo 1\nJPEGImages/b.png\n")
    write(tmp_path / "ImageSets/Main/val.txt", "c -1\n")
    converted = convert_voc(tmp_path)
    assert {split: len(content["images"]) for split, content in converted.splits.items()} == {"train": 2, "val": 1}
    assert converted.problems == ()


def test_the_folder_of_a_data_set_in_another_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_voc(tmp_path / "VOC2007")
    for arguments in ([], ["--convert", str(tmp_path / "voc.json")]):
        assert main(["check-data", str(tmp_path), *arguments]) == 2
        assert f"holds Pascal VOC annotations in {tmp_path / 'VOC2007'}" in capsys.readouterr().err
    with pytest.raises(UserError, match="convert that folder"):
        open_coco(DataSettings(str(tmp_path)))
