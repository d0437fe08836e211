"""Tensors of a weight file: entries and prefixes that training programs put around them are removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gcnet.errors import UserError, printable

# Entries around the weights in the files of training programs; the plain weights before their moving average.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
_ENTRIES = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights", "module"),
    *_AVERAGES,
)
_DEEPEST = 4  # entries within entries
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a weight file.

    Attributes:
        tensors: by name.
        notes: what was removed around them, such as 'entry "state_dict"'.
        content: of the whole file.
        origin: the file, printable.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    content: Mapping[Any, Any] = field(default_factory=dict, repr=False)
    origin: str = "the state dict"

    def text(self, *entries: str) -> str:
        """Return a text beside the tensors, "" if there is none.

        Args:
            *entries: the entry of the file, the entry in it, and so on.
        """
        value = self._value(entries)
        return value if isinstance(value, str) else ""

    def texts(self, *entries: str) -> tuple[str, ...]:
        """Return a list of texts beside the tensors, such as class names; empty if there is none.

        Args:
            *entries: the entry of the file, the entry in it, and so on.
        """
        value = self._value(entries)
        is_list = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        return tuple(value) if is_list else ()

    def _value(self, entries: Sequence[str]) -> Any:
        value: Any = self.content
        for entry in entries:
            value = value.get(entry) if isinstance(value, Mapping) else None
        return value


def unwrapped_weights(content: object, origin: str, *, ema: bool = False) -> WeightFile:
    """Return the tensors in the content of a weight file, as for `read_weight_file`.

    Args:
        content: of the file.
        origin: its name, for errors.
        ema: return the moving average of the weights instead of the weights.

    Returns:
        The tensors by name, with notes and metadata.

    Raises:
        UserError: no named tensors, several networks, or no moving average.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"`weights` must be tensors by name, but {origin} holds {_kind(content)}")
    weights, entries = _unwrapped(content, _averaged(content, origin) if ema else None)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not tensors:
        several = [f'"{printable(str(name))}"' for name in _networks(weights)][:5]
        if several:
            raise UserError(f"{origin} holds several networks, {' and '.join(several)}: save one of them alone")
        names = ", ".join(f'"{printable(str(name))}"' for name in list(weights)[:5]) or "nothing"
        raise UserError(f"`weights` must be tensors by name, but {origin} holds something else: {names}")
    _check_tensors(origin, tensors)
    notes = [f'entry "{printable(entry)}"' for entry in entries]
    for wrapper in _repeated_wrappers(tensors):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items() if name != "n_averaged"}
        notes.append(f'prefix "{wrapper}" removed')
    copies = _copies(tensors)
    tensors = {name: value for name, value in tensors.items() if name not in copies}
    if _is_swapped(content):
        notes.append("the weights are a moving average, which the EMAHook of mmengine and mmcv saves as state_dict")
    return WeightFile(tensors, tuple(notes), content, origin)


def _averaged(content: Mapping[Any, Any], origin: str) -> str:
    """The entry of the moving average."""
    if _is_swapped(content):
        return "state_dict"
    entry = next((name for name in _AVERAGES if _holds_tensors(content.get(name), _DEEPEST)), None)
    if entry is None:
        names = ", ".join(f'"{printable(str(name))}"' for name in list(content)[:5])
        raise UserError(f"`ema`: {origin} has no moving average of the weights; it has {names}")
    return entry


def _is_swapped(content: Mapping[Any, Any]) -> bool:
    """Whether the EMAHook of mmengine or mmcv has saved the moving average as the weights."""
    weights, entry = content.get("state_dict"), content.get("ema_state_dict")
    if not isinstance(weights, Mapping):
        return False
    return (isinstance(entry, Mapping) and "steps" in entry) or bool(_copies(weights))


def _copies(weights: Mapping[Any, Any]) -> set[str]:
    """Keys of the copies of weights that mmcv's EMAHook keeps: `ema_conv1_weight` beside `conv1.weight`."""
    return {f"ema_{name.replace('.', '_')}" for name in weights if isinstance(name, str)} & weights.keys()


def _unwrapped(content: Mapping[Any, Any], first: str | None) -> tuple[Mapping[Any, Any], list[str]]:
    """Returns the innermost mapping of tensors, and the keys that lead to it, from entry `first` if given."""
    entries: list[str] = []
    if first is not None:
        content, entries = content[first], [first]
    while len(entries) < _DEEPEST:
        entry = next((name for name in _ENTRIES if _holds_tensors(content.get(name), _DEEPEST)), None)
        if entry is None:
            networks = _networks(content)
            if len(networks) != 1:
                break
            entry = networks[0]
        content = content[entry]
        entries.append(entry)
    return content, entries


def _networks(content: Mapping[Any, Any]) -> list[str]:
    """The entries of tensors by name, such as "student" and "teacher", where there are no tensors beside them."""
    if any(isinstance(item, Tensor) for item in content.values()):
        return []
    return [name for name, item in content.items() if isinstance(name, str) and _holds_tensors(item, 1)]


def _holds_tensors(value: object, depth: int) -> bool:
    """Whether there are tensors in a mapping, or in an entry of it that may be around them."""
    if not isinstance(value, Mapping):
        return False
    if any(isinstance(item, Tensor) for item in value.values()):
        return True
    return depth > 1 and any(_holds_tensors(value.get(name), depth - 1) for name in _ENTRIES)


def _repeated_wrappers(tensors: Mapping[str, Tensor]) -> list[str]:
    """Prefixes of wrappers that every name has, from the outermost."""
    names = [name for name in tensors if name != "n_averaged"]  # the counter of torch's AveragedModel
    wrappers: list[str] = []
    while names and (wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in names)), None)):
        names = [name.removeprefix(wrapper) for name in names]
        wrappers.append(wrapper)
    return wrappers


def _check_tensors(origin: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors without values, and those that claim more elements than the file holds."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{origin}: {printable(name)} is not a plain tensor, but sparse, quantized or empty")
        held = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > held:
            raise UserError(
                f"{origin} is refused: {printable(name)} claims shape {tuple(tensor.shape)}, but the file holds "
                f"{held:,} of its {tensor.numel():,} elements"
            )


def _kind(content: object) -> str:
    if isinstance(content, Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"
