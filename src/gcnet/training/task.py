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
class SkippedImage(Protocol):
    """An image that could not be read."""

    @property
    def name(self) -> str:
        """The image, as the user knows it."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""


@runtime_checkable
class TrainingBatch(Protocol):
    """Some images of a step; `len(names)` is their number, and may be 0 where none could be read."""

    @property
    def names(self) -> Sequence[str]:
        """The images in the batch."""

    @property
    def skipped(self) -> Sequence[SkippedImage]:
        """Images of the batch that could not be read."""


_Loaded = TypeVar("_Loaded", bound=TrainingBatch)
_Prepared = TypeVar("_Prepared", bound=TrainingBatch)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation during training.

    Attributes:
        metrics: values by key, such as `top1_fraction`.
        images: number of evaluated images.
        skipped: reason by name of each image that could not be read.
        details: data for the figures of the task.
        shown: keys of the metrics in progress lines; all if empty.
    """

    metrics: Mapping[str, float]
    images: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    details: Any = None
    shown: tuple[str, ...] = ()


class _Stopped(Exception):
    """Carries the wish to stop out of an evaluation."""


def unless_stopped(
    evaluate: Callable[[Callable[[int], None]], _Result],
    stop: Callable[[], bool],
    progress: Callable[[int], None] = lambda _: None,
) -> _Result | None:
    """Run an evaluation that can be interrupted between batches.

    Args:
        evaluate: called with a function that it calls with the number of images of each batch.
        stop: whether to interrupt, checked after each batch.
        progress: called with the number of images so far.

    Returns:
        The result of `evaluate`, None if it was interrupted.
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
    """Load the first readable validation sample.

    Args:
        samples: data set of the validation images.

    Returns:
        The sample.

    Raises:
        UserError: no image can be read.
    """
    reasons: list[str] = []
    for index in range(len(samples)):
        item = samples.load([(0, index)])[0]
        if isinstance(item, dict):
            return item
        reasons.append(f"{printable(item.name)}: {item.reason}")
    raise UserError(f"none of the {len(samples):,} validation images can be read; {'; '.join(reasons[:2])}")


def micro_batches(images: int, parts: int) -> list[slice]:
    """Split a batch into micro-batches of nearly equal size.

    Args:
        images: batch size.
        parts: maximum number of micro-batches.

    Returns:
        One slice per micro-batch, none of them empty.
    """
    cuts = [images * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in pairwise(cuts) if begin < end]


@runtime_checkable
class TrainingTask(Protocol[_Loaded, _Prepared]):
    """A kind of training, such as classification; its batches may change type when they are prepared.

    Attributes:
        metric: the number of an evaluation that decides which weights are the best; more is better.
        steps_per_epoch: optimizer steps that pass over the training images once.
        classes: class names.
        evaluation_images: number of images per evaluation.
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
        """Resolve the settings of `data` that depend on the images, for config.json.

        Returns:
            The settings with explicit values.
        """

    def notes(self) -> list[str]:
        """Return what the user should know about the data before training, one sentence each."""

    def input_size(self, network: nn.Module) -> tuple[int, int]:
        """Return the input size of `network` in pixels: height and width, for detectors the short and the long side."""

    def describe_data(self, size: tuple[int, int]) -> str:
        """Describe the data for the header of a run.

        Args:
            size: input size in pixels, as `input_size`.

        Returns:
            Number of images and classes, and the input size, in words.
        """

    def files(self) -> Iterator[tuple[str, str]]:
        """Return name and content of every data file, compared when a run is resumed: bytes and label, or a digest."""

    def describe_augmentation(self) -> str:
        """Return the augmentation in words, for the header of a run."""

    def workers(self, device: torch.device) -> int:
        """Return the number of data-loader workers of this process for a network on `device`."""

    def batches(self, first_step: int, device: torch.device) -> Iterator[_Loaded]:
        """Iterate over this process' shares of the global batches, without end.

        Args:
            first_step: step of the first batch. The batch of a step depends on seed and step only.
            device: of the network; batches for a GPU are in page-locked memory.

        Returns:
            The batches.
        """

    def prepare(self, batch: _Loaded, step: int, device: torch.device) -> _Prepared:
        """Move a batch to the device and apply mixup or CutMix.

        Args:
            batch: loaded batch.
            step: of the batch; with the seed it determines the draw.
            device: of the network.

        Returns:
            The prepared batch.
        """

    def split(self, batch: _Prepared, parts: int) -> list[_Prepared]:
        """Split a batch into micro-batches of nearly equal size.

        Args:
            batch: prepared batch.
            parts: maximum number of micro-batches.

        Returns:
            The micro-batches, none empty unless the batch is.
        """

    def losses(self, network: nn.Module, batch: _Prepared) -> dict[str, Tensor]:
        """Compute the losses of a micro-batch.

        Args:
            network: in training mode.
            batch: prepared, with at least one image.

        Returns:
            Losses by name, each a mean over the images, shape (); training minimizes their sum.
        """

    def sample(self, device: torch.device) -> _Prepared:
        """Load the first readable validation image as a batch of one on `device`.

        Returns:
            The prepared batch.

        Raises:
            UserError: no image can be read.
        """

    def forward(self, network: nn.Module, batch: _Prepared) -> object:
        """Run the network on a batch.

        Args:
            network: in evaluation mode.
            batch: prepared, with at least one image.

        Returns:
            The output of the network.
        """

    def flops(self, network: nn.Module) -> int:
        """Return the FLOPs of `network` for one image in evaluation mode; a multiply-add counts as two."""

    def evaluate(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Evaluation | None:
        """Evaluate on the validation images, over all processes.

        Args:
            network: to evaluate.
            device: of the network.
            stop: whether to interrupt, checked after each batch.
            progress: called with the number of evaluated images over all processes.

        Returns:
            The evaluation, None if it was interrupted.
        """

    def save(self, network: nn.Module, path: Path) -> None:
        """Write a model file with preprocessing and class names.

        Args:
            network: to save.
            path: the file, which is replaced: other hard links to an older version keep their content.
        """

    def draw_inputs(self, batch: _Prepared, path: Path) -> None:
        """Draw training images as the network sees them.

        Args:
            batch: prepared batch.
            path: of the PNG.
        """

    def draw_curves(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Plot losses and learning rate by step, and scores by evaluation.

        Args:
            rows: of metrics.jsonl.
            folder: for curves.png.
        """

    def draw_evaluation(self, evaluation: Evaluation, folder: Path, *, title: str) -> None:
        """Draw figures of an evaluation.

        Args:
            evaluation: with the details to draw.
            folder: for the figures.
            title: of the figures.
        """
