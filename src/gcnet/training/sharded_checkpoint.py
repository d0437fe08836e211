"""Checkpoints of sharded networks by torch.distributed.checkpoint: a safetensors file per process, no pickle.

checkpoint-STEP/             the shards of weights, average and optimizer state
checkpoint.safetensors       everything else, with the SHA-256 of each file of shards; written last
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gcnet.errors import printable
from gcnet.storage import StorageError, sync_folder
from gcnet.training.checkpoint import CheckpointSaver, save_state
from gcnet.training.distributed import Processes
from gcnet.training.heartbeat import one_line
from gcnet.training.sharded_network import is_sharded, local_part

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
        storages: set[int] = set()

        def split(name: str, tensor: Tensor) -> Tensor:
            if not is_sharded(tensor):
                return tensor
            part = tensor.detach()
            storage = local_part(part).untyped_storage().data_ptr()
            shards[name] = part.clone() if storage in storages else part  # safetensors takes no shared memory
            storages.add(storage)
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        rest = _mapped(state, "", split)
        folder = _folder(self.path, rest)
        try:
            digests = self._write_shards(folder, shards)
        except StorageError:
            if self.processes.first:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self.processes.by_first(lambda: save_state(self.path, rest | {_SHARDS: digests}))
        if self.processes.first:
            _remove_others(folder)

    def _write_shards(self, folder: Path, shards: Mapping[str, Tensor]) -> dict[str, str]:
        self.processes.by_first(lambda: _make_empty(folder))
        _require_shared(folder, self.processes)
        _write(folder, shards, self.processes.group)
        names = self.processes.by_first(lambda: _listed(folder))
        return _digests(folder, names, self.processes)


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
    _require_intact(folder, state[_SHARDS], processes)
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


def _require_shared(folder: Path, processes: Processes) -> None:
    """Check that all processes see the folder that the first one made.

    Raises:
        StorageError: in every process.
    """
    lost = next((rank for rank, sees in enumerate(processes.gather(folder.is_dir())) if not sees), None)
    if lost is not None:
        raise StorageError(
            f"rank {lost} does not see {printable(folder)}, which rank 0 has made: with `shard_model`, the run folder "
            "must be on a disk that all processes share"
        ).in_all_processes()


def _require_intact(folder: Path, expected: Mapping[str, str], processes: Processes) -> None:
    """Check the files of a checkpoint; other files than shards may lie beside them.

    Raises:
        StorageError: in every process, if one is missing, changed or unknown.
    """
    digests = _digests(folder, sorted(expected), processes)
    changed = next((name for name, digest in expected.items() if digests[name] != digest), None)
    if changed is not None:
        raise StorageError(f"{printable(folder)} is damaged: {changed} is not the file that was saved")
    names = processes.by_first(lambda: sorted(path.name for path in folder.glob("*.safetensors")))
    unknown = next((name for name in names if name not in expected), None)
    if unknown is not None:  # torch.distributed.checkpoint would read it
        raise StorageError(f"{printable(folder)} has the file {printable(unknown)}, which is not of this checkpoint")


def _digests(folder: Path, names: Sequence[str], processes: Processes) -> dict[str, str]:
    """The SHA-256 of files in a folder, by name; the processes share the work.

    Raises:
        StorageError: in every process, if a file cannot be read.
    """
    own: dict[str, str] = {}
    failures: list[str] = []
    for name in names[processes.rank :: processes.world]:
        try:
            with (folder / name).open("rb") as file:
                own[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            failures.append(f"cannot read {printable(folder / name)}: {error.strerror}")
    digests: dict[str, str] = {}
    for part, failed in processes.gather((own, failures)):
        if failed:
            raise StorageError(failed[0]).in_all_processes()
        digests |= part
    return {name: digests[name] for name in names}


def _listed(folder: Path) -> list[str]:
    """The files in a folder, whose names are on the disk afterwards, as their content is."""
    try:
        sync_folder(folder)
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise StorageError(f"cannot write {printable(folder)}: {error.strerror}") from error


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
        reason = getattr(cause, "strerror", None) or one_line(cause)
        raise StorageError(f"rank {rank} failed at {printable(folder)}: {printable(reason)}") from error


def _mapped(value: Any, name: str, change: Callable[[str, Tensor], Tensor]) -> Any:
    """A tree in which `change` replaces the tensors, given their place in words."""
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, f"{name}.{key}" if name else str(key), change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, f"{name}.{index}", change) for index, item in enumerate(value))
    return value
