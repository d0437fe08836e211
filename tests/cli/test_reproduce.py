"""`gcnet reproduce`: the tables are listed and printed, what is counted beside what is published."""

import pytest

from gcnet.cli import main
from gcnet.experiments.tables import TABLES


def test_the_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TABLES)


def test_a_table_has_what_is_counted_beside_what_is_published_with_its_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["reproduce", "--table", "imagenet", "--cost-only"]) == 0
    output = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in output.splitlines() if "|" in line]
    assert rows[2] == ["baseline", "25.56", "-", "4.09", "-", "8.18", "-", "-"]
    assert rows[-1] == ["+all GC", "28.08", "28.08 [ECA]", "4.10", "3.87 [ECA]", "8.20", "77.70 [ECA]", "93.66 [ECA]"]
    assert "\n* [ECA] table of ECA-Net, arXiv 1910.03151" in output
    assert "[PVT]" not in output, "a source that the table does not use"
    assert "with the strides in the 1x1" in output.lower()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "takes --list, or --table NAME --cost-only"),
        ("--list --table design --cost-only", "takes --list, or --table NAME --cost-only"),
        ("--list --cost-only", "--cost-only belongs to --table"),
        ("--table design", "add --cost-only"),
        ("--table desing --cost-only", 'unknown table "desing"; did you mean "design"?'),
    ],
)
def test_a_mistake_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *arguments.split()]) == 2
    assert sentence in capsys.readouterr().err
