"""Batch samplers for training and evaluation, for any number of processes and micro-batches."""

from collections.abc import Iterator, Sequence
from itertools import count

import torch
from jaxtyping import Int64
from torch import Tensor

from gcnet.data.seeding import mix_seed
from gcnet.errors import UserError

Key = tuple[int, int]  # epoch (with the repetition within it) and index of one sample

_REPETITION = 1 << 32  # an image that comes again within an epoch is varied anew: its epoch counts as another
_ORDER = 0x0DE  # keeps the seeds of permutations apart from those of samples


class EpochSampler:
    """Batches of training: a new permutation per epoch, cut into global batches, split evenly over processes.

    The last images of an epoch that do not fill a global batch are dropped. An iteration runs from the step set by
    `start` to the end of its epoch and yields `accumulation` lists of keys per step; the next iteration yields the next
    epoch.

    Args:
        length: Number of images.
        batch_size: Images per optimizer step, over all processes and micro-batches.
        seed: Seed of the permutations.
        rank: Rank of this process.
        world: Number of processes.
        accumulation: Micro-batches per step.
        groups: Group of each image, such as 0 for landscape and 1 for portrait. As many batches as possible are then of
            a single group, in random order.
        labels: Class of each image. Classes are then drawn equally often: images of rare classes several times per
            epoch.

    Raises:
        UserError: The batch is larger than the data set or cannot be split evenly.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        groups: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
    ) -> None:
        _check_positive(batch_size)
        if batch_size > length:
            raise UserError(f"`batch_size` must be at most the number of training images, {length}, found {batch_size}")
        if batch_size % (world * accumulation):
            raise UserError(
                f"`batch_size` must be a multiple of {world} processes x {accumulation} micro-batches, "
                f"found {batch_size}"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.accumulation = rank, world, accumulation
        self.groups, self.labels = groups, labels
        self._step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.length // self.batch_size

    def start(self, step: int) -> None:
        """Continue after `step` optimizer steps since the start of the training."""
        self._step = step

    def keys(self, epoch: int) -> tuple[Int64[Tensor, " images"], Int64[Tensor, " images"]]:
        """Return the keys of all samples of `epoch` in order, as a tensor of epochs and one of indices."""
        generator = torch.Generator().manual_seed(mix_seed(_ORDER, self.seed, epoch))
        if self.labels is not None:
            drawn = torch.tensor(_draw_balanced(self.labels, generator))
            drawn = drawn[torch.randperm(len(drawn), generator=generator)]
            return epoch + _REPETITION * drawn[:, 0], drawn[:, 1]
        order = torch.randperm(self.length, generator=generator)
        if self.groups is not None:
            order = torch.tensor(self._grouped(order.tolist(), self.groups, generator))
        return torch.tensor(epoch).expand(len(order)), order

    def _grouped(self, order: list[int], groups: Sequence[int], generator: torch.Generator) -> list[int]:
        """Sort the order into batches of one group; the remainders of the groups form the last batches."""
        size = self.batch_size
        batches: list[list[int]] = []
        rest: list[int] = []
        for group in sorted(set(groups)):
            members = [index for index in order if groups[index] == group]
            whole = len(members) - len(members) % size
            batches += [members[first : first + size] for first in range(0, whole, size)]
            rest += members[whole:]
        mixed = len(rest) // size
        batches += [rest[number * size : (number + 1) * size] for number in range(mixed)]
        shuffled = [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]
        return [index for batch in shuffled for index in batch] + rest[mixed * size :]

    def __len__(self) -> int:
        """Return the number of lists of keys in the next iteration."""
        return (self.steps_per_epoch - self._step % self.steps_per_epoch) * self.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = divmod(self._step, self.steps_per_epoch)
        self._step = (epoch + 1) * self.steps_per_epoch
        epochs, indices = self.keys(epoch)
        micro = self.batch_size // self.accumulation
        for first in range(done * self.batch_size, self.steps_per_epoch * self.batch_size, micro):
            mine = slice(first + self.rank, first + micro, self.world)
            yield list(zip(epochs[mine].tolist(), indices[mine].tolist(), strict=True))


def _draw_balanced(labels: Sequence[int], generator: torch.Generator) -> list[tuple[int, int]]:
    """Draw as many samples as images, equally many per class, as (repetition, index).

    Every image of a class is drawn once before any is repeated.
    """
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    share, extra = divmod(len(labels), len(members))
    chosen = torch.randperm(len(members), generator=generator).tolist()[:extra]
    drawn: list[tuple[int, int]] = []
    for number, label in enumerate(sorted(members)):
        missing = share + (number in chosen)
        for repetition in count():
            if not missing:
                break
            turn = torch.randperm(len(members[label]), generator=generator).tolist()[:missing]
            drawn += [(repetition, members[label][place]) for place in turn]
            missing -= len(turn)
    return drawn


class EvaluationSampler:
    """Batches of evaluation: every image once, in order, without padding.

    Whole batches are assigned to processes in turn, so a batch holds the same images for any number of processes.

    Args:
        length: Number of images.
        batch_size: Images per batch of one process.
        rank: Rank of this process.
        world: Number of processes.
    """

    def __init__(self, length: int, *, batch_size: int, rank: int = 0, world: int = 1) -> None:
        _check_positive(batch_size)
        self.length, self.batch_size, self.rank, self.world = length, batch_size, rank, world

    def __len__(self) -> int:
        return len(self._firsts())

    def __iter__(self) -> Iterator[list[Key]]:
        for first in self._firsts():
            yield [(0, index) for index in range(first, min(first + self.batch_size, self.length))]

    def _firsts(self) -> Sequence[int]:
        return range(self.rank * self.batch_size, self.length, self.world * self.batch_size)


def _check_positive(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"the batch size must be positive, found {batch_size}")
