"""One optimizer step of any task: micro-batches, precision, processes; non-finite losses stop the run."""

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import FrozenBatchNorm2d

from gcnet.compilation import compile_network
from gcnet.devices import AUTOCAST
from gcnet.errors import explained_out_of_memory
from gcnet.training.checkpoint import load_optimizer
from gcnet.training.distributed import Processes
from gcnet.training.losses import BatchLosses, LossReading, NonFiniteLoss
from gcnet.training.optimizer import (
    build_average,
    build_optimizer,
    build_schedule,
    clip_gradients,
    freeze,
    freeze_bn_stats,
    set_learning_rate,
)
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings
from gcnet.training.sharded_network import (
    average_scalar_gradients,
    is_sharded,
    local_part,
    shard,
    with_weights,
    without_weights,
)
from gcnet.training.single_values import training_norms
from gcnet.training.task import TrainingBatch, TrainingTask

# PyTorch 2.13 has renamed the argument.
_DDP_ARGUMENTS = signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers"


@dataclass(frozen=True)
class StepOutcome:
    """Result of a training step.

    Attributes:
        images: number of images over all processes.
        own_images: number of images of this process.
        loss_sums: sum of each loss over the images of this process.
        rate: learning rate.
        votes: sum of each vote over all processes.
    """

    images: int
    own_images: int
    loss_sums: dict[str, float]
    rate: float
    votes: list[float] = field(default_factory=list)


class Trainer:
    """Network, optimizer, schedule, average and loss scaling of one run, and `step`, the number of steps done.

    `synchronized` is whether the forward passes of several processes wait for each other, as SyncBatchNorm and sharded
    weights make them.

    Args:
        task: the training task.
        network: on its device; parameters are frozen according to the recipe.
        recipe: how.
        machine: precision, memory format and compilation.
        device: of the network.
        processes: the processes of the run.
        block_parameters: names of the parameters with the learning rate of blocks.
    """

    def __init__(
        self,
        task: TrainingTask,
        network: nn.Module,
        *,
        recipe: RecipeSettings,
        machine: MachineSettings,
        device: torch.device,
        processes: Processes,
        block_parameters: Collection[str] = (),
    ) -> None:
        self.recipe = recipe = recipe.with_defaults()
        self.task, self.device, self.processes = task, device, processes
        self.machine = machine = machine.resolved(device)
        self.network = network if machine.shard_model else network.to(device)
        if machine.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.frozen = freeze(self.network, recipe.freeze or (), optional=recipe.preset_freeze)
        self.schedule = build_schedule(recipe, task.steps_per_epoch)
        if machine.shard_model:
            processes.copy_from_first([*self.network.parameters(), *self.network.buffers()])
        self.average = build_average(self.network, recipe.ema_decay) if recipe.ema_decay else None
        self._losses = BatchLosses(self.network, task)
        self._skeleton = self._shard() if machine.shard_model else None
        self.optimizer = build_optimizer(self.network, recipe, block_parameters)
        if machine.compile:
            compile_network(self.network)
            if self.average:
                compile_network(self.average.module)
        self.autocast = AUTOCAST[machine.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=machine.precision == "fp16")
        self._wrapped = self._distribute()
        norms = any(map(_is_synchronized, self.network.modules()))
        self.synchronized = processes.world > 1 and (norms or machine.shard_model)
        self.step = 0

    @property
    def trained(self) -> nn.Module:
        """The network to evaluate and save: the average where there is one."""
        return self.average.module if self.average else self.network

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over the processes."""
        return self.machine.shard_model

    def whole(self, network: nn.Module) -> nn.Module:
        """Return a network of which every process holds all weights, to evaluate it; all processes call this together.

        Sharded networks are copied, since processes evaluate different numbers of batches.

        Args:
            network: of this trainer, or its average.
        """
        return network if self._skeleton is None else with_weights(self._skeleton, network, self.device)

    def saved(self) -> nn.Module:
        """Return the network to save, in the first process; all processes call this together.

        The first process gathers the weights of a sharded network on the CPU, the others get no weights.
        """
        if self._skeleton is None:
            return self.trained
        return with_weights(self._skeleton, self.trained, torch.device("cpu"), keep=self.processes.first)

    def alone(self) -> "Trainer":
        """Return a trainer of the same network in this process only, without an average of the weights."""
        return Trainer(
            self.task,
            self.network,
            recipe=replace(self.recipe, ema_decay=None),
            machine=replace(self.machine, compile=False),
            device=self.device,
            processes=Processes(),
        )

    def train_step(self, batch: TrainingBatch, votes: Callable[[], Sequence[float]] = tuple) -> StepOutcome:
        """Train on this process' share of a global batch and count the step.

        A batch without readable images only counts the step. So does a batch of which one process can read no image, if
        the forward passes are synchronized; the outcome then has no images.

        Args:
            batch: share of this process.
            votes: called after the backward pass; its values are summed over all processes, in the same exchange as
                the check of the losses.

        Returns:
            The outcome.

        Raises:
            NonFiniteLoss: in every process, before any weight changes.
            OutOfMemory: the step does not fit into memory.
        """
        images, settings = self._batch_size()
        advice = "use a larger `grad_accumulation`, `precision=bf16`, or `batch_size=auto`, which tries what fits"
        with explained_out_of_memory(images, settings, advice=advice if images > 1 else None):
            batch = self.task.prepare(batch, self.step, self.device)
            counts = self.processes.start_counts(len(batch.names))
            rate = self.schedule.at(self.step)
            parts = self._micro_batches(batch, counts)
            sums, summed = self._learn(parts, counts, rate, votes) if parts else ({}, self.processes.sums(votes()))
        images, own = (sum(counts()), len(batch.names)) if parts else (0, 0)
        self.step += 1
        return StepOutcome(images, own, sums, rate, summed)

    def _batch_size(self) -> tuple[int, str]:
        """The images of a micro-batch, and the settings that decide them."""
        recipe, world = self.recipe, self.processes.world
        settings = f"`batch_size={recipe.images_per_step}`, `grad_accumulation={recipe.grad_accumulation}`"
        processes = f" in {world} processes" if world > 1 else ""
        return -(-recipe.images_per_step // (world * recipe.grad_accumulation)), settings + processes

    def _micro_batches(self, batch: TrainingBatch, counts: Callable[[], Sequence[int]]) -> list[TrainingBatch]:
        """The micro-batches of this process; none if all processes skip the step.

        Synchronized batch norms exchange statistics in every forward pass, and sharded networks gather their weights:
        each process must make equally many, and one without any readable image can make none.
        """
        if not batch.names and not sum(counts()):
            return []
        if not self.synchronized:
            return self.task.split(batch, self.recipe.grad_accumulation)
        fewest = min(counts())
        return self.task.split(batch, min(self.recipe.grad_accumulation, fewest)) if fewest else []

    def _learn(
        self,
        parts: Sequence[TrainingBatch],
        counts: Callable[[], Sequence[int]],
        rate: float,
        votes: Callable[[], Sequence[float]],
    ) -> tuple[dict[str, float], list[float]]:
        set_learning_rate(self.optimizer, rate)
        self.network.train()
        freeze_bn_stats(self.network, all_of_them=self.recipe.freeze_bn_stats)
        self.optimizer.zero_grad(set_to_none=True)
        rows = self._backward(parts, counts)
        summed = self._check_finite(rows, parts, votes())
        sums = {name: math.fsum(row[index] for row in rows) for index, name in enumerate(self._losses.names)}
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip_grad_norm:
            clip_gradients(self.optimizer, self.recipe.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.network)
        return sums, summed

    def _backward(self, parts: Sequence[TrainingBatch], counts: Callable[[], Sequence[int]]) -> list[list[float]]:
        """Gradients of the mean loss over all images of all processes; returns the losses of each micro-batch.

        The exchange of the counts, which runs during the first forward pass, ends here.
        """
        values: list[Tensor] = []
        reading = None
        if self._shares_buffers:
            self.processes.copy_from_first(self.network.buffers())
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else self._unsynchronized():
                with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                    losses = self._wrapped(part)
                values.append(losses.detach() * len(part.names))
                if last:
                    reading = LossReading(torch.stack(values))
                # Processes are averaged, so each weighs its images by their share of the mean over all.
                share = len(part.names) * self.processes.world / sum(counts())
                self.scaler.scale(losses.sum() * share).backward()
        if self.sharded:
            average_scalar_gradients(self.network, self.processes)
        assert reading is not None
        return reading.values()

    def _check_finite(
        self, rows: Sequence[Sequence[float]], parts: Sequence[TrainingBatch], votes: Sequence[float]
    ) -> list[float]:
        """Raise if a loss of any process is not finite; returns the sums of the votes."""
        bad = [number for number, row in enumerate(rows) if not all(map(math.isfinite, row))]
        all_bad, *summed = self.processes.sums([len(bad), *votes])
        if all_bad == 0:
            return summed
        names = [name for number in bad for name in parts[number].names]
        value = next((value for number in bad for value in rows[number] if not math.isfinite(value)), math.nan)
        found = self.processes.gather((names, value if bad else None))
        everyone = [name for names, _ in found for name in names]
        raise NonFiniteLoss(self.step, next(value for _, value in found if value is not None), everyone)

    @property
    def single_valued(self) -> int:
        """Micro-batches of one image so far, of which batch norms got single values and used running statistics."""
        return self._losses.single_valued

    def check_weights(self) -> None:
        """Raise if weights are not finite, which is possible after a finite loss.

        Raises:
            NonFiniteLoss: in every process; without names of images, for these are no longer known.
        """
        parts = map(local_part, self.network.state_dict().values())
        tensors = [part for part in parts if part.is_floating_point() and part.numel()]
        norms = [norm.float() for norm in torch._foreach_norm(tensors, math.inf)] if tensors else []
        if any(self.processes.sums([bool(norms) and not bool(torch.stack(norms).isfinite().all())])):
            raise NonFiniteLoss(self.step, float("nan"), [], what="a weight")

    def share_trained(self) -> None:
        """Give every process the weights that the first one saves.

        Batch norms of other processes have seen other images: an evaluation by their own statistics would not be
        that of the saved weights.
        """
        tensors = self.trained.state_dict().values()
        self.processes.copy_from_first(tensor for tensor in tensors if not is_sharded(tensor))

    def state(self) -> dict[str, Any]:
        """Return the state that the next step depends on, except for the global random states."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a `state()`."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])

    def _shard(self) -> nn.Module:
        """Shard the network and its average; returns a copy without values, to save whole weights.

        The losses, a tensor, are what FSDP2 needs as the output of the outermost module; networks return any object.
        """
        skeleton = without_weights(self.network)
        networks = [self._losses, *([self.average.module] if self.average else [])]
        shard(networks, self.device, self.processes.world)
        return skeleton

    def _distribute(self) -> nn.Module:
        self._shares_buffers = False
        if self.processes.world == 1:
            return self._losses
        self.network.train()
        freeze_bn_stats(self.network, all_of_them=self.recipe.freeze_bn_stats)
        changes_buffers = _changes_buffers(self.network)
        if self.sharded:
            self._shares_buffers = changes_buffers
            return self._losses
        # Gradients of 1x1 convolutions, of which strides of several values mean one memory format.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        buffers: dict[str, Any] = {_SYNC_BUFFERS: changes_buffers}
        return DistributedDataParallel(self._losses, gradient_as_bucket_view=True, **buffers)

    def _unsynchronized(self) -> Any:
        return self._wrapped.no_sync() if isinstance(self._wrapped, DistributedDataParallel) else nullcontext()


def _changes_buffers(network: nn.Module) -> bool:
    """Whether a forward pass in training can change buffers: of batch norms that train, or of other modules."""
    others = [module for module in network.modules() if not isinstance(module, _BatchNorm | FrozenBatchNorm2d)]
    return bool(training_norms(network)) or any(list(module.buffers(recurse=False)) for module in others)


def _is_synchronized(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm)
