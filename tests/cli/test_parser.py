"""Help: usual and advanced flags, defaults, widths."""

import os
from dataclasses import dataclass, field

import pytest

from gcnet import cli
from gcnet.arguments import POSITIONAL, advanced
from gcnet.cli.arguments import parse


@dataclass(frozen=True)
class Lamp:
    """Light."""

    name: str = field(metadata=POSITIONAL)
    """Of the lamp."""
    watts: int = 60
    """Power."""
    color: tuple[float, float, float] = advanced((1.0, 1.0, 1.0))
    """Red, green and blue."""


@pytest.mark.parametrize("columns", ["1", "40"])
def test_narrow_terminals_get_help_and_errors(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["train", "--sede", "3"]) == 2
    assert capsys.readouterr().err == 'gcnet: unknown flag "--sede"; did you mean "--seed"?\n'
    assert cli.main(["train", "--help"]) == 0
    assert "--batch-size N" in capsys.readouterr().out
    assert os.environ["COLUMNS"] == columns


def test_help_has_summary_flags_and_epilogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Lamp, ["desk", "--help"], program="gcnet lamp", epilogue="exit codes: none") is None
    text = capsys.readouterr().out
    assert "Light." in text and "--watts" in text
    assert text.endswith("exit codes: none\n")


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_100_columns_with_one_default_per_flag(
    command: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main([command, "--help-all"]) == 0
    text = capsys.readouterr().out
    assert "None" not in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    for entry in text.split("\n  --"):
        assert entry.lower().count("default:") <= 1


def test_help_hides_advanced_flags_that_help_all_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Lamp, ["--help"], program="gcnet lamp", epilogue="") is None
    usual = capsys.readouterr().out
    assert parse(Lamp, ["--help-all"], program="gcnet lamp", epilogue="") is None
    everything = capsys.readouterr().out
    assert "--watts N   Power (default: 60)." in usual
    assert "--color" not in usual and "more options: gcnet lamp --help-all" in usual
    assert "--color F F F" in everything and "more options" not in everything
    assert "usage: gcnet lamp NAME [options]" in usual
    assert parse(Lamp, ["desk", "--color", "1", "0", "0"], program="gcnet lamp", epilogue="") == Lamp(
        "desk", color=(1, 0, 0)
    )


@pytest.mark.parametrize(
    ("command", "codes", "has_more"),
    [
        ("train", [0, 1, 2, 3, 4, 129, 130, 143], True),
        ("evaluate", [0, 1, 2, 4, 129, 130, 143], True),
        ("blocks", [0, 1, 2, 129, 130, 143], False),
        ("simplify", [0, 1, 2, 129, 130, 143], True),
    ],
)
def test_help_lists_the_exit_codes_of_the_command_and_help_all_only_where_it_shows_more(
    command: str, codes: list[int], has_more: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert [int(line.split()[0]) for line in text.partition("exit codes:\n")[2].splitlines()] == codes
    assert ("--help-all" in text) == has_more
    assert "`" not in text


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "analyze", "export", "demo"])
def test_help_of_commands_with_published_weights_shows_how_to_download_them(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    usual = capsys.readouterr().out
    assert "pretrained" in usual and "\n  --download " in usual
