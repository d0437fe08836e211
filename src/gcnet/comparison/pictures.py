"""Sample images of a comparison, as small PNGs for its page."""

import base64
import io

from gcnet.comparison.results import Picture
from gcnet.data.decode import ImageError
from gcnet.tasks.base import Task
from gcnet.training.task import TrainingTask

_PICTURES, _SIDE = 12, 160


def sample_pictures(task: Task, data: TrainingTask) -> tuple[Picture, ...]:
    """Some validation images with their captions; unreadable ones are passed over."""
    found: list[Picture] = []
    count = min(_PICTURES, data.evaluation_images)
    for turn in range(count):
        try:
            image, label = task.picture(data, turn * data.evaluation_images // count)
        except ImageError:
            continue
        image.thumbnail((_SIDE, _SIDE))
        stream = io.BytesIO()
        image.save(stream, format="png")
        found.append(Picture(label, base64.b64encode(stream.getvalue()).decode()))
    return tuple(found)
