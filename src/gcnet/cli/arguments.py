"""Parses command-line arguments into settings; usage errors are one sentence."""

import os
import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from gcnet.arguments import Argument, arguments_of, settings_from
from gcnet.cli.parser import build_parser, metavar
from gcnet.cli.synonyms import FLAGS, VALUE_SYNONYMS, similar_flag
from gcnet.cli.wording import base_type, flag_of, flags_of, other_words, takes
from gcnet.errors import UserError, nearest, unknown
from gcnet.renamed import new_flag, renamed

_S = TypeVar("_S")


def parse(kind: type[_S], words: Sequence[str], *, program: str, epilogue: str) -> _S | None:
    """Parse the arguments of a command.

    Args:
        kind: Dataclass of the command's settings.
        words: Words after the command.
        program: The command as typed, such as "gcnet train".
        epilogue: Text after the help.

    Returns:
        The settings, or None if `words` request the help, which is printed.

    Raises:
        UserError: A flag is unknown or missing, or a value is invalid.
    """
    arguments = list(arguments_of(kind))
    show_all = "--help-all" in words
    parser = build_parser(kind, arguments, program, show_all=show_all, epilog=epilogue)
    if asks_help(words):
        parser.print_help()
        return None
    flags = {flag: argument for argument in arguments for flag in flags_of(argument)}
    line = _Line(_model_first(arguments, words), program, flags)
    line.refuse_unknown_flags()
    line.refuse_empty_values()
    try:
        read, extra = parser.parse_known_intermixed_args([_hyphenated(word) for word in line.words])
    except ArgumentError as error:
        raise line.wrong_values(str(error.argument_name).split("/")[0]) from None
    if extra:
        raise line.unexpected(extra[0])
    line.refuse_flags_without_values(vars(read))
    values = {
        argument.name: line.value(argument, vars(read)[argument.name])
        for argument in arguments
        if argument.name in read
    }
    line.refuse_missing(values)
    return settings_from(kind, values)


def asks_help(words: Sequence[str]) -> bool:
    """Return whether the `words` after a command ask for its help."""
    return list(words) == ["help"] or not {"-h", "--help", "--help-all"}.isdisjoint(words)


def _hyphenated(word: str) -> str:
    """Replace underscores of a flag by hyphens."""
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


def _model_first(arguments: Sequence[Argument], words: Sequence[str]) -> list[str]:
    """Move `--model FILE` to the front if the model is positional."""
    if not arguments or arguments[0].name != "model" or not arguments[0].positional:
        return list(words)
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--model" and equals:
            return [value, *words[:index], *words[index + 1 :]]
        if flag == "--model":
            if words[index + 1 : index + 2] in ([], [""]) or words[index + 1].startswith("--"):
                raise UserError("--model takes a value, found nothing")
            return [words[index + 1], *words[:index], *words[index + 2 :]]
    return list(words)


class _Line:
    """Words of a command line; checks them and reports errors."""

    def __init__(self, words: Sequence[str], program: str, flags: Mapping[str, Argument]) -> None:
        self.words, self.program, self.flags = list(words), program, flags
        has_advanced = any(argument.advanced for argument in flags.values())
        self._help_command = f"{program} --help{'-all' if has_advanced else ''}"

    def refuse_unknown_flags(self) -> None:
        """Raise an error for the first unknown flag; underscores count as hyphens."""
        for word in self.words:
            name = word.split("=")[0]
            flag = name.replace("_", "-")
            if not re.match(r"--?[A-Za-z]", name) or (flag in self.flags and not self.flags[flag].positional):
                continue
            if (new := new_flag(flag)) in self.flags:
                raise renamed(name, new)
            bare = flag.lstrip("-").lower()
            suggestion = similar_flag(bare, self.flags) or self._nearest_flag(bare)
            raise UserError(f'unknown flag "{name}"{suggestion or f"; {self._help_command} lists all flags"}')

    def _nearest_flag(self, bare: str) -> str:
        """Suggestion of the flag most similar to `bare`, which has no dashes: those would make all flags similar."""
        return nearest(bare, [flag[2:] for flag in self.flags]).replace('"', '"--', 1)

    def refuse_empty_values(self) -> None:
        """Refuse empty values, such as of an unset shell variable: as a path they would mean this folder."""
        for before, word in zip(["", *self.words], self.words, strict=False):
            flag, equals, value = word.partition("=")
            if word == "" or (equals and not value and flag.startswith("--")):
                name = flag or (before if before.startswith("--") else f"an argument of {self.program}")
                raise UserError(f"{name} is empty: give a value")

    def refuse_flags_without_values(self, read: Mapping[str, Any]) -> None:
        """Refuse flags without a value, such as after an empty variable, that would mean the default."""
        for flag, argument in self.flags.items():
            if not argument.positional and not argument.default and read.get(argument.name) == []:
                raise self.wrong_values(flag)

    def refuse_missing(self, values: Mapping[str, Any]) -> None:
        """Raise an error for the first missing argument without a default."""
        for flag, argument in self.flags.items():
            if argument.default is not MISSING or values.get(argument.name, ()) != ():
                continue
            name = metavar(argument) if argument.positional else f"{flag} {metavar(argument)}"
            text = argument.help[:1].lower() + argument.help[1:].rstrip(".")
            raise UserError(f"{self.program} needs {name}: {text}")

    def value(self, argument: Argument, read: Any) -> Any:
        """Convert the text of an argument to its type."""
        kind = base_type(argument)
        if read == "None" and NoneType in get_args(argument.kind):
            return None
        if read in other_words(argument):
            return read
        if get_origin(kind) is tuple:
            return tuple(self._single(argument, get_args(kind)[0], text) for text in read)
        return self._single(argument, kind, read)

    def _single(self, argument: Argument, kind: Any, text: Any) -> Any:
        name = argument.name if argument.positional else flag_of(argument)
        if get_origin(kind) is Literal:
            choices = {str(choice): choice for choice in get_args(kind)}
            if text not in choices:
                raise unknown(name, text, sorted(choices), synonyms=VALUE_SYNONYMS)
            return choices[text]
        try:
            return text if kind is bool else kind(text)
        except ValueError:
            raise self.wrong_values(flag_of(argument)) from None

    def wrong_values(self, flag: str, expected: str | None = None) -> UserError:
        """Error for the values of a flag."""
        argument = self.flags[flag]
        return UserError(f"{flag} takes {expected or takes(argument)}, found {self._found(flag)}")

    def _found(self, flag: str) -> str:
        """The quoted values after a flag."""
        words = [part for word in self.words for part in word.split("=", 1 if word.startswith("--") else 0)]
        names = [word.replace("_", "-") for word in words]
        values = words[len(names) - names[::-1].index(flag) :] if flag in names else []
        end = next((index for index, word in enumerate(values) if word.startswith("--")), len(values))
        return f'"{" ".join(values[:end])}"' if end else "nothing"

    def unexpected(self, word: str) -> UserError:
        """Error for a word without a flag, or one too many for its flag."""
        if word.lower().endswith(".tar"):  # the shell has expanded a pattern
            quoted = '"shards/{train,val}-*.tar"'
            return UserError(f'unexpected argument "{word}"; a pattern of shards is given in quotes, such as {quoted}')
        name, equals, value = word.partition("=")
        bare = name.replace("_", "-").lower()
        flag = f"--{bare}" if f"--{bare}" in self.flags else FLAGS.get(bare, "").split(" ")[0]
        if equals and flag in self.flags:
            return UserError(f'unexpected argument "{word}"; did you mean "{flag} {value}"?')
        before = self.words[: self.words.index(word)] if word in self.words else []
        flag = next(
            (before.partition("=")[0].replace("_", "-") for before in before[::-1] if before.startswith("--")), ""
        )
        if argument := self.flags.get(flag):
            return self.wrong_values(flag, re.sub("^a ", "one ", takes(argument)))
        is_data = os.path.isdir(word) or word.endswith((".csv", ".json"))
        for flag, what in (("--data", "data"), ("--model", "model")):
            if flag in self.flags and flag not in self.words and (is_data or flag == "--model"):
                return UserError(f'unexpected argument "{word}"; {self.program} takes the {what} as {flag} {word}')
        return UserError(f'unexpected argument "{word}"; {self._help_command} lists all flags')
