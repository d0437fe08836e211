"""The networks whose cost is asked for: by name or model file, built and counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from gcnet.analysis.itemized import Item, itemize
from gcnet.cli.models import counted_size
from gcnet.errors import UserError
from gcnet.evaluation.network import MODEL_SUFFIX
from gcnet.models.card import ModelCard, card_of
from gcnet.models.create import create_model
from gcnet.models.files import load_model
from gcnet.models.names import is_detector, split_name
from gcnet.report.bill import Bill, Line


@dataclass(frozen=True)
class Choice:
    """A network by name with arguments of `create_model`, or a model file, which says itself what it is."""

    name: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse arguments beside a file."""
        if self._is_file:
            for name in self.arguments:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} belongs to a network by name, and {self.name} is a model file")

    def build(self) -> nn.Module:
        """The network, with fresh weights or those of its file."""
        return load_model(self.name) if self._is_file else create_model(self.name, **self.arguments)

    def skeleton(self) -> nn.Module:
        """The network for counting, without weights where that is possible."""
        if self._is_file:
            return self.build()
        try:
            with torch.device("meta"):
                return self.build()
        except (NotImplementedError, RuntimeError):  # Some networks compute their widths with tensors.
            return self.build()

    def plain(self) -> "Choice":
        """The same network without blocks.

        Raises:
            UserError: it has none of ours.
        """
        has_block = bool(self._card.insertions) if self._is_file else bool(split_name(self.name)[0])
        if not has_block and "block" not in self.arguments:
            raise UserError(
                f"--against plain compares with the same network without gcnet's blocks, and {self.name} has none: "
                "give --block or a network with blocks, or name the other network, as in --against resnet50"
            )
        return self._without_blocks()

    def _without_blocks(self) -> "Choice":
        own = {"num_classes": self._card.num_classes, "detector": self._card.detector}
        return Choice(self._host, {name: value for name, value in own.items() if value is not None})

    @property
    def label(self) -> str:
        """The name, and the block where that is not in it."""
        block = self.arguments.get("block")
        return f"{self.name} + {block}" if block else self.name

    @property
    def is_detector(self) -> bool:
        """Whether it finds objects."""
        return is_detector(self._host)

    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that it is for."""
        preprocessing = self._card.preprocessing
        if preprocessing is not None and not self.is_detector:
            return preprocessing["image_size"], preprocessing["image_size"]
        skeleton = self._without_blocks().skeleton()
        name = self._host.removeprefix("torchvision/")
        return _named_size(name, skeleton) or counted_size(self._host, skeleton)

    @property
    def _host(self) -> str:
        return self._card.architecture or self.name

    @cached_property
    def _card(self) -> ModelCard:
        if not self._is_file:
            return ModelCard(split_name(self.name)[1], self.arguments.get("num_classes"))
        return card_of(self.build())

    @property
    def _is_file(self) -> bool:
        return Path(self.name).suffix == MODEL_SUFFIX or Path(self.name).is_file()


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


def count(choice: Choice, size: tuple[int, int], batch: int) -> Bill:
    """Parameters, FLOPs and what a training forward keeps: in all, by stage and by block.

    Raises:
        UserError: the network does not take images of this size.
    """
    skeleton = choice.skeleton()
    try:
        account = itemize(skeleton, size, batch)
    except (AssertionError, RuntimeError, ValueError, NotImplementedError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{choice.label} cannot be counted on images of {size[0]} x {size[1]} pixels "
            f"({type(error).__name__}: {reason[0] if reason else ''}); --image-size takes another size"
        ) from error
    kinds = (("total", [account.total]), ("stage", account.stages), ("block", account.blocks))
    return Bill(choice.label, size, batch, tuple(_line(item, kind) for kind, items in kinds for item in items))


def _line(item: Item, kind: str) -> Line:
    values = {"parameters": item.parameters, "flops": item.flops, "multiply_adds": item.flops / 2}
    return Line(item.name, kind, values | {"kept_bytes": item.kept})
