"""Tables and printed outputs of the documentation agree with the package and with docs/results.md."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gcnet.checkpoints.published_files import published_files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def rows_of(page: str) -> list[list[str]]:
    """The cells of all table rows of a page."""
    lines = (DOCS / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_table_of_published_weights_is_complete() -> None:
    rows = {(row[0].strip("`"), *row[1:]) for row in rows_of("published-weights.md")}
    files = published_files()
    expected = [(file.name.partition("/")[2], *file.scores, f"{file.parameters / 1e6:.1f}") for file in files]
    assert [row for row in expected if row not in rows] == []


def test_the_accuracies_of_the_home_page_are_measured_results() -> None:
    measured = {(row[0], row[1]) for row in rows_of("results.md")}
    _, *rows = [row for row in rows_of("index.md") if len(row) == 5]
    blocks = ("none", "gc", "se", "nl_embedded_gaussian")
    stated = [(block, cell) for row in rows for block, cell in zip(blocks, row[1:], strict=True) if "±" in cell]
    assert len(stated) == 11
    assert [cell for cell in stated if cell not in measured] == []


def test_every_extra_of_the_package_is_on_the_page_of_the_installation() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {row[0].strip("`") for row in rows_of("installation.md")}
    assert set(extras) - {"dev"} - listed == set()


def _is_module(name: str) -> bool:
    """Whether `python -m NAME` runs in the clone, or in its folder tests."""
    places = [folder / name.replace(".", "/") for folder in (ROOT, ROOT / "tests")]
    return any(place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() for place in places)


def test_programs_and_tests_named_in_the_documentation_exist() -> None:
    pages = [*DOCS.glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
    text = " ".join(" ".join(page.read_text().split()) for page in pages)
    modules = {*re.findall(r"python -m ((?:benchmarks|release|oracle)(?:\.\w+)*)", text)}
    files = {*re.findall(r"(?:python|pytest)(?: -m \w+)? ((?:benchmarks|tests|docs)/[\w/.]+\.py)", text)}
    files |= {*re.findall(r"`((?:benchmarks|tests|docs)/[\w/.]+\.(?:py|csv|json|png))`", text)}
    assert len(modules) >= 3
    assert len(files) >= 6
    assert [name for name in modules if not _is_module(name)] == []
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_commands_with_published_weights_download_them() -> None:
    pages = [*DOCS.glob("*.md"), ROOT / "README.md", *ROOT.glob("src/gcnet/**/settings.py")]
    lines = [line for page in pages for line in page.read_text().splitlines() if line.strip().startswith("gcnet ")]
    published = [line for line in lines if re.search(r"weights (pretrained|IMAGENET1K|a1_in1k|mmdet/)", line)]
    assert published
    assert [line for line in published if "--download" not in line] == []


@pytest.mark.slow
def test_the_examples_of_insertion_print_what_the_page_shows(tmp_path: Path) -> None:
    pairs = re.findall(r"```python\n([^`]*)```\n\n```text\n([^`]*)```", (DOCS / "insert.md").read_text())
    assert len(pairs) == 15
    separator = "=" * 20
    program = f"\nprint({separator!r})\n".join(example for example, _ in pairs)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(separator + "\n") == [printed for _, printed in pairs]
