import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcnet.data.coco import parallel_inspection
from gcnet.data.coco.annotation_text import CutText, cut_annotations
from gcnet.data.coco.box_formats import COCO
from gcnet.data.coco.index import AnnotationIndex, annotation_arrays
from gcnet.data.coco.inspection import inspect
from gcnet.data.coco.parallel_inspection import inspect_in_processes
from gcnet.data.index_file import Index
from gcnet.errors import Failure

from .annotated import content

Entries = list[Any]


def annotated(change: Callable[[Entries], Entries]) -> dict[str, Any]:
    """Annotations of seven images with a few issues, and a change of them."""
    data = content([f"{number}.png" for number in range(7)])
    entries = data["annotations"]
    del entries[2]["iscrowd"]
    entries[3]["bbox"] = [0, 0, 6, 5]
    entries[4] |= {"bbox": [3, 2, 10.0, 1e-17 + 8], "attributes": {"x": [None, True, "\ud800"]}}
    entries[5]["category_id"] = 12
    return {"info": {}, **data, "annotations": change(entries)}


def cut(data: dict[str, Any]) -> CutText:
    """The text of the data in five parts."""
    found = cut_annotations(json.dumps(data), 5)
    assert found is not None and len(found.parts) == 5
    return found


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries,
        lambda entries: [*entries[:4], {**entries[1], "id": 12345}, *entries[4:]],
        lambda entries: [*entries, {**entries[0], "image_id": 99, "id": 98}],
        lambda entries: [{**entry, "image_id": 1} for entry in entries],
    ],
)
def test_several_processes_give_the_same_annotations_and_issues_as_one(
    change: Callable[[Entries], Entries], tmp_path: Path
) -> None:
    data = annotated(change)
    expected = inspect(data, None)
    checked = inspect_in_processes(cut(data), lambda: tmp_path, 3)
    assert checked is not None and checked.count == len(data["annotations"])
    index = AnnotationIndex(Index(*annotation_arrays(checked.clean, checked.annotations)))
    assert json.dumps(index.content()) == json.dumps(expected.clean)
    assert index.stored.details == AnnotationIndex.of(expected.clean).stored.details
    assert [issue for issue in checked.issues if issue.action != "noted"] == list(expected.issues)
    assert [issue for issue in checked.issues if issue.action == "noted"] == list(expected.notes)
    assert expected.box_format == COCO


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: [{**entry, "bbox": [3, 2, 13, 10]} for entry in entries],  # corners
        lambda entries: [{**entry, "segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.5]]} for entry in entries],
        lambda entries: [*entries, {**entries[0], "bbox": [3, 2, 9, 8]}],  # an id that is taken
        lambda entries: [{**entry, "id": str(entry["id"])} for entry in entries],
        lambda entries: [*entries, 7],  # named by its number in the file
        lambda entries: [*entries, {"id": 98, "bbox": [3, 2, 4, 5]}],
        lambda _: [],
    ],
)
def test_files_that_need_all_annotations_at_once_are_not_checked_in_parts(
    change: Callable[[Entries], Entries], tmp_path: Path
) -> None:
    text = cut_annotations(json.dumps(annotated(change)), 5)
    assert text is None or inspect_in_processes(text, lambda: tmp_path, 3) is None


def test_a_killed_process_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parallel_inspection, "box_arrays", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(Failure, match="was killed, perhaps for lack of memory"):
        inspect_in_processes(cut(annotated(list)), lambda: tmp_path, 2)
