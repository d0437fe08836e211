"""HTML pages: self-contained, rendered from the templates in `templates/` with one style sheet."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: file name in `templates/`, such as "comparison.html", which extends "base.html".
        values: variables of the template; strings are escaped, and markup such as SVG must be `markupsafe.Markup`.

    Returns:
        HTML text that refers to no other file and works in light and dark mode and in print.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.
    """
    return templates("gcnet.visualization").get_template(template).render(**values)


@cache
def templates(package: str) -> Environment:
    """Return the templates of a package, which escape their values and refuse missing ones.

    Args:
        package: name of the package with the folder `templates/`.
    """
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
