"""Trainings on two gloo processes in which one fails, in processes of their own with a file of errors each."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gcnet import cli
from gcnet.errors import UserError
from gcnet.storage import StorageError
from gcnet.tasks.classification.training import ClassificationTraining
from gcnet.training import checkpoint, heartbeat
from gcnet.training.trainer import Trainer

PLACES: dict[str, tuple[Any, str]] = {
    "step": (Trainer, "train_step"),
    "loader": (ClassificationTraining, "batches"),
    "evaluation": (ClassificationTraining, "evaluate"),
    "figures": (ClassificationTraining, "draw_curves"),
    "saving": (checkpoint, "save_state"),
}
ERRORS = {
    "error": RuntimeError("broken part"),
    "usage": UserError("the `batch_size` is odd"),
    "disk": StorageError("cannot write checkpoint.safetensors: the disk is full"),
    "stop": KeyboardInterrupt(),
}


def train(folder: Path, photos: Path, place: str = "", rank: int = -1, kind: str = "error", beat: float = 1.0) -> None:
    """Run `gcnet train`, in which the process `rank` raises an error of a `kind` in a `place`."""
    own = int(os.environ["RANK"])
    errors = os.open(folder / f"{own}.err", os.O_WRONLY | os.O_CREAT, 0o666)
    os.dup2(errors, 2)
    torch.set_num_threads(1)
    heartbeat._SECONDS = beat
    if place and own == rank:
        owner, name = PLACES[place]
        setattr(owner, name, failing(getattr(owner, name), ERRORS[kind], place))
    options = {"model": "cifar_resnet20", "data": photos, "image_size": 8, "batch_size": 10, "output": folder / "run"}
    options |= {"epochs": 1000, "save_every_steps": 2, "log_every": 1}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    raise SystemExit(cli.main(["train", *words]))


def failing(function: Callable[..., Any], error: BaseException, place: str) -> Callable[..., Any]:
    """A function that raises an error at its second call (`figures`: the first), or a loader of one batch only."""
    calls = int(place == "figures")

    def second_fails(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise error
        return function(*arguments, **named)

    def second_item_fails(*arguments: Any) -> Iterator[Any]:
        yield next(iter(function(*arguments)))
        raise error

    return second_item_fails if place == "loader" else second_fails
