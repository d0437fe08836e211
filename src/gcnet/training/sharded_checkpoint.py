"""Checkpoints of sharded networks by torch.distributed.checkpoint: a safetensors file per process, no pickle.

checkpoint-STEP/             the shards of weights, average and optimizer state
checkpoint.safetensors       everything else, with the SHA-256 of each file of shards; written last
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gcnet.errors import printable
from gcnet.storage import StorageError
from gcnet.training.checkpoint import CheckpointSaver, save_state
from gcnet.training.distributed import Processes
from gcnet.training.sharded_network import is_sharded

_SHARDS = "shards"


class ShardedCheckpointSaver(CheckpointSaver):
    """Saves the checkpoints of a sharded network; all processes save together.

    The shards of the previous checkpoint are removed after `path` names the new ones: a process that is killed at any
    time leaves a whole checkpoint.

    Args:
        path: the file that completes the shards, in a folder that all processes share.
        processes: that train together.
    """

    def __init__(self, path: Path, processes: Processes) -> None:
        super().__init__(path)
        self.processes = processes

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a checkpoint.

        Args:
            state: as for `save_state`, with sharded tensors; everything else is that of the first process.

        Raises:
            StorageError: in every process, if a file cannot be written; the last checkpoint is intact.
        """
        shards: dict[str, Tensor] = {}

        def split(name: str, tensor: Tensor) -> Tensor:
            if not is_sharded(tensor):
                return tensor
            shards[name] = tensor.detach()
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        rest = _mapped(state, "", split)
        folder = _folder(self.path, rest)
        self.processes.by_first(lambda: _make_empty(folder))
        _write(folder, shards, self.processes.group)
        digests = _digests(folder, self.processes)
        self.processes.by_first(lambda: save_state(self.path, rest | {_SHARDS: digests}))
        if self.processes.first:
            _remove_others(folder)


def has_shards(state: Mapping[str, Any]) -> bool:
    """Return whether `state`, which `load_state` read, is completed by shards."""
    return _SHARDS in state


def load_shards(path: Path, state: Mapping[str, Any], like: Tensor, processes: Processes) -> dict[str, Any]:
    """Read the shards of a checkpoint, of any number of processes; all processes call this together.

    Args:
        path: the file that completes the shards.
        state: its content, as `load_state` returns it.
        like: a sharded tensor of shape (N, ...), whose devices and dimension the loaded tensors get.
        processes: that train together.

    Returns:
        The state with sharded tensors.

    Raises:
        StorageError: in every process, if a file is missing, damaged or unknown.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load
    from torch.distributed.tensor import empty

    folder, model = _folder(path, state), cast(Any, like)
    if _digests(folder, processes) != state[_SHARDS]:
        raise StorageError(f"{printable(folder)} is damaged: its files are not those that {path.name} names")
    shards: dict[str, Any] = {}

    def allocate(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        where = {"device_mesh": model.device_mesh, "placements": model.placements}
        shards[name] = empty(tensor.shape, dtype=tensor.dtype, **where)
        return shards[name]

    whole = _mapped(state, "", allocate)
    with _explained(folder):
        load(shards, storage_reader=HuggingFaceStorageReader(str(folder)), process_group=processes.group)
    return whole


def _folder(path: Path, state: Mapping[str, Any]) -> Path:
    return path.with_name(f"{path.stem}-{int(state['trainer']['step'])}")


def _make_empty(folder: Path) -> None:
    try:
        if folder.exists():  # of a process that was killed before it completed the checkpoint
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise StorageError(f"cannot write {printable(folder)}: {error.strerror}") from error


def _write(folder: Path, shards: Mapping[str, Tensor], group: ProcessGroup | None) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    with _explained(folder):
        save(
            dict(shards),
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            process_group=group,
        )


def _digests(folder: Path, processes: Processes) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by name; the processes share the work."""
    paths = processes.from_first(sorted(folder.iterdir()) if processes.first and folder.is_dir() else [])
    own: dict[str, str] = {}
    for path in paths[processes.rank :: processes.world]:
        try:
            with path.open("rb") as file:
                own[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            own[path.name] = f"cannot be read: {error.strerror}"
    everyone = processes.gather(own)
    return {name: digest for part in everyone for name, digest in sorted(part.items())}


def _remove_others(folder: Path) -> None:
    """Remove the shards of other checkpoints of the run."""
    name = re.compile(rf"{re.escape(folder.name.rpartition('-')[0])}-\d+")
    for other in folder.parent.iterdir():
        if other != folder and other.is_dir() and name.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Turn the errors of torch.distributed.checkpoint, which it raises in every process, into one sentence.

    Raises:
        StorageError: for any of them.
    """
    from torch.distributed.checkpoint import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        reason = getattr(cause, "strerror", None) or cause
        raise StorageError(f"rank {rank} failed at {printable(folder)}: {printable(str(reason))}") from error


def _mapped(value: Any, name: str, change: Callable[[str, Tensor], Tensor]) -> Any:
    """A tree in which `change` replaces the tensors, given their place in words."""
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, f"{name}.{key}" if name else str(key), change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, f"{name}.{index}", change) for index, item in enumerate(value))
    return value
