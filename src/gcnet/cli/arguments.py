"""Parses command-line arguments into settings; usage errors are one sentence."""

import io
import os
import re
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import tyro

from gcnet.cli.help_text import tidy
from gcnet.cli.synonyms import FLAGS, VALUES, similar_flag
from gcnet.errors import UserError, nearest, unknown

S = TypeVar("S")

_NARROWEST = 80

# tyro's help starts a row with the flag's names and what the flag takes; a frame may stand to the left.
_ROW = re.compile(r"^\W*?(?P<flags>(?:-\w, )?--[a-z][\w.-]*(?:, --[a-z][\w.-]*)*)(?: (?P<takes>\S+(?: \S+)*))?", re.M)
_FRAME = re.compile(r"[│╭╮╰╯─]|-{3,}")
_CHOICE = re.compile(r"invalid choice '(?P<value>.*)' for argument '(?P<flag>.*)'\. Expected one of \((?P<valid>.*?)\)")
_MISSING = re.compile(
    r"Missing from [^:]*: (?:[A-Z]+|\{[^}]*\}) (?P<what>.*?)\.? \(required\)"
)  # an argument without a flag
# What tyro writes for the values of a flag, in words.
_WORDS = (
    (re.compile(r"\{None\}\||[{}]"), ""),
    (re.compile(r"\[INT \[INT \.\.\.\]\]"), "whole numbers"),
    (re.compile(r"\[FLOAT \[FLOAT \.\.\.\]\]"), "numbers"),
    (re.compile(r"\[(STR|PATH) \[\1 \.\.\.\]\]"), "values"),
    (re.compile(r"\bINT INT\b"), "two whole numbers"),
    (re.compile(r"\bFLOAT FLOAT FLOAT\b"), "three numbers"),
    (re.compile(r"\bFLOAT FLOAT\b"), "two numbers"),
    (re.compile(r"\bINT\b"), "a whole number"),
    (re.compile(r"\bFLOAT\b"), "a number"),
    (re.compile(r"\bSTR\b"), "a value"),
    (re.compile(r"\bPATH\b"), "a path"),
    (re.compile(r"(?<=\w),(?=\w)"), " or "),
)


def parse(kind: type[S], arguments: Sequence[str], *, program: str, epilogue: str) -> S | None:
    """Parse the arguments of a command.

    Args:
        kind: the dataclass of the command's settings.
        arguments: what follows the command on the command line.
        program: the command as typed, such as "gcnet train".
        epilogue: text after the help.

    Returns:
        The settings, or None where `arguments` ask for help, which is then printed.

    Raises:
        UserError: a flag is unknown or missing, or a value is invalid.
    """
    kind = _marked(kind)
    arguments = _model_first(kind, arguments)
    if list(arguments) == ["help"] or any(argument in ("-h", "--help") for argument in arguments):
        _print_help(kind, program)
        print(epilogue)
        return None
    _refuse_empty(arguments, program)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            settings, extra = tyro.cli(
                kind, prog=program, args=list(arguments), return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as end:
        flags = _flags(kind, program)
        error = _unknown_flag(arguments, flags, program)
        if error is None and arguments and not arguments[0].startswith("-") and not _has_positionals(kind):
            error = _unexpected(arguments[0], flags, arguments, program)
        error = error or _refusal(end)
        raise error or _mistake(complaint.getvalue(), arguments, flags, program) from None
    if extra:
        flags = _flags(kind, program)
        raise _unknown_flag(extra, flags, program) or _unexpected(extra[0], flags, arguments, program)
    if any(setting.name == "given" for setting in fields(cast(Any, kind))):
        settings = replace(cast(Any, settings), given=_given_names(arguments))
    return settings


def _given_names(arguments: Sequence[str]) -> tuple[str, ...]:
    """The settings whose flags are among the arguments, by name."""
    flags = [argument.split("=")[0][2:] for argument in arguments if argument.startswith("--")]
    return tuple(flag.removeprefix("no-").replace("-", "_") for flag in flags)


def _marked(kind: type[S]) -> type[S]:
    """The settings with tyro's marks on the fields whose metadata have ours."""
    marks = {"positional": tyro.conf.Positional, "internal": tyro.conf.Suppress}
    hints = get_type_hints(kind, include_extras=True)
    annotations: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for item in fields(cast(Any, kind)):
        for name in marks.keys() & item.metadata.keys():
            annotations[item.name] = cast(Any, Annotated)[hints[item.name], marks[name]]
            if item.default is not MISSING:
                values[item.name] = item.default
    if not annotations:
        return kind
    body = {**values, "__annotations__": annotations, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return cast(type[S], dataclass(frozen=True)(type(kind.__name__, (kind,), body)))


def _model_first(kind: type, arguments: Sequence[str]) -> list[str]:
    """The arguments with `--model FILE` moved to the front, where the command takes the model without a flag."""
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    first = next(iter(hints), "")
    if first != "model" or tyro.conf.Positional not in getattr(hints[first], "__metadata__", ()):
        return list(arguments)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag != "--model":
            continue
        values, after = ([value], index + 1) if equals else (list(arguments[index + 1 : index + 2]), index + 2)
        return [*values, *arguments[:index], *arguments[after:]]
    return list(arguments)


def _has_positionals(kind: type) -> bool:
    """Whether a command takes values without a flag."""
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    return any(tyro.conf.Positional in getattr(hint, "__metadata__", ()) for hint in hints.values())


def _refuse_empty(arguments: Sequence[str], program: str) -> None:
    """Refuse empty values, such as of an unset shell variable: as a path they would mean this folder."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, equals, value = argument.partition("=")
        if argument == "" or (equals and not value and flag.startswith("--")):
            name = flag or (before if before.startswith("--") else f"an argument of {program}")
            raise UserError(f"{name} is empty: give a value")


def _unexpected(argument: str, flags: dict[str, str], arguments: Sequence[str], program: str) -> UserError:
    """Error for an argument that belongs to no flag, or is one too many for its flag."""
    name, equals, value = argument.partition("=")
    bare = name.replace("_", "-").lower()
    flag = f"--{bare}" if f"--{bare}" in flags else FLAGS.get(bare, "").split(" ")[0]
    if equals and flag in flags:
        return UserError(f'unexpected argument "{argument}"; did you mean "{flag} {value}"?')
    before = arguments[: arguments.index(argument)] if argument in arguments else []
    flag = next((word.partition("=")[0].replace("_", "-") for word in before[::-1] if word.startswith("--")), "")
    if flag in flags:
        one = re.sub("^a ", "one ", _in_words(flags[flag])) or "no value"
        return UserError(f"{flag} takes {one}, found {_given(flag, arguments)}")
    is_data = os.path.isdir(argument) or argument.endswith((".csv", ".json"))
    for flag, what in (("--data", "data"), ("--model", "model")):
        if flag in flags and flag not in arguments and (is_data or flag == "--model"):
            return UserError(f'unexpected argument "{argument}"; {program} takes the {what} as {flag} {argument}')
    return UserError(f'unexpected argument "{argument}"; {program} --help lists the valid ones')


def _in_words(takes: str) -> str:
    """The values of a flag, as tyro's help writes them, in words."""
    for pattern, words in _WORDS:
        takes = pattern.sub(words, takes)
    return takes


def _refusal(end: BaseException) -> UserError | None:
    """The error that a settings class raised; for a nested class, tyro's own error stands in between."""
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__context__
    return cause


@contextmanager
def _wide_enough() -> Generator[None]:
    """Lay out help for at least `_NARROWEST` columns, below which flags and their descriptions leave no room."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(_NARROWEST, shutil.get_terminal_size().columns))
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _print_help(kind: type, program: str) -> None:
    text = io.StringIO()
    with suppress(SystemExit), redirect_stdout(text), _wide_enough():
        tyro.cli(kind, prog=program, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    print(tidy(text.getvalue()), end="")


def _flags(kind: type, program: str) -> dict[str, str]:
    """Every flag of a command and the values it takes, read from its help."""
    text = io.StringIO()
    with redirect_stdout(text):
        _print_help(kind, program)
    rows = [(row["flags"], row["takes"] or "") for row in _ROW.finditer(text.getvalue())]
    # Two spaces or the frame end what a flag takes; the rest of its row is the description.
    return {flag: re.split(r"\s{2,}|│", takes)[0] for flags, takes in rows for flag in flags.split(", ")}


def _unknown_flag(arguments: Sequence[str], flags: dict[str, str], program: str) -> UserError | None:
    """Error for the first unknown flag among the arguments; underscores count as hyphens."""
    for argument in arguments:
        name = argument.split("=")[0]
        if re.match(r"--?[A-Za-z]", name) and name.replace("_", "-") not in flags:
            bare = name.lstrip("-").replace("_", "-").lower()
            suggestion = similar_flag(bare, flags) or _nearest_flag(bare, flags)
            return UserError(f'unknown flag "{name}"{suggestion or f"; {program} --help lists the valid ones"}')
    return None


def _nearest_flag(bare: str, flags: dict[str, str]) -> str:
    """Suggestion of the flag most similar to `bare`, which has no dashes: those would make all flags similar."""
    suggestion = nearest(bare, [flag.removeprefix("--") for flag in flags if flag.startswith("--")])
    return suggestion.replace('"', '"--', 1)


def _mistake(complaint: str, arguments: Sequence[str], flags: dict[str, str], program: str) -> UserError:
    """One sentence for tyro's error message, a box of several lines."""
    if error := _unknown_flag(arguments, flags, program):
        return error
    text = " ".join(_FRAME.sub(" ", complaint).split())
    if choice := _CHOICE.search(text):
        valid = set(re.findall(r"'([^']*)'", choice["valid"])) - {"None"}
        return unknown(choice["flag"], choice["value"], sorted(valid), synonyms=VALUES)
    if missing := _MISSING.search(text):
        return UserError(f"{program} needs {missing['what'][0].lower()}{missing['what'][1:]} (see {program} --help)")
    named = re.search(r"--[a-z][\w.-]*\w", text)
    if named is None or named[0] not in flags:
        return UserError(f"{text} (see {program} --help)")
    flag, takes = named[0], _in_words(flags[named[0]])
    if text.startswith("Required options"):
        return UserError(f"{program} needs {flag}, which takes {takes}")
    return UserError(f"{flag} takes {takes}, found {_given(flag, arguments)}")


def _given(flag: str, arguments: Sequence[str]) -> str:
    """The quoted values after `flag` on the command line."""
    words = [word for argument in arguments for word in argument.split("=", 1 if argument.startswith("--") else 0)]
    names = [word.replace("_", "-") for word in words]
    values = words[len(names) - names[::-1].index(flag) :] if flag in names else []
    end = next((index for index, word in enumerate(values) if word.startswith("--")), len(values))
    return f'"{" ".join(values[:end])}"' if end else "nothing"
