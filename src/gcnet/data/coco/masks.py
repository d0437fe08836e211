"""Masks of COCO annotations: polygons, run-length encodings, bit masks, and the objects of an image."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gcnet.ops.bits import unpack_bits

_LONGEST_OUTLINE = 1e6  # pixels; COCO's tools take about 100 bytes for each
_FARTHEST = 1e8  # pixels; beyond, their integers overflow
_LONGEST_NUMBER = 13  # characters of five bits each, enough for 64 bits

Mask = Bool[np.ndarray, "height width"]


def polygons_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> Mask:
    """Draw the union of polygons as COCO's tools do.

    Args:
        polygons: x0, y0, x1, y1, ... in pixels, at least three points each; `can_draw` holds. Parts outside of the
            image are cut off.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Mask (height, width).
    """
    from faster_coco_eval.core import mask as coco

    return coco.decode(_polygons_runs(polygons, height, width)).astype(bool)


def can_draw(polygon: Sequence[float], height: int, width: int) -> bool:
    """Return whether a polygon can be drawn at a bounded cost: COCO's tools follow its outline outside of the image as
    well.

    Args:
        polygon: x0, y0, x1, y1, ... in pixels, finite.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    if len(polygon) * max(max(polygon), -min(polygon)) <= _LONGEST_OUTLINE:  # a bound of the outline
        return True
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    return bool(outline <= max(_LONGEST_OUTLINE, 50 * (height + width)) and np.abs(points).max() <= _FARTHEST)


def extent(segmentation: Any, height: int, width: int) -> tuple[int, list[float]]:
    """Compute area and box of a segmentation without drawing it.

    Args:
        segmentation: Polygons or run lengths.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Number of pixels of the mask, and its box: left, top, width, height.

    Raises:
        ValueError: The run lengths do not fit the image size.
    """
    from faster_coco_eval.core import mask as coco

    runs = _runs(segmentation, height, width)
    return int(coco.area(runs)), coco.toBbox(runs).tolist()


def mask_box(segmentation: Any, height: int, width: int) -> list[float] | None:
    """Compute the box of a segmentation without drawing it.

    Args:
        segmentation: Polygons or run lengths.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Left, top, width and height; None for an empty mask.

    Raises:
        ValueError: The run lengths do not fit the image size.
    """
    from faster_coco_eval.core import mask as coco

    box = coco.toBbox(_runs(segmentation, height, width)).tolist()
    return box if box[2] > 0 else None


def runs_mask(counts: object, height: int, width: int) -> Mask:
    """Decode run lengths: down the columns, background first.

    Args:
        counts: List of run lengths, or COCO's compressed text.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Mask (height, width).

    Raises:
        ValueError: The run lengths do not fit the image size.
    """
    lengths = _checked_lengths(counts, height, width)
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def run_lengths(counts: object) -> list[int]:
    """Decode run lengths from a list or from COCO's compressed text.

    In the text each number is a series of characters from code 48 on: five bits per character, lowest first, and a bit
    for continuation; the fifth bit of the last is the sign. From the fourth number on it is the difference to the run
    before the last. The readers of other libraries trust the text and read beyond the end of damaged ones.

    Reference: `maskApi.c` of the COCO API.

    Args:
        counts: List of integers, or text.

    Returns:
        Run lengths.

    Raises:
        ValueError: The value is neither.
    """
    if isinstance(counts, str):
        lengths: list[int] = []
        for number in _numbers(counts):
            lengths.append(number + lengths[-2] if len(lengths) > 2 else number)
    elif isinstance(counts, list) and all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        lengths = counts
    else:
        raise ValueError("run lengths are neither integers nor text")
    if any(length < 0 for length in lengths):
        raise ValueError("negative run length")
    return lengths


def compressed_runs(mask: Mask) -> dict[str, Any]:
    """Return `mask` (height, width) as COCO's compressed run lengths, ready for JSON."""
    from faster_coco_eval.core import mask as coco

    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return {"size": list(mask.shape), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def segmentation_mask(segmentation: Any, height: int, width: int) -> Mask:
    """Draw the segmentation of an annotation without issues.

    Args:
        segmentation: Polygons or run lengths.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Mask (height, width).
    """
    if isinstance(segmentation, dict):
        return runs_mask(segmentation["counts"], height, width)
    return polygons_mask(segmentation, height, width)


def annotation_mask(annotation: Mapping[str, Any], height: int, width: int) -> Mask:
    """Draw the mask of an annotation without issues.

    Args:
        annotation: Annotation of a COCO file.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        Mask (height, width); empty for an object with a box only.
    """
    if not annotation.get("segmentation"):
        return np.zeros((height, width), dtype=bool)
    return segmentation_mask(annotation["segmentation"], height, width)


def _runs(segmentation: Any, height: int, width: int) -> Any:
    from faster_coco_eval.core import mask as coco

    if isinstance(segmentation, dict):
        lengths = _checked_lengths(segmentation.get("counts"), height, width)
        return coco.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    return _polygons_runs(segmentation, height, width)


def _polygons_runs(polygons: Sequence[Sequence[float]], height: int, width: int) -> Any:
    from faster_coco_eval.core import mask as coco

    runs: Any = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return runs[0] if len(runs) == 1 else coco.merge(runs)


def _checked_lengths(counts: object, height: int, width: int) -> list[int]:
    if isinstance(counts, str | list) and len(counts) > 1000 + _LONGEST_NUMBER * height * width:
        raise ValueError(f"{len(counts):,} characters or runs for {height * width:,} pixels")
    lengths = run_lengths(counts)
    if sum(lengths) != height * width:
        raise ValueError(f"runs cover {sum(lengths):,} of {height * width:,} pixels")
    return lengths


def _numbers(text: str) -> list[int]:
    codes = [ord(character) - 48 for character in text]
    if any(not 0 <= code < 64 for code in codes):
        raise ValueError("invalid characters in compressed run lengths")
    ends = [0] + [place + 1 for place, code in enumerate(codes) if not code & 0x20]
    if ends[-1] != len(codes):
        raise ValueError("compressed run lengths end within a number")
    if any(end - start > _LONGEST_NUMBER for start, end in pairwise(ends)):
        raise ValueError(f"a compressed number has more than {_LONGEST_NUMBER} characters")
    return [_number(codes[start:end]) for start, end in pairwise(ends)]


def _number(codes: Sequence[int]) -> int:
    value = sum((code & 0x1F) << 5 * place for place, code in enumerate(codes))
    return value - (1 << 5 * len(codes)) if codes[-1] & 0x10 else value


@dataclass(frozen=True)
class BitMasks:
    """Binary masks of one size, packed to one bit per pixel, so that hundreds of masks fit into memory.

    Attributes:
        bits: Masks packed along the width by `numpy.packbits`, uint8 (N, H, ceil(W / 8)).
        width: Width of the masks in pixels.
    """

    bits: UInt8[Tensor, "n height bytes"]
    width: int

    @classmethod
    def pack(cls, masks: Iterable[np.ndarray], count: int, height: int, width: int) -> "BitMasks":
        """Pack masks one at a time, so that only one is in memory unpacked.

        Args:
            masks: Masks (H, W) of 0 and 1.
            count: Number of masks.
            height: Height in pixels.
            width: Width in pixels.

        Returns:
            The packed masks.
        """
        bits = np.zeros((count, height, -(-width // 8)), dtype=np.uint8)
        for number, mask in enumerate(masks):
            # Rows must lie together, or packing takes much longer.
            bits[number] = np.packbits(np.ascontiguousarray(mask), axis=1)
        return cls(torch.from_numpy(bits), width)

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[UInt8[Tensor, "height width"]]:
        """Iterate over the masks (H, W) of 0 and 1."""
        return (torch.from_numpy(np.unpackbits(bits, axis=1, count=self.width)) for bits in self.bits.numpy())

    def select(self, keep: Tensor | slice) -> "BitMasks":
        """Return the masks where `keep` (N,) is true, or those of a slice."""
        return BitMasks(self.bits[keep], self.width)

    def map(self, change: Callable[[Tensor], Tensor], height: int, width: int) -> "BitMasks":
        """Transform each mask, one at a time.

        Args:
            change: Maps a mask (H, W) of 0 and 1 to a mask of the new size.
            height: New height in pixels.
            width: New width in pixels.

        Returns:
            The transformed masks.
        """
        return BitMasks.pack((change(mask).numpy() for mask in self), len(self), height, width)

    def dense(self) -> UInt8[Tensor, "n height width"]:
        """Return all masks unpacked, uint8 (N, H, W) of 0 and 1."""
        return unpack_bits(self.bits, self.width)

    def is_empty(self) -> Bool[Tensor, " n"]:
        """Return which masks have no pixel, bool (N,)."""
        return self.bits.flatten(1).amax(dim=1) == 0


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        boxes: Left, top, right, bottom in pixels, float32 (N, 4).
        labels: Labels from 1, int64 (N,).
        masks: Masks of the size of the image; empty for objects with a box only.
        has_mask: Whether an object has a mask, bool (N,); mask losses ignore the others.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    masks: BitMasks
    has_mask: Bool[Tensor, " n"]

    def select(self, keep: Tensor) -> "Objects":
        """Return the objects where `keep` (N,) is true."""
        return Objects(self.boxes[keep], self.labels[keep], self.masks.select(keep), self.has_mask[keep])

    def to_dict(self) -> dict[str, Tensor]:
        """Return the target of a detector.

        Returns:
            `boxes` float32 (N, 4), `labels` int64 (N,), `mask_bits` uint8 (N, H, ceil(W / 8)) and `has_mask` bool (N,).
        """
        return {
            "boxes": self.boxes,
            "labels": self.labels,
            "mask_bits": self.masks.bits,
            "has_mask": self.has_mask,
        }
