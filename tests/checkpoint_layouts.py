"""Checkpoints with random weights in the layouts of other libraries, whose keys and shapes come from their own code."""

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent / "checkpoints" / "layouts"


@dataclass(frozen=True)
class Layout:
    """Keys and shapes of a checkpoint, and its metadata."""

    shapes: dict[str, list[int]]
    cfg: str
    classes: list[str]

    def tensors(self, seed: int = 5) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        values = {
            name: (torch.rand(shape, generator=generator) - 0.5) * 2 / max(math.prod(shape[1:]), 1) ** 0.5
            for name, shape in self.shapes.items()
        }
        steps = {name: torch.tensor(seed) for name in self.shapes if name.endswith("num_batches_tracked")}
        return (
            values | {name: value.abs() + 1 for name, value in values.items() if name.endswith("running_var")} | steps
        )

    def empty(self) -> dict[str, Tensor]:
        """Tensors with arbitrary values."""
        return {name: torch.empty(shape) for name, shape in self.shapes.items()}

    def checkpoint(self, seed: int = 5) -> dict[str, Any]:
        """The content of a file of mmengine."""
        meta = {"cfg": self.cfg, "dataset_meta": {"classes": tuple(self.classes), "palette": None}, "epoch": 12}
        return {"meta": meta, "state_dict": self.tensors(seed), "message_hub": {"log_scalars": {}}}


def layout(name: str) -> Layout:
    """The layout `library/name`."""
    return Layout(**json.loads(gzip.decompress((_FOLDER / f"{name}.json.gz").read_bytes())))
