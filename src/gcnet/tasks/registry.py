"""Which kind of training a network's name stands for: its settings filled in, its task and its network."""

from dataclasses import replace

from torch import nn

from gcnet.models.registry import is_detector
from gcnet.tasks.classification.task import ClassificationTask, build_classifier, open_classification
from gcnet.tasks.detection.task import DetectionTask, build_detector, filled_detection, open_detection
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings


def filled(settings: TrainSettings) -> TrainSettings:
    """The settings with nothing left to the preset but the length, which depends on the data."""
    if is_detector(settings.network.model):
        return filled_detection(settings)
    return replace(settings, recipe=settings.recipe.filled())


def open_task(settings: TrainSettings, processes: Processes) -> ClassificationTask | DetectionTask:
    """The images and what is done with them.

    Raises:
        UserError: the data are not there, or do not suit the settings.
    """
    open_it = open_detection if is_detector(settings.network.model) else open_classification
    return open_it(settings, processes)


def build_network(settings: TrainSettings, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """The network that filled settings describe; a classifier that is made for one size is built for `image_size`.

    Raises:
        UserError: an unknown name, or weights that do not fit.
    """
    if is_detector(settings.network.model):
        return build_detector(settings, num_classes)
    return build_classifier(settings, num_classes, image_size=image_size)
