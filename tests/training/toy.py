"""A task small enough to be followed by hand: points in a plane, one linear layer or a tiny network with dropout."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcnet.data.settings import DataSettings
from gcnet.storage import write_atomic
from gcnet.training.distributed import Processes
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, TrainSettings
from gcnet.training.task import Evaluation
from gcnet.training.trainer import Trainer


@dataclass(frozen=True)
class Points:
    inputs: Tensor
    targets: Tensor
    names: list[str]
    skipped: list[Any]


class ToyTask:
    """17 steps an epoch; the batch of a step is drawn from the step's own seed, `dropped` of it are unreadable."""

    metric = "score"
    steps_per_epoch = 17
    classes = ("sum",)
    evaluation_images = 12
    image_size = None
    settings = TrainSettings()

    def __init__(self, batch_size: int = 12, processes: Processes | None = None, poison: int | None = None) -> None:
        self.batch_size, self.processes, self.poison = batch_size, processes or Processes(), poison
        self.dropped: dict[int, list[int]] = {}
        self.evaluated = 0

    def whole_batch(self, step: int) -> Points:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(self.batch_size, 3, generator=generator)
        targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(self.batch_size, 1, generator=generator)
        if step == self.poison:
            inputs[5] = float("nan")
        names = [f"{step}/{index}" for index in range(self.batch_size)]
        return Points(inputs, targets, names, [])

    def workers(self, device: torch.device) -> int:  # noqa: ARG002
        return 0

    def batches(self, first_step: int, device: torch.device) -> Iterator[Points]:  # noqa: ARG002
        step = first_step
        while True:
            whole = self.whole_batch(step)
            kept = [index for index in range(self.batch_size) if index not in self.dropped.get(step, [])]
            own = [index for index in kept if index % self.processes.world == self.processes.rank]
            yield Points(whole.inputs[own], whole.targets[own], [whole.names[index] for index in own], [])
            step += 1

    def prepare(self, batch: Points, step: int, device: torch.device) -> Points:
        assert step >= 0
        return replace(batch, inputs=batch.inputs.to(device), targets=batch.targets.to(device))

    def split(self, batch: Points, parts: int) -> list[Points]:
        cuts = [len(batch.names) * part // parts for part in range(parts + 1)]
        pieces = [
            Points(batch.inputs[a:b], batch.targets[a:b], batch.names[a:b], [])
            for a, b in zip(cuts, cuts[1:], strict=False)
            if a < b
        ]
        return pieces or [batch]

    def notes(self) -> list[str]:
        return []

    def check(self, network: nn.Module) -> None:
        pass

    def settled(self, data: DataSettings) -> DataSettings:
        return data

    def input_size(self, network: nn.Module) -> tuple[int, int]:  # noqa: ARG002
        return 1, 3

    def describe_data(self, size: tuple[int, int]) -> str:
        return f"points of {size[1]} numbers"

    def files(self) -> Iterator[tuple[str, str]]:
        yield "points", "0"

    def describe_augmentation(self) -> str:
        return "none"

    def sample(self, device: torch.device) -> Points:
        return self.prepare(self.whole_batch(0), 0, device)

    def forward(self, network: nn.Module, batch: Points) -> object:
        return network(batch.inputs)

    def flops(self, network: nn.Module) -> int:
        return 2 * sum(parameter.numel() for parameter in network.parameters())

    def losses(self, network: nn.Module, batch: Points) -> dict[str, Tensor]:
        return {"squares": functional.mse_loss(network(batch.inputs), batch.targets)}

    def evaluate(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        stop: Callable[[], bool],
        progress: Callable[[int], None] = lambda _: None,
    ) -> Evaluation | None:
        if stop():
            return None
        self.evaluated += 1
        progress(self.evaluation_images)
        network.eval()
        batch = self.prepare(self.whole_batch(10**6), 0, device)
        with torch.no_grad():
            error = float(self.losses(network, batch)["squares"])
        return Evaluation({"score": -error}, images=len(batch.names))

    def save(self, network: nn.Module, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        weights = {name: tensor.tolist() for name, tensor in network.state_dict().items()}
        write_atomic(path, str(weights).encode())

    def draw_inputs(self, batch: Points, path: Path) -> None:
        path.write_text("\n".join(batch.names))

    def draw_curves(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        (folder / "curves.png").write_text(f"{len(rows)}")

    def draw_evaluation(self, evaluation: Evaluation, folder: Path, *, title: str) -> None:
        (folder / "best.png").write_text(f"{title} {evaluation.metrics}")


def tiny_network(*, dropout: float = 0.0, batch_norm: bool = False, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    norm: nn.Module = nn.BatchNorm1d(7) if batch_norm else nn.LayerNorm(7)
    return nn.Sequential(nn.Linear(3, 7), norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(7, 1))


def toy_trainer(
    task: ToyTask | None = None,
    network: nn.Module | None = None,
    *,
    precision: Any = "float32",
    compile: bool = False,
    **recipe: Any,
) -> Trainer:
    task = task or ToyTask()
    recipe = {"steps": 50, "batch_size": task.batch_size, "lr": 0.05, "warmup_epochs": 0.0} | recipe
    return Trainer(
        task,
        network if network is not None else tiny_network(),
        recipe=RecipeSettings(**recipe),
        machine=MachineSettings(precision=precision, compile=compile),
        device=torch.device("cpu"),
        processes=task.processes,
    )


def bits(network: nn.Module) -> str:
    """A digest of all weights and statistics: equal only where every bit is."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
