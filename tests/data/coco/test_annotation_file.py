import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from changed_indexes import changed_indexes
from gcnet.data.coco import annotation_file
from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.coco.annotation_file import AnnotationFile, ReadOptions, open_annotation_file
from gcnet.data.coco.index import AnnotationIndex
from gcnet.data.coco.inspection import inspect, load_unrepaired
from gcnet.data.coco.open import open_coco
from gcnet.data.index_file import map_index, save_index
from gcnet.data.settings import DataSettings
from gcnet.errors import Failure, UserError

from .annotated import HEIGHT, WIDTH, content, write_images, write_json

REPAIRED = ReadOptions(repairs=True, images=None, split="train")
NAMES = ["b.png", "a.png", "c.png"]
SIZES = [[HEIGHT, WIDTH]] * 3


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which keeps the index of the smallest file, too."""
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(annotation_file, "CACHED", 0)
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An annotation file with an issue of each action."""
    data = content(write_images(tmp_path / "data", NAMES))
    first, second, third = data["annotations"]
    del first["iscrowd"]
    second["bbox"], second["attributes"] = [3, 2, 10.0, 1e-17 + 8], {"x": [None, True, "\ud800 é"]}
    third["bbox"] = [0, 0, 6, 5]
    data["annotations"] = [
        third,
        *({**second, "id": 7 + 2 * k, "bbox": [3, 2, 10, 8 + k / 9]} for k in range(3)),
        first,
    ]
    data["annotations"].append({**first, "id": 99, "image_id": 12})
    return aged(write_json(tmp_path / "data" / "instances_train.json", {"info": {"year": 2017}, **data}))


def aged(file: Path) -> Path:
    """Make a file look as if nothing had been written for a while, which `os.utime` cannot do for its status."""
    return file


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """The number of times that an annotation file was read and checked, in any process."""
    log, read = tmp_path / "reads", annotation_file.read_coco_text

    def recorded(path: Path, what: str, place: str) -> str:
        with log.open("a") as stream:
            stream.write("x")
        return read(path, what, place)

    monkeypatch.setattr(annotation_file, "read_coco_text", recorded)
    return lambda: log.stat().st_size if log.exists() else 0


def index_of(cache: Path) -> Path:
    """The only index in the cache."""
    (path,) = cache.rglob("*.safetensors")
    return path


def parts(opened: AnnotationFile) -> tuple[Any, ...]:
    """Everything in an opened file, numbers as their text: 1 and 1.0 differ."""
    issues = json.dumps([asdict(issue) for issue in opened.issues])
    return json.dumps(opened.index.content()), issues, opened.unlike, opened.counts, opened.box_format


def test_content_and_issues_from_the_cache_are_those_of_the_inspection(
    cache: Path, file: Path, reads: Callable[[], int]
) -> None:
    inspection = inspect(json.loads(file.read_text()), file.parent, decodes=False)
    assert {issue.action for issue in (*inspection.issues, *inspection.notes)} == {"repaired", "skipped", "noted"}
    for opened in (open_annotation_file(file, REPAIRED), open_annotation_file(file, REPAIRED)):
        assert json.dumps(opened.index.content()) == json.dumps(inspection.clean)
        assert opened.issues == inspection.issues
        assert opened.unlike == 1
        assert opened.counts == {"images": 3, "annotations": 6, "categories": 2}
        assert opened.listed_names() == NAMES
        assert opened.box_format == inspection.box_format
    assert reads() == 1
    assert index_of(cache).stat().st_size > 0


def test_annotations_without_repairs_have_an_index_of_their_own(cache: Path, tmp_path: Path) -> None:
    file = write_json(tmp_path / "instances_val.json", content(NAMES))
    expected, _, _ = load_unrepaired(json.loads(file.read_text()), str(file))
    options = ReadOptions(repairs=False, images=None, split="val")
    for _ in range(2):
        assert json.dumps(open_annotation_file(file, options).index.content()) == json.dumps(expected)
        open_annotation_file(file, REPAIRED)
    assert len(list(cache.rglob("*.safetensors"))) == 2


def test_annotations_of_an_image_are_in_the_order_of_the_file(file: Path) -> None:
    opened = open_annotation_file(file, REPAIRED)
    entries = opened.index.content()["annotations"]
    for row, identity in enumerate(opened.index.image_ids.tolist()):
        assert opened.index.annotations(row) == [entry for entry in entries if entry["image_id"] == identity]
        assert opened.index.image(row)["file_name"] == opened.index.names()[row] == NAMES[row]


def test_annotations_of_images_that_are_not_listed_are_kept() -> None:
    data = content(NAMES)
    data["annotations"][0]["image_id"] = 12
    index = AnnotationIndex.of(data)
    assert index.content() == data
    assert index.objects.tolist() == [0, 1, 1]


def test_a_changed_file_of_the_same_size_and_time_is_read_again(
    cache: Path, file: Path, reads: Callable[[], int]
) -> None:
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    open_annotation_file(file, REPAIRED)
    file.write_text(file.read_text().replace("a.png", "x.png"))
    os.utime(file, ns=times)
    assert open_annotation_file(file, REPAIRED).index.names() == ["b.png", "x.png", "c.png"]
    assert reads() == 2
    assert index_of(cache)


def test_a_file_that_was_touched_or_copied_over_itself_is_not_read_again(
    cache: Path, file: Path, reads: Callable[[], int]
) -> None:
    before = parts(open_annotation_file(file, REPAIRED))
    os.utime(file, ns=(1, 1))
    os.replace(write_json(file.with_suffix(".copy"), json.loads(file.read_text())), file)
    assert parts(open_annotation_file(file, REPAIRED)) == before
    assert reads() == 1
    assert index_of(cache)


def test_the_bytes_of_an_unchanged_file_are_not_read(cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_file, "_RECENT", -(10**12))
    before = parts(open_annotation_file(file, REPAIRED))
    monkeypatch.setattr(annotation_file, "_digest", lambda _: pytest.fail("the file was read"))
    assert parts(open_annotation_file(file, REPAIRED)) == before
    assert index_of(cache)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-7] + b"damaged", lambda _: b""]
)
def test_a_damaged_index_is_made_again(
    cache: Path, file: Path, reads: Callable[[], int], damage: Callable[[bytes], bytes]
) -> None:
    before = parts(open_annotation_file(file, REPAIRED))
    path = index_of(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert parts(open_annotation_file(file, REPAIRED)) == before
    assert parts(open_annotation_file(file, REPAIRED)) == before
    assert reads() == 2


def check_right_or_removed(file: Path, path: Path, before: tuple[Any, ...]) -> None:
    """Opening a file and using all entries gives those of the file, or an error and the next time those of the file."""
    opened = open_annotation_file(file, REPAIRED)
    images = CocoImages(opened.index, lambda _: Image.new("RGB", (WIDTH, HEIGHT)))
    try:
        for index in range(len(images)):
            images.read(index), images.objects(index), opened.index.image(index)
        found = parts(opened), images.names(), opened.index.sizes.tolist(), opened.index.image_ids.tolist()
        opened.index.raw_ids("images"), opened.index.raw_ids("categories")
    except Failure as error:
        assert "was invalid and has been removed: start the command again" in str(error)
        assert not path.exists()
        assert parts(open_annotation_file(file, REPAIRED)) == before
    else:
        assert found == (before, NAMES, SIZES, [1, 2, 3])


ENTRY = content(["b.png"])["annotations"][0]
IMAGE = content(["b.png"])["images"][0]
TEXTS = [
    *(
        ("annotation", text)
        for text in ("", "[", "{}", "[[]]", "null", "[]", '"x"', "[" * 9999, json.dumps([ENTRY] * 2))
    ),
    *(
        ("annotation", json.dumps([{**ENTRY, **change}]))
        for change in (
            *({"bbox": box} for box in (None, [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, 1e400], {}, [900, 0, 1, 1])),
            *(
                {"segmentation": mask}
                for mask in ([[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[0, 0, 1e9, 0, 0, 1]], "x")
            ),
            *({"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}} for counts in ([1, 2], "0" * 9, None)),
            {"segmentation": {"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}},
            *({"category_id": identity} for identity in (77, [], None)),
            *({key: None} for key in ("id", "image_id", "area", "iscrowd", "segmentation")),
            {"iscrowd": 1},
        )
    ),
    *(("image", json.dumps({**IMAGE, **change})) for change in ({"id": 2}, {"width": 9}, {"file_name": "a.png"})),
    *(("image", text) for text in ("", "[]", "{}", "nul")),
    *(("name", text) for text in ("", '"', "1,", '"b.png"', '"a.png",')),
]


@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_an_index_with_other_entries_is_removed_when_they_are_read(
    kind: str, text: str, cache: Path, tmp_path: Path
) -> None:
    """The checksum and the numbers of entries are right, as if another program had written the index."""
    file = write_json(tmp_path / "instances_train.json", content(NAMES))
    before = parts(open_annotation_file(file, REPAIRED))
    path = index_of(cache)
    stored = map_index(path)
    assert stored is not None
    ends, old = stored.arrays[f"{kind}_ends"], stored.arrays[f"{kind}_text"].tobytes()
    new = {
        f"{kind}_text": np.frombuffer(text.encode() + old[ends[1] :], dtype=np.uint8),
        f"{kind}_ends": np.array([0, *(ends[1:] + len(text) - ends[1])], dtype=np.int64),
    }
    assert save_index(path, {**stored.arrays, **new}, stored.details)
    check_right_or_removed(file, path, before)


def test_an_index_that_contradicts_itself_is_made_again(cache: Path, file: Path) -> None:
    before, path = parts(open_annotation_file(file, REPAIRED)), index_of(cache)
    for _ in changed_indexes(path):
        check_right_or_removed(file, path, before)


@pytest.mark.usefixtures("cache")
def test_without_a_cache_every_process_reads_the_file(
    file: Path, reads: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = parts(open_annotation_file(file, REPAIRED))
    monkeypatch.setenv("GCNET_CACHE", os.devnull)
    for number in (2, 3):
        assert parts(open_annotation_file(file, REPAIRED)) == before
        assert reads() == number


def test_sizes_read_from_images_are_read_again(cache: Path, file: Path) -> None:
    data = json.loads(file.read_text())
    del data["images"][1]["width"]
    write_json(file, data)
    assert open_annotation_file(file, REPAIRED).index.sizes[1].tolist() == [17, 23]
    assert not list(cache.rglob("*.safetensors"))


def test_one_of_several_processes_reads_the_file(cache: Path, file: Path, reads: Callable[[], int]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_annotation_file, args=(file, REPAIRED)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert reads() == 1
    assert index_of(cache)


def test_another_process_maps_the_same_index(cache: Path, file: Path) -> None:
    open_annotation_file(file, REPAIRED)
    index = open_annotation_file(file, REPAIRED).index
    data = pickle.dumps(index)
    assert len(data) < 1000
    assert pickle.loads(data).content() == index.content()
    write_json(file, content(NAMES))
    open_annotation_file(file, REPAIRED)
    with pytest.raises(Failure, match="changed while it was used"):
        pickle.loads(data)
    assert index_of(cache)


def test_an_index_in_memory_can_be_pickled() -> None:
    index = AnnotationIndex.of(content(NAMES))
    assert pickle.loads(pickle.dumps(index)).content() == content(NAMES)


def test_old_indexes_of_other_versions_are_removed(cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_annotation_file(file, REPAIRED)
    old = index_of(cache)
    monkeypatch.setattr(annotation_file, "_code_version", lambda: "other")
    open_annotation_file(file, REPAIRED)
    assert len(list(cache.rglob("*.safetensors"))) == 2
    os.utime(old, (0, 0))
    monkeypatch.setattr(annotation_file, "_code_version", lambda: "newest")
    open_annotation_file(file, REPAIRED)
    assert len(list(cache.rglob("*.safetensors"))) == 2
    assert not old.exists()


@pytest.mark.slow
def test_a_large_file_is_read_in_a_child_process(cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parts(open_annotation_file(file, REPAIRED))
    index_of(cache).unlink()
    monkeypatch.setattr(annotation_file, "IN_CHILD", 0)
    assert parts(open_annotation_file(file, REPAIRED)) == before
    file.write_text("[]")
    with pytest.raises(UserError, match="not in COCO's format"):
        open_annotation_file(file, REPAIRED)


def test_images_of_the_training_file_are_not_opened_for_validation(cache: Path, tmp_path: Path) -> None:
    from gcnet.data.coco.open import open_validation

    data = content(write_images(tmp_path / "images" / "val2017", NAMES))
    write_json(tmp_path / "annotations" / "instances_val2017.json", data)
    (tmp_path / "annotations" / "instances_train2017.json").write_text("damaged")
    part = open_validation(DataSettings(data=str(tmp_path)))
    assert part.images.names() == NAMES
    with pytest.raises(UserError, match="instances_train2017.json"):
        open_coco(DataSettings(data=str(tmp_path)))
    assert index_of(cache)


def test_no_object_of_an_annotation_stays_in_memory() -> None:
    index = AnnotationIndex.of(content(NAMES))
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in index.stored.arrays.values())
    assert set(index.stored.details) == {"content", "categories", "boxes_only"}
