"""CSV and JSON of names that are formulas or not UTF-8."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from gcnet.text_files import csv_bytes, describe_json_error, json_bytes, markdown_text

LATIN = b"caf\xe9".decode("utf-8", "surrogateescape")


def test_formulas_are_text_and_numbers_stay_numbers(tmp_path: Path) -> None:
    rows = [["=1+2", "+a", "@x", "-cmd"], ["-0.5", -3, "1e5", "a=b"], [LATIN, "a,b", "", 'say "x"']]
    (tmp_path / "a.csv").write_bytes(csv_bytes(rows))
    with open(tmp_path / "a.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["'=1+2", "'+a", "'@x", "'-cmd"]
    assert found[1] == ["-0.5", "-3", "1e5", "a=b"]
    assert found[2] == [LATIN, "a,b", "", 'say "x"']


def test_json_is_utf_8_and_gives_every_name_back() -> None:
    names = {"é": LATIN, "quote": 'a"\\'}
    written = json_bytes(names)
    assert "é".encode() in written
    assert json.loads(written.decode("utf-8")) == names


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "cannot be read as JSON: its lists or objects are nested too deeply"),
        ("9" * 5000, "cannot be read as JSON: a number in it has thousands of digits"),
        ("{]", "is not JSON: Expecting property name"),
    ],
    ids=["deep", "long number", "damaged"],
)
def test_text_that_cannot_be_read_as_json_is_described(text: str, sentence: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as caught:
        json.loads(text)
    assert describe_json_error(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (gzip.compress(b"{}"), "is compressed (gzip): decompress it"),
        ('{"é": 1}'.encode("utf-16"), "is text in UTF-16: save it in UTF-8"),
        ('{"é": 1}'.encode("latin-1"), "is not JSON: 'utf-8' codec can't decode byte 0xe9"),
    ],
    ids=["gzip", "UTF-16", "Latin-1"],
)
def test_files_that_are_not_text_in_utf_8_are_described(data: bytes, sentence: str) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode("utf-8-sig")
    assert describe_json_error(caught.value).startswith(sentence)


def test_text_in_markdown_has_no_formatting_links_lines_and_html() -> None:
    assert markdown_text("<b>*a*</b>\n[x](y)") == "\\<b\\>\\*a\\*\\</b\\>\\\\n\\[x\\](y)"
    assert markdown_text("tench, Tinca tinca 97.5%") == "tench, Tinca tinca 97.5%"
