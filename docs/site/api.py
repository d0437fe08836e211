"""The pages of the Python API: every name of `gcnet.__all__`, and the classes of their results."""

import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from inspect import Parameter, ismodule, signature
from itertools import starmap
from typing import Any, cast

import griffe

import gcnet
from docs.site.signatures import default_of
from gcnet.cli import COMMANDS

_MODULES = {
    "models": ("Models", "Build, list, load and save networks."),
    "blocks": ("Blocks and insertion", "Build blocks, insert them into networks, and save them alone."),
    "analysis": ("gcnet.analysis", "Distances between attention maps."),
    "framework": ("Parts of blocks", "Contexts, transforms and fusions from which blocks are composed."),
    "checkpoints": ("gcnet.checkpoints", "Convert the weights of single blocks of other libraries."),
    "errors": ("gcnet.errors", "Exceptions of usage errors."),
}
_MOST_PARAMETERS = 10
_HOMES = {"insertion": "blocks", "models.block_file": "blocks"}


def api_pages() -> dict[str, str]:
    """Return the pages by file name: modules first, then a page per function of a command."""
    return {f"{name}.md": _page(name, members) for name, members in api_members().items()}


@cache
def api_members() -> dict[str, dict[str, str]]:
    """Return the members of each page: public name, such as "gcnet.train", and path of the definition.

    The classes of results follow the functions.
    """
    pages: dict[str, dict[str, str]] = {"models": {}, "blocks": {}}
    for name in sorted(gcnet.__all__):
        value = getattr(gcnet, name)
        if not ismodule(value):
            pages.setdefault(_page_of(name, value), {})[f"gcnet.{name}"] = _path(value)
    known: set[str] = set()
    for members in pages.values():
        for path in [*members.values()]:
            classes = [found for found in _result_classes(path) if found not in known]
            members.update({found.rpartition(".")[2]: found for found in classes})
            known.update(classes)
    for name in ("framework", "analysis", "checkpoints", "errors"):
        module = import_module(f"gcnet.{name}")
        members = {item: getattr(module, item) for item in getattr(module, "__all__", ("UserError", "Failure"))}
        pages[name] = {f"gcnet.{name}.{item}": _path(value) for item, value in members.items()}
    return pages


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _page_of(name: str, value: Any) -> str:
    """The page of a public name: of its module, or its own for the function of a command."""
    home = value.__module__.removeprefix("gcnet.")
    home = _HOMES.get(home) or _HOMES.get(home.split(".")[0]) or home.split(".")[0]
    return home if home in _MODULES else name


def _result_classes(function: str) -> list[str]:
    """Paths of the classes that a function returns, of their subclasses, and of the classes of their members."""
    found: dict[str, None] = {}
    waiting = [*_names(_definition(function).returns)]
    while waiting:
        path = waiting.pop(0)
        kind = _definition(path)
        if kind.is_class and path not in found and not kind.name.startswith("_"):
            found[path] = None
            waiting += _subclasses().get(path, [])
            waiting += [name for annotation in _member_annotations(kind) for name in _names(annotation)]
    return list(found)


@cache
def _package() -> griffe.Module:
    return cast(griffe.Module, griffe.load("gcnet"))


def _definition(path: str) -> Any:
    return _package()[path.removeprefix("gcnet.")]


@cache
def _subclasses() -> dict[str, list[str]]:
    """Paths of the direct subclasses of each class of the package."""
    found: dict[str, list[str]] = {}
    modules = [_package()]
    while modules:
        module = modules.pop(0)
        members = [member for member in module.members.values() if not member.is_alias]
        modules += [member for member in members if isinstance(member, griffe.Module)]
        for kind in members:
            for base in kind.bases if isinstance(kind, griffe.Class) else ():
                for path in _names(base):
                    found.setdefault(path, []).append(kind.path)
    return found


def _names(annotation: Any) -> Iterable[str]:
    """Paths of the objects of the package in an annotation."""
    if annotation is not None and not isinstance(annotation, str):
        for part in annotation.iterate(flat=True):
            if isinstance(part, griffe.ExprName) and part.canonical_path.startswith("gcnet."):
                yield part.canonical_path


def _member_annotations(kind: Any) -> Iterable[Any]:
    """Types of the public fields of a class, and of the results of its methods and calls."""
    for name, member in kind.members.items():
        if member.is_attribute and not name.startswith("_"):
            yield member.annotation
        elif member.is_function and (not name.startswith("_") or name == "__call__"):
            yield member.returns


def _page(name: str, members: Mapping[str, str]) -> str:
    command = name.replace("_", "-")
    link = f"On the command line: [`gcnet {command}`](../commands/{command}.md)." if command in COMMANDS else ""
    if name in _MODULES:
        title, text = _MODULES[name]
        parts = [f"# {title}", text, link, *starmap(_directive, members.items())]
    else:
        (function, path), *classes = members.items()
        usage = textwrap.fill(f"{function}({_short_signature(getattr(gcnet, name))})", 80, subsequent_indent="    ")
        options = {"show_root_heading": "false", "show_root_toc_entry": "false", "show_signature": "false"}
        parts = [
            f"# {function}",
            f"```text\n{usage}\n```",
            link,
            _directive(function, path, options),
            *starmap(_directive, classes),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _short_signature(function: Any) -> str:
    """The parameters with their defaults, without types; "..." stands for those beyond the first ones."""
    parameters = list(signature(function).parameters.values())
    shown = [_without_type(parameter) for parameter in parameters[:_MOST_PARAMETERS]]
    first = next(
        (index for index, item in enumerate(parameters) if item.kind is Parameter.KEYWORD_ONLY), len(parameters)
    )
    if first < len(shown):
        shown.insert(first, "*")
    return ", ".join([*shown, *(["..."] if len(parameters) > _MOST_PARAMETERS else [])])


def _without_type(parameter: Parameter) -> str:
    default = default_of(parameter)
    return parameter.name if default is None else f"{parameter.name}={default}"


def _directive(name: str, path: str, options: Mapping[str, str] | None = None) -> str:
    """The directive of mkdocstrings for a member, with an anchor of its public name."""
    options = options or {"heading": name, "toc_label": name.rpartition(".")[2]}
    lines = [f"      {key}: {value}" for key, value in options.items()]
    return "\n".join([f"[](){{ #{name} }}", "", f"::: {path}", "    options:", *lines])
