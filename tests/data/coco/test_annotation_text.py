import json
import random
from typing import Any

import pytest

from gcnet.data.coco.annotation_text import cut_annotations, read_part

TRICKY = [
    {"segmentation": [{"counts": [1, 2], "size": [3, 1]}], "area": 1},
    {"note": '}, {"annotations": [{}]}], "', "id": 2},
    {"nested": [{"a": {}}, {"b": [{}]}], "id": 3},
    {"id": 1e22, "x": [-0.0, 1e-7, 12345678901234567890, None, True], "y": "\u00e9\U0001f600"},
    {"annotations": [{"id": 1}], "id": 5},
]


def file_text(entries: list[Any], seed: int) -> str:
    """A COCO file with its members in a random order, written with random white space."""
    draw = random.Random(seed)
    members = [("images", [{"id": 1, "tags": [{"a": 1}]}]), ("annotations", entries), ("categories", []), ("info", {})]
    draw.shuffle(members)
    options: dict[str, Any] = {"indent": draw.choice([None, None, 1, "\t"]), "ensure_ascii": draw.random() < 0.5}
    if options["indent"] is None:
        options["separators"] = draw.choice([(",", ":"), (", ", ": "), (" , ", " : ")])
    return json.dumps(dict(members), **options) + draw.choice(["", "\n"])


@pytest.mark.parametrize("seed", range(40))
def test_parts_are_read_as_json_reads_the_whole_list_or_refused(seed: int) -> None:
    draw = random.Random(seed)
    entries = [draw.choice(TRICKY) if draw.random() < 0.1 else {"id": number} for number in range(60)]
    text = file_text(entries, seed)
    cut = cut_annotations(text, 1 + seed % 7)
    assert cut is not None
    whole = json.loads(text)
    assert list(cut.rest) == list(whole) and cut.rest == whole | {"annotations": []}
    try:
        pairs = [pair for part in cut.parts for pair in read_part(cut, part)]
    except ValueError:
        assert any(entry in TRICKY for entry in entries)
        return
    assert [entry for entry, _ in pairs] == whole["annotations"]
    assert [json.loads(entry_text) for _, entry_text in pairs] == whole["annotations"]


def test_a_usual_file_is_cut_into_parts_of_about_equal_length() -> None:
    text = json.dumps({"images": [], "annotations": [{"id": number, "bbox": [0.5] * 4} for number in range(1000)]})
    cut = cut_annotations(text, 8)
    assert cut is not None and len(cut.parts) == 8
    lengths = [end - start for start, end in cut.parts]
    assert max(lengths) < 1.1 * min(lengths)
    assert [entry["id"] for part in cut.parts for entry, _ in read_part(cut, part)] == list(range(1000))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"annotations": [], "images": []}',
        '{"annotations": {"a": 1}}',
        '{"images": []}',
        '{"annotations": [{"id": 1}]',
        '{"annotations": [{"id": 1}]} x',
        '{"annotations": [{"id": 1}], 3: 4}',
        '{"images" [], "annotations": [{"id": 1}]}',
    ],
)
def test_other_texts_are_not_cut(text: str) -> None:
    assert cut_annotations(text, 2) is None


@pytest.mark.parametrize(
    "inside",
    [
        '{"id": 1}], "annotations": [{"id": 2}',
        '{"id": 1} {"id": 2}',
        '{"id": 1},, {"id": 2}',
        '{"id": 01}',
        '{"id": 1}, {id: 2}',
    ],
)
def test_a_part_that_is_not_json_is_an_error(inside: str) -> None:
    cut = cut_annotations(f'{{"annotations": [{inside}]}}', 2)
    assert cut is not None
    with pytest.raises(ValueError, match=r"."):
        [list(read_part(cut, part)) for part in cut.parts]
