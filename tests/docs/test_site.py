"""The documentation site is complete, readable on a phone, built without warnings, and loads nothing from elsewhere."""

import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from docs.site.pages import ROOT_PAGES

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MILLISECONDS = 120_000  # to wait for the browser on a busy machine
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 800}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    importlib.import_module("zensical")  # the tests are skipped without it
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "docs.site", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def navigation(entries: Any) -> Iterator[str]:
    """The pages and folders in the navigation of zensical.toml."""
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, str):
                yield value
            else:
                yield from navigation(value)


def test_every_page_is_in_the_navigation() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    named = list(navigation(project["nav"]))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(ROOT_PAGES.values())
    generated = {"block-reference.md", "commands/", "api/"}
    assert len(named) == len(set(named))
    assert set(named) - generated == pages - {"command-line.md"}  # which is the first page of the commands


class Page(HTMLParser):
    """Ids, links, pictures and resources of an HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.resources: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.ids |= {value for key, value in attrs if key in ("id", "name") and value}
        if tag == "a" and attributes.get("href") is not None:
            self.links.append(attributes["href"] or "")
        if tag == "img":
            self.pictures.append(attributes)
        source = attributes.get("href") if tag == "link" else attributes.get("src")
        if tag in ("link", "img", "script", "iframe", "source") and source:
            self.resources.append(source)


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted((site / "html").rglob("*.html")) if path.name != "404.html"}


@pytest.mark.slow
def test_every_source_page_is_rendered(site: Path, pages: dict[Path, Page]) -> None:
    sources = {path.relative_to(site / "pages").with_suffix("") for path in (site / "pages").rglob("*.md")}
    rendered = {path.relative_to(site / "html").with_suffix("") for path in pages}
    assert rendered == {path for path in sources if path.name != "SUMMARY"}


@pytest.mark.slow
def test_links_lead_to_pages_and_anchors_that_exist(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                valid = parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc) is not None
            else:
                target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
                target = target / "index.html" if target.is_dir() else target
                known = pages[target].ids if target in pages else set()
                valid = target.exists() and (parts.fragment in ("", "__skip") or unquote(parts.fragment) in known)
            if not valid:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_pictures_have_alternative_text_and_resources_are_local(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for picture in page.pictures:
            assert (picture.get("alt") or "").strip(), f"{path.name}: {picture.get('src')}"
        for resource in page.resources:
            assert not urlsplit(resource).netloc, f"{path.name}: {resource}"
            assert (path.parent / urlsplit(resource).path).exists(), f"{path.name}: {resource}"


@pytest.mark.slow
def test_formulas_are_plain_text_since_tex_would_need_a_script(pages: dict[Path, Page]) -> None:
    assert [path.name for path in pages if 'class="arithmatex"' in path.read_text()] == []


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site / "html"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = importlib.import_module("playwright.sync_api")
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("GCNET_REQUIRE_DATA") else pytest.skip)("needs Chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=MILLISECONDS)
        yield started
        started.close()


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_page_is_wider_than_the_screen_and_all_requests_are_local(
    viewport: dict[str, int], site: Path, pages: dict[Path, Page], address: str, browser: Any
) -> None:
    opened = browser.new_page(viewport=viewport)
    opened.set_default_timeout(MILLISECONDS)
    hosts, failures = set(), []
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    opened.on("pageerror", lambda error: failures.append(str(error)))
    for path in pages:
        opened.goto(f"{address}/{path.relative_to(site / 'html')}")
        width = opened.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"], f"{path.name} is {width} pixels wide"
    opened.close()
    assert hosts == {"127.0.0.1"}
    assert failures == []


@pytest.mark.slow
def test_search_finds_a_flag_in_pages_opened_as_files(site: Path, browser: Any) -> None:
    opened = browser.new_page(viewport=DESKTOP)
    opened.set_default_timeout(MILLISECONDS)
    opened.goto((site / "html" / "command-line.html").as_uri())
    opened.keyboard.press("Control+k")
    opened.get_by_role("searchbox").or_(opened.get_by_placeholder("Search")).last.fill("detections-per-image")
    opened.get_by_text("maximum detections per image").last.wait_for()
    opened.close()
