"""Blocks of parts that override a forward method: the result is that of the method, on every path."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet

import gcnet
from gcnet.framework import Add, AttentionPool, Bottleneck, Branch, ContextBlock, Pointwise, Scale
from gcnet.framework.in_place import apply_in_place
from gcnet.framework.pointwise import pointwise


class Flatter(AttentionPool):
    """Attention of a third of the map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 3)


class HalfGate(Scale):
    """Half of the gate."""

    def forward(self, x: Tensor, term: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.mul(x, term.sigmoid() / 2, out=out)


class Doubled(ContextBlock):
    """Twice the map."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Weak(Branch):
    """A tenth of the term."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.fusion(x, self.transform(context) / 10)


class Tripled(Bottleneck):
    """Three times the term."""

    def forward(self, context: Tensor) -> Tensor:
        return 3 * super().forward(context)


class Adapted(Pointwise):
    """A layer with twice its weight."""

    def forward(self, x: Tensor, operation: Callable[..., Any] = pointwise) -> Any:
        return operation(x, 2 * self.weight, self.bias)


def attending(pool: nn.Module, branch: Branch, kind: type[ContextBlock] = ContextBlock) -> ContextBlock:
    return kind(pool, {"add": branch}, channels=pool_channels(branch))


def pool_channels(branch: Branch) -> int:
    transform: Any = branch.transform
    last = transform.expand if isinstance(transform, Bottleneck) else transform
    return len(last.bias)


def _with_key(channels: int) -> ContextBlock:
    pool = AttentionPool(channels)
    pool.key = _OtherKey(pool.key)
    return attending(pool, Branch(Pointwise(channels, channels), Add()))


class _OtherKey(nn.Module):
    """A key around another."""

    def __init__(self, key: Pointwise) -> None:
        super().__init__()
        self.weight, self.bias = key.weight, key.bias

    def forward(self, x: Tensor, operation: Callable[..., Any] = pointwise) -> Any:
        return operation(x, 3 * self.weight, self.bias)


BLOCKS: dict[str, Callable[[int], ContextBlock]] = {
    "context": lambda c: attending(Flatter(c), Branch(Pointwise(c, c), Add())),
    "fusion": lambda c: attending(AttentionPool(c), Branch(Pointwise(c, c), HalfGate())),
    "block": lambda c: attending(AttentionPool(c), Branch(Pointwise(c, c), Add()), Doubled),
    "branch": lambda c: attending(AttentionPool(c), Weak(Pointwise(c, c), Add())),
    "transform": lambda c: attending(
        AttentionPool(c), Branch(Tripled(Pointwise(c, 8), nn.Identity(), Pointwise(8, c)), Add())
    ),
    "layer": lambda c: attending(AttentionPool(c), Branch(Adapted(c, c), Add())),
    "layer of a transform": lambda c: attending(
        AttentionPool(c), Branch(Bottleneck(Adapted(c, 8), nn.Identity(), Adapted(8, c)), Add())
    ),
    "norm of maps": lambda c: attending(
        AttentionPool(c), Branch(Bottleneck(Pointwise(c, 8), nn.BatchNorm2d(8), Pointwise(8, c)), Add())
    ),
    "key": _with_key,
    "no branch": lambda c: ContextBlock(AttentionPool(c), {}, channels=c),
}


class Plain(nn.Module):
    """Runs a block as a module that is no `ContextBlock`, so by its forward method alone."""

    def __init__(self, block: ContextBlock) -> None:
        super().__init__()
        self.block = block
        self.block.context.register_forward_hook(lambda *_: None)  # excludes `with_map`

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """A network with blocks, and the same whose blocks run by their forward method alone."""
    torch.manual_seed(0)
    model = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=5).double()
    gcnet.insert(model, lambda channels, **_: BLOCKS[name](channels), ratio=None)
    plain = copy.deepcopy(model)
    for stage in (plain.layer2, plain.layer3, plain.layer4):
        stage[0].context = Plain(stage[0].context)
    return model, plain


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 33, 35, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("name", BLOCKS)
def test_inference_and_fused_networks_run_the_forward_method(name: str) -> None:
    model, plain = networks(name)
    fused = gcnet.fuse(model)
    with torch.no_grad():
        for x in (images(1), images(3)):
            expected = plain.eval()(x)
            for network in (model.eval(), fused):
                torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
def test_training_runs_the_forward_method(name: str) -> None:
    model, plain = networks(name)
    torch.testing.assert_close(model.train()(images(3)), plain.train()(images(3)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in ("key", "no branch")])
def test_a_map_is_overwritten_with_the_result_of_the_forward_method(name: str) -> None:
    torch.manual_seed(0)
    block = BLOCKS[name](6).double().eval()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(apply_in_place(block, x.clone()), block(x))
