"""The interface of a training task: data, losses, evaluation, pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from gcnet.data.dataset import SeededDataset
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, printable
from gcnet.training.settings import TrainSettings


@runtime_checkable
class Skipped(Protocol):
    """An image that could not be read."""

    @property
    def name(self) -> str:
        """The image, as the user knows it."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""


@runtime_checkable
class Batch(Protocol):
    """Some images of a step; `len(names)` is their number, and may be 0 where none could be read."""

    @property
    def names(self) -> Sequence[str]:
        """The images in the batch."""

    @property
    def skipped(self) -> Sequence[Skipped]:
        """The images that belong to the batch and could not be read."""


_Loaded = TypeVar("_Loaded", bound=Batch)
_Prepared = TypeVar("_Prepared", bound=Batch)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation: numbers by name, images used and left out, and what only the task understands."""

    metrics: Mapping[str, float]
    images: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    details: Any = None


class _Stopped(Exception):
    """Carries the wish to stop out of an evaluation."""


def unless_stopped(
    evaluate: Callable[[Callable[[int], None]], _Result],
    stop: Callable[[], bool],
    progress: Callable[[int], None] = lambda _: None,
) -> _Result | None:
    """What `evaluate` gives, or None where `stop()` is true at one of its calls of the progress that it is given.

    Args:
        evaluate: calls its argument with the number of images of each batch.
        stop: whether to give up.
        progress: called with the number of images so far.
    """
    done = 0

    def ask(images: int) -> None:
        nonlocal done
        if stop():
            raise _Stopped
        done += images
        progress(done)

    try:
        return evaluate(ask)
    except _Stopped:
        return None


def first_validation_sample(samples: SeededDataset) -> dict[str, Any]:
    """The first sample of the validation images that can be read.

    Raises:
        UserError: none can be read.
    """
    reasons: list[str] = []
    for index in range(len(samples)):
        item = samples.load([(0, index)])[0]
        if isinstance(item, dict):
            return item
        reasons.append(f"{printable(item.name)}: {item.reason}")
    raise UserError(f"none of the {len(samples):,} validation images can be read; {'; '.join(reasons[:2])}")


def micro_batches(images: int, parts: int) -> list[slice]:
    """Where a batch is cut into at most so many micro-batches of nearly equal size, none of them empty."""
    cuts = [images * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(cuts) if begin < end]


@runtime_checkable
class TrainingTask(Protocol[_Loaded, _Prepared]):
    """A kind of training, such as classification; its batches may change type when they are prepared.

    Attributes:
        metric: the number of an evaluation that decides which weights are the best; more is better.
        steps_per_epoch: optimizer steps that pass over the training images once.
        classes: what is told apart, by name.
        evaluation_images: that an evaluation looks at.
        settings: of the run; the default batch size depends on the number of images.
    """

    metric: str
    steps_per_epoch: int
    classes: tuple[str, ...]
    evaluation_images: int
    settings: TrainSettings

    @property
    def image_size(self) -> int | None:
        """Side in pixels of square images, which some networks are built for; None where images have many sizes."""

    def check(self, network: nn.Module) -> None:
        """Check that the network suits the data, before anything is written.

        Raises:
            UserError: it does not.
        """

    def settled(self, data: DataSettings) -> DataSettings:
        """The settings of the data with nothing left to be chosen, as config.json keeps them."""

    def notes(self) -> list[str]:
        """What the user should know of the data before the run begins, a sentence each."""

    def input_size(self, network: nn.Module) -> tuple[int, int]:
        """Height and width in pixels of what the network sees; of a detector the short and the long side."""

    def describe_data(self, size: tuple[int, int]) -> str:
        """Number of images and classes, and the input size, for the header of a run; `size` as `input_size`."""

    def files(self) -> Iterator[tuple[str, str]]:
        """Name and content of every file of the data, which a resumed run compares: bytes and label, or a digest."""

    def describe_augmentation(self) -> str:
        """How training images are varied, for the header of a run."""

    def batches(self, first_step: int) -> Iterator[_Loaded]:
        """This process' share of the global batch of `first_step`, of the next step, and so on for ever.

        What it yields for a step depends on the seed and the step alone, not on where it was started.
        """

    def prepare(self, batch: _Loaded, step: int, device: torch.device) -> _Prepared:
        """The batch on the device, mixed with itself where the recipe says so, by a draw of (seed, step) alone."""

    def split(self, batch: _Prepared, parts: int) -> list[_Prepared]:
        """The batch cut into at most so many micro-batches of nearly equal size, none empty unless all are."""

    def losses(self, network: nn.Module, batch: _Prepared) -> dict[str, Tensor]:
        """The losses to be added, each a mean over the images of a non-empty batch, shape ()."""

    def sample(self, device: torch.device) -> _Prepared:
        """A batch of one validation image, the first that can be read, on the device.

        Raises:
            UserError: none can be read.
        """

    def forward(self, network: nn.Module, batch: _Prepared) -> object:
        """What the network, in evaluation mode, says of a non-empty batch."""

    def flops(self, network: nn.Module) -> int:
        """Arithmetic of one image in evaluation mode, a multiply-add counted as two."""

    def evaluate(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Evaluation | None:
        """Evaluate over all processes; None if `stop()` became true in between.

        `progress` is called with the number of images done so far over all processes, as far as this one knows.
        """

    def save(self, network: nn.Module, path: Path) -> None:
        """Write weights that can be used without the run: the network's description and its preprocessing inside."""

    def draw_inputs(self, batch: _Prepared, path: Path) -> None:
        """A picture of training images as the network sees them."""

    def draw_curves(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Plot the rows of metrics.jsonl: losses and learning rate by step, scores by evaluation."""

    def draw_evaluation(self, evaluation: Evaluation, folder: Path, *, title: str) -> None:
        """Pictures of an evaluation; the title says which."""
