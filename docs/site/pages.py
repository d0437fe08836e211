"""The source pages of the site: files of docs/, the changelog, and pages generated from the package."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from docs.site.api import api_pages
from docs.site.block_reference import block_page
from docs.site.commands import command_pages

# Files of the repository's root, and their names on the site; links of pages among them start in the root.
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
ROOT_FILES = ROOT_PAGES | {"CITATION.cff": "CITATION.cff"}
NAVIGATION = "SUMMARY.md"
_NEEDS = re.compile(r'^( *```\w+) needs="[^"]*"$', re.MULTILINE)
_LINK = re.compile(r"(\]\()(?!https?://|#)([^)\s]+)(\))")


def write_pages(root: Path, target: Path) -> None:
    """Write all source pages of the site.

    Args:
        root: folder of the repository.
        target: folder of the pages, which is replaced.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "docs", target, ignore=shutil.ignore_patterns("site", "__pycache__"))
    shutil.copytree(root / "docs" / "site" / "assets", target / "assets")
    for name, copy in ROOT_FILES.items():
        (target / copy).write_text(_links_from_docs((root / name).read_text()))
    for path in target.rglob("*.md"):
        text = _NEEDS.sub(r"\1", _links_to_root_files(path.read_text()))
        path.write_text(text.replace("<details>", '<details markdown="1">'))
    (target / "block-reference.md").write_text(block_page())
    _write_section(target / "commands", command_pages(), {"../command-line.md": "Commands by example"})
    _write_section(target / "api", api_pages(), {})


def _write_section(folder: Path, pages: Mapping[str, str], first: Mapping[str, str]) -> None:
    """Write pages by file name, and the navigation of their section, which starts with the entries of `first`."""
    folder.mkdir()
    titles = dict(first)
    for name, text in pages.items():
        (folder / name).write_text(text)
        titles[name] = text.splitlines()[0].removeprefix("# ").replace("`", "")
    entries = [f"* [{title}]({name})" for name, title in titles.items()]
    (folder / NAVIGATION).write_text("\n".join(entries) + "\n")


def _links_from_docs(text: str) -> str:
    """Links of a page of the root, relative to docs/."""
    return _LINK.sub(lambda link: link[1] + link[2].removeprefix("docs/") + link[3], text)


def _links_to_root_files(text: str) -> str:
    """Links to files of the root, as they are named on the site."""
    for name, copy in ROOT_FILES.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({copy}", text)
    return text
