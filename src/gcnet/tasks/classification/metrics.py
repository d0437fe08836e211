"""Accuracy of a classifier: top-1 with its interval, top-5, per class, confusions; exact across processes."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gcnet.analysis.statistics import wilson_interval
from gcnet.data.dataset import Skipped
from gcnet.data.loader import Batch
from gcnet.errors import Failure, UserError
from gcnet.models.outputs import class_scores, evaluating
from gcnet.training.distributed import ALONE, Processes

MOST_CLASSES_IN_MATRIX = 1000
"""Largest number of classes whose confusion matrix is drawn and written as rows, else as cells that are not zero."""


@dataclass(frozen=True)
class ClassificationResult:
    """Metrics of a classifier.

    Attributes:
        images: number of evaluated images.
        skipped: images that could not be read.
        top1: top-1 accuracy, 0 to 1.
        interval: 95% Wilson interval of `top1`.
        top5: top-5 accuracy, 0 to 1; always 1 with up to five classes.
        loss: mean cross-entropy in nats.
        per_class: top-1 accuracy of each class; None for a class without images.
        cells: (true class, predicted class, images) of every pair of classes with images, in order.
    """

    images: int
    skipped: tuple[Skipped, ...]
    top1: float
    interval: tuple[float, float]
    top5: float
    loss: float
    per_class: tuple[float | None, ...]
    cells: tuple[tuple[int, int, int], ...] = field(repr=False)

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """`confusion[i][j]` is the number of images of class i predicted as class j."""
        rows = [[0] * len(self.per_class) for _ in self.per_class]
        for true, predicted, count in self.cells:
            rows[true][predicted] = count
        return tuple(map(tuple, rows))

    @property
    def correct(self) -> int:
        """Number of correctly classified images."""
        return sum(count for true, predicted, count in self.cells if true == predicted)

    def counts(self) -> list[tuple[int, int]]:
        """Return for each class its number of images, and how many of them are classified correctly."""
        return _class_counts(self.cells, len(self.per_class))

    def worst_confusions(self, limit: int = 10) -> list[tuple[int, int, int]]:
        """Return the most frequent confusions.

        Args:
            limit: maximum number of class pairs.

        Returns:
            Tuples (true class, predicted class, images), the most frequent first.
        """
        mistakes = [(true, predicted, count) for true, predicted, count in self.cells if true != predicted]
        return sorted(mistakes, key=lambda mistake: (-mistake[2], mistake))[:limit]

    def to_dict(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """Convert to JSON values.

        Args:
            classes: class names, the keys of `per_class` (default: the class indices).

        Returns:
            The content of results.json.
        """
        names = list(classes) if classes is not None else [str(label) for label in range(len(self.per_class))]
        return {
            "images": self.images,
            "correct": self.correct,
            "top1_fraction": self.top1,
            "top1_interval_95_fraction": list(self.interval),
            "top5_fraction": self.top5,
            "loss": self.loss,
            "images_skipped": len(self.skipped),
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
            "classes": names,
            "per_class": {
                name: {"images": images, "correct": correct, "top1_fraction": share}
                for name, (images, correct), share in zip(names, self.counts(), self.per_class, strict=True)
            },
            **self._matrix(),
        }

    def _matrix(self) -> dict[str, Any]:
        """The confusion matrix, which would take gigabytes for tens of thousands of classes."""
        if len(self.per_class) > MOST_CLASSES_IN_MATRIX:
            return {"confusion_cells": [list(cell) for cell in self.cells]}
        return {"confusion": [list(row) for row in self.confusion]}


def evaluate_classifier(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> ClassificationResult:
    """Evaluate a classifier; its training mode is restored afterwards.

    Each of several processes calls this function with its own share of the images, and all of them return the result
    over all images. Counts are summed as integers.

    Args:
        model: network, images (N, 3, H, W) float -> logits (N, num_classes).
        batches: images and labels.
        num_classes: number of classes.
        device: device of the network.
        autocast: half precision for the forward passes, or None.
        progress: called with the number of images after each batch.
        processes: processes that share the images.

    Returns:
        The metrics.

    Raises:
        UserError: in every process: no image could be read, the number of outputs or a label does not match
            `num_classes`, or an output is not finite.
    """
    tally, failure = _Tally(num_classes), None
    try:
        with evaluating(model) as network:
            for batch in batches:
                tally.skipped.extend(batch.skipped)
                if len(batch.names):
                    tally.add(class_scores(network, batch.inputs(device), device=device, autocast=autocast), batch)
                if progress is not None:
                    progress(len(batch.names) + len(batch.skipped))
    except Failure:
        raise  # such as of the network, for which the others do not wait
    except UserError as error:
        failure = error
    tally.gather(failure, processes)
    return tally.result()


class _Tally:
    """Counts over the batches so far."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.cells: Counter[tuple[int, int]] = Counter()
        self.among_five = 0
        self.loss = 0.0
        self.skipped: list[Skipped] = []

    def add(self, scores: Float[Tensor, "n k"], batch: Batch) -> None:
        labels = batch.labels.cpu()
        self._check(scores, labels, batch.names)
        own = scores.gather(1, labels[:, None])
        before = torch.arange(self.num_classes) < labels[:, None]
        rank = ((scores > own) | ((scores == own) & before)).sum(1)  # equal scores: the lower class number comes first
        highest = scores == scores.max(1, keepdim=True).values
        predicted = highest.int().argmax(1)
        self.cells.update(zip(labels.tolist(), predicted.tolist(), strict=True))
        self.among_five += int((rank < 5).sum())
        self.loss += float(functional.cross_entropy(scores.double(), labels, reduction="sum"))

    def _check(self, scores: Float[Tensor, "n k"], labels: Int[Tensor, " n"], names: Sequence[str]) -> None:
        if scores.shape[1] != self.num_classes:
            raise UserError(
                f"the network has {scores.shape[1]} outputs and the data {self.num_classes} classes; they must be equal"
            )
        if bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise UserError(
                f"labels must lie in 0 to {self.num_classes - 1}; found {int(labels.min())} to {int(labels.max())}"
            )
        finite = scores.isfinite().all(1)
        if not bool(finite.all()):
            name = names[int(finite.int().argmin())]
            raise UserError(f'the network\'s outputs must be finite numbers; those for "{name}" are not')

    def gather(self, failure: UserError | None, processes: Processes) -> None:
        """Sum the counts over all processes; an error in one process is raised in all."""
        everyone = processes.gather((failure, self.skipped, self.loss, self.among_five, self.cells))
        for error, *_ in everyone:
            if error is not None:
                raise error.in_all_processes()
        self.skipped = [skipped for _, share, *_ in everyone for skipped in share]
        self.loss = math.fsum(loss for _, _, loss, *_ in everyone)
        self.among_five = sum(count for *_, count, _ in everyone)
        self.cells = sum((cells for *_, cells in everyone), start=Counter())

    def result(self) -> ClassificationResult:
        cells = tuple((*pair, count) for pair, count in sorted(self.cells.items()))
        counts = _class_counts(cells, self.num_classes)
        images, correct = (sum(column) for column in zip(*counts, strict=True))
        skipped = tuple(sorted(self.skipped, key=lambda skipped: skipped.name))
        if not images:
            reason = (
                f"; all {len(skipped)} were skipped, the first, {skipped[0].name}: {skipped[0].reason}"
                if skipped
                else ""
            )
            raise UserError(f"an evaluation needs at least one image that can be read{reason}")
        return ClassificationResult(
            images=images,
            skipped=skipped,
            top1=correct / images,
            interval=wilson_interval(correct, images),
            top5=self.among_five / images,
            loss=self.loss / images,
            per_class=tuple(hit / row if row else None for row, hit in counts),
            cells=cells,
        )


def _class_counts(cells: Iterable[tuple[int, int, int]], classes: int) -> list[tuple[int, int]]:
    rows, hits = [0] * classes, [0] * classes
    for true, predicted, count in cells:
        rows[true] += count
        hits[true] += count * (true == predicted)
    return list(zip(rows, hits, strict=True))
