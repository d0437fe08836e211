"""Detects objects in images, prints and writes them."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gcnet.cli.files import report_skipped, write_csv, write_json
from gcnet.cli.network_header import describe_resizing, report_network
from gcnet.errors import printable

if TYPE_CHECKING:
    from PIL import Image

    from gcnet.tasks.detection.predict import Detected, Detections
    from gcnet.tasks.trained import TrainedDetector
    from gcnet.workflows.predict import PredictSettings

THRESHOLD = 0.5
BATCH_SIZE = 1


def detect(detector: "TrainedDetector", paths: Sequence[Path], settings: "PredictSettings") -> int:
    """Find the objects in the images; 0 if at least one image worked, 1 if none did."""
    from gcnet.cli.progress import progress_bar
    from gcnet.tasks.detection.predict import detect_images

    pictures = _Pictures(detector, paths, settings)
    for file in pictures.files():
        if file.exists():
            settings.refuse_existing("output", file)
    report_network(detector.model, settings.model, settings.weights)
    print(f"images: {describe_resizing(detector.model)}", file=sys.stderr)
    with progress_bar("images", len(paths)) as progress:
        detections = detect_images(
            detector,
            paths,
            threshold=THRESHOLD if settings.threshold is None else settings.threshold,
            classes=None if settings.classes is None else [name.strip() for name in settings.classes.split(",")],
            batch_size=settings.batch_size or BATCH_SIZE,
            show=pictures,
            progress=progress,
        )
    if settings.json != "-":
        _print_table(detections)
    report_skipped(detections.skipped, len(detections.images), "searched for objects")
    if settings.json is not None:
        write_json({"model": settings.model, **detections.to_dict()}, settings.json)
    if settings.csv is not None:
        write_csv(_table(detections), settings.csv)
    if settings.output is not None and detections.images:
        print(f"pictures of the images with their objects: {settings.output}", file=sys.stderr)
    return 0 if detections.images else 1


def _table(detections: "Detections") -> "Iterator[Sequence[object]]":
    """A row for each object: its image, class, score and box in pixels."""
    yield "image", "class", "score", "left", "top", "width", "height"
    for one in detections.images:
        for result in one.results:
            box = (f"{value:.2f}" for value in result["bbox"])
            yield one.path, detections.categories[result["category_id"]], f"{result['score']:.6f}", *box


class _Pictures:
    """Writes a picture of each image that it is called with into a folder, if there is one to be written to."""

    def __init__(self, detector: "TrainedDetector", paths: Sequence[Path], settings: "PredictSettings") -> None:
        from gcnet.visualization.detections import picture_names

        self.folder = folder = settings.output
        self.labels = settings.labels or "auto"
        self.classes = dict(zip(detector.category_ids, detector.names(), strict=True))
        self.names = {} if folder is None else picture_names(paths, folder)

    def files(self) -> list[Path]:
        """Where the pictures go."""
        return [] if self.folder is None else [self.folder / name for name in self.names.values()]

    def __call__(self, image: "Image.Image", found: "Detected") -> None:
        from gcnet.storage import write_atomic
        from gcnet.visualization.detections import draw_detections
        from gcnet.visualization.images import encode_jpeg

        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            picture = draw_detections(image, found.results, self.classes, labels=self.labels)
            write_atomic(self.folder / self.names[found.path], encode_jpeg(picture))


def _print_table(detections: "Detections") -> None:
    if not detections.images:
        return
    names = [printable(one.path) for one in detections.images]
    width = max(map(len, [*names, "image"]))
    print(f"{'image':<{width}}  {'objects':>7}  {'best':>5}  classes")
    for name, one in zip(names, detections.images, strict=True):
        best = f"{one.results[0]['score']:.3f}" if one.results else "-"
        counts = Counter(result["category_id"] for result in one.results).most_common()
        classes = ", ".join(f"{count} {printable(detections.categories[identity])}" for identity, count in counts)
        print(f"{name:<{width}}  {len(one.results):>7}  {best:>5}  {classes or '-'}")
