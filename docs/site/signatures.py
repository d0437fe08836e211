"""Extension of griffe: arguments from settings, and examples, as mkdocstrings renders them."""

import re
from importlib import import_module
from inspect import Parameter, formatannotation, getdoc, signature
from pathlib import Path
from typing import Any

import griffe

_KINDS = {
    Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
}


class Docstrings(griffe.Extension):
    """Completes docstrings for mkdocstrings.

    Functions decorated with `plain_arguments` get the docstring and parameters that they have at run time, and the
    section Example, which mkdocstrings renders as plain text, is renamed to Examples.
    """

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Replace docstring and parameters of a function that takes the fields of settings.

        Args:
            func: of the package; changed in place.
        """
        if any("plain_arguments" in str(decorator.value) for decorator in func.decorators):
            function = getattr(import_module(func.module.path), func.name)
            func.docstring = griffe.Docstring(_with_examples(getdoc(function) or ""), parent=func, parser="google")
            func.parameters = griffe.Parameters(*map(_parameter, signature(function).parameters.values()))

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section Example.

        Args:
            obj: of the package; changed in place.
        """
        if obj.docstring is not None:
            obj.docstring.value = _with_examples(obj.docstring.value)


def _with_examples(docstring: str) -> str:
    return re.sub(r"^( *)Example:$", r"\1Examples:", docstring, flags=re.MULTILINE)


def default_of(parameter: Parameter) -> str | None:
    """Return the default of a parameter as code, None if it has none; paths are shown as strings."""
    if parameter.default is Parameter.empty:
        return None
    return repr(str(parameter.default) if isinstance(parameter.default, Path) else parameter.default)


def _parameter(parameter: Parameter) -> griffe.Parameter:
    return griffe.Parameter(
        parameter.name,
        annotation=formatannotation(parameter.annotation).replace("typing.", "").replace("pathlib.", ""),
        kind=_KINDS[parameter.kind],
        default=default_of(parameter),
    )
