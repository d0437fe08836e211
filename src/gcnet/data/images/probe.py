"""Properties of a sample of images: median size, bit depth, readability."""

import os
from collections.abc import Callable, Iterator, Sequence
from statistics import median_low
from typing import TypeVar

import numpy as np

from gcnet.data.decode import FULL_DEPTH, Header, ImageError, largest_value, read_header
from gcnet.data.images.sources import ImageSource, evenly_spread
from gcnet.errors import Failure, UserError

SAMPLED = 100

REQUESTED = 16
"""Remote images of a sample that are requested at the same time, and are in memory."""

BIT_DEPTHS = (8, 10, 12, 14, 16)
_DEEP_SAMPLED = 32
_DECODED_CLASSES = 100
_DEEP_SUFFIXES = (".png", ".tif", ".tiff", ".pgm", ".ppm", ".jp2", ".j2k", ".jpx")
_T = TypeVar("_T")


def median_size(source: ImageSource) -> tuple[int, int]:
    """Return the median short side and the median long side of up to 100 evenly spread images, in pixels.

    Only headers are read; unreadable images are skipped.

    Args:
        source: The images.

    Raises:
        UserError: No image can be read.
    """
    headers = [header for _, header in _readable(source, evenly_spread(range(len(source)), SAMPLED), _header)]
    if not headers:
        headers = [first_readable(source, range(len(source)), _header)]
    sides = [sorted(header.upright_size) for header in headers]
    return median_low(short for short, _ in sides), median_low(long for _, long in sides)


def estimate_bit_depth(source: ImageSource) -> int | None:
    """Estimate the used bits of 16-bit images from the largest value of a sample.

    Values below 1,024 stand for 10 bits, below 4,096 for 12 bits, and so on.

    Args:
        source: The images.

    Returns:
        A value of `BIT_DEPTHS`, or None if there are no 16-bit images.
    """
    sampled = evenly_spread(_possibly_deep(source), SAMPLED)
    deep = [index for index, header in _readable(source, sampled, _header) if header.is_16_bit]
    chosen = evenly_spread(deep, _DEEP_SAMPLED)
    values = [value for _, value in _readable(source, chosen, _largest) if value is not None]
    if not values:
        return None
    return next((depth for depth in BIT_DEPTHS if max(values) < 1 << depth), FULL_DEPTH)


def unused_depth_note(source: ImageSource, bit_depth: int) -> str | None:
    """Describe 16-bit images that appear dark because they use fewer bits than assumed.

    Args:
        source: The images.
        bit_depth: Assumed bits, 8 to 16.

    Returns:
        A sentence, or None.
    """
    used_bits = estimate_bit_depth(source)
    if used_bits is None or used_bits >= bit_depth:
        return None
    return (
        f"16-bit images use {used_bits} bits (by the largest value of a sample) but are read as {bit_depth}-bit as in "
        f"training, so they appear dark; use `bit_depth={used_bits}`"
    )


def unreadable_classes(source: ImageSource) -> list[str]:
    """Return the names of the classes of `source` without a readable image.

    With more than 100 classes only headers are read.
    """
    labels = source.all_labels()
    order = np.argsort(labels, kind="stable")
    members = [indices.tolist() for indices in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)]
    read = _decoded if len(members) <= _DECODED_CLASSES else _header
    readable = {index for index, _ in _readable(source, [indices[0] for indices in members], read)}
    return [
        source.classes[labels[first]]
        for first, *others in members
        if first not in readable and next(_readable(source, others, read), None) is None
    ]


def require_readable(source: ImageSource, what: str) -> None:
    """Check that at least one image can be decoded.

    Args:
        source: The images.
        what: Name of the split, for the message.

    Raises:
        UserError: No image can be decoded; states the reason of the first.
    """
    try:
        first_readable(source, range(len(source)), _decoded)
    except Failure:
        raise
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def first_readable(source: ImageSource, indices: range, read: Callable[[ImageSource, int], _T]) -> _T:
    """Read the first readable image.

    Args:
        source: The images.
        indices: Indices to try, in order.
        read: Reads the image of a source at an index.

    Returns:
        Result of `read`.

    Raises:
        UserError: No image can be read.
    """
    first: ImageError | None = None
    for index in indices:
        try:
            return read(source, index)
        except ImageError as error:
            first = first or error
    raise UserError(f"none of the {len(indices):,} images can be read; {first}")


def _readable(
    source: ImageSource, indices: Sequence[int], read: Callable[[ImageSource, int], _T]
) -> Iterator[tuple[int, _T]]:
    """Yield index and result of each image that can be read; remote images are requested in groups."""
    for start in range(0, len(indices), REQUESTED):
        group = indices[start : start + REQUESTED]
        source.prefetch(group)
        for index in group:
            try:
                yield index, read(source, index)
            except ImageError:
                continue


def _header(source: ImageSource, index: int) -> Header:
    file = source.encoded(index)
    if file is not None:
        return read_header(file)
    width, height = source.read(index).size
    return Header(width, height)


def _largest(source: ImageSource, index: int) -> int | None:
    file = source.encoded(index)
    return None if file is None else largest_value(file)


def _decoded(source: ImageSource, index: int) -> bool:
    source.read(index)
    return True


def _possibly_deep(source: ImageSource) -> list[int]:
    """Return the indices of the images whose format can have 16 bits, by suffix."""
    files = source.file_images()
    if files is not None:
        indices = files.names.with_suffix(_DEEP_SUFFIXES)
        if not indices or len(files) == len(source):
            return indices
    return [index for index in range(len(source)) if _has_deep_suffix(source.name(index))]


def _has_deep_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _DEEP_SUFFIXES
