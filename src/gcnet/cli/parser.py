"""Builds the argparse parser of a command from its settings: flags, placeholders, help and defaults."""

import shutil
import textwrap
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import MISSING
from functools import partial
from inspect import cleandoc
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from gcnet.arguments import Argument
from gcnet.cli.wording import base_type, flag_of, other_words, with_flags

_WIDTHS = (80, 100)
_HELP_COLUMN = 26
_METAVARS = {int: "N", float: "F", Path: "PATH"}


class _Formatter(RawDescriptionHelpFormatter):
    """Help formatter that does not break flags at hyphens."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def build_parser(kind: type, arguments: Sequence[Argument], program: str, *, show_all: bool, epilog: str = "") -> Any:
    """Build the parser of a command.

    Args:
        kind: Dataclass of the settings; its docstring is the description.
        arguments: Arguments of the settings.
        program: The command as typed, such as "gcnet train".
        show_all: Whether the help includes advanced arguments.
        epilog: Text at the end of the help.

    Returns:
        An `argparse.ArgumentParser`. Its namespaces have the values as text, and no entries for absent arguments.
    """
    width = min(max(shutil.get_terminal_size().columns, _WIDTHS[0]), _WIDTHS[1])
    has_advanced = any(argument.advanced for argument in arguments)
    parser = ArgumentParser(
        prog=program,
        usage=_usage(arguments, program),
        description=_wrapped(with_flags(cleandoc(kind.__doc__ or ""), arguments), width),
        epilog=(f"more options: {program} --help-all\n\n" if has_advanced and not show_all else "") + epilog,
        formatter_class=partial(_Formatter, width=width, max_help_position=_HELP_COLUMN),
        argument_default=SUPPRESS,
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    groups: dict[str, Any] = {
        "": parser.add_argument_group("arguments"),
        "options": parser.add_argument_group("options"),
    }
    for argument in arguments:
        title = "" if argument.positional else argument.title or "options"
        if title not in groups:
            groups[title] = parser.add_argument_group(f"{title[:1].lower()}{title[1:]}")
        is_shown = show_all or not argument.advanced
        _add(groups[title], argument, with_flags(_help(argument), arguments) if is_shown else SUPPRESS)
    last = parser.add_argument_group("help")
    last.add_argument(
        "-h", "--help", action="store_true", help=f"show {'the usual' if has_advanced else 'all'} options"
    )
    last.add_argument("--help-all", action="store_true", help="show all options" if has_advanced else SUPPRESS)
    return parser


def _add(group: Any, argument: Argument, text: str) -> None:
    if argument.positional:
        is_many = get_origin(argument.kind) is tuple
        group.add_argument(argument.name, nargs="*" if is_many else "?", metavar=metavar(argument), help=text)
        return
    flag, kind = flag_of(argument), base_type(argument)
    if kind is not bool:
        group.add_argument(flag, dest=argument.name, nargs=_count(kind), metavar=metavar(argument), help=text)
    elif argument.default is False:
        group.add_argument(flag, action="store_true", help=text)
        group.add_argument(f"--no-{flag[2:]}", dest=argument.name, action="store_false", help=SUPPRESS)
    else:
        group.add_argument(flag, action=BooleanOptionalAction, help=text)


def _count(kind: Any) -> int | str | None:
    """`nargs` of argparse."""
    if get_origin(kind) is not tuple:
        return None
    return "*" if get_args(kind)[-1] is Ellipsis else len(get_args(kind))


def metavar(argument: Argument) -> str:
    """Return the placeholder for the value of an argument: N, F, PATH, choices in braces, or the end of its name."""
    kind = base_type(argument)
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    name = argument.name.split("_")[-1].upper()
    return "|".join([name if argument.positional else _METAVARS.get(kind, name), *other_words(argument)])


def _help(argument: Argument) -> str:
    """Help text with the default, unless the text states it."""
    text, default = argument.help, argument.default
    is_shown = default is not False and default is not MISSING and default not in (None, ())
    if "default" not in text and is_shown:
        text = f"{text.removesuffix('.')} (default: {_value(default)})."
    return text.replace("%", "%%")


def _value(default: Any) -> str:
    """A default as on the command line."""
    if isinstance(default, tuple):
        return " ".join(map(_value, default))
    return "on" if default is True else f"{default:g}" if isinstance(default, float) else str(default)


def _usage(arguments: Sequence[Argument], program: str) -> str:
    words = [program]
    for argument in arguments:
        name = metavar(argument)
        if argument.positional:
            name = f"{name} ..." if get_origin(argument.kind) is tuple else name
            words.append(name if argument.default is MISSING else f"[{name}]")
        elif argument.default is MISSING:
            words.append(f"{flag_of(argument)} {name}")
    return " ".join([*words, "[options]"])


def _wrapped(text: str, width: int) -> str:
    """Text with wrapped paragraphs; indented lines, such as examples, are kept."""
    lines: list[str] = []
    for is_kept, group in groupby(text.splitlines(), key=lambda line: not line or line.startswith(" ")):
        part = list(group)
        lines += part if is_kept else textwrap.wrap(" ".join(part), width, break_on_hyphens=False)
    return "\n".join(lines)
