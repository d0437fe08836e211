"""Error gallery: images with most errors, ground truth and detections side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages
from gcnet.data.decode import ImageError
from gcnet.errors import printable
from gcnet.storage import write_atomic
from gcnet.tasks.detection.matching import OVERLAP, SCORE, Outcome, Verdict, worst_first
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.images import data_uri, fit_image
from gcnet.visualization.overlays import Color, Overlay, draw_overlays
from gcnet.visualization.pages import render_page
from gcnet.visualization.style import INK, figure_caption, save_figure

# Okabe and Ito's sky blue and vermilion, brightened for photographs.
_COLORS: Mapping[Verdict, Color] = {"right": (86, 180, 233), "wrong": (240, 100, 10), "crowd": (170, 170, 170)}
SHOWN_IN_PICTURE, SHOWN_ON_PAGE = 12, 48
CAPTION = (
    f"True positive (blue): a detection with score {SCORE:g} or more and mask IoU (without masks, box IoU) {OVERLAP:g} "
    "or more with an unmatched object of its class. Orange: false negatives on the left, false positives on the right. "
    "Crowd regions and detections in them (gray) are ignored. F1 = 2 TP / (2 TP + FN + FP); images are sorted by F1, "
    "equal ones by the number of errors."
)
_SIDE = 512  # pixels


@dataclass(frozen=True)
class Pair:
    """An image with its ground truth, and with its detections.

    Attributes:
        outcome: the matches.
        objects: the image with its ground truth.
        detections: the image with its detections.
    """

    outcome: Outcome
    objects: Image.Image
    detections: Image.Image

    @property
    def name(self) -> str:
        """File name of the image."""
        return printable(self.outcome.image["file_name"])

    @property
    def counts(self) -> str:
        """F1 and the numbers of true positives, false negatives and false positives."""
        outcome = self.outcome
        return f"F1 {100 * outcome.f1:.1f}: {outcome.found} TP, {outcome.missed} FN, {outcome.false} FP"

    def captions(self) -> tuple[str, str]:
        """Return the captions of the two images."""
        detections = "detections" if self.outcome.detections else f"no detections with score {SCORE:g} or more"
        return "ground truth" if self.outcome.objects else "ground truth: no objects", detections


def write_error_gallery(
    images: CocoImages, outcomes: Sequence[Outcome], folder: Path, *, about: str, labels: bool = True
) -> tuple[str, ...]:
    """Write error_gallery.png and error_gallery.html into a folder; images that cannot be read are skipped.

    Args:
        images: of the outcomes; others are ignored.
        outcomes: of `match_images`.
        folder: an existing folder.
        about: model and data, for the page.
        labels: whether to write class and score beside objects, where there is room.

    Returns:
        The names of the files; empty if no image has an error.
    """
    pairs = list(islice(_pairs(images, worst_first(outcomes), labels=labels), SHOWN_ON_PAGE))
    if not pairs:
        return ()
    counts = summary(outcomes)
    _draw(pairs[:SHOWN_IN_PICTURE], counts, folder / "error_gallery.png", caption=figure_caption(printable(about)))
    page = render_page(
        "error_gallery.html",
        title="Error gallery",
        about=f"{printable(about)}: {_shown(pairs, outcomes)}",
        counts=counts,
        caption=CAPTION,
        pairs=[_card(pair) for pair in pairs],
    )
    write_atomic(folder / "error_gallery.html", page.encode("utf-8", "backslashreplace"))
    return "error_gallery.png", "error_gallery.html"


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a sentence on the errors in all `outcomes`."""
    found, missed, false = (
        sum(getattr(outcome, name) for outcome in outcomes) for name in ("found", "missed", "false")
    )
    wrong = sum(bool(outcome.missed or outcome.false) for outcome in outcomes)
    return (
        f"{wrong:,} of {len(outcomes):,} images have errors; {found:,} of {found + missed:,} objects detected, "
        f"{missed:,} false negatives, {false:,} false positives"
    )


def _shown(pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> str:
    wrong = len(worst_first(outcomes))
    return f"all {wrong} images with errors" if len(pairs) == wrong else f"the {len(pairs)} of {wrong:,} with most"


def _pairs(images: CocoImages, outcomes: Sequence[Outcome], *, labels: bool) -> Iterator[Pair]:
    indices = {images.image_id(index): index for index in range(len(images))}
    names = dict(zip(images.category_ids, images.classes, strict=True))
    for outcome in outcomes:
        try:
            image = images.read(indices[outcome.image["id"]])
        except ImageError:
            continue
        size = outcome.image["height"], outcome.image["width"]
        shown = fit_image(image, _SIDE)
        objects, detections = (
            draw_overlays(shown, overlays, size, labels="auto" if labels else "off")
            for overlays in (_object_overlays(outcome, names), _detection_overlays(outcome, names))
        )
        yield Pair(outcome, objects, detections)


def _object_overlays(outcome: Outcome, names: Mapping[int, str]) -> list[Overlay]:
    """The objects, false negatives on top, and crowd regions below."""
    overlays = [
        (is_found, Overlay(entry, _COLORS["right" if is_found else "wrong"], names[entry["category_id"]]))
        for entry, is_found in zip(outcome.objects, outcome.is_found, strict=True)
    ]
    objects = [overlay for _, overlay in sorted(overlays, key=lambda pair: pair[0])]
    return objects + [Overlay(entry, _COLORS["crowd"], names[entry["category_id"]]) for entry in outcome.crowds]


def _detection_overlays(outcome: Outcome, names: Mapping[int, str]) -> list[Overlay]:
    """The detections, false positives on top."""
    overlays = [
        (("wrong", "right", "crowd").index(verdict), entry, verdict)
        for entry, verdict in zip(outcome.detections, outcome.verdicts, strict=True)
    ]
    return [
        Overlay(entry, _COLORS[verdict], f"{names[entry['category_id']]} {entry['score']:.2f}")
        for _, entry, verdict in sorted(overlays, key=lambda item: item[0])
    ]


def _card(pair: Pair) -> dict[str, object]:
    images = [
        {"caption": caption, "source": data_uri(image)}
        for caption, image in zip(pair.captions(), (pair.objects, pair.detections), strict=True)
    ]
    return {"name": pair.name, "counts": pair.counts, "images": images}


def _draw(pairs: Sequence[Pair], counts: str, path: Path, *, caption: str) -> None:
    columns, rows = min(len(pairs), 2), -(-len(pairs) // 2)
    figure = Figure(figsize=(9 * columns, 4.9 * rows + 1.2), dpi=100, layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for number, pair in enumerate(pairs):
        titles = f"{shown_text(pair.name, 44)}\n{pair.captions()[0]}", f"{pair.counts}\n{pair.captions()[1]}"
        for side, (image, title) in enumerate(zip((pair.objects, pair.detections), titles, strict=True)):
            axes = grid[2 * number + side]
            axes.set_anchor("NW")
            axes.imshow(image, interpolation="antialiased")
            axes.set_title(title, loc="left", fontsize=11, color=INK)
    figure.suptitle(f"{counts}.\n{CAPTION}", x=0.01, ha="left", fontsize=11, color=INK, wrap=True)
    save_figure(figure, path, caption=caption)
