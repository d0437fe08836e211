"""Interface of a weight source: key tables of its blocks, and the catalog of its published networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlparse

from torch import Tensor


class WrongShape(Exception):
    """A tensor does not have the shape of its key; the text is the expected shape."""


def kernel(tensor: Tensor) -> Tensor:
    """Return the kernel `tensor` (out, in, 1, ...), with 1, 2 or 3 spatial axes, as a matrix (out, in).

    Raises:
        WrongShape: another shape.
    """
    if tensor.dim() not in (3, 4, 5) or any(side != 1 for side in tensor.shape[2:]):
        raise WrongShape("(out, in, 1), (out, in, 1, 1) or (out, in, 1, 1, 1)")
    return tensor.reshape(tensor.shape[:2])


def vector(tensor: Tensor) -> Tensor:
    """Return `tensor` (channels,) unchanged.

    Raises:
        WrongShape: another shape.
    """
    if tensor.dim() != 1:
        raise WrongShape("(channels,)")
    return tensor


def layer_norm(tensor: Tensor) -> Tensor:
    """Return `tensor` (P, 1, 1), of a LayerNorm over all axes of a pooled map, as (P,).

    Raises:
        WrongShape: another shape.
    """
    if tensor.dim() != 3 or tensor.shape[1:] != (1, 1):
        raise WrongShape("(channels, 1, 1)")
    return tensor.reshape(-1)


def channel_filter(tensor: Tensor) -> Tensor:
    """Return `tensor` (1, 1, k), a filter along the channels, as (k,).

    Raises:
        WrongShape: another shape.
    """
    if tensor.dim() != 3 or tensor.shape[:2] != (1, 1):
        raise WrongShape("(1, 1, size)")
    return tensor.reshape(-1)


def query_then_key(tensor: Tensor) -> Tensor:
    """Return `tensor` (1, 2 D, 1, 1), the score weights of query and key concatenated, as (2, D).

    Raises:
        WrongShape: another shape.
    """
    if tensor.dim() != 4 or tensor.shape[0] != 1 or tensor.shape[1] % 2 or tensor.shape[2:] != (1, 1):
        raise WrongShape("(1, 2 x channels, 1, 1)")
    return tensor.reshape(2, -1)


def scalar(tensor: Tensor) -> Tensor:
    """Return `tensor` () unchanged.

    Raises:
        WrongShape: another shape.
    """
    if tensor.dim() != 0:
        raise WrongShape("()")
    return tensor


def _as_kernel(matrix: Tensor, dims: int) -> Tensor:
    return matrix.reshape(*matrix.shape, *(1,) * dims)


def _as_layer_norm(values: Tensor, dims: int) -> Tensor:  # noqa: ARG001
    return values.reshape(-1, 1, 1)


def _as_filter(values: Tensor, dims: int) -> Tensor:  # noqa: ARG001
    return values.reshape(1, 1, -1)


def _as_score(weights: Tensor, dims: int) -> Tensor:  # noqa: ARG001
    return weights.reshape(1, -1, 1, 1)


def _as_is(tensor: Tensor, dims: int) -> Tensor:  # noqa: ARG001
    return tensor


RESTORED: Mapping[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor]] = {
    kernel: _as_kernel,
    vector: _as_is,
    layer_norm: _as_layer_norm,
    channel_filter: _as_filter,
    query_then_key: _as_score,
    scalar: _as_is,
}
"""Inverse of each function that reshapes a tensor of another library; it also takes the number of spatial axes."""

Table = dict[str, tuple[str, Callable[[Tensor], Tensor]]]
"""Source key -> our key, and the function that reshapes the tensor."""


@dataclass(frozen=True)
class BlockWeights:
    """The weights of one block of another library.

    Attributes:
        state_dict: by the keys of the source.
        converted: by our keys, in our shapes.
        channels: C of the maps.
        mode: mmcv's mode of a non-local block, None if not given.
        use_scale: mmcv's option of that name, None if not given.
    """

    state_dict: Mapping[str, Tensor]
    converted: Mapping[str, Tensor]
    channels: int
    mode: str | None = None
    use_scale: bool | None = None


@dataclass(frozen=True)
class Source:
    """A block class of another library.

    Attributes:
        tables: groups of key tables; the keys of a block are one table from each group.
        describe: name and options of our block for given weights.
        has_modes: whether keys do not determine the block, so that `mode` and `use_scale` are needed.
    """

    tables: tuple[tuple[Table, ...], ...]
    describe: Callable[[BlockWeights], tuple[str, dict[str, Any]]]
    has_modes: bool = False


def describe_se(weights: BlockWeights) -> tuple[str, dict[str, Any]]:
    """Return name and options of the squeeze-and-excitation block of `weights`."""
    return "se", {"ratio": weights.channels / weights.converted["scale.transform.reduce.weight"].shape[0]}


def describe_gc(weights: BlockWeights, *, norm_eps: float) -> tuple[str, dict[str, Any]]:
    """Return name and options of the global context block of given weights.

    Args:
        weights: the weights.
        norm_eps: epsilon of the LayerNorm of the source.
    """
    fusions = [name for name in ("add", "scale") if f"{name}.transform.reduce.weight" in weights.converted]
    width = weights.converted[f"{fusions[0]}.transform.reduce.weight"].shape[0]
    return "gc", {
        "ratio": weights.channels / width,
        "pooling": "attention" if "context.key.weight" in weights.converted else "average",
        "fusion": "both" if len(fusions) == 2 else fusions[0],
        "norm_eps": norm_eps,
    }


SE_TABLE: Table = {
    "fc1.weight": ("scale.transform.reduce.weight", kernel),
    "fc1.bias": ("scale.transform.reduce.bias", vector),
    "fc2.weight": ("scale.transform.expand.weight", kernel),
    "fc2.bias": ("scale.transform.expand.bias", vector),
}
"""Keys of the squeeze-and-excitation blocks of timm and torchvision."""


@runtime_checkable
class Catalog(Protocol):
    """The published networks of one library."""

    def knows(self, network: str) -> bool:
        """Whether the library has a network of this name; `network` is without a tag."""
        ...

    def versions(self, network: str, tag: str) -> list[str]:
        """Return the names of the published weights of a network, the library's default first.

        Args:
            network: name of the network.
            tag: version in the user's name of the network, which then comes first; empty if none.
        """
        ...

    def cached_file(self, network: str, version: str) -> Path | None:
        """Return the cached file of published weights, None if it is not in the cache.

        Args:
            network: name of the network.
            version: name of the weights.
        """
        ...

    def cache_place(self, network: str, version: str) -> Path:
        """Return the file of published weights in the cache, or the folder that would have it.

        Args:
            network: name of the network.
            version: name of the weights.
        """
        ...

    def server(self) -> str:
        """Return the host name of the download server."""
        ...

    def read(self, network: str, version: str, cached: Path | None, image_size: int | None) -> dict[str, Tensor]:
        """Return published tensors by the keys of the library's network.

        Args:
            network: name of the network.
            version: name of the weights.
            cached: their file; None to download it.
            image_size: side of the images in pixels, to resize position embeddings; None for the default.
        """
        ...


def torch_hub_file(url: str) -> Path | None:
    """Return the file of `url` in the cache of torch.hub, None if it is not there."""
    path = torch_hub_path(url)
    return path if path.is_file() else None


def torch_hub_path(url: str) -> Path:
    """Return the path of the file of `url` in the cache of torch.hub, whether it is there or not."""
    import torch

    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
