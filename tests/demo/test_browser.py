"""The page in a real browser: upload, click, errors, two users, dark mode, phones, no other hosts."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from demo.demo_server import DemoServer, served
from demo.hostile_files import REFUSED, encoded, photo

pytest.importorskip("gradio")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("GCNET_REQUIRE_DATA"),
        reason="needs Debian's Chromium: apt-get install chromium",
    ),
]
SECONDS = 120_000
"""Milliseconds to wait for a result on a busy machine."""


@contextmanager
def page_of(server: DemoServer, **options: Any) -> Iterator[Page]:
    """The page in a new browser, all of whose requests go to the server, without errors of scripts."""
    assert CHROMIUM is not None, "CI needs Chromium: apt-get install chromium"
    requests: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=SECONDS)
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(SECONDS)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.address)
        page.locator(".gc-heading").wait_for()
        yield page
        browser.close()
    hosts = {url.split("/")[2] for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {server.address.removeprefix("http://")}
    assert errors == []


def upload(page: Page, name: str, content: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_an_uploaded_image_is_classified_by_both_models_and_a_click_moves_the_query(server: DemoServer) -> None:
    with page_of(server) as page:
        upload(page, "photo.png", encoded(photo(96, 64), "PNG"))
        expect(page.locator(".gc-prediction table")).to_have_count(2, timeout=SECONDS)
        expect(page.locator(".gc-prediction table").first).to_contain_text("class ")
        maps = page.locator(".gc-tiles")
        expect(maps).to_have_count(2, timeout=SECONDS)
        expect(page.get_by_text("one attention map for all query positions")).to_have_count(1)
        expect(maps.last).to_contain_text("map of the clicked point")
        shared, by_query = maps.first.locator("img").first, maps.last.locator("img").first
        before, shared_before = by_query.get_attribute("src") or "", shared.get_attribute("src")
        picture = page.locator(".gc-picture img").last
        box = picture.bounding_box()
        assert box is not None
        picture.click(position={"x": box["width"] * 0.1, "y": box["height"] * 0.1})
        expect(by_query).not_to_have_attribute("src", before, timeout=SECONDS)
        assert shared.get_attribute("src") == shared_before
        with page.expect_download() as download:
            page.get_by_text("Attention as JSON").last.click()
        assert download.value.suggested_filename == "nl.safetensors-attention.json"


def test_a_damaged_file_is_a_sentence_on_the_page_and_the_next_image_works(server: DemoServer) -> None:
    with page_of(server) as page:
        for name in ("page.png", "truncated.jpg", "bomb.png"):
            content, reason = REFUSED[name]
            upload(page, name, content)
            alerts = page.locator(".gc-prediction .gc-error")
            expect(alerts.last).to_contain_text(f"{name}: ", timeout=SECONDS)
            expect(alerts.first).to_contain_text(reason)
            page.get_by_label("Remove Image").first.click()
            expect(page.get_by_text("The prediction appears here.")).to_have_count(2, timeout=SECONDS)
        upload(page, "photo.png", encoded(photo(), "PNG"))
        expect(page.locator(".gc-prediction table")).to_have_count(2, timeout=SECONDS)


def test_an_image_over_the_limit_of_bytes_is_a_sentence(server: DemoServer) -> None:
    with page_of(server) as page:
        upload(page, "large.png", encoded(photo(400, 300), "PNG"))
        expect(page.get_by_text("maximum allowed size").first).to_be_visible(timeout=SECONDS)


def test_two_users_at_once_get_their_own_results(server: DemoServer) -> None:
    """Black and noise have different probabilities; each user sees those of the own image, three times."""

    def use(number: int) -> list[str]:
        images = [photo(50 + number, 60), photo(90, 70 + number)]
        texts = []
        with page_of(server) as page:
            for image in images:
                upload(page, f"{number}.png", encoded(image, "PNG"))
                expect(page.locator(".gc-prediction table")).to_have_count(2, timeout=SECONDS)
                expect(page.locator(".gc-tiles").last).to_be_visible(timeout=SECONDS)
                texts.append(page.locator(".gc-prediction table").first.inner_text())
                page.get_by_label("Remove Image").first.click()
                expect(page.locator(".gc-prediction table")).to_have_count(0, timeout=SECONDS)
        return texts

    alone = [use(0), use(5)]
    with ThreadPoolExecutor(2) as users:
        assert list(users.map(use, (0, 5))) == alone
    assert alone[0] != alone[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_horizontal_scrolling(server: DemoServer, scheme: str) -> None:
    with page_of(server, viewport={"width": 360, "height": 740}, color_scheme=scheme) as page:
        page.locator("button:has(img)").first.click()  # an example
        expect(page.locator(".gc-tiles").last).to_be_visible(timeout=SECONDS)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(background.split("(")[1].split(",")[0])
        assert red < 64 if scheme == "dark" else red > 192


def test_a_detector_shows_its_objects_and_a_threshold_of_0_more(models: dict[str, Path]) -> None:
    with served(models["detector"]) as server, page_of(server) as page:
        upload(page, "photo.png", encoded(photo(96, 64), "PNG"))
        objects = page.locator(".gc-objects")
        expect(objects).to_be_visible(timeout=SECONDS)
        expect(page.get_by_text("No object with a score above the threshold")).to_be_visible()
        threshold = page.get_by_label("number input for Minimum score")
        threshold.fill("0")
        threshold.blur()
        expect(page.locator(".gc-prediction table")).to_be_visible(timeout=SECONDS)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            row = page.locator(".gc-prediction tbody tr").first.bounding_box()
            assert row is not None and row["height"] < 60  # a class name of one line
