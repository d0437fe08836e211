"""Training targets of an image: boxes, labels, and masks packed to one bit per pixel."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gcnet.ops.bits import unpack_bits


@dataclass(frozen=True)
class BitMasks:
    """Binary masks of one size, packed into bits: hundreds of full-size masks fit into memory.

    Attributes:
        bits: as `numpy.packbits` packs them along the width, uint8 (n, height, ceil(width / 8)).
        width: of the masks, in pixels.
    """

    bits: UInt8[Tensor, "n height bytes"]
    width: int

    @classmethod
    def pack(cls, masks: Iterable[np.ndarray], count: int, height: int, width: int) -> "BitMasks":
        """Pack `count` masks (H, W) of 0 and 1 one at a time, so that only one is in memory unpacked."""
        bits = np.zeros((count, height, -(-width // 8)), dtype=np.uint8)
        for number, mask in enumerate(masks):
            # Rows must lie together, or packing takes much longer.
            bits[number] = np.packbits(np.ascontiguousarray(mask), axis=1)
        return cls(torch.from_numpy(bits), width)

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[UInt8[Tensor, "height width"]]:
        """The masks of 0 and 1, one after the other."""
        return (torch.from_numpy(np.unpackbits(bits, axis=1, count=self.width)) for bits in self.bits.numpy())

    def chosen(self, keep: Tensor | slice) -> "BitMasks":
        """Those where `keep` (n,) holds, or of a slice."""
        return BitMasks(self.bits[keep], self.width)

    def mapped(self, change: Callable[[Tensor], Tensor], height: int, width: int) -> "BitMasks":
        """Each mask (H, W) of 0 and 1 changed to one of a new size, one at a time."""
        return BitMasks.pack((change(mask).numpy() for mask in self), len(self), height, width)

    def dense(self) -> UInt8[Tensor, "n height width"]:
        """All masks of 0 and 1 at once."""
        return unpack_bits(self.bits, self.width)

    def is_empty(self) -> Bool[Tensor, " n"]:
        """Whether a mask has no pixel."""
        return self.bits.flatten(1).amax(dim=1) == 0


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32 (n, 4).
        labels: from 1, int64 (n,).
        masks: of the image's size; empty for objects that have a box only.
        has_mask: bool (n,); mask losses skip objects without a mask.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    masks: BitMasks
    has_mask: Bool[Tensor, " n"]

    def chosen(self, keep: Tensor) -> "Objects":
        """Those where `keep` (n,) holds."""
        return Objects(self.boxes[keep], self.labels[keep], self.masks.chosen(keep), self.has_mask[keep])

    def to_dict(self) -> dict[str, Tensor]:
        """A target for our detectors: `boxes`, `labels`, `mask_bits` (`BitMasks.bits`) and `has_mask`."""
        return {
            "boxes": self.boxes,
            "labels": self.labels,
            "mask_bits": self.masks.bits,
            "has_mask": self.has_mask,
        }
