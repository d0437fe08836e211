"""What tests of sharded networks call in several gloo processes."""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.nn.functional import mse_loss

from gcnet.storage import StorageError
from gcnet.training import sharded_checkpoint
from gcnet.training.checkpoint import load_state
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, TrainSettings
from gcnet.training.sharded_checkpoint import ShardedCheckpointSaver, load_shards
from gcnet.training.sharded_network import is_sharded, local_part
from gcnet.training.trainer import Trainer
from training.photos import run_alone
from training.together import write
from training.toy import Points, ToyTask

CPU = torch.device("cpu")
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"clip_grad_norm": 0.1, "ema_decay": 0.9, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "freeze": ("0.*", "1.0.*"), "block_lr_mult": 3.0, "lr": 0.001},
    "micro-batches": {"grad_accumulation": 3},
}


class Residual(nn.Module):
    """A residual block with a batch norm and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.branch(x)


def tower() -> nn.Module:
    """With a weight of one row, of which all processes but the first have no part; in float64, against chaos."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 8), nn.Sequential(Residual(), Residual()), nn.Linear(8, 1)).double()


class ExactTask(ToyTask):
    """In float64; in some steps, processes have other numbers of images."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(processes=processes)
        self.dropped = {1: [0, 2, 3], 3: [1]}

    def whole_batch(self, step: int) -> Points:
        batch = super().whole_batch(step)
        return replace(batch, inputs=batch.inputs.double(), targets=batch.targets.double())

    def losses(self, network: nn.Module, batch: Points) -> dict[str, Tensor]:
        output = network(batch.inputs)
        return {"squares": mse_loss(getattr(output, "logits", output), batch.targets)}


def tower_trainer(processes: Processes, *, sharded: bool, network: nn.Module | None = None, **recipe: Any) -> Trainer:
    task = ExactTask(processes)
    chosen = {"steps": 50, "batch_size": task.batch_size, "lr": 0.05, "warmup_epochs": 0.0} | recipe
    return Trainer(
        task,
        network or tower(),
        recipe=RecipeSettings(**chosen),
        machine=MachineSettings(precision="float32", shard_model=sharded),
        device=CPU,
        processes=processes,
        block_parameters=["2.weight", "2.bias"],
    )


def train_towers(folder: Path) -> None:
    """The largest difference between the weights of a sharded and a whole network, and the shares of each process."""
    torch.set_num_threads(1)
    found = {}
    with processes_joined(CPU) as processes:
        for name, recipe in RECIPES.items():
            sharded, whole = (tower_trainer(processes, sharded=sharded, **recipe) for sharded in (True, False))
            losses = [train(trainer, 5) for trainer in (sharded, whole)]
            states = [everything(trainer) for trainer in (sharded, whole)]
            assert states[0].keys() == states[1].keys()
            differences = [float((states[0][key] - states[1][key]).abs().max()) for key in states[1]]
            moved = max(float((local_part(new) - old).abs().max()) for new, old in pairs(whole.network, tower()))
            found[name] = {"losses": losses, "difference": max(differences), "moved": moved, **shares(sharded)}
        write(folder, processes, found)


def pairs(network: nn.Module, other: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return list(zip(network.parameters(), other.parameters(), strict=True))


def shares(trainer: Trainer) -> dict[str, float]:
    """The share of this process in weights, average and optimizer state, by numbers; scalars have none."""
    states = [value for values in trainer.optimizer.state.values() for value in values.values()]
    kinds = {"weights": list(trainer.network.parameters()), "optimizer": states}
    if trainer.average:
        kinds["average"] = list(trainer.average.module.parameters())
    kinds = {kind: [value for value in values if value.ndim] for kind, values in kinds.items()}
    return {
        kind: sum(local_part(value).numel() for value in values) / sum(value.numel() for value in values)
        for kind, values in kinds.items()
    }


def train(trainer: Trainer, steps: int) -> list[float]:
    """Losses of this process in steps from the trainer's own on."""
    batches = trainer.task.batches(trainer.step, CPU)
    return [trainer.train_step(next(batches)).loss_sums["squares"] for _ in range(steps)]


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """All tensors of the state of a trainer, whole, by name."""
    found: dict[str, Tensor] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                collect(f"{name}.{key}", item)
        elif isinstance(value, Tensor):
            sharded: Any = value
            found[name] = (sharded.full_tensor() if hasattr(value, "full_tensor") else value).detach()

    collect("", trainer.state())
    return found


def digest(trainer: Trainer) -> str:
    found = hashlib.sha256()
    for name, tensor in everything(trainer).items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def save_tower(folder: Path) -> None:
    """Train and save, then train on and fail to save: the bits of the state that was saved, and the error."""
    with processes_joined(CPU) as processes:
        trainer = tower_trainer(processes, sharded=True, **RECIPES["sgd"])
        saver = ShardedCheckpointSaver(folder / "checkpoint.safetensors", processes)
        train(trainer, 3)
        saver.save({"trainer": trainer.state()})
        saved = digest(trainer)
        train(trainer, 1)
        if not processes.first:
            patch.object(HuggingFaceStorageWriter, "write_data", side_effect=OSError(28, os.strerror(28))).start()
        try:
            saver.save({"trainer": trainer.state()})
        except StorageError as error:
            write(folder, processes, [saved, str(error)])


def load_towers(folder: Path, names: list[str]) -> None:
    """The bits of the state that is loaded from each checkpoint, or the error."""
    with processes_joined(CPU) as processes:
        trainer = tower_trainer(processes, sharded=True, **RECIPES["sgd"])
        found = [load(folder / name / "checkpoint.safetensors", trainer) for name in names]
        write(folder, processes, found)
        train(trainer, 1)


def load(path: Path, trainer: Trainer) -> str:
    like = next(filter(is_sharded, trainer.network.parameters()))
    try:
        state = load_shards(path, load_state(path), like, trainer.processes)
    except StorageError as error:
        return str(error)
    trainer.load_state(state["trainer"])
    return digest(trainer)


class Answer:
    """An output that only its network knows."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Tied(nn.Module):
    """Two layers with one weight; the output is an object."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1))
        self.layers[3].weight = self.layers[1].weight
        self.double()

    def forward(self, x: Tensor) -> Answer:
        return Answer(self.layers(x))


def save_tied(folder: Path) -> None:
    """The bits of the state that was saved and loaded, and the difference to a training with whole weights."""
    with processes_joined(CPU) as processes:
        sharded, whole, loaded = (
            tower_trainer(processes, sharded=part, network=Tied()) for part in (True, False, True)
        )
        for trainer in (sharded, whole):
            train(trainer, 3)
        path = folder / "checkpoint.safetensors"
        ShardedCheckpointSaver(path, processes).save({"trainer": sharded.state()})
        saved, expected = sharded.saved().state_dict(), whole.network.state_dict()
        differences = [float((saved[name] - expected[name]).abs().max()) for name in expected if processes.first]
        write(folder, processes, [digest(sharded), load(path, loaded), max(differences, default=0)])


def save_apart(folder: Path) -> None:
    """The error of processes that save into a folder of their own, as on a disk that they do not share."""
    with processes_joined(CPU) as processes:
        trainer = tower_trainer(processes, sharded=True)
        own = folder / f"disk of {processes.rank}"
        own.mkdir()
        try:
            ShardedCheckpointSaver(own / "checkpoint.safetensors", processes).save({"trainer": trainer.state()})
        except StorageError as error:
            write(folder, processes, [str(error), [path.name for path in own.iterdir()]])


def die_while_saving(settings: TrainSettings, step: int) -> None:
    """Train until all shards of a checkpoint are written, but not the file that completes them."""
    digests = sharded_checkpoint._digests

    def die(folder: Path, names: Sequence[str], processes: Processes) -> dict[str, str]:
        if folder.name != f"checkpoint-{step}":
            return digests(folder, names, processes)
        output = folder.parent
        output.with_name(f"{output.name} {processes.rank}").touch()
        while len(list(output.parent.glob(f"{output.name} *"))) < processes.world:
            time.sleep(0.01)  # a process that still waits for one that has ended would end by the loss of it
        return os._exit(9)

    sharded_checkpoint._digests = die
    run_alone(settings, None)
