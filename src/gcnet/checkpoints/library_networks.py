"""Which network of a library a checkpoint is of, found by comparing keys and shapes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from gcnet.checkpoints.network import check_layout
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_COUNTER = ".num_batches_tracked"
_CLASSES = 1000  # of the networks that libraries build by default
_MOST = 4  # networks of known size that are compared
_DIFFERENCE = 0.2  # of numbers of parameters of networks that may be alike
LIKELY_SHARE = 0.8
"""Share of common keys from which on a checkpoint is taken for a damaged or changed one of a network."""


@dataclass(frozen=True)
class Fit:
    """A network of a library that a checkpoint fits, apart from the number of classes.

    Attributes:
        name: of the network.
        num_classes: number of classes of the checkpoint.
        network: with the default number of classes, on the meta device.
    """

    name: str
    num_classes: int
    network: nn.Module


def fitting_network(
    tensors: Mapping[str, Tensor], candidates: Mapping[str, int | None], build: Callable[[str], nn.Module]
) -> Fit | None:
    """Return the network that the tensors of a checkpoint are of, None if there is none.

    Args:
        tensors: of the checkpoint.
        candidates: number of parameters by name of the network, None if unknown. Those whose number is closest are
            compared first, then those of unknown numbers.
        build: name -> network.
    """
    for name in _closest(tensors, candidates):
        network = _on_meta(build, name)
        classes = _classes(tensors, network.state_dict())
        if classes is not None:
            return Fit(name, classes, network)
    return None


def nearest_share(
    tensors: Mapping[str, Tensor], candidates: Mapping[str, int | None], build: Callable[[str], nn.Module]
) -> float:
    """Return the largest share of common keys, of all keys, with one of the networks of about the same size.

    Args:
        tensors: of the checkpoint.
        candidates: as for `fitting_network`.
        build: as for `fitting_network`.

    Returns:
        From 0 to 1.
    """
    keys, held = _named(tensors), _held(tensors)
    counts = {name: candidates[name] or 0 for name in _closest(tensors, candidates)[:_MOST]}
    alike = [name for name, count in counts.items() if abs(count - held) <= _DIFFERENCE * count]
    networks = [_named(_on_meta(build, name).state_dict()) for name in alike]
    return max((len(keys & other) / len(keys | other) for other in networks), default=0.0)


def misfit(
    weights: WeightFile, candidates: Mapping[str, int | None], build: Callable[[str], nn.Module], source: str
) -> UserError:
    """Return the error for a checkpoint that fits no network: how it differs from the most similar one.

    Args:
        weights: the checkpoint.
        candidates: as for `fitting_network`.
        build: name -> network.
        source: name of the source.
    """
    networks = {name: _on_meta(build, name).state_dict() for name in _closest(weights.tensors, candidates)[:_MOST]}
    nearest = min(networks, key=lambda name: len(networks[name].keys() ^ weights.tensors.keys()))
    expected = _with_classes_of(weights.tensors, networks[nearest])
    try:
        check_layout(weights.tensors, expected, weights.origin, f"{source} {nearest}")
    except UserError as error:
        return error
    raise AssertionError(f"{nearest} fits")


def _held(tensors: Mapping[str, Tensor]) -> int:
    """Number of parameters."""
    return sum(tensor.numel() for name, tensor in tensors.items() if name.rpartition(".")[2] not in _BUFFERS)


def _closest(tensors: Mapping[str, Tensor], candidates: Mapping[str, int | None]) -> list[str]:
    held = _held(tensors)
    known = {name: abs(count - held) for name, count in candidates.items() if count is not None}
    unknown = [name for name, count in candidates.items() if count is None]
    return [*sorted(known, key=known.__getitem__)[:_MOST], *unknown]


@cache
def _on_meta(build: Callable[[str], nn.Module], name: str) -> nn.Module:
    with torch.device("meta"):
        try:
            return build(name)
        except (RuntimeError, NotImplementedError):  # RegNets compute their widths with tensors
            pass
    return build(name)


def _classes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int | None:
    """The number of classes if keys and shapes fit, apart from the first axis of the classification layer."""
    if _named(tensors) != _named(expected):
        return None
    unfit = [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
    if any(tensors[name].shape[1:] != expected[name].shape[1:] or not tensors[name].dim() for name in unfit):
        return None
    counts = {len(tensors[name]) for name in unfit} or {_CLASSES}
    return counts.pop() if len(counts) == 1 else None


def _with_classes_of(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The expected tensors, those of the classification layer with the number of classes of the checkpoint."""
    others = {
        name: tensors[name]
        for name, value in expected.items()
        if name in tensors and value.shape[:1] == (_CLASSES,) and tensors[name].shape[1:] == value.shape[1:]
    }
    counts = {len(value) for value in others.values() if value.dim()}
    return {**expected, **others} if len(counts) == 1 else dict(expected)


def _named(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith(_COUNTER)}
