"""Writes the report of a comparison: results.json, results.md, figure.png and report.html."""

from pathlib import Path

from gcnet.comparison.figures import render_figure
from gcnet.comparison.page import render_comparison
from gcnet.comparison.results import Comparison, to_json
from gcnet.comparison.summary import markdown
from gcnet.storage import write_atomic

FILES = ("results.json", "results.md", "figure.png", "report.html")


def write_report(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write all four files into `folder`, each whole or not at all, and return their paths.

    Raises:
        StorageError: one cannot be written, such as on a full disk.
    """
    contents = (
        to_json(comparison).encode("utf-8", "backslashreplace"),
        markdown(comparison).encode("utf-8", "backslashreplace"),
        render_figure(comparison),
        render_comparison(comparison).encode("utf-8", "backslashreplace"),
    )
    paths = tuple(folder / name for name in FILES)
    for path, content in zip(paths, contents, strict=True):
        write_atomic(path, content)
    return paths
