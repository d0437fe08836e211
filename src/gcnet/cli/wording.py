"""Flags of arguments, values in words, and messages with arguments rendered as flags."""

import re
from collections.abc import Iterable
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from gcnet.arguments import Argument

_CODE = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
_CALL = re.compile(r"`gcnet\.([a-z_]+)\(([^`]*)\)`")
_COMMAND = re.compile(r"`(gcnet [^`]*)`")
_KEYWORD = re.compile(r"(?:^|, )([a-z_]+)=(?:True\b)?")
_COMMANDS = {"resume": "train --resume"}
_NUMBERS = {2: "two", 3: "three"}
_WORDS = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers")}


def flag_of(argument: Argument) -> str:
    """Return the flag of an argument, such as `--batch-size` for `batch_size`."""
    return "--" + (argument.flag or argument.name.replace("_", "-"))


def flags_of(argument: Argument) -> tuple[str, ...]:
    """Return all flags of an argument: `--plots` and `--no-plots` for a boolean one."""
    flag = flag_of(argument)
    return (flag, f"--no-{flag[2:]}") if base_type(argument) is bool else (flag,)


def base_type(argument: Argument) -> Any:
    """Return the type of an argument without None, such as `int` for `int | None`."""
    if get_origin(argument.kind) not in (Union, UnionType):
        return argument.kind
    return next(kind for kind in get_args(argument.kind) if kind is not NoneType)


def other_words(argument: Argument) -> tuple[str, ...]:
    """Return the words that an argument takes besides values of its type, such as "auto" of `int | Literal["auto"]`."""
    kinds = [kind for kind in get_args(argument.kind) if kind != base_type(argument)]
    return tuple(str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))


def takes(argument: Argument) -> str:
    """Return the values that an argument takes in words, such as "two numbers"."""
    if others := other_words(argument):
        return " or ".join([takes(replace(argument, kind=base_type(argument))), *others])
    kind = base_type(argument)
    if kind is bool:
        return "no value"
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        plural = _WORDS.get(inner[0], ("", "values"))[1]
        return plural if inner[-1] is Ellipsis else f"{_NUMBERS[len(inner)]} {plural}"
    return _WORDS.get(kind, ("a value",))[0]


def with_flags(message: str, arguments: Iterable[Argument]) -> str:
    """Replace arguments in backticks by flags, and calls by commands; commands lose their backticks.

    Args:
        message: Text with arguments as in Python: `` `batch_size` ``, or `` `batch_size=8` `` with a value.
        arguments: Arguments of the command. Other names in backticks only lose the backticks.

    Returns:
        The message with `--batch-size`, `--batch-size 8`, `--no-plots` for `` `plots=False` ``, and
        `gcnet train --resume runs/first` for `` `gcnet.resume(runs/first)` ``.
    """
    flags = {item.name: flag_of(item) for item in arguments if not item.positional or item.name == "model"}

    def shown(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        flag = flags.get(name, name)
        if value is None or (value == "True" and name in flags):
            return flag
        if value == "False" and name in flags:
            return f"--no-{flag[2:]}"
        return f"{flag} {value}" if name in flags else f"{name}={value}"

    def command(match: re.Match[str]) -> str:
        words = _KEYWORD.sub(lambda keyword: f" --{keyword[1].replace('_', '-')} ", match[2]).strip()
        return f"gcnet {_COMMANDS.get(match[1], match[1].replace('_', '-'))} {words}".rstrip()

    return _CODE.sub(shown, _COMMAND.sub(r"\1", _CALL.sub(command, message)))
