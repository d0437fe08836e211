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
from gcnet.tasks.detection.matching import MIN_IOU, MIN_SCORE, DetectionStatus, ImageMatches, worst_first
from gcnet.visualization.fonts import shown_text
from gcnet.visualization.images import data_uri, fit_image
from gcnet.visualization.overlays import Color, Overlay, draw_overlays
from gcnet.visualization.pages import render_page
from gcnet.visualization.style import INK, figure_caption, save_figure

# Okabe and Ito's sky blue and vermilion, brightened for photographs.
_BLUE, _ORANGE, _GRAY = (86, 180, 233), (240, 100, 10), (170, 170, 170)
_COLORS: Mapping[DetectionStatus, Color] = {"TP": _BLUE, "FP": _ORANGE, "crowd": _GRAY}
SHOWN_IN_PICTURE, SHOWN_ON_PAGE = 12, 48
CAPTION = (
    f"True positive (blue): a detection with score {MIN_SCORE:g} or more and mask IoU (without masks, box IoU) "
    f"{MIN_IOU:g} or more with an unmatched object of its class. Orange: false negatives on the left, false positives "
    "on the right. Crowd regions and detections in them (gray) are ignored. F1 = 2 TP / (2 TP + FN + FP); images are "
    "sorted by F1, ties by the number of errors."
)
_SIDE = 512  # pixels


@dataclass(frozen=True)
class Pair:
    """An image with its ground truth, and with its detections.

    Attributes:
        match: matches between detections and ground truth.
        objects: the image with its ground truth.
        detections: the image with its detections.
    """

    match: ImageMatches
    objects: Image.Image
    detections: Image.Image

    @property
    def name(self) -> str:
        """File name of the image."""
        return printable(self.match.image["file_name"])

    @property
    def counts(self) -> str:
        """F1 and the numbers of true positives, false negatives and false positives."""
        match = self.match
        errors = f"{match.false_negatives} FN, {match.false_positives} FP"
        return f"F1 {100 * match.f1:.1f}: {match.true_positives} TP, {errors}"

    def captions(self) -> tuple[str, str]:
        """Return the captions of the two images."""
        detections = "detections" if self.match.detections else f"no detections with score {MIN_SCORE:g} or more"
        return "ground truth" if self.match.objects else "ground truth: no objects", detections


def write_error_gallery(
    images: CocoImages, matches: Sequence[ImageMatches], folder: Path, *, about: Sequence[str], labels: bool = True
) -> tuple[str, ...]:
    """Write error_gallery.png and error_gallery.html; unreadable images are skipped.

    Args:
        images: the annotated images.
        matches: matches of `match_images`.
        folder: an existing folder.
        about: data, model and number of images, for the captions.
        labels: draw class and score next to objects where they fit.

    Returns:
        Names of the files written; empty without errors.
    """
    pairs = list(islice(_pairs(images, worst_first(matches), labels=labels), SHOWN_ON_PAGE))
    if not pairs:
        return ()
    counts = _summary(matches)
    caption = figure_caption(*map(printable, about))
    _draw(pairs[:SHOWN_IN_PICTURE], counts, folder / "error_gallery.png", caption=caption)
    page = render_page(
        "error_gallery.html",
        title="Error gallery",
        about=f"{printable(', '.join(about))}: {_shown(pairs, matches)}",
        counts=counts,
        caption=CAPTION,
        pairs=[_card(pair) for pair in pairs],
    )
    write_atomic(folder / "error_gallery.html", page.encode("utf-8", "backslashreplace"))
    return "error_gallery.png", "error_gallery.html"


def _summary(matches: Sequence[ImageMatches]) -> str:
    """Return a sentence on the errors in all `matches`."""
    true_positives = sum(match.true_positives for match in matches)
    false_negatives = sum(match.false_negatives for match in matches)
    false_positives = sum(match.false_positives for match in matches)
    with_errors = sum(bool(match.false_negatives or match.false_positives) for match in matches)
    return (
        f"{with_errors:,} of {len(matches):,} images have errors; {true_positives:,} of "
        f"{true_positives + false_negatives:,} objects detected, {false_negatives:,} false negatives, "
        f"{false_positives:,} false positives"
    )


def _shown(pairs: Sequence[Pair], matches: Sequence[ImageMatches]) -> str:
    count = len(worst_first(matches))
    return f"all {count} images with errors" if len(pairs) == count else f"the {len(pairs)} of {count:,} with most"


def _pairs(images: CocoImages, matches: Sequence[ImageMatches], *, labels: bool) -> Iterator[Pair]:
    indices = {images.image_id(index): index for index in range(len(images))}
    names = dict(zip(images.category_ids, images.classes, strict=True))
    for match in matches:
        try:
            image = images.read(indices[match.image["id"]])
        except ImageError:
            continue
        size = match.image["height"], match.image["width"]
        shown = fit_image(image, _SIDE)
        objects, detections = (
            draw_overlays(shown, overlays, size, labels="auto" if labels else "off")
            for overlays in (_object_overlays(match, names), _detection_overlays(match, names))
        )
        yield Pair(match, objects, detections)


def _object_overlays(match: ImageMatches, names: Mapping[int, str]) -> list[Overlay]:
    """Return overlays of the objects: false negatives on top, crowds at the bottom."""
    overlays = [
        (is_matched, Overlay(entry, _BLUE if is_matched else _ORANGE, names[entry["category_id"]]))
        for entry, is_matched in zip(match.objects, match.is_matched, strict=True)
    ]
    objects = [overlay for _, overlay in sorted(overlays, key=lambda pair: pair[0])]
    return objects + [Overlay(entry, _GRAY, names[entry["category_id"]]) for entry in match.crowds]


def _detection_overlays(match: ImageMatches, names: Mapping[int, str]) -> list[Overlay]:
    """Return overlays of the detections: false positives on top."""
    overlays = [
        (("FP", "TP", "crowd").index(status), entry, status)
        for entry, status in zip(match.detections, match.statuses, strict=True)
    ]
    return [
        Overlay(entry, _COLORS[status], f"{names[entry['category_id']]} {entry['score']:.2f}")
        for _, entry, status in sorted(overlays, key=lambda item: item[0])
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
