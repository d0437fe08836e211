"""The pages of commands, blocks and the Python API are complete and agree with what the package prints."""

import re
import shlex
from importlib import import_module
from inspect import ismodule
from pathlib import Path

import pytest

import gcnet
from docs.site.api import api_members, api_pages
from docs.site.block_reference import block_page
from docs.site.commands import command_page, command_pages
from gcnet import cli
from gcnet.arguments import arguments_of
from gcnet.cli.arguments import parse
from gcnet.cli.parser import build_parser

COMMANDS = list(cli.COMMANDS)


def settings_of(command: str) -> type:
    return import_module(f"gcnet.cli.{command.replace('-', '_')}").Settings


def cells(page: str) -> list[list[str]]:
    """The cells of all rows of all tables of a page."""
    rows = re.findall(r"^\|(.*)\|$", page, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def test_every_command_has_a_page() -> None:
    assert list(command_pages()) == [f"{command}.md" for command in COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_has_the_flags_that_its_help_prints(command: str) -> None:
    settings = settings_of(command)
    parser = build_parser(settings, list(arguments_of(settings)), f"gcnet {command}", show_all=True)
    printed = set(re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", parser.format_help(), re.MULTILINE)) - {
        "--help",
        "--help-all",
    }
    listed = {flag for row in cells(command_page(command)) for flag in re.findall(r"^`(--[a-z0-9-]+)", row[0])}
    assert listed == printed


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_has_its_defaults(command: str) -> None:
    rows = {
        re.findall(r"--[a-z0-9-]+|\w+", row[0])[0]: row for row in cells(command_page(command)) if row[0][:1] == "`"
    }
    for argument in arguments_of(settings_of(command)):
        if type(argument.default) in (int, float) and "default" not in argument.help:
            flag = f"--{argument.flag or argument.name.replace('_', '-')}"
            assert float(rows[flag][2]) == argument.default, flag


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_on_the_page_of_a_command_are_valid(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "photos"):
        Path(folder).mkdir()
    examples = re.findall(
        r"^gcnet .*", "\n".join(re.findall(r"```sh\n(.*?)```", command_page(command), re.DOTALL)), re.M
    )
    for example in examples:
        _, named, *words = shlex.split(example, comments=True)
        assert parse(settings_of(named), words, program=f"gcnet {named}", epilogue="") is not None, example


def test_every_public_name_is_in_the_api_reference() -> None:
    documented = {name for members in api_members().values() for name in members}
    public = {f"gcnet.{name}" for name in gcnet.__all__ if not ismodule(getattr(gcnet, name))}
    assert public <= documented
    assert {"RunResult", "PredictionResult", "EvaluationResult", "Comparison", "Costs", "Predictor"} <= documented


def test_a_definition_is_in_the_api_reference_once() -> None:
    paths = [path for members in api_members().values() for path in members.values()]
    assert len(paths) == len(set(paths))
    assert all(f"::: {path}\n" in "".join(api_pages().values()) for path in paths)


def test_the_block_reference_has_the_parameters_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["blocks"])
    printed = {row[0]: row[-1] for row in cells(capsys.readouterr().out) if row[-1].replace(",", "").isdigit()}
    listed = {row[0].split("`")[1]: row[-1] for row in cells(block_page()) if row[0].startswith("[`")}
    assert list(listed) == gcnet.list_blocks()
    assert {name: count for name, count in printed.items() if name in listed} == listed
