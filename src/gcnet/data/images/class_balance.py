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


def class_notes(train: ImageSource, val: ImageSource, *, balanced: bool = False) -> list[str]:
    """Describe rare classes, and classes without an image that can be read.

    Args:
        train: Training images.
        val: Validation images, of the same classes.
        balanced: Whether the training is balanced by weights or sampling.

    Returns:
        A sentence per finding.
    """
    counts = class_counts(train)
    notes = []
    smallest, largest = min(filter(None, counts)), max(counts)
    if not balanced and largest > IMBALANCE * smallest:
        rare, frequent = (train.classes[counts.index(count)] for count in (smallest, largest))
        notes.append(
            f'classes are imbalanced: {largest:,} training images of "{frequent}", {smallest:,} of "{rare}"; '
            "use `class_weights=balanced` or `sampling=balanced`"
        )
    if untrained := _without_images(train):
        notes.append(f"no training image in {_listed(untrained)}")
    if unreadable := unreadable_classes(train):
        notes.append(f"no readable training image in {_listed(unreadable)}")
    if unmeasured := _without_images(val):
        them = "it" if len(unmeasured) == 1 else "them"
        notes.append(f"no validation image in {_listed(unmeasured)}: the accuracy says nothing about {them}")
    return notes


def _without_images(source: ImageSource) -> list[str]:
    return [name for name, count in zip(source.classes, class_counts(source), strict=True) if count == 0]


def _listed(classes: Sequence[str]) -> str:
    names = ", ".join(f'"{name}"' for name in classes[:_LISTED])
    more = f" and {len(classes) - _LISTED:,} more" if len(classes) > _LISTED else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {names}{more}"
