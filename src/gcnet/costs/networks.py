"""Networks for `gcnet cost`, by name or model file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from gcnet.analysis.cost_breakdown import CostPart, cost_breakdown
from gcnet.checkpoints.published_files import is_published_checkpoint
from gcnet.costs.report import CostReport, CostRow
from gcnet.errors import UserError, raise_if_out_of_memory
from gcnet.models.card import ModelCard, card_of
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.own_blocks import remove_own_blocks
from gcnet.models.published_networks import published_network
from gcnet.models.registry import split_name
from gcnet.tasks.base import Task
from gcnet.tasks.registry import task_of
from gcnet.tasks.trained import model_path


@dataclass(frozen=True)
class CountedNetwork:
    """A network by name with arguments of `create_model`, or a model file or run folder.

    Attributes:
        name: of the network, or path of the file.
        arguments: of `create_model`; none for a file.
        without_own_blocks: remove the attention blocks of timm or torchvision from the network.
        title: name to show instead, of a published checkpoint.
    """

    name: str
    arguments: Mapping[str, Any]
    without_own_blocks: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        """Raise for arguments with a model file."""
        if self._is_file:
            for name in self.arguments:
                flag = f"`{name}`"
                raise UserError(f"{flag} requires a network name, but {self.name} is a model file")

    def build(self) -> nn.Module:
        """Return the network with the weights of its file, else with new weights."""
        if self._path is not None:
            return load_model(self._path)
        model = create_model(self.name, **self.arguments)
        if self.without_own_blocks:
            remove_own_blocks(model)
        return model

    def skeleton(self) -> nn.Module:
        """Return the network for counting, on the meta device if possible."""
        if self._is_file:
            return self.build()
        try:
            with torch.device("meta"):
                return self.build()
        except (NotImplementedError, RuntimeError):  # Some networks compute their widths with tensors.
            return self.build()

    def sized(self, size: tuple[int, int]) -> "CountedNetwork":
        """Return the network built for square images of `size`, if it is made for one size (ViT, Swin, ...)."""
        if self._is_file or not self.task.costs.has_fixed_size or size[0] != size[1]:
            return self
        return replace(self, arguments={**self.arguments, "image_size": size[0]})

    def plain(self) -> "CountedNetwork":
        """Return the network without inserted blocks, or if it has none without the blocks of timm or torchvision.

        Raises:
            UserError: it has no blocks.
        """
        if self._has_blocks:
            return self._base_network()
        base = self._base_network(without_own_blocks=True)
        with torch.device("meta"):
            if remove_own_blocks(create_model(base.name, **base.arguments)):
                return base
        raise UserError(
            f"`against=plain` compares with the same network without blocks, but {self.name} has none: "
            "give `block` or a network with blocks, or name the other network, as in `against=resnet50`"
        )

    def _base_network(self, *, without_own_blocks: bool = False) -> "CountedNetwork":
        own = {"num_classes": self._card.num_classes, "detector": self._card.detector}
        arguments = {name: value for name, value in own.items() if value is not None}
        return CountedNetwork(self._base_name, arguments, without_own_blocks)

    @property
    def label(self) -> str:
        """The name, and the block where that is not in it."""
        block = self.arguments.get("block")
        if self.title:
            return self.title
        if self.without_own_blocks:
            return f"{self.name} without its blocks"
        return f"{self.name} + {block}" if block else self.name

    @property
    def task(self) -> Task:
        """The task that it is for."""
        return task_of(self._base_name)

    def size(self) -> tuple[int, int]:
        """Return the default height and width of images in pixels."""
        preprocessing = self._card.preprocessing
        if preprocessing is not None:
            return preprocessing["image_size"], preprocessing["image_size"]
        skeleton = self._base_network().skeleton()
        name = self._base_name.removeprefix("torchvision/")
        return _named_size(name, skeleton) or self.task.costs.default_image_size(self._base_name, skeleton)

    @property
    def _base_name(self) -> str:
        return self._card.architecture or self.name

    @cached_property
    def _card(self) -> ModelCard:
        if not self._is_file:
            return ModelCard(split_name(self.name)[1], self.arguments.get("num_classes"))
        return card_of(self.build())

    @property
    def _is_file(self) -> bool:
        return self._path is not None

    @cached_property
    def _path(self) -> Path | None:
        return model_path(self.name)

    @property
    def _has_blocks(self) -> bool:
        if self._is_file:
            return bool(self._card.insertions)
        return bool(split_name(self.name)[0]) or "block" in self.arguments


def counted_network(name: str, arguments: Mapping[str, Any]) -> CountedNetwork:
    """Return the network of a name; a published checkpoint stands for its network, without its weights.

    Args:
        name: network name, model file, run folder or published checkpoint.
        arguments: of `create_model`.

    Raises:
        UserError: arguments for a model file or a published checkpoint, or one that is not of a detector.
    """
    if name.startswith("timm/") or not is_published_checkpoint(name):
        return CountedNetwork(name, arguments)
    for argument in arguments:
        raise UserError(f"`{argument}` requires a network name, but {name} is a published checkpoint")
    return CountedNetwork(*published_network(name), title=name)


def _named_size(name: str, model: Any) -> tuple[int, int] | None:
    """Height and width of the images of a network's published weights in timm and torchvision; None of others."""
    settings = getattr(model, "pretrained_cfg", None)
    shape = settings.get("input_size") if isinstance(settings, Mapping) else None
    if shape is not None and len(shape) == 3:
        return int(shape[1]), int(shape[2])
    if isinstance(getattr(model, "image_size", None), int):
        return model.image_size, model.image_size
    if name in torchvision.models.list_models(module=torchvision.models):
        side = next(iter(torchvision.models.get_model_weights(name))).transforms.keywords.get("crop_size")
        return None if side is None else (side, side)
    return None


def count(choice: CountedNetwork, size: tuple[int, int], batch: int) -> CostReport:
    """Count parameters, FLOPs and saved activations: in total, by stage and by block.

    Args:
        choice: the network.
        size: height and width of images in pixels.
        batch: images per training step.

    Returns:
        The costs.

    Raises:
        UserError: the network does not take images of this size.
    """
    skeleton, costs = choice.sized(size).skeleton(), choice.task.costs
    try:
        account = cost_breakdown(skeleton, size, batch, stages=costs.stages, run=costs.run_on_meta)
    except (AssertionError, RuntimeError, ValueError, NotImplementedError, TypeError, IndexError) as error:
        raise_if_out_of_memory(error)
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{choice.label} cannot be counted on images of {size[0]} x {size[1]} pixels "
            f"({type(error).__name__}: {reason[0] if reason else ''}); `image_size` takes another size"
        ) from error
    kinds = (("total", [account.total]), ("stage", account.stages), ("block", account.blocks))
    return CostReport(choice.label, size, batch, tuple(_line(item, kind) for kind, items in kinds for item in items))


def _line(item: CostPart, kind: str) -> CostRow:
    values = {"parameters": item.parameters, "flops": item.flops, "multiply_adds": item.flops / 2}
    return CostRow(item.name, kind, values | {"activation_bytes": item.saved_bytes})
