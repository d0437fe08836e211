"""The most probable classes of images: as a table, as JSON values and as pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gcnet.data.images.image_input import ImageInput
from gcnet.data.images.sources import evenly_spread
from gcnet.errors import printable
from gcnet.tasks.results import PredictionResult

SHEET_IMAGES = 60
TOP = 5
_PLOTTED = 480  # pixels of the longer side of `Prediction.plot`


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image.

    Attributes:
        source: the image.
        classes: class names with their softmax probabilities, 0 to 1, the most probable first.
    """

    source: ImageInput
    classes: tuple[tuple[str, float], ...]

    @property
    def path(self) -> Path | None:
        """Image file, None for an image in memory."""
        return self.source.path

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        classes = [{"class": name, "probability": probability} for name, probability in self.classes]
        return {"path": self.source.name, "classes": classes}

    def plot(self) -> Image.Image:
        """Return the image, RGB, with its most probable classes below."""
        from gcnet.visualization.images import draw_contact_sheet

        return draw_contact_sheet([self.source.open()], [_title(self, TOP)], tile=_PLOTTED)


@dataclass(frozen=True)
class Predictions(PredictionResult):
    """Result of `gcnet.predict` for a classifier.

    Attributes:
        images: prediction of each image, in the order of the files.
    """

    images: tuple[Prediction, ...]

    def __str__(self) -> str:
        """Return a table with the most probable classes of each image."""
        if not self.images:
            return ""
        names = [printable(image.source.name) for image in self.images]
        width = max(map(len, names))
        column = max(5, *(len(printable(name)) for image in self.images for name, _ in image.classes))
        ranks = range(1, len(self.images[0].classes) + 1)
        head = "".join(f"  {f'top {rank}':<{column}}  {'prob.':>6}" for rank in ranks)
        lines = [f"{'image':<{width}}{head}"]
        for name, image in zip(names, self.images, strict=True):
            cells = (f"  {printable(label):<{column}}  {probability:>6.1%}" for label, probability in image.classes)
            lines.append(f"{name:<{width}}{''.join(cells)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": [prediction.to_dict() for prediction in self.images],
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
        }

    def rows(self) -> Iterator[Sequence[object]]:
        """Yield the column names, then a row for each image and class, the most probable class first."""
        yield "image", "class", "probability"
        for image in self.images:
            for name, probability in image.classes:
                yield image.source.name, name, f"{probability:.6f}"


def draw_predictions(predictions: Sequence[Prediction], path: Path, *, caption: str = "") -> int:
    """Write a contact sheet of images with file names and the two most probable classes.

    Args:
        predictions: of the images; at most `SHEET_IMAGES` are drawn, evenly spread.
        path: PNG file.
        caption: small text below, from `gcnet.visualization.style.figure_caption`.

    Returns:
        Number of images drawn.
    """
    from gcnet.visualization.images import contact_sheet

    shown = evenly_spread(predictions, SHEET_IMAGES)
    contact_sheet(
        [_thumbnail(item.source) for item in shown], [_title(item, 2) for item in shown], path, caption=caption
    )
    return len(shown)


def _title(prediction: Prediction, classes: int) -> str:
    """The name of the image, and a line for each of its most probable classes."""
    pairs = prediction.classes[:classes]
    return "\n".join([prediction.source.title, *(f"{label} {100 * probability:.0f} %" for label, probability in pairs)])


def _thumbnail(source: ImageInput) -> Image.Image:
    """Read an image at reduced size, to save memory."""
    image = source.open()
    image.thumbnail((400, 400))
    return image
