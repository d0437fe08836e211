"""Descriptions with checksums of what all processes must have in common, for `Processes.require_same`."""

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from gcnet.data.coco.annotated_images import CocoImages
    from gcnet.data.images.sources import ImageSource

_SHOWN = 8  # digits of a checksum


def describe_names(names: Iterable[str]) -> str:
    """Return the number and a checksum of the names of images.

    Args:
        names: in their order.
    """
    digest, number = sha256(), 0
    for name in names:
        digest.update(f"{name}\0".encode(errors="surrogatepass"))
        number += 1
    return f"{number:,} images (checksum of their names {digest.hexdigest()[:_SHOWN]})"


def describe_labeled(*sources: "ImageSource") -> str:
    """Return the numbers of labeled images and a checksum of names, labels and classes.

    Args:
        sources: the images, such as those for training and for validation.
    """
    digest = sha256()
    for source in sources:
        digest.update("\0".join(source.classes).encode(errors="surrogatepass"))
        for array in source.identity():
            digest.update(np.ascontiguousarray(array).data)
    return _counted(map(len, sources), f"names and labels {digest.hexdigest()[:_SHOWN]}")


def describe_annotated(*parts: "CocoImages") -> str:
    """Return the numbers of annotated images and a checksum of their annotation files.

    Args:
        parts: the images, such as those for training and for validation.
    """
    digest = sha256()
    for images in parts:
        digest.update(str(images.index.digest or images.names()).encode(errors="surrogatepass"))
        digest.update(np.ascontiguousarray(images.rows).data)
    return _counted(map(len, parts), f"annotations {digest.hexdigest()[:_SHOWN]}")


def _counted(numbers: Iterable[int], what: str) -> str:
    return f"{' and '.join(f'{number:,}' for number in numbers)} images (checksum of their {what})"


def describe_weights(network: nn.Module) -> str:
    """Return a checksum of the weights of a network."""
    digest = sha256()
    for name, tensor in network.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"a model whose weights have the checksum {digest.hexdigest()[:_SHOWN]}"
