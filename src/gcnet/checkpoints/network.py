"""Interface of a network source: a library whose checkpoints of whole networks are converted, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError, nearest, printable

_SHOWN = 3  # names listed of each kind of problem


@dataclass(frozen=True)
class NetworkDescription:
    """The network that a checkpoint belongs to.

    Attributes:
        architecture: name of the base model for `gcnet.create_model`, without a block prefix.
        num_classes: number of classes, without the background.
        insertions: arguments of `gcnet.insert`, call by call, the block as "block".
        detector: `detector` of `gcnet.create_model`, with the conventions; None for classifiers.
        class_names: in the order of the logits, for detectors of the labels from 1; None if the file has none.
        category_ids: ids in COCO annotations of a detector's labels, from 1; None if unknown.
        preprocessing: `gcnet.data.settings.Preprocessing` as a dict, for classifiers.
        fresh: prefixes of our keys that the checkpoint has no weights for, and that stay newly initialized.
        skipped: prefixes of keys of the checkpoint that are not converted.
        notes: sentences on what was not converted, or assumed.
        layout: details of the checkpoint's keys that our network does not show, for the source itself.
    """

    architecture: str
    num_classes: int | None = None
    insertions: tuple[Mapping[str, Any], ...] = ()
    detector: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None
    fresh: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class NetworkSource(Protocol):
    """A library whose checkpoints are converted.

    `to_library` defines the keys and shapes of a checkpoint: a file is accepted if it has exactly those of the
    described network. `convert` is its inverse.
    """

    def recognizes(self, weights: WeightFile) -> bool:
        """Whether keys and metadata are those of a checkpoint of this library.

        Args:
            weights: the checkpoint.
        """
        ...

    def resembles(self, weights: WeightFile) -> bool:  # noqa: ARG002
        """Whether most keys are those of one network of this library, which `describe` then refuses by their names.

        Args:
            weights: a checkpoint that no library recognizes.
        """
        return False

    def describe(self, weights: WeightFile) -> NetworkDescription:
        """Return the network of a checkpoint.

        Args:
            weights: the checkpoint.

        Raises:
            UserError: a key that determines the network is missing, or gcnet has no such network.
        """
        ...

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        """Return the weights by our keys.

        Args:
            tensors: of the checkpoint, with the keys and shapes of `to_library`, without those that are skipped.
            network: its description.
        """
        ...

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        """Return the weights by the keys of the library.

        Args:
            tensors: `state_dict` of our network, possibly on the meta device.
            network: its description.

        Raises:
            UserError: a part of the network that the library does not have.
        """
        ...


def require(weights: WeightFile, key: str, source: str) -> Tensor:
    """Return the tensor of a checkpoint that determines the network.

    Args:
        weights: the checkpoint.
        key: of the tensor.
        source: name of the source, for errors.

    Raises:
        UserError: it is missing, a scalar, or without elements.
    """
    tensor = weights.tensors.get(key)
    if tensor is None:
        raise UserError(f"{weights.origin} is not a whole checkpoint of {source}: it lacks {key}{_near(key, weights)}")
    if tensor.dim() == 0:
        raise UserError(f"{weights.origin} is damaged: {key} has no axes")
    if tensor.numel() == 0:
        raise UserError(f"{weights.origin} is damaged: {key} has no elements, but shape {_sides(tensor)}")
    return tensor


def _near(key: str, weights: WeightFile) -> str:
    return nearest(key, weights.tensors).rstrip("?").replace("did you mean", "nearest")


def check_layout(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str, source: str) -> None:
    """Check that a checkpoint has exactly the expected keys and shapes; counters of batch norms may be missing.

    Args:
        tensors: of the checkpoint.
        expected: tensors of the expected shapes.
        origin: of the checkpoint, for errors.
        source: name of the source, for errors.

    Raises:
        UserError: unknown, missing or misshapen keys, each with its nearest relative, or weights of integers.
    """
    missing = [key for key in expected if key not in tensors and not key.endswith(".num_batches_tracked")]
    surplus = [key for key in tensors if key not in expected]
    unfit = [key for key in expected if key in tensors and tensors[key].shape != expected[key].shape]
    problems = []
    if missing:
        problems.append(f"it lacks {_listed(missing, surplus)}")
    if surplus:
        problems.append(f"it has the unknown {_listed(surplus, missing or list(expected))}")
    if unfit:
        shapes = [f"{key} of shape {_sides(tensors[key])}, expected {_sides(expected[key])}" for key in unfit]
        problems.append(f"it has {_listed(shapes, ())}")
    integers = [key for key in expected if key in tensors and _is_mistyped(tensors[key], expected[key])]
    if integers:
        types = [f"{key} of dtype {str(tensors[key].dtype).removeprefix('torch.')}" for key in integers]
        problems.append(f"its weights must be floating-point numbers, found {_listed(types, ())}")
    if problems:
        raise UserError(f"{origin} does not fit the network of {source} that its keys describe: {'; '.join(problems)}")


def _is_mistyped(tensor: Tensor, expected: Tensor) -> bool:
    return expected.is_floating_point() and not tensor.is_floating_point()


def _sides(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """The first names, each with the most similar of the others."""
    shown = []
    for name in names[:_SHOWN]:
        similar = nearest(name, others).removeprefix("; did you mean ").rstrip("?")
        shown.append(printable(name) + (f" (nearest: {similar})" if similar else ""))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more
