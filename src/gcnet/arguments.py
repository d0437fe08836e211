"""Settings as plain arguments: a function of a settings dataclass is called with the fields by name."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache, wraps
from pathlib import Path
from types import MappingProxyType, ModuleType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from gcnet.errors import UserError, unknown
from gcnet.renamed import new_name, renamed

_S = TypeVar("_S")
_T = TypeVar("_T")
_R = TypeVar("_R")

POSITIONAL: Mapping[str, Any] = MappingProxyType({"positional": True})
"""Metadata of a field that may be given without its name, in Python and on the command line."""

INTERNAL: Mapping[str, Any] = MappingProxyType({"internal": True})
"""Metadata of a field that is no argument; the one named `given` gets the names of the arguments that are given."""

ADVANCED: Mapping[str, Any] = MappingProxyType({"advanced": True})
"""Metadata of a field, or of a group of fields, that only `--help-all` shows."""

_WIDTH = 100
_PLURALS = {int: "whole numbers", float: "numbers", bool: "booleans", str: "strings", Path: "paths"}


@dataclass(frozen=True)
class Argument:
    """A field of settings, or of a group within them.

    Attributes:
        name: of the field.
        kind: its type.
        default: its default, `dataclasses.MISSING` if it has none.
        help: the docstring below the field, on one line.
        positional: whether it may be given without its name.
        advanced: whether only `--help-all` shows it.
        group: field that holds the group, "" outside of groups.
        title: first line of the group's docstring, without the period.
        flag: its flag without the dashes, if that is not its name.
    """

    name: str
    kind: Any
    default: Any
    help: str
    positional: bool = False
    advanced: bool = False
    group: str = ""
    title: str = ""
    flag: str = ""


def advanced(default: _T) -> _T:
    """Return a field with this default that only `--help-all` shows."""
    return field(default=default, metadata=ADVANCED)


def plain_arguments(kind: type[_S]) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """Have a function of settings take their fields as plain arguments.

    Groups (fields that are dataclasses themselves) are taken apart, so every setting is one argument by its own name.
    Lists are accepted for tuples, strings for paths, a `torch.device` for its name, and lists for comma-separated
    strings.

    Args:
        kind: dataclass of the settings. The function takes them first; its other parameters are keyword-only.

    Returns:
        A decorator. The new function has the arguments in its signature, and their help in its docstring.
    """

    def decorate(function: Callable[..., _R]) -> Callable[..., _R]:
        arguments = list(arguments_of(kind))
        own = list(inspect.signature(function).parameters.values())[1:]
        names = [argument.name for argument in arguments if argument.positional]
        title = getattr(function, "__name__", "function")

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> _R:
            if len(args) > len(names):
                positional = f"{len(names)} positional argument{'s' if len(names) != 1 else ''}"
                raise TypeError(f"{title}() takes {positional} but {len(args)} were given; give the others by name")
            given = dict(zip(names, args, strict=False))
            if both := given.keys() & kwargs.keys():
                raise TypeError(f"{title}() got multiple values for {', '.join(sorted(both))}")
            extra = {parameter.name: kwargs.pop(parameter.name) for parameter in own if parameter.name in kwargs}
            return function(settings_from(kind, given | kwargs), **extra)

        vars(call)["__signature__"] = inspect.Signature([*_parameters(arguments), *own])
        call.__doc__ = _documented(inspect.getdoc(function) or "", arguments)
        return call

    return decorate


def settings_from(kind: type[_S], values: Mapping[str, Any]) -> _S:
    """Return settings with the given fields, from any group.

    Args:
        kind: dataclass of the settings.
        values: by name.

    Raises:
        UserError: an unknown name, a missing value, or one of the wrong type.
    """
    arguments = {argument.name: argument for argument in arguments_of(kind)}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in arguments:
            new = new_name(name)
            raise renamed(name, new) if new in arguments else unknown("argument", name, arguments)
        argument = arguments[name]
        groups.setdefault(argument.group, {})[name] = _converted(argument, value)
    missing = [name for name, one in arguments.items() if one.default is MISSING and name not in values]
    if missing:
        raise UserError(f"`{missing[0]}` is required")
    built = {name: replace(group, **groups[name]) for name, group in _groups(kind).items() if name in groups}
    names = {"given": tuple(values)} if any(item.name == "given" for item in fields(cast(Any, kind))) else {}
    return kind(**built, **groups.get("", {}), **names)


def check_choices(settings: Any, synonyms: Mapping[str, str] | None = None) -> None:
    """Check the fields of type Literal.

    Args:
        settings: a dataclass.
        synonyms: other names of values, as of `gcnet.errors.unknown`.

    Raises:
        UserError: a value is none of the choices.
    """
    for name, choices in _choices(type(settings)).items():
        value = getattr(settings, name)
        if value not in choices:
            raise unknown(f"`{name}`", str(value), filter(None, choices), synonyms=synonyms)


@cache
def _choices(kind: Any) -> dict[str, tuple[Any, ...]]:
    """Choices of each field of type Literal, with None if it is optional."""
    choices = {}
    for name, annotation in get_type_hints(kind).items():
        parts = get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,)
        listed = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        if listed and all(get_origin(part) is Literal or part is type(None) for part in parts):
            choices[name] = (*listed, *([None] if type(None) in parts else []))
    return choices


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value has the type of an annotation; integers are floats, too, and booleans are not numbers.

    Args:
        value: the value.
        kind: the annotation.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return any(has_type(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        each = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (...,) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(has_type, value, each))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def arguments_of(kind: Any) -> Generator[Argument]:
    """Yield the fields of the settings class `kind` as arguments, with the fields of groups instead of the groups."""
    kinds, helps = get_type_hints(kind), _helps(kind)
    for item in fields(kind):
        default, is_advanced = _default(item), bool(item.metadata.get("advanced"))
        if is_dataclass(default):
            title = inspect.cleandoc(default.__doc__ or item.name).splitlines()[0].rstrip(".")
            for inner in arguments_of(type(default)):
                yield replace(
                    inner,
                    default=getattr(default, inner.name),
                    advanced=inner.advanced or is_advanced,
                    group=item.name,
                    title=title,
                )
        elif not item.metadata.get("internal"):
            yield Argument(
                item.name,
                kinds[item.name],
                default,
                helps.get(item.name, ""),
                positional=bool(item.metadata.get("positional")),
                advanced=is_advanced,
                flag=item.metadata.get("flag", ""),
            )


def _groups(kind: Any) -> dict[str, Any]:
    """The default of each group of settings."""
    return {item.name: default for item in fields(kind) if is_dataclass(default := _default(item))}


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _helps(kind: Any) -> dict[str, str]:
    """The docstring below each field of a dataclass and of its bases."""
    helps: dict[str, str] = {}
    for owner in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        helps |= _docstrings(sys.modules[owner.__module__]).get(owner.__name__, {})
    return helps


@cache
def _docstrings(module: ModuleType) -> dict[str, dict[str, str]]:
    """For each class of a module, the docstring below each field."""
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    return {node.name: dict(_documented_fields(node)) for node in classes}


def _documented_fields(node: ast.ClassDef) -> Generator[tuple[str, str]]:
    for assigned, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(assigned, ast.AnnAssign) and isinstance(assigned.target, ast.Name) and isinstance(text, ast.Expr):
            value = text.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield assigned.target.id, " ".join(value.value.split())


def _parameters(arguments: Sequence[Argument]) -> list[inspect.Parameter]:
    """Positional arguments first, required ones before optional ones."""
    found = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if one.positional else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=one.kind,
        )
        for one in arguments
    ]
    return sorted(found, key=lambda parameter: parameter.kind)


def _documented(text: str, arguments: Sequence[Argument]) -> str:
    """A docstring with the help of the settings at the end of its `Args:`, which it may lack."""
    lines = []
    for one in arguments:
        lines += textwrap.wrap(f"{one.name}: {one.help}", _WIDTH, initial_indent="    ", subsequent_indent="        ")
    block = "\n".join(lines)
    head, args, rest = text.partition("Args:\n")
    if args:
        own, gap, after = rest.partition("\n\n")
        return f"{head}Args:\n{block}\n{own}{gap}{after}"
    head, returns, rest = text.partition("Returns:\n")
    return f"{head.rstrip()}\n\nArgs:\n{block}\n\n{returns}{rest}".rstrip()


def _converted(argument: Argument, value: Any) -> Any:
    """The value as the settings have it.

    Raises:
        UserError: it is of another type.
    """
    for kind in (argument.kind, *get_args(argument.kind)):
        candidate = _as(kind, value)
        if has_type(candidate, argument.kind):
            return candidate
    actual = repr(value)
    if "\n" in actual or len(actual) > _WIDTH:
        actual = f"an object of type {type(value).__name__}"
    raise UserError(f"`{argument.name}` must be {_described(argument.kind)}, found {actual}")


def _as(kind: Any, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is str and (_is_device(value) or isinstance(value, Path | int)) and not isinstance(value, bool):
        return str(value)
    if kind is str and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if get_origin(kind) is not tuple:
        return value
    inner = get_args(kind)[0]
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(_as(inner, one) for one in values)


def _is_device(value: Any) -> bool:
    """Whether `value` is a `torch.device`; this module does not import torch."""
    return (type(value).__module__, type(value).__name__) == ("torch", "device")


def _described(kind: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return " or ".join(_described(one) for one in inner)
    if origin is Literal:
        return " or ".join(f'"{one}"' for one in inner)
    if origin is tuple:
        number = "" if inner[1:] == (...,) else f"{len(inner)} "
        return f"a sequence of {number}{_PLURALS.get(inner[0], inner[0])}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", Path: "a path"}
    return "None" if kind is type(None) else words.get(kind, getattr(kind, "__name__", str(kind)))
