"""The networks whose cost is asked for: by name or model file, built and counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
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
        with torch.device("meta"):
            return self.build()

    def plain(self) -> "Choice":
        """The same host without blocks."""
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
        return counted_size(self._host, self.plain().skeleton())

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


def count(choice: Choice, size: tuple[int, int], batch: int) -> Bill:
    """Parameters, FLOPs and what a training forward keeps: in all, by stage and by block."""
    account = itemize(choice.skeleton(), size, batch)
    kinds = (("total", [account.total]), ("stage", account.stages), ("block", account.blocks))
    return Bill(choice.label, size, batch, tuple(_line(item, kind) for kind, items in kinds for item in items))


def _line(item: Item, kind: str) -> Line:
    values = {"parameters": item.parameters, "flops": item.flops, "multiply_adds": item.flops / 2}
    return Line(item.name, kind, values | {"kept_bytes": item.kept})
