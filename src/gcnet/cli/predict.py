"""`gcnet predict`: the classes of images, as a table, JSON and an annotated contact sheet."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gcnet.errors import UserError, printable

if TYPE_CHECKING:
    from gcnet.data.settings import Preprocessing
    from gcnet.evaluation.predict import Predictions

SUMMARY = "classify images or folders of images with a trained network"


@dataclass(frozen=True)
class Settings:
    """Classify images with a trained network.

    Damaged files are left out and named. Exit code 0 if at least one image was classified, 1 if none was.
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, or folders that are searched for images."""
    model: str
    """Model file, or a network by name (then with --weights)."""
    weights: str | None = None
    """Weights for a network by name: a file, or "pretrained"."""
    top: int = 5
    """How many classes to give for each image."""
    json: str | None = None
    """Write the predictions as JSON to this file; - for standard output."""
    output: Path | None = None
    """Write a contact sheet of the images with their classes to this PNG file."""
    image_size: int | None = None
    """Side of the images that the network gets, in pixels (default: the model file's)."""
    batch_size: int = 32
    """Images per batch."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.paths:
            raise UserError(
                "gcnet predict needs at least one image or folder, as in: gcnet predict --model FILE photo.jpg"
            )
        for name, value in (("top", self.top), ("batch-size", self.batch_size), ("image-size", self.image_size)):
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, found {value}")
        if self.output is not None and self.output.suffix.lower() != ".png":
            raise UserError(f"--output of gcnet predict is a PNG file whose name ends in .png, found {self.output}")


def run(settings: Settings) -> int:
    """Classify the images; 0 if at least one worked, 1 if none did."""
    from gcnet.evaluation.network import open_network, override_preprocessing
    from gcnet.evaluation.predict import draw_predictions, find_images, predict_images
    from gcnet.evaluation.progress import progress_bar
    from gcnet.storage import write_atomic
    from gcnet.training.distributed import choose_device

    device = choose_device(settings.device)
    paths = find_images(settings.paths)
    network = open_network(settings.model, settings.weights)
    network.model.to(device)
    preprocessing = network.preprocessing or _usual_preprocessing(settings)
    preprocessing = override_preprocessing(preprocessing, image_size=settings.image_size)
    with progress_bar("images", len(paths)) as progress:
        predictions = predict_images(
            network,
            paths,
            preprocessing=preprocessing,
            top=settings.top,
            batch_size=settings.batch_size,
            device=device,
            progress=progress,
        )
    if settings.json != "-":
        _print_table(predictions)
    _report_skipped(predictions)
    if settings.json is not None:
        content = json.dumps({"model": settings.model, **predictions.to_dict()}, indent=2) + "\n"
        if settings.json == "-":
            sys.stdout.write(content)
        else:
            write_atomic(Path(settings.json), content.encode())
    if settings.output is not None and predictions.images:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        shown = draw_predictions(predictions.images, settings.output)
        print(f"contact sheet of {shown} of {len(predictions.images)} images: {settings.output}", file=sys.stderr)
    return 0 if predictions.images else 1


def _usual_preprocessing(settings: Settings) -> "Preprocessing":
    from gcnet.data.settings import Preprocessing

    if settings.image_size is None:
        raise UserError(
            f"{settings.weights or settings.model} comes without preprocessing: give --image-size, the side of the "
            "images that it was trained on"
        )
    return Preprocessing(settings.image_size)


def _print_table(predictions: "Predictions") -> None:
    if not predictions.images:
        return
    names = [printable(one.path) for one in predictions.images]
    width = max(map(len, names))
    classes = max(5, *(len(name) for one in predictions.images for name, _ in one.classes))
    places = len(predictions.images[0].classes)
    ranks = "".join(f"  {f'top {place + 1}':<{classes}}  {'prob.':>6}" for place in range(places))
    print(f"{'image':<{width}}{ranks}")
    for name, one in zip(names, predictions.images, strict=True):
        best = "".join(f"  {label:<{classes}}  {probability:>6.1%}" for label, probability in one.classes)
        print(f"{name:<{width}}{best}")


def _report_skipped(predictions: "Predictions") -> None:
    for skipped in predictions.skipped:
        print(f"left out {printable(skipped.name)}: {skipped.reason}", file=sys.stderr)
    total = len(predictions.images) + len(predictions.skipped)
    print(
        f"{len(predictions.images)} of {total} images classified, {len(predictions.skipped)} left out", file=sys.stderr
    )
