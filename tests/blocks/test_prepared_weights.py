"""Tools that prepare a layer's weights when it is called: pruning, norms of weights, offloading, sharding, counting."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, prune

from gcnet.insertion import context_parameters, insert
from gcnet.models.backbones.cifar_resnet import CifarResNet
from named_blocks import every, make
from random_weights import randomize


def layers(block: nn.Module, *, dims: int = 2) -> list[nn.Module]:
    """The layers that have a matrix of weights."""
    return [
        module
        for module in block.modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() >= dims
    ]


def two_steps(block: nn.Module, x: Tensor) -> Tensor:
    """The output after two training steps."""
    optimizer = torch.optim.SGD(block.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        block(x).square().mean().backward()
        optimizer.step()
    return block(x)


@every
def test_pruned_block_trains_as_one_whose_gradients_are_masked(name: str) -> None:
    block = randomize(make(name)).double()
    if not layers(block):
        pytest.skip("no matrix of weights")
    twin, x = copy.deepcopy(block), torch.randn(3, 22, 5, 7, dtype=torch.float64)
    masks = []
    for layer, plain in zip(layers(block), layers(twin), strict=True):
        prune.random_unstructured(layer, "weight", amount=0.5)
        mask = layer.get_buffer("weight_mask").clone()
        plain.weight.data *= mask
        plain.weight.register_hook(mask.mul)
        masks.append(mask)
    assert any((mask == 0).any() for mask in masks)
    torch.testing.assert_close(two_steps(block, x), two_steps(twin, x))


@every
def test_inference_of_a_pruned_block_uses_its_current_weights(name: str) -> None:
    block = randomize(make(name)).eval()
    x = torch.randn(2, 22, 5, 7)
    for layer in layers(block):
        prune.l1_unstructured(layer, "weight", amount=0.3)
    with torch.no_grad():
        for key, parameter in block.named_parameters():
            if key.endswith("weight_orig"):
                parameter.mul_(-2)
        found = block(x)
        for layer in list(block.modules()):
            if prune.is_pruned(layer) and "weight_mask" in dict(layer.named_buffers(recurse=False)):
                prune.remove(layer, "weight")
        torch.testing.assert_close(found, block(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("normalize", [torch.nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("name", ["gc", "gc heads", "gc_eca", "gc_affine", "snl", "gc_slots", "se", "dnl"])
def test_block_with_normalized_weights_trains(name: str, normalize: Callable[[nn.Module], Any]) -> None:
    block = randomize(make(name))
    x = torch.randn(2, 22, 5, 7)
    expected = block(x)
    for layer in layers(block):
        normalize(layer)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    two_steps(block, x)
    assert all(parameter.grad is not None for parameter in block.parameters())


class Offload:
    """Hooks on a module with parameters of its own that hold its weights elsewhere between its calls."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: value.data for name, value in module.named_parameters(recurse=False)}
        self.calls = 0
        module.register_forward_pre_hook(self.load)
        module.register_forward_hook(self.unload)
        self.unload(module)

    def load(self, module: nn.Module, *_: Any) -> None:
        self.calls += 1
        for name, value in self.weights.items():
            setattr(module, name, nn.Parameter(value, requires_grad=False))

    def unload(self, module: nn.Module, *_: Any) -> None:
        for name, value in self.weights.items():
            setattr(module, name, nn.Parameter(value.to("meta"), requires_grad=False))


@every
def test_weights_that_are_there_only_while_a_layer_runs_suffice(name: str) -> None:
    block = randomize(make(name)).eval()
    x = torch.randn(2, 22, 5, 7)
    with torch.no_grad():
        expected = block(x)
        modules = [module for module in block.modules() if list(module.parameters(recurse=False))]
        offloaded = [Offload(module) for module in modules]
        torch.testing.assert_close(block(x), expected)
    assert all(one.calls for one in offloaded)


@every
def test_parameters_of_the_modules_that_run_are_all_of_the_block(name: str) -> None:
    block = make(name).eval()
    ran: list[nn.Module] = []
    for module in block.modules():
        module.register_forward_hook(lambda module, *_: ran.append(module))
    block(torch.randn(1, 22, 5, 7))
    counted = {parameter for module in ran for parameter in module.parameters(recurse=False)}
    assert counted == set(block.parameters())


def sharded_training(rank: int, store: str, expected: dict[str, Tensor], x: Tensor) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        model = network()
        for module in list(model.modules()):
            if list(module.parameters(recurse=False)):
                fully_shard(module)
        fully_shard(model)
        model(x).square().mean().backward()
        for name, parameter in context_parameters(model):
            torch.testing.assert_close(parameter.grad.full_tensor(), expected[name], rtol=1e-4, atol=1e-6)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
    os._exit(0)  # a thread of gloo that still runs when the interpreter ends would abort the process


def network() -> nn.Module:
    torch.manual_seed(0)
    model = CifarResNet(20, num_classes=4).eval()
    insert(model, "gc", blocks=(0,))
    for _, parameter in context_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.slow
def test_weights_sharded_layer_by_layer_train_as_whole_ones(tmp_path: Path) -> None:
    model, x = network(), torch.randn(2, 3, 32, 32)
    model(x).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in context_parameters(model)}
    processes.spawn(sharded_training, (str(tmp_path / "store"), expected, x), nprocs=2)
