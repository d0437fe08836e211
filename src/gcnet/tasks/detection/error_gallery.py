"""Error gallery: images with most errors, detections and ground truth side by side."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from gcnet.data.coco.annotated_images import CocoImages, Entry
from gcnet.data.coco.masks import segmentation_mask
from gcnet.data.decode import ImageError
from gcnet.errors import printable
from gcnet.storage import write_atomic
from gcnet.tasks.detection.matching import OVERLAP, SCORE, Outcome, Verdict, worst_first
from gcnet.visualization.detections import encode_picture
from gcnet.visualization.fonts import Box, first_free, label_places, legible, picture_font
from gcnet.visualization.plots import INK, plain, save_figure

# Okabe & Ito's sky blue and vermillion, bright enough to be seen on photographs.
_COLOURS = {"right": (86, 180, 233), "wrong": (240, 100, 10), "crowd": (170, 170, 170)}
_ORDER = ("crowd", "right", "wrong")  # what is drawn later lies on top
_TEXT, _LINE = 11, 14  # pixels of letters, and of a line of them


@dataclass(frozen=True)
class Mark:
    """An annotation or a result (without issues), how it counts, and its text."""

    entry: Entry
    kind: Verdict
    text: str


def fit(image: Image.Image, side: int) -> Image.Image:
    """The image (RGB), its longer side shrunk to `side` pixels or enlarged by the largest whole factor that fits."""
    factor = side / max(image.size)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def draw_marks(image: Image.Image, marks: Sequence[Mark], size: tuple[int, int]) -> Image.Image:
    """The image (RGB, of any size) with marks, whose coordinates are those of an image of `size` (height, width)."""
    ordered = sorted(marks, key=lambda mark: _ORDER.index(mark.kind))
    pixels = np.array(image, dtype=np.float32)  # (H, W, 3)
    for mark in ordered:
        if not mark.entry.get("segmentation"):
            continue
        area = _resized(segmentation_mask(mark.entry["segmentation"], *size), image.size)
        pixels[area] = 0.6 * pixels[area] + 0.4 * np.array(_COLOURS[mark.kind])
    drawn = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    scales = image.width / size[1], image.height / size[0]
    corners = [_corners(mark, scales) for mark in ordered]
    for mark, (left, top, right, bottom) in zip(ordered, corners, strict=True):
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=_COLOURS[mark.kind], width=2)
    _write(draw, ordered, corners, image.size)
    return drawn


def _corners(mark: Mark, scales: tuple[float, float]) -> Box:
    left, top, width, height = mark.entry["bbox"]
    across, down = scales
    return left * across, top * down, (left + width) * across - 1, (top + height) * down - 1


def _resized(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=bool)


def _write(draw: ImageDraw.ImageDraw, marks: Sequence[Mark], corners: Sequence[Box], size: tuple[int, int]) -> None:
    """Each text on a patch of its mark's colour, above, in or below the box; where no place is free, not at all."""
    taken: list[Box] = []
    for mark, box in reversed(list(zip(marks, corners, strict=True))):
        text = legible(mark.text)
        font = picture_font(_TEXT, text)
        width = draw.textlength(text, font=font) + 4
        place = first_free(label_places(box, (width, _LINE), size), taken)
        if place is not None:
            taken.append(place)
            draw.rectangle(place, fill=_COLOURS[mark.kind])
            draw.text((place[0] + 2, place[1]), text, fill="black", font=font)


SHOWN_IN_PICTURE, SHOWN_ON_PAGE = 12, 48
CAPTION = (
    f"A detection of score {SCORE:g} or more finds an object of its class if their masks (without masks, their boxes) "
    f"overlap by IoU {OVERLAP:g} or more, each object once. Other detections are false, but for those in a crowd "
    "(grey), which do not count. "
    "F1 = 2 x found / (2 x found + missed + false); the lowest come first, of equal ones that with the most errors. "
    "Blue is found; orange is missed (left) or false (right)."
)
_SIDE = 440  # pixels

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1c2026; --soft: #5c6470; --line: #e3e5e8; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1c2026; --ink: #e8eaed; --soft: #a2aab5;
  --line: #333a43; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 0 0 10px; overflow-wrap: anywhere; }
.under, figcaption, .counts { color: var(--soft); }
.under { margin: 0 0 18px; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 18px 0 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; }
img { max-width: 100%; border-radius: 6px; display: block; }
figcaption, .counts { font-size: 13px; font-weight: 400; }
.counts { margin-left: 10px; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Pair:
    """An image with its objects marked, and with its detections marked."""

    outcome: Outcome
    truth: Image.Image
    detections: Image.Image


def write_worst(images: CocoImages, outcomes: Sequence[Outcome], folder: Path, *, about: str) -> tuple[str, ...]:
    """Write worst.png and worst.html into a folder; images that cannot be read are passed over.

    Args:
        images: of the outcomes, and perhaps more.
        outcomes: of `match_images`.
        folder: which exists.
        about: what was evaluated on what, for the page.

    Returns:
        The names of the files; none where no image has an error.
    """
    pairs = list(islice(_pairs(images, worst_first(outcomes)), SHOWN_ON_PAGE))
    if not pairs:
        return ()
    _draw(pairs[:SHOWN_IN_PICTURE], summary(outcomes), folder / "worst.png")
    page = render_page(pairs, summary(outcomes), about)
    write_atomic(folder / "worst.html", page.encode("utf-8", "backslashreplace"))
    return "worst.png", "worst.html"


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many objects were found and missed in all, in a sentence."""
    found, missed, false = (sum(getattr(one, name) for one in outcomes) for name in ("found", "missed", "false"))
    wrong = sum(bool(one.missed or one.false) for one in outcomes)
    return (
        f"{wrong:,} of {len(outcomes):,} images have an error; in all {found:,} of {found + missed:,} objects were "
        f"found, {missed:,} missed, and {false:,} detections are false"
    )


def render_page(pairs: Sequence[Pair], counts: str, about: str) -> str:
    """A self-contained HTML page, light and dark, without scripts."""
    cards = "\n".join(_card(pair) for pair in pairs)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Worst images</title><style>{_STYLE}</style></head>\n<body><main>\n"
        f'<h1>The {len(pairs)} worst images</h1><p class="under">{escape(printable(about))}</p>\n'
        f'<p>{escape(counts)}.</p>\n<p class="under">{escape(CAPTION)}</p>\n{cards}\n</main></body></html>\n'
    )


def _pairs(images: CocoImages, outcomes: Sequence[Outcome]) -> Iterator[Pair]:
    places = {images.image_id(index): index for index in range(len(images))}
    names = dict(zip(images.category_ids, images.classes, strict=True))
    for outcome in outcomes:
        try:
            image = images.read(places[outcome.image["id"]])
        except ImageError:
            continue
        yield Pair(outcome, *_marked(fit(image, _SIDE), outcome, names))


def _marked(image: Image.Image, outcome: Outcome, names: Mapping[int, str]) -> tuple[Image.Image, Image.Image]:
    """The image with its objects, and with its detections."""
    crowds = [Mark(one, "crowd", names[one["category_id"]]) for one in outcome.crowds]
    objects = [
        Mark(one, "right" if is_found else "wrong", names[one["category_id"]])
        for one, is_found in zip(outcome.objects, outcome.is_found, strict=True)
    ]
    detections = [
        Mark(one, verdict, f"{names[one['category_id']]} {one['score']:.2f}")
        for one, verdict in zip(outcome.detections, outcome.verdicts, strict=True)
    ]
    size = outcome.image["height"], outcome.image["width"]
    return draw_marks(image, [*crowds, *objects], size), draw_marks(image, detections, size)


def _counts(outcome: Outcome) -> str:
    return f"F1 {outcome.f1:.2f}: {outcome.found} found, {outcome.missed} missed, {outcome.false} false"


def _captions(outcome: Outcome) -> tuple[str, str]:
    objects = "objects" if outcome.objects else "no object"
    return objects, "detections" if outcome.detections else f"no detection of score {SCORE:g} or more"


def _card(pair: Pair) -> str:
    name = escape(printable(pair.outcome.image["file_name"]))
    figures = "".join(
        f'<figure><img alt="{name}: {what}" src="{_inline(picture)}"><figcaption>{what}</figcaption></figure>'
        for what, picture in zip(_captions(pair.outcome), (pair.truth, pair.detections), strict=True)
    )
    heading = f'<h2>{name}<span class="counts">{_counts(pair.outcome)}</span></h2>'
    return f'<section class="card">{heading}<div class="pair">{figures}</div></section>'


def _inline(picture: Image.Image) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(encode_picture(picture)).decode()}"


def _draw(pairs: Sequence[Pair], counts: str, path: Path) -> None:
    columns, rows = min(len(pairs), 2), -(-len(pairs) // 2)
    figure = Figure(figsize=(9 * columns, 4.6 * rows + 0.9), dpi=100, layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False).ravel()
    for one in axes:
        one.axis("off")
    for number, pair in enumerate(pairs):
        name = plain(printable(pair.outcome.image["file_name"]), 44)
        what = _captions(pair.outcome)
        for side, picture, title in (
            (0, pair.truth, f"{name}\n{what[0]}"),
            (1, pair.detections, f"{_counts(pair.outcome)}\n{what[1]}"),
        ):
            axes[2 * number + side].set_anchor("NW")
            axes[2 * number + side].imshow(picture, interpolation="antialiased")
            axes[2 * number + side].set_title(title, loc="left", fontsize=11, color=INK)
    figure.suptitle(f"{counts}.\n{CAPTION}", x=0.01, ha="left", fontsize=11, color=INK, wrap=True)
    save_figure(figure, path)
