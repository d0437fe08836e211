"""Reads Pascal VOC masks: SegmentationObject/NAME.png, whose pixel values number the objects."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gcnet.data.coco.conversion.builder import Problem
from gcnet.data.coco.masks import compressed_runs
from gcnet.data.decode import ImageError, read_values

_FOLDER = "SegmentationObject"
_ALIKE = 0.5  # IoU of a box and the box of its mask from which they belong together


class ObjectMasks:
    """The masks of the objects of one image.

    Args:
        annotation: the XML file of the image; the masks are in a folder beside that of the XML files.
        size: width and height of the image in pixels.
        root: the folder that file names are relative to.
        problems: gets what cannot be used.
    """

    def __init__(self, annotation: Path, size: tuple[int, int], root: Path, problems: list[Problem]) -> None:
        self._file = annotation.parent.parent / _FOLDER / f"{annotation.stem}.png"
        self._root, self._problems = root, problems
        self._numbers = self._read(size) if self._file.is_file() else None

    def of(self, number: int, box: Sequence[float]) -> dict[str, Any] | None:
        """The run lengths of an object's mask; None where it has none.

        Args:
            number: of the object in the XML file, from 1.
            box: left, top, width and height in pixels, which the mask has to fit.
        """
        if self._numbers is None or not (mask := self._numbers == number).any():
            return None
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        around = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        if _overlap(box, around) < _ALIKE:
            self._report("mask unlike the box, skipped", f"object {number}")
            return None
        return compressed_runs(mask)

    def _read(self, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"] | None:
        try:
            numbers = read_values(self._file)
        except ImageError as error:
            return self._report("unreadable masks, skipped", error.reason)
        if numbers.shape != size[::-1] or numbers.dtype != np.uint8:
            found = f"values of shape {numbers.shape}, expected a palette or gray image of {size[0]} x {size[1]} pixels"
            return self._report("unreadable masks, skipped", found)
        return numbers

    def _report(self, kind: str, found: str) -> None:
        self._problems.append(Problem(kind, found, file_name=os.path.relpath(self._file, self._root)))


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """The IoU of two boxes with an area."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(across, 0) * max(down, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
