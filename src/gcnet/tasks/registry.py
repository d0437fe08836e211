"""`TASKS` by name, and the task of a network."""

from torch import nn

from gcnet.errors import UserError
from gcnet.tasks.base import Task
from gcnet.tasks.classification.task import Classification
from gcnet.tasks.detection.task import Detection
from gcnet.tasks.settings import CheckDataSettings, CommandSettings
from gcnet.training.distributed import Processes
from gcnet.training.settings import TrainSettings
from gcnet.training.task import TrainingTask

TASKS: dict[str, Task] = {task.name: task for task in (Detection(), Classification())}
"""The first task that owns a name has it; any other name is that of a classifier."""


def task_of(model: str) -> Task:
    """The task of a network, by its name with or without a block in it."""
    return next(task for task in TASKS.values() if task.owns(model))


def task_of_results() -> Task:
    """The task whose predictions `gcnet evaluate --results` reads."""
    return next(task for task in TASKS.values() if task.reads_results)


def task_of_data(settings: CheckDataSettings) -> Task:
    """The task whose data `gcnet check-data` is given."""
    return next(task for task in TASKS.values() if task.recognizes_data(settings))


def refuse_settings_of_other_tasks(settings: CommandSettings, task: Task, subject: str) -> None:
    """Refuse settings that have no effect on a task.

    Args:
        settings: of a command.
        task: the task of the network.
        subject: the network and its kind, for errors, such as "runs/photos is a classifier".

    Raises:
        UserError: a setting of other tasks differs from its default.
    """
    own = task.own_settings.get(type(settings), ())
    for other in TASKS.values():
        for name in other.own_settings.get(type(settings), ()):
            if name not in own and (flags := settings.given(name)):
                owners = other.data_noun if isinstance(settings, CheckDataSettings) else f"{other.noun}s"
                raise UserError(f"{flags[0]} belongs to {owners}, and {subject}")


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
