"""Trials before a run: the number of micro-batches that fits into memory."""

import pytest
import torch
from torch import Tensor, nn

from gcnet.blocks import build_block
from gcnet.errors import OutOfMemory, UserError
from gcnet.models.detector.backbone import DeformableConv2d
from gcnet.training.trial import fitting_accumulation, refuse_nondeterministic
from training.toy import Points, ToyTask, tiny_network, toy_trainer


class LimitedTask(ToyTask):
    """Runs out of memory for more than `most` images at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.tried: list[int] = []

    def losses(self, network: nn.Module, batch: Points) -> dict[str, Tensor]:
        self.tried.append(len(batch.names))
        if len(batch.names) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1.00 GiB.")
        return super().losses(network, batch)


@pytest.mark.parametrize(("most", "parts"), [(100, 1), (12, 1), (11, 2), (5, 3), (4, 3), (1, 12)])
def test_the_largest_micro_batch_that_fits_is_chosen(most: int, parts: int) -> None:
    task = LimitedTask(most)
    assert fitting_accumulation(toy_trainer(task, ema_decay=0.9)) == parts
    assert task.tried.count(12 // parts) >= 2 * min(parts, 8)  # two steps


def test_batches_with_unreadable_images_do_not_decide() -> None:
    task = LimitedTask(5)
    task.dropped = {0: list(range(12)), 1: list(range(1, 12))}
    assert fitting_accumulation(toy_trainer(task)) == 3
    always = LimitedTask(5)  # the most of a few batches
    always.dropped = {step: list(range(12 if step else 6)) for step in range(99)}
    assert fitting_accumulation(toy_trainer(always)) == 2


def test_a_loss_that_is_not_finite_is_left_to_the_run() -> None:
    task = LimitedTask(6)
    task.poison = 0
    assert fitting_accumulation(toy_trainer(task)) == 2


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    expected = "the GPU is out of memory: could not allocate 2.50 GiB with batches of 1 image "
    with pytest.raises(OutOfMemory, match=expected):
        fitting_accumulation(toy_trainer(LimitedTask(0)))


def test_a_step_without_memory_names_the_batch_and_what_needs_less() -> None:
    task = LimitedTask(4)
    trainer = toy_trainer(task, grad_accumulation=2)
    expected = r"with batches of 6 images \(`batch_size=12`, `grad_accumulation=2`\); use a larger `grad_accumulation`"
    with pytest.raises(OutOfMemory, match=expected):
        trainer.train_step(task.whole_batch(0))


def test_synchronized_norms_are_refused() -> None:
    trainer = toy_trainer(network=tiny_network())
    trainer.synchronized = True
    with pytest.raises(UserError, match="`batch_size=auto` cannot try batches with `norm=sync`"):
        fitting_accumulation(trainer)


DETERMINISTIC = {"gc": True, "nl_concatenation": True, "fca": False}


@pytest.mark.parametrize(("name", "is_deterministic"), DETERMINISTIC.items())
def test_blocks_without_deterministic_gpu_kernels_are_refused(name: str, is_deterministic: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), build_block(name, channels=64), nn.AdaptiveAvgPool2d(1))
    if is_deterministic:
        refuse_nondeterministic(network)
    else:
        with pytest.raises(UserError, match="no deterministic GPU kernels to train 1.*, the frequency pooling of fca"):
            refuse_nondeterministic(network)


@pytest.mark.parametrize(
    "module", [nn.AdaptiveAvgPool2d(7), DeformableConv2d(nn.Conv2d(4, 4, 3))], ids=["pooling", "deformable"]
)
def test_modules_without_deterministic_gpu_kernels_are_refused(module: nn.Module) -> None:
    with pytest.raises(UserError, match="`deterministic`: there are no deterministic GPU kernels to train 0, a"):
        refuse_nondeterministic(nn.Sequential(module))
