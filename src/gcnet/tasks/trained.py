"""Trained networks from model files, run folders, or names with weights."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gcnet.checkpoints.hub import hub_file, is_hub_name
from gcnet.checkpoints.published_files import is_published_checkpoint
from gcnet.errors import UserError, is_url, nearest_path, printable
from gcnet.insertion import inserted
from gcnet.models.card import card_of, network_name
from gcnet.models.checkpoint_cache import is_remote_model, local_weights, remote_model_file
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.pretrained import pretrained_versions
from gcnet.models.registry import split_name
from gcnet.models.weights import loaded_weights
from gcnet.tasks.base import Task
from gcnet.tasks.inference_record import record_words
from gcnet.tasks.loaded import LoadedModel
from gcnet.tasks.registry import task_of
from gcnet.tasks.settings import MODEL_SUFFIX, EvaluateSettings, PredictSettings

_OF_RUN = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class TaskModel(LoadedModel):
    """A trained network with its task.

    Attributes:
        task: the task.
    """

    task: Task


def open_trained(
    model: str, weights: str | None = None, *, image_size: int | None = None, download: bool = False
) -> TaskModel:
    """Open a model file, a run folder, a model on the Hub, a published checkpoint, or a network by name with weights.

    Args:
        model: model file, run folder (its best weights are used), URL of one, hf://user/name, published checkpoint, or
            network name.
        weights: for a network name: a file, "pretrained", a published version, hf://user/name, or a published
            checkpoint.
        image_size: side of the images in pixels, if it differs from that of the network.
        download: download a model on the Hub or a published checkpoint.

    Returns:
        The network with its task, in eval mode on the CPU.

    Raises:
        UserError: the file does not exist, a checkpoint is not in the cache, a name has no weights, the weights do not
            fit, or the class names or category ids of the model file do not match its number of classes.
    """
    if weights is None and is_published_checkpoint(model):
        return _from_file(Path(local_weights(model, download=download)), model)
    path = model_path(model, download=download)
    if path is not None:
        if weights is not None:
            raise UserError(f"`weights` requires a network name, and `model` is a file with its own weights: {model}")
        return _from_file(path, model)
    if weights is None:
        create_model(model)  # an unknown name has an error of its own
        prefix, base = split_name(model)
        published = " or `weights=pretrained`" if not prefix and pretrained_versions(base)[1] else ""
        raise UserError(f"a model given by name requires trained weights: add `weights=FILE`{published} to {model}")
    task = task_of(model)
    file = str(local_weights(weights, download=download))
    return TaskModel(task.open_by_name(model, file, image_size, download=download), model, weights, task)


def model_path(model: str, *, download: bool = False) -> Path | None:
    """Find the model file of a model file, run folder or model on the Hub.

    Args:
        model: model file or run folder, or the URL of one, hf://user/name, or network name.
        download: download a model on the Hub.

    Returns:
        The model file, for a run folder the best weights; None for a name.

    Raises:
        UserError: the model file does not exist, the folder has none, or the model on the Hub is not in the cache, and
            `download` is false.
    """
    if is_hub_name(model):
        return hub_file(model, download=download)
    if is_remote_model(model):
        return remote_model_file(model)
    path = Path(model)  # its methods raise for names that are too long
    if os.path.isdir(model):
        files = [file for name in _OF_RUN for file in (path / "weights" / name, path / name) if file.is_file()]
        if files:
            return files[0]
        others = sorted(map(str, path.rglob("*" + MODEL_SUFFIX)))[:3]
        holds = f"; it holds {', '.join(map(printable, others))}" if others else ""
        raise UserError(
            f"`model` must be a model file, a run folder or a name, but {printable(model)} is a folder without "
            f"weights/best.safetensors{holds}"
        )
    if path.suffix == MODEL_SUFFIX and not os.path.lexists(model) and not is_url(model):
        raise UserError(f"there is no model file {printable(model)}{nearest_path(model)}")
    return path if os.path.exists(model) or path.suffix == MODEL_SUFFIX else None


def _from_file(path: Path, origin: str) -> TaskModel:
    model: nn.Module = load_model(path)
    card = card_of(model)
    if card.num_classes is None:
        raise UserError(f"{path} holds no network of a task: its model card has no number of classes")
    _require_one_each(path, "classes", card.class_names, card.num_classes)
    _require_one_each(path, "category ids", card.category_ids, card.num_classes)
    task = task_of(card.architecture or "")
    return TaskModel(task.open_file(path, model, card), origin, str(path), task)


def _require_one_each(path: Path, entries: str, named: Sequence[object] | None, count: int) -> None:
    if named is not None and len(named) != count:
        raise UserError(f"{path} names {len(named)} {entries} for {count} outputs; it must name each")


def describe_loaded(loaded: LoadedModel, settings: EvaluateSettings | PredictSettings | None = None) -> list[str]:
    """Return lines on a network with blocks and classes, its weights, and the device.

    Args:
        loaded: the network on its device.
        settings: precision, compilation and fusion; None for float32.
    """
    model = loaded.trained.model
    card, blocks = card_of(model), inserted(model)
    described = [f"{sum(map(torch.numel, model.parameters())):,} parameters"]
    if blocks:
        described.append(f"{sum(insertion.parameters for insertion in blocks):,} of them in inserted blocks")
    if card.num_classes:
        described.append(f"{card.num_classes:,} classes")
    first, threads = next(model.parameters()), torch.get_num_threads()
    machine = [str(first.dtype).removeprefix("torch.")]
    if settings is not None:
        machine = record_words(model, settings)
    return [
        f"model: {network_name(model)}: {', '.join(described)}",
        f"weights: {loaded_weights(model) or (loaded.source if is_hub_name(loaded.origin) else loaded.weights)}",
        f"device: {first.device}, {', '.join(machine)}, {threads} thread{'s' * (threads != 1)}",
    ]
