"""Number of images by class, weights of the classes, and notes on unbalanced classes."""

from collections.abc import Sequence

import numpy as np

from gcnet.data.images.probe import unreadable_classes
from gcnet.data.images.sources import ImageSource

IMBALANCE = 10
_LISTED = 5


def class_counts(source: ImageSource) -> list[int]:
    """Return the number of images of each class of `source`, in the order of the labels."""
    return np.bincount(source.all_labels(), minlength=len(source.classes)).tolist()


def describe_counts(counts: Sequence[int]) -> str:
    """Return the range of `counts`, images per class, such as "min 3, max 120 per class"."""
    smallest, largest = min(counts), max(counts)
    return f"{smallest:,} per class" if smallest == largest else f"min {smallest:,}, max {largest:,} per class"


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Compute class weights of a balanced loss: n / (k n_c), with a mean of 1 over the images.

    Args:
        counts: Images n_c of each class; n is their sum and k the number of classes with images.

    Returns:
        Weight of each class; 0 for a class without images.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def class_notes(source: ImageSource, *, balanced: bool = False) -> list[str]:
    """Describe rare classes and classes without a readable image.

    Args:
        source: Training images.
        balanced: Whether the training is balanced by weights or sampling.

    Returns:
        A sentence per finding.
    """
    counts = class_counts(source)
    notes = []
    smallest, largest = min(counts), max(counts)
    if not balanced and largest > IMBALANCE * smallest:
        rare, frequent = (source.classes[counts.index(count)] for count in (smallest, largest))
        notes.append(
            f'classes are imbalanced: {largest:,} training images of "{frequent}", {smallest:,} of "{rare}"; '
            "use `class_weights=balanced` or `sampling=balanced`"
        )
    if unreadable := unreadable_classes(source):
        listed = ", ".join(f'"{name}"' for name in unreadable[:_LISTED])
        more = f" and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
        notes.append(f"no readable training image in {'class' if len(unreadable) == 1 else 'classes'} {listed}{more}")
    return notes
