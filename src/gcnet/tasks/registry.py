"""`TASKS` by name, and the task of a network."""

from torch import nn

from gcnet.tasks.base import Task
from gcnet.tasks.classification.task import Classification
from gcnet.tasks.detection.task import Detection
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings
from gcnet.training.task import TrainingTask

TASKS: dict[str, Task] = {task.name: task for task in (Detection(), Classification())}
"""The first task that owns a name has it; any other name is that of a classifier."""


def task_of(model: str) -> Task:
    """The task of a network, by its name with or without a block in it."""
    return next(task for task in TASKS.values() if task.owns(model))


def with_defaults(settings: TrainSettings) -> TrainSettings:
    """The settings with nothing left to the preset but the length, which depends on the data."""
    return task_of(settings.network.model).with_defaults(settings)


def open_task(settings: TrainSettings, processes: Processes) -> TrainingTask:
    """The images, and what training does with them.

    Raises:
        UserError: the data are not there, or do not suit the settings.
    """
    return task_of(settings.network.model).open_training(settings, processes)


def build_network(settings: TrainSettings, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """The network that filled settings describe; one that is made for one size is built for `image_size`.

    Raises:
        UserError: an unknown name, or weights that do not fit.
    """
    return task_of(settings.network.model).build_network(settings, num_classes, image_size=image_size)
