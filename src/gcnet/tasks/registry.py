"""The tasks by name, and the task of a network."""

from torch import nn

from gcnet.errors import UserError
from gcnet.models.registry import takes_clips
from gcnet.tasks.base import Task
from gcnet.tasks.classification.task import Classification
from gcnet.tasks.detection.task import Detection
from gcnet.tasks.settings import CheckDataSettings, CommandSettings
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings
from gcnet.training.task import TrainingTask

TASKS: dict[str, Task] = {task.name: task for task in (Detection(), Classification())}
"""Tasks in the order in which `owns` is asked; classification accepts every name."""


def task_of(model: str) -> Task:
    """Return the task of a network by its name `model`, with or without a block in it.

    Raises:
        UserError: a network for clips, which has no task.
    """
    if takes_clips(model):
        raise UserError(f"{model} takes clips (N, 3, T, H, W), but the commands take images: use it in Python")
    return next(task for task in TASKS.values() if task.owns(model))


def task_of_results() -> Task:
    """Return the task that supports `gcnet evaluate --results`."""
    return next(task for task in TASKS.values() if task.reads_results)


def task_of_data(settings: CheckDataSettings) -> Task:
    """Return the task of the data in `settings`."""
    return next(task for task in TASKS.values() if task.recognizes_data(settings))


def refuse_settings_of_other_tasks(settings: CommandSettings, task: Task, subject: str) -> None:
    """Refuse settings without effect on a task.

    Args:
        settings: settings of a command.
        task: task of the network.
        subject: network and task for errors, such as "runs/photos is a classifier".

    Raises:
        UserError: a setting of other tasks differs from its default.
    """
    own = task.own_settings.get(type(settings), ())
    for other in TASKS.values():
        for name in other.own_settings.get(type(settings), ()):
            if name not in own and (flags := settings.given(name)):
                owners = other.data_noun if isinstance(settings, CheckDataSettings) else f"{other.noun}s"
                raise UserError(f"{flags[0]} is only for {owners}, but {subject}")


def with_defaults(settings: TrainSettings) -> TrainSettings:
    """Return `settings` with the values of the preset, except for the length, which depends on the data."""
    return task_of(settings.network.model).with_defaults(settings)


def open_task(settings: TrainSettings, processes: Processes) -> TrainingTask:
    """Open the data for training the network of the settings.

    Args:
        settings: settings of the run.
        processes: processes that share the images.

    Returns:
        The training task.

    Raises:
        UserError: the data do not exist or do not fit the settings.
    """
    return task_of(settings.network.model).open_training(settings, processes)


def build_network(settings: TrainSettings, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Build the network of the settings, with its blocks.

    Args:
        settings: settings of the run, with defaults filled in.
        num_classes: number of classes.
        image_size: side of the images in pixels, for networks with a fixed image size.

    Returns:
        The network.

    Raises:
        UserError: the name is unknown, or the weights do not fit.
    """
    return task_of(settings.network.model).build_network(settings, num_classes, image_size=image_size)
