"""Build the documentation site: `make docs`, or `python -m docs.site FOLDER`.

The pages of docs/ and the generated ones are collected in FOLDER/pages; zensical renders them to FOLDER/html.
"""

import logging
import shutil
import sys
from pathlib import Path

import zensical

from docs.site.pages import write_pages

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "docs"


class _Warnings(logging.StreamHandler):
    """Prints and counts the warnings of mkdocstrings and griffe, which zensical does not count."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record.

        Args:
            record: of mkdocstrings or griffe.
        """
        if record.levelno >= logging.WARNING:
            self.count += 1
            super().emit(record)


def build_site(folder: Path) -> str:
    """Collect the pages and render them.

    Args:
        folder: for the pages and the site; replaced.

    Returns:
        Why the build failed, or "": a warning is a failure.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_pages(ROOT, folder / "pages")
    shutil.copy(ROOT / "zensical.toml", folder)
    warnings = _Warnings()
    logging.getLogger("mkdocs").addHandler(warnings)
    try:
        zensical.build(str(folder / "zensical.toml"), {"strict": True, "clean": True})
    except RuntimeError as error:
        return str(error)
    return f"{warnings.count} warnings on docstrings" if warnings.count else ""


def main() -> int:
    """Build the site, and print where it is.

    Returns:
        The exit code.
    """
    folder = Path(sys.argv[1]).resolve() if sys.argv[1:] else FOLDER
    failure = build_site(folder)
    if failure:
        print(f"docs: {failure}", file=sys.stderr)
        return 1
    print(f"docs: open {folder / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
