"""A page per command, from the parser that prints its `--help-all`."""

import re
from argparse import SUPPRESS, Action
from collections.abc import Iterable
from importlib import import_module
from inspect import cleandoc
from itertools import groupby
from typing import Any

import gcnet
from gcnet import cli
from gcnet.arguments import Argument, arguments_of
from gcnet.cli.parser import build_parser
from gcnet.cli.wording import with_flags
from gcnet.text_files import markdown_table

_DEFAULT = re.compile(r" ?\(default: ((?:[^()]|\([^()]*\))*)\)")


def command_pages() -> dict[str, str]:
    """Return the page of each command by file name."""
    return {f"{command}.md": command_page(command) for command in cli.COMMANDS}


def command_page(command: str) -> str:
    """Return the page of a command: usage, description, examples, flags in groups, and exit codes.

    Args:
        command: a name of `cli.COMMANDS`.
    """
    settings = import_module(f"gcnet.cli.{command.replace('-', '_')}").Settings
    arguments = list(arguments_of(settings))
    parser = build_parser(settings, arguments, f"gcnet {command}", show_all=True)
    description = with_flags(cleandoc(settings.__doc__ or ""), arguments)
    codes = cli.exit_codes(command)
    parts = [
        f"# gcnet {command}",
        f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```",
        _python_equivalent(command),
        *_paragraphs(description),
        r"Flags with \* are listed by `--help-all`." if any(argument.advanced for argument in arguments) else "",
        *_tables(parser, {argument.name: argument for argument in arguments}),
        "## Exit codes",
        markdown_table(("code", "meaning"), [(str(code), text) for code, text in codes.items()], right=()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraphs(text: str) -> Iterable[str]:
    """Paragraphs of a description; indented lines are shell examples."""
    for is_code, group in groupby(text.splitlines(), key=lambda line: line.startswith(" ")):
        block = cleandoc("\n".join(group)).strip()
        if is_code:
            yield f"```sh\n{block}\n```"
        elif block == "Examples:":
            yield "## Examples"
        elif block:
            yield re.sub(r"\n*Examples?:$", "\n\n## Examples", block)


def _python_equivalent(command: str) -> str:
    name = command.replace("-", "_")
    return f"In Python: [`gcnet.{name}`](../api/{name}.md)." if name in gcnet.__all__ else ""


def _tables(parser: Any, arguments: dict[str, Argument]) -> Iterable[str]:
    """A heading and a table for each group of flags."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest in arguments and action.help != SUPPRESS]
        if actions:
            yield f"## {group.title[:1].upper()}{group.title[1:]}"
            rows = [_row(action, arguments[action.dest]) for action in actions]
            first = "argument" if not actions[0].option_strings else "flag"
            table = markdown_table((first, "description", "default"), rows, right=())
            yield f'<div class="flags" markdown="1">\n\n{table}\n\n</div>'


def _row(action: Action, argument: Argument) -> tuple[str, str, str]:
    """Flag with placeholder, help without the default, and the default."""
    text = (action.help or "").replace("%%", "%")
    default = _DEFAULT.search(text)
    text = _DEFAULT.sub("", text, count=1).replace("|", r"\|").replace("<", "&lt;")
    mark = r" \*" if argument.advanced else ""
    return f"`{_invocation(action)}`{mark}", text, default[1] if default else ""


def _invocation(action: Action) -> str:
    metavar = str(action.metavar or "")
    if not action.option_strings:
        return metavar
    values = {"*": f"{metavar} ...", "?": f"[{metavar}]", None: metavar}.get(action.nargs)
    if values is None:
        values = " ".join([metavar] * int(action.nargs or 0))
    return " ".join([", ".join(action.option_strings), values]).strip()
