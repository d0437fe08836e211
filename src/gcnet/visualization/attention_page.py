"""Interactive page of attention maps, self-contained: click an image to choose the query."""

import base64
import io
import json
import math
from html import escape
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from gcnet.visualization.attention_figures import COLOURS, UNIFORM_MIDDLE
from gcnet.visualization.attention_maps import ImageMaps, LayerMaps

PAGE_BYTES = 12_000_000
"""What a page may take; images that do not fit at the coarsest side are left out."""
_SIDES = (28, 20, 14, 10, 7)  # cells of queries and of keys along an axis, at most
_IMAGE_SIDE = 448

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1c2026; --soft: #5c6470; --line: #e3e5e8;
  --accent: #0b6e99; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1c2026; --ink: #e8eaed; --soft: #a2aab5;
  --line: #333a43; --accent: #6cc5ea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 56px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
p { margin: 0 0 16px; color: var(--soft); max-width: 80ch; }
#thumbs { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 16px; }
#thumbs button { padding: 0; border: 3px solid transparent; border-radius: 8px; background: none; cursor: pointer; }
#thumbs button[aria-pressed="true"] { border-color: var(--accent); }
#thumbs img { width: 72px; height: 72px; object-fit: cover; border-radius: 5px; display: block; }
.columns { display: grid; grid-template-columns: minmax(240px, 380px) 1fr; gap: 28px; align-items: start; }
@media (max-width: 760px) { .columns { grid-template-columns: 1fr; } }
#query { width: 100%; border-radius: 8px; cursor: crosshair; display: block; }
.side { position: sticky; top: 16px; }
.side div { margin: 8px 0; font-size: 14px; overflow-wrap: anywhere; }
#mean { font: inherit; font-size: 14px; padding: 6px 12px; border-radius: 8px; border: 1px solid var(--line);
  background: var(--card); color: var(--ink); cursor: pointer; }
#mean[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); }
#layers { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 8px; }
figure canvas { width: 100%; border-radius: 5px; display: block; cursor: crosshair; }
figcaption { font-size: 13px; margin-top: 6px; overflow-wrap: anywhere; }
figcaption span { color: var(--soft); display: block; font-variant-numeric: tabular-nums; }
.scale { height: 10px; border-radius: 5px; }
.ends { display: flex; justify-content: space-between; font-size: 12px; color: var(--soft); margin: 2px 0 12px; }
"""

_SCRIPT = """
"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const find = (name) => document.getElementById(name);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const colours = bytes(content.colours);
const state = { shown: 0, point: [0.5, 0.5], mean: false };

function cell(share, count) { return Math.min(Math.max(Math.floor(share * count), 0), count - 1); }

// The number of the row to show: that of the cell the point lies in; the last row is the mean of all queries.
function rowOf(layer) {
  const [rows, columns] = layer.queries;
  const last = layer.peaks.length - 1;
  return state.mean ? last : Math.min(cell(state.point[1], rows) * columns + cell(state.point[0], columns), last);
}

function drawLayer(canvas, caption, layer, picture) {
  const [height, width] = layer.keys, row = rowOf(layer);
  const values = layer.bytes.subarray(row * height * width, (row + 1) * height * width);
  const small = document.createElement("canvas");
  small.width = width; small.height = height;
  const pixels = small.getContext("2d").createImageData(width, height);
  values.forEach((value, index) => {
    for (let part = 0; part < 3; part++) pixels.data[4 * index + part] = colours[3 * value + part];
    pixels.data[4 * index + 3] = 190;
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const side = canvas.getContext("2d");
  side.imageSmoothingEnabled = true;
  side.filter = "grayscale(1)";
  side.drawImage(picture, 0, 0, canvas.width, canvas.height);
  side.filter = "none";
  side.imageSmoothingEnabled = false;
  side.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (!state.mean && !layer.shared) mark(side, canvas, 4);
  caption.textContent = (layer.shared ? "one map for all; " : "") + "up to " + layer.peaks[row] + " x uniform";
}

function mark(side, canvas, radius) {
  side.beginPath();
  side.arc(state.point[0] * canvas.width, state.point[1] * canvas.height, radius, 0, 2 * Math.PI);
  side.fillStyle = "#00e5ff"; side.strokeStyle = "black"; side.lineWidth = 1.5;
  side.fill(); side.stroke();
}

function draw() {
  const image = content.images[state.shown], canvas = find("query"), side = canvas.getContext("2d");
  side.drawImage(image.picture, 0, 0, canvas.width, canvas.height);
  if (!state.mean && content.has_queries) mark(side, canvas, 7);
  image.layers.forEach((layer) => drawLayer(layer.canvas, layer.caption, layer, image.picture));
  find("answer").textContent = image.name + ": " + image.answer;
  const [across, down] = state.point.map((share) => Math.round(100 * share));
  find("place").textContent = !content.has_queries ? "" : state.mean ? "mean over all queries"
    : "query at " + across + " % of the width, " + down + " % of the height";
  find("mean").setAttribute("aria-pressed", String(state.mean));
}

function choose(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const share = (value) => Math.min(Math.max(value, 0), 0.9999);
  state.point = [share((event.clientX - box.left) / box.width), share((event.clientY - box.top) / box.height)];
  state.mean = false;
  draw();
}

function move(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  state.point = state.point.map((share, axis) => Math.min(Math.max(share + step[axis] / content.side, 0), 0.9999));
  state.mean = false;
  draw();
}

function show(number) {
  const picture = content.images[number].picture;
  const height = (width) => Math.round(width * picture.height / picture.width);
  state.shown = number;
  find("query").height = height(find("query").width);
  find("layers").replaceChildren(...content.images[number].layers.map((layer) => {
    const figure = document.createElement("figure"), text = document.createElement("figcaption");
    layer.bytes = layer.bytes || bytes(layer.maps);
    layer.canvas = document.createElement("canvas");
    layer.canvas.width = 224;
    layer.canvas.height = height(224);
    if (content.has_queries) layer.canvas.addEventListener("click", choose);
    layer.caption = document.createElement("span");
    text.textContent = layer.name;
    text.append(layer.caption);
    figure.append(layer.canvas, text);
    return figure;
  }));
  Array.from(find("thumbs").children).forEach((button, index) =>
    button.setAttribute("aria-pressed", String(index === number)));
  draw();
}

function begin() {
  const asked = location.hash.slice(1).split(",").map(Number);
  if (asked.length === 2 && asked.every((share) => share >= 0 && share < 1)) state.point = asked;
  if (content.has_queries) {
    find("query").addEventListener("click", choose);
    find("query").addEventListener("keydown", move);
  } else find("query").style.cursor = "default";
  find("mean").addEventListener("click", () => { state.mean = !state.mean; draw(); });
  if (content.images.length > 1) content.images.forEach((image, number) => {
    const button = document.createElement("button"), thumb = document.createElement("img");
    thumb.src = image.source; thumb.alt = image.name;
    button.append(thumb);
    button.addEventListener("click", () => show(number));
    find("thumbs").append(button);
  });
  show(0);
}

Promise.all(content.images.map((image) => new Promise((done) => {
  image.picture = new Image();
  image.picture.onload = done;
  image.picture.src = image.source;
}))).then(begin);
"""

_BODY = """<h1>{title}</h1>
<p>{how} Colors run from zero to the highest weight of each map, or to twice the uniform weight where that is higher.
Below each map is its highest weight, as a multiple of uniform attention, in which all positions have weight 1.
{note}</p>
<div id="thumbs"></div>
<div class="columns"><div class="side"><canvas id="query" width="448" height="448" tabindex="0"
aria-label="{label}"></canvas><div id="answer"></div><div id="place"></div>
<div class="scale" style="background: linear-gradient(to right, {gradient})"></div>
<div class="ends"><span>0</span><span>end of the scale</span></div>
<button id="mean" aria-pressed="false"{hidden}>Mean over all queries</button></div><div id="layers"></div></div>"""


class Page:
    """A page of at most about `PAGE_BYTES`, to which images are added one by one.

    Maps are means over heads. They are cut into at most 28 x 28 cells of queries and of keys (fewer where the page
    would grow too large), and stored in 256 steps from 0 to their highest weight, at least twice the uniform one;
    weights below 0 count as 0.

    Args:
        title: of the page.
        total: number of images that will be added, all of one network.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self._total = total
        self._side = _SIDES[-1]
        self._size = 0
        self._images: list[dict[str, Any]] = []
        self._is_cut = False

    def __len__(self) -> int:
        """How many images the page holds."""
        return len(self._images)

    def add(self, maps: ImageMaps) -> None:
        """Add an image, unless there is no room for it."""
        if not self._images:
            fits = (side for side in _SIDES if self._total * _size(maps, side) <= PAGE_BYTES)
            self._side = next(fits, _SIDES[-1])
            grids = [grid for layer in maps.layers for grid in (layer.attention.grid, layer.attention.key_grid)]
            self._is_cut = any(max(grid) > self._side for grid in grids)
        size = _size(maps, self._side)
        if not self._images or self._size + size <= PAGE_BYTES:
            self._images.append(_image(maps, self._side))
            self._size += size

    @property
    def _has_queries(self) -> bool:
        """Whether any layer has a map for each query."""
        return any(not layer["shared"] for image in self._images for layer in image["layers"])

    def render(self) -> str:
        """The page as HTML text."""
        table = (matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
        content = {"side": self._side, "colours": _text(table.tobytes()), "images": self._images}
        gradient = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in table[::32].tolist())
        note = f"Maps of more than {self._side} cells along an axis are shown in {self._side}." if self._is_cut else ""
        body = _BODY.format(title=escape(self.title), note=note, gradient=gradient, **_words(self._has_queries))
        content["has_queries"] = self._has_queries
        data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main>\n"
            f'<script type="application/json" id="content">{data}</script>\n<script>{_SCRIPT}</script></body></html>\n'
        )


def _words(has_queries: bool) -> dict[str, str]:
    """The parts of the page that depend on whether there is a query to choose."""
    if has_queries:
        how = (
            "Click on the image (or focus it and use the arrow keys) to choose a query position: every layer shows the "
            "attention map of that query."
        )
        return {"how": how, "label": "image: click to choose a query", "hidden": ""}
    how = "Every layer of this network has one attention map for all query positions."
    return {"how": how, "label": "image", "hidden": " hidden"}


def _size(image: ImageMaps, side: int) -> int:
    """About the bytes of an image: four letters for three bytes, and some for the picture and the peaks."""
    total = 60_000
    for layer in image.layers:
        rows = math.prod(_queries(layer, side)) + 1
        total += int(rows * (math.prod(_cut(layer.attention.key_grid, side)) * 4 / 3 + 6))
    return total


def _cut(grid: tuple[int, ...], side: int) -> tuple[int, int]:
    return min(grid[0], side), min(grid[1], side)


def _queries(layer: LayerMaps, side: int) -> tuple[int, int]:
    return (1, 1) if layer.attention.is_shared else _cut(layer.attention.grid, side)


def _image(maps: ImageMaps, side: int) -> dict[str, Any]:
    picture = maps.image.copy()
    picture.thumbnail((_IMAGE_SIDE, _IMAGE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return {
        "name": maps.path.name.encode(errors="replace").decode(),
        "answer": maps.answer,
        "source": f"data:image/jpeg;base64,{_text(buffer.getvalue())}",
        "layers": [_layer(layer, side) for layer in maps.layers],
    }


def _layer(layer: LayerMaps, side: int) -> dict[str, Any]:
    """Keys: name, shared, queries and keys (rows, columns), maps (bytes, a row for each query and the mean), peaks."""
    rows, columns = _queries(layer, side)
    points = [((column + 0.5) / columns, (row + 0.5) / rows) for row in range(rows) for column in range(columns)]
    keys = _cut(layer.attention.key_grid, side)
    shown = [] if layer.attention.is_shared else [layer.map_of(point) for point in points]
    maps = np.stack([_pooled(one, keys) for one in [*shown, layer.mean_map()]]).clip(min=0)  # (queries + 1, h, w)
    peaks = maps.max((1, 2))
    steps = (maps / np.maximum(peaks, UNIFORM_MIDDLE)[:, None, None] * 255).round().astype(np.uint8)
    return {
        "name": layer.name or layer.kind,
        "shared": layer.attention.is_shared,
        "queries": [rows, columns],
        "keys": list(keys),
        "maps": _text(steps.tobytes()),
        "peaks": [float(f"{peak:.3g}") for peak in peaks],
    }


def _pooled(values: Float[np.ndarray, "h w"], keys: tuple[int, int]) -> Float[np.ndarray, "a b"]:
    return F.adaptive_avg_pool2d(torch.from_numpy(values)[None], keys)[0].numpy()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
