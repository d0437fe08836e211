"""Training state and global random states in one checksummed safetensors file: tensors and JSON, no pickle."""

import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gcnet.data.seeding import mix_seed
from gcnet.errors import UserError, printable
from gcnet.renamed import FORMAT_VERSION, format_version
from gcnet.tensor_files import Snapshot, TensorFile, load_tensors


def seed_everything(*numbers: int) -> None:
    """Seed all global generators, also of GPUs, from a few numbers such as (seed, rank)."""
    seed = mix_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """Return the states of all global generators (of this process's GPU only) as tensors and plain values."""
    version, words, gaussian = random.getstate()
    algorithm, keys, position, has_gaussian, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "numpy": [
            algorithm,
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gaussian),
            float(cached),
        ],
        "python": [version, torch.tensor(words), gaussian],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set all global generators to `states` of `random_states`; that of a GPU only if this process uses one."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"][0].cpu())
    algorithm, keys, position, has_gaussian, cached = states["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), position, has_gaussian, cached))
    version, words, gaussian = states["python"]
    random.setstate((version, tuple(words.tolist()), gaussian))


_TENSOR, _TUPLE, _PAIRS, _META = "__tensor__", "__tuple__", "__pairs__", "__meta__"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state to one checksummed file, atomically.

    Args:
        path: the file.
        state: nested dicts, lists and tuples of tensors, numbers, strings and None. Of tensors on the meta device only
            shape and dtype are written.

    Raises:
        StorageError: it cannot be written, for example to a full disk; an older file at `path` is then untouched.
    """
    _state_file(state).write(path)


def _state_file(state: Mapping[str, Any]) -> TensorFile:
    tensors: dict[str, Tensor] = {}
    tree = _pack(dict(state), "", tensors)
    return TensorFile(tensors, {"format_version": FORMAT_VERSION, "state": tree})


class CheckpointSaver:
    """Saves the checkpoints of a run, each in the place of the last one.

    In a thread, `save` only copies the state into memory, which is as large as the file and kept until the end of the
    run; training continues during the write. An error of the write is raised by the next `save`, `check` or `wait`.

    Args:
        path: the file.
        in_thread: whether to write in a thread.
        saved: called after each write, by the thread that wrote.
    """

    def __init__(self, path: Path, *, in_thread: bool = False, saved: Callable[[], None] = lambda: None) -> None:
        self.path, self.saved = path, saved
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if in_thread else None
        self._writing: Future[None] | None = None
        self._snapshot = Snapshot()

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a checkpoint; waits for the previous one to be written.

        Args:
            state: as for `save_state`; it may change afterwards.

        Raises:
            StorageError: this or the previous checkpoint cannot be written; the last one is intact.
        """
        self.wait()
        if self._thread is None:
            save_state(self.path, state)
            self.saved()
        else:
            self._snapshot.take(_state_file(state))
            self._writing = self._thread.submit(self._write)

    def _write(self) -> None:
        self._snapshot.write(self.path)
        self.saved()

    def check(self) -> None:
        """Raise the error of a write that has ended.

        Raises:
            StorageError: a checkpoint could not be written; the last one is intact.
        """
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the end of a write.

        Raises:
            StorageError: the checkpoint could not be written; the last one is intact.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the end of a write, whose error is not raised, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote.

    Args:
        path: the file.

    Returns:
        The state, with tensors on the CPU or the meta device.

    Raises:
        StorageError: the file is missing or damaged.
        UserError: the file is of a newer format version, or of another kind.
    """
    tensors, metadata = load_tensors(path)
    if "state" not in metadata:
        raise UserError(f"{printable(path)} must be a training checkpoint, found a file of another kind")
    format_version(metadata, path)
    return _unpack(metadata["state"], tensors)


def check_fits(network: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint fits the network.

    Args:
        network: to restore.
        stored: tensors of any shape, by name.

    Raises:
        UserError: a weight is missing, unknown or of another shape.
    """
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    stored_shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    for name in own | stored_shapes:
        if own.get(name) != stored_shapes.get(name):
            raise UserError(
                f"the checkpoint does not fit the network: {name} has the shape "
                f"{stored_shapes.get(name, 'none')} in the checkpoint and {own.get(name, 'none')} in the network; did "
                "the classes of the data change?"
            )


def check_same_optimizer(optimizer: Optimizer, stored: Mapping[str, Any]) -> None:
    """Check that the state of an optimizer in a checkpoint is of one of the same kind and the same parameters.

    Args:
        optimizer: to restore.
        stored: of `Optimizer.state_dict`.

    Raises:
        UserError: it is of another one.
    """
    own, others = optimizer.state_dict()["param_groups"], stored["param_groups"]
    if [_described(group) for group in own] != [_described(group) for group in others]:
        raise UserError(
            "config.json was changed and does not fit the optimizer state of the checkpoint: restore `optimizer`, "
            "`freeze`, `block_lr_mult`, `weight_decay` or `decay_all`"
        )


def _described(group: Mapping[str, Any]) -> tuple[bool, list[int]]:
    """Whether a parameter group is of AdamW, and its parameters."""
    return "betas" in group, list(group["params"])


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer to the same bits.

    The file has contiguous tensors, but the momenta of a running optimizer have the strides of their parameters
    (channels-last), and elementwise kernels may round differently by layout; so the strides are restored as well.
    All values are copied: the optimizer keeps none of the memory of `state`.

    Args:
        optimizer: to restore.
        state: of `Optimizer.state_dict`.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                like = parameter if value.shape == parameter.shape else value
                values[name] = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor) and value.is_meta:
        return {_META: [str(value.dtype).removeprefix("torch."), *value.shape]}
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        pairs = [(key, _pack(item, f"{name}.{key}" if name else str(key), tensors)) for key, item in value.items()]
        return (
            dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else {_PAIRS: [list(pair) for pair in pairs]}
        )
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a checkpoint holds no {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _META in value:
        dtype, *shape = value[_META]
        return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    if _TUPLE in value:
        return tuple(_unpack(item, tensors) for item in value[_TUPLE])
    if _PAIRS in value:
        return {key: _unpack(item, tensors) for key, item in value[_PAIRS]}
    return {key: _unpack(item, tensors) for key, item in value.items()}
