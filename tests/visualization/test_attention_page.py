"""The page of attention: whole in itself, true to the maps, bounded in size, and right about every click."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from gcnet.analysis.attention import Attention
from gcnet.visualization import attention_page
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps
from gcnet.visualization.attention_page import Page

# Just enough of a browser for the page's script: elements that remember, and canvases that keep what is put on them.
BROWSER = """
const fs = require("fs"), page = fs.readFileSync(process.argv[1], "utf8");
const scripts = [...page.matchAll(/<script[^>]*>([^]*?)<\\/script>/g)].map((one) => one[1]);
const made = {};
class Element {
  constructor() { this.children = []; this.listeners = {}; this.attributes = {}; this.textContent = ""; }
  addEventListener(kind, answer) { this.listeners[kind] = answer; }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...parts) { this.children.push(...parts); }
  replaceChildren(...parts) { this.children = parts; }
  getBoundingClientRect() { return { left: 10, top: 20, width: 200, height: 100 }; }
  getContext() {
    const element = this;
    return {
      drawImage(picture) { if (picture.pixels) element.pixels = picture.pixels; },
      createImageData(width, height) { return { width, height, data: new Uint8ClampedArray(4 * width * height) }; },
      putImageData(pixels) { element.pixels = pixels; },
      beginPath() {}, arc() {}, fill() {}, stroke() {},
    };
  }
}
globalThis.document = {
  getElementById(name) { return (made[name] = made[name] || new Element()); },
  createElement() { return new Element(); },
};
document.getElementById("content").textContent = scripts[0];
globalThis.location = { hash: process.argv[2] };
globalThis.Image = class { set src(_) { setTimeout(() => this.onload(), 0); } };
new Function(scripts[1])();
process.once("beforeExit", () => {  // when all pictures are loaded
  const seen = [];
  const note = () => seen.push({
    place: made.place.textContent, answer: made.answer.textContent,
    layers: made.layers.children.map((figure) => ({
      pixels: [...figure.children[0].pixels.data], caption: figure.children[1].children[0].textContent,
      name: figure.children[1].textContent })) });
  const send = (target, kind, event) =>
    target.listeners[kind]({ currentTarget: target, preventDefault() {}, ...event });
  note();
  send(made.query, "click", { clientX: 10 + 199, clientY: 20 + 99 }); note();
  send(made.query, "keydown", { key: "ArrowLeft" }); note();
  send(made.layers.children[0].children[0], "click", { clientX: 10, clientY: 20 }); note();
  send(made.mean, "click", {}); note();
  if (made.thumbs) { send(made.thumbs.children[1], "click", {}); note(); }
  console.log(JSON.stringify(seen));
});
"""


def some_maps(*, side: int = 4, name: str = "a <b>.png") -> ImageMaps:
    image = Image.fromarray(np.random.default_rng(side).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    own = Attention(torch.softmax(2 * torch.randn(1, 2, side * side, side * side), -1), (side, side), (side, side))
    halved = Attention(torch.randn(1, 1, 15, 2), (3, 5), (1, 2))
    shared = Attention(torch.softmax(torch.randn(1, 1, 6), -1), (2, 3), (2, 3))
    layers = [LayerMaps(f"layer.{number}", "Kind", one) for number, one in enumerate((own, halved, shared))]
    return ImageMaps(Path(name), image, 0, "cat 73%", tuple(layers), ())


def render(images: list[ImageMaps], title: str = "page") -> tuple[str, int]:
    page = Page(title, len(images))
    for maps in images:
        page.add(maps)
    return page.render(), len(page)


def content_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def decoded(layer: dict[str, Any]) -> np.ndarray:
    """(rows, h, w) as multiples of uniform attention, no less than 1/k of it."""
    steps = np.frombuffer(base64.b64decode(layer["maps"]), dtype=np.uint8).reshape(-1, *layer["keys"])
    limits = np.log2(np.array(layer["peaks"]).clip(min=2))[:, None, None]
    return 2.0 ** ((steps / 127.5 - 1) * limits)


def test_the_page_holds_every_map_to_half_a_step_of_its_logarithmic_scale() -> None:
    maps = some_maps()
    page, count = render([maps], "Attention maps of <model>")
    (image,) = content_of(page)["images"]
    assert (count, image["name"], image["answer"]) == (1, "a <b>.png", "cat 73%")
    for layer, stored in zip(maps.layers, image["layers"], strict=True):
        rows, columns = stored["queries"]
        centers = [((column + 0.5) / columns, (row + 0.5) / rows) for row in range(rows) for column in range(columns)]
        expected = [] if stored["shared"] else [layer.map_of(point) for point in centers]
        expected = np.stack([*expected, layer.mean_map()])
        scales = expected.max((1, 2), keepdims=True).clip(min=2)
        assert stored["shared"] is layer.attention.is_shared
        assert len(stored["peaks"]) == len(expected)
        steps = np.log(decoded(stored) / expected.clip(1 / scales, scales)) / (2 * np.log(scales) / 255)
        assert np.abs(steps).max() < 0.75
    assert "Attention maps of &lt;model&gt;" in page


def test_uniform_attention_has_the_neutral_color_and_a_shared_map_no_query_to_choose() -> None:
    uniform = Attention(torch.full((1, 1, 6), 1 / 6), (2, 3), (2, 3))
    maps = ImageMaps(Path("a.png"), Image.new("RGB", (32, 32)), 0, "cat", (LayerMaps("layer", "Kind", uniform),), ())
    page, _ = render([maps])
    (layer,) = content_of(page)["images"][0]["layers"]
    steps = np.frombuffer(base64.b64decode(layer["maps"]), dtype=np.uint8)
    assert set(steps) <= {127, 128} and layer["peaks"] == [1.0]
    assert content_of(page)["has_queries"] is False
    assert "Every layer of this network has one attention map for all query positions." in page
    assert 'id="mean" aria-pressed="false" hidden' in page and "Click on the image" not in page
    mixed, _ = render([some_maps()])
    assert content_of(mixed)["has_queries"] is True and "Click on the image" in mixed


def test_the_page_asks_nothing_of_the_network() -> None:
    page, _ = render([some_maps()])
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.replace("data:image", ""))
    assert "<b>" not in page


def test_a_page_that_would_grow_too_large_has_coarser_maps_then_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [some_maps(side=15, name=f"{number}.png") for number in range(3)]
    page, count = render(images)
    assert (content_of(page)["side"], count) == (28, 3)
    assert "are shown in" not in page
    monkeypatch.setattr(attention_page, "PAGE_BYTES", 340_000)
    page, count = render(images)
    assert (content_of(page)["side"], count) == (10, 3)
    assert "Maps of more than 10 cells along an axis are shown in 10" in page
    assert len(page) < 340_000
    monkeypatch.setattr(attention_page, "PAGE_BYTES", 200_000)
    page, count = render(images)
    assert (content_of(page)["side"], count) == (7, 2)
    assert [image["name"] for image in content_of(page)["images"]] == ["0.png", "1.png"]


def test_pooling_keeps_the_mean_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_page, "_SIDES", (5,))
    maps = some_maps(side=10)
    layer = content_of(render([maps])[0])["images"][0]["layers"][0]
    assert layer["keys"] == [5, 5]
    assert decoded(layer)[-1].mean() == pytest.approx(maps.layers[0].mean_map().mean(), rel=0.01)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_every_click_shows_the_row_of_its_query(tmp_path: Path) -> None:
    images = [some_maps(), some_maps(side=3, name="second.png")]
    page, _ = render(images)
    (tmp_path / "page.html").write_text(page)
    done = subprocess.run(
        ["node", "-e", BROWSER, str(tmp_path / "page.html"), "#0.1,0.6"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    start, corner, left, tile, mean, second = json.loads(done.stdout)
    stored = content_of(page)["images"][0]["layers"]
    table = (matplotlib.colormaps[attention_page.COLOR_MAP](np.arange(256))[:, :3] * 255).round()

    def expect(shown: dict[str, Any], rows: list[int], layers: list[dict[str, Any]]) -> None:
        for layer, found, row in zip(layers, shown["layers"], rows, strict=True):
            steps = np.frombuffer(base64.b64decode(layer["maps"]), dtype=np.uint8).reshape(len(layer["peaks"]), -1)
            assert np.array_equal(np.array(found["pixels"]).reshape(-1, 4)[:, :3], table[steps[row]])
            assert found["name"] == layer["name"]
            small = " (k = 2)" if layer["peaks"][row] < 2 else ""
            assert found["caption"].endswith(f"peak {layer['peaks'][row]:g} x uniform{small}")

    # Rows of 4 x 4, 3 x 5 and one shared map: column 0 of row 2 of four, of row 1 of three; the last cell; and so on.
    expect(start, [8, 5, 0], stored)
    expect(corner, [15, 14, 0], stored)
    expect(left, [15, 14, 0], stored)
    expect(tile, [0, 0, 0], stored)
    expect(mean, [16, 15, 0], stored)
    expect(second, [9, 15, 0], content_of(page)["images"][1]["layers"])
    assert start["place"] == "query at 10 % of the width, 60 % of the height"
    assert mean["place"] == "mean over all queries"
    assert (start["answer"], second["answer"]) == ("a <b>.png: cat 73%", "second.png: cat 73%")
    assert start["layers"][2]["caption"].startswith("one map for all queries; ")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    page, _ = render([some_maps()])
    (tmp_path / "page.html").write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    done = subprocess.run(
        [
            *("chromium", *options, f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=3000", "--dump-dom", f"file://{tmp_path / 'page.html'}#0.1,0.6"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    layers = content_of(page)["images"][0]["layers"]
    assert "query at 10 % of the width, 60 % of the height" in done.stdout
    for layer, row in zip(layers, (8, 5, 0), strict=True):
        assert f"peak {layer['peaks'][row]:g} x uniform" in done.stdout
