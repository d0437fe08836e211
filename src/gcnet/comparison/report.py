"""Writes the report of a comparison: results.json, results.md, figure.png and report.html, with sample images."""

import base64
import io
from pathlib import Path

from gcnet.comparison.figures import render_figure
from gcnet.comparison.page import render_comparison
from gcnet.comparison.results import Comparison, Picture, to_json
from gcnet.comparison.summary import markdown
from gcnet.data.decode import ImageError
from gcnet.storage import write_atomic
from gcnet.tasks.base import Task
from gcnet.training.task import TrainingTask

_PICTURES, _SIDE = 12, 160
FILES = ("results.json", "results.md", "figure.png", "report.html")


def write_report(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write results.json, results.md, figure.png and report.html, each atomically.

    Args:
        comparison: of the blocks.
        folder: for the files.

    Returns:
        Their paths.

    Raises:
        StorageError: a file cannot be written, for example to a full disk.
    """
    contents = (
        to_json(comparison).encode("utf-8", "backslashreplace"),
        markdown(comparison).encode("utf-8", "backslashreplace"),
        render_figure(comparison),
        render_comparison(comparison).encode("utf-8", "backslashreplace"),
    )
    paths = tuple(folder / name for name in FILES)
    for path, content in zip(paths, contents, strict=True):
        write_atomic(path, content)
    return paths


def sample_pictures(task: Task, data: TrainingTask) -> tuple[Picture, ...]:
    """Sample validation images for the report; unreadable images are skipped.

    Args:
        task: of the network.
        data: training task with the images.

    Returns:
        Images with captions.
    """
    pictures: list[Picture] = []
    count = min(_PICTURES, data.evaluation_images)
    for turn in range(count):
        try:
            image, label = task.picture(data, turn * data.evaluation_images // count)
        except ImageError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        stream = io.BytesIO()
        image.save(stream, format="png")
        pictures.append(Picture(label, base64.b64encode(stream.getvalue()).decode()))
    return tuple(pictures)
