"""Class counts, balanced class weights, and notes on imbalance."""

from collections import Counter
from collections.abc import Sequence

from gcnet.data.images.probe import unreadable_classes
from gcnet.data.images.source import ImageSource

IMBALANCE = 10
_LISTED = 5


def class_counts(source: ImageSource) -> list[int]:
    """Number of images of each class, in the order of the labels."""
    counts = Counter(source.label(index) for index in range(len(source)))
    return [counts[label] for label in range(len(source.classes))]


def describe_counts(counts: Sequence[int]) -> str:
    """The fewest and the most images of a class, in words."""
    smallest, largest = min(counts), max(counts)
    return f"{smallest:,} per class" if smallest == largest else f"min {smallest:,}, max {largest:,} per class"


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weight of each class in the loss: n / (k * n_c), whose mean over the images is 1.

    Args:
        counts: images n_c of each class; n is their sum, and k the number of classes that have any. A class without
            images gets 0.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def class_notes(source: ImageSource, *, balanced: bool = False) -> list[str]:
    """Classes that are rare or of which no image can be read, a sentence each.

    Args:
        source: the training images.
        balanced: whether the training makes up for rare classes already.
    """
    counts = class_counts(source)
    notes = []
    smallest, largest = min(counts), max(counts)
    if not balanced and largest > IMBALANCE * smallest:
        rare, frequent = (source.classes[counts.index(count)] for count in (smallest, largest))
        notes.append(
            f'classes are imbalanced: {largest:,} training images of "{frequent}", {smallest:,} of "{rare}"; '
            "--class-weights balanced or --sampling balanced makes up for it"
        )
    if unreadable := unreadable_classes(source):
        listed = ", ".join(f'"{name}"' for name in unreadable[:_LISTED])
        more = f" and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
        notes.append(
            f"no training image can be read of {'class' if len(unreadable) == 1 else 'classes'} {listed}{more}"
        )
    return notes
