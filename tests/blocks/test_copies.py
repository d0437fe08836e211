"""The named blocks copied, saved, converted, exported and compiled."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from gcnet.blocks import build_block
from gcnet.framework.in_place import apply_in_place
from named_blocks import IDENTITY, SETTINGS, WITH_BATCH_NORM, every, make
from random_weights import randomize
from tolerances import assert_equal_within


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))], ids=["deepcopy", "pickle"]
)
@every
def test_copy_is_the_same_block_with_weights_of_its_own(name: str, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    block = randomize(make(name)).eval()
    twin = duplicate(block)
    x = torch.randn(2, 22, 5, 7)
    expected = block(x)
    assert repr(twin) == repr(block)
    randomize(block)
    assert torch.equal(twin(x), expected)


@every
def test_weights_go_through_a_state_dict(name: str) -> None:
    block, twin = randomize(make(name)).eval(), make(name).eval()
    twin.load_state_dict(block.state_dict(), strict=True)
    x = torch.randn(2, 22, 5, 7)
    assert torch.equal(twin(x), block(x))


@every
def test_repr_shows_the_sizes(name: str) -> None:
    text = repr(make(name))
    assert text.startswith("ContextBlock(\n  channels=22, dims=2\n")
    with_matrix = any("reduce.weight" in key or "query.weight" in key for key in make(name).state_dict())
    assert not with_matrix or "Pointwise(22, " in text


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_conversion_to_sync_batch_norm_converts_the_norm_of_the_block(name: str) -> None:
    block = randomize(make(name)).eval()
    x = torch.randn(2, 22, 5, 7)
    expected, keys = block(x), list(block.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    norms = sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert norms == (2 if SETTINGS[name][1].get("extent") == 4 else 1)
    assert torch.equal(converted(x), expected)
    assert list(converted.state_dict()) == keys
    if name in IDENTITY:
        fresh = nn.SyncBatchNorm.convert_sync_batchnorm(make(name))
        assert torch.equal(fresh.eval()(x), x)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", [name for name in SETTINGS if "batch" not in name] + ["nl_gaussian batch"])
def test_exported_block_takes_maps_of_any_height_and_width(name: str) -> None:
    block = randomize(make(name)).eval()
    # PyTorch exports no size of one among others; halved by sub-sampling, three would be one, as would be an extent.
    smallest = 4 if "sub_sample" in name else SETTINGS[name][1].get("extent", 1) + 1
    sides = {2: Dim("height", min=smallest, max=1024), 3: Dim("width", min=smallest, max=1024)}
    program = torch.export.export(block, (torch.randn(2, 22, 6, 10),), dynamic_shapes=(sides,)).module()
    for height, width in ((smallest, smallest), (13, 7), (5, 31)):
        x = torch.randn(2, 22, height, width)
        assert_equal_within(program(x), block(x), torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", SETTINGS)
def test_block_is_traced_whole_with_the_same_values_and_gradients(name: str) -> None:
    check_compiled(make(name), backend="aot_eager")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["gc both", "nl_embedded_gaussian", "gc_slots", "fca", "ge depthwise excite"])
def test_compiled_block_has_the_same_values_and_gradients(name: str) -> None:
    check_compiled(make(name), backend="inductor")


def check_compiled(block: nn.Module, backend: str) -> None:
    """Compiled without a graph break, a block equals itself."""
    randomize(block)
    twin = copy.deepcopy(block)
    x = torch.randn(2, 22, 5, 7, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The compiler's own.
        output = torch.compile(block, fullgraph=True, backend=backend)(x)
        output.square().sum().backward()
    expected = twin(y)
    expected.square().sum().backward()
    assert_equal_within(output, expected, torch.float32)
    gradients = [tensor.grad for tensor in (x, *block.parameters())]
    wanted = [tensor.grad for tensor in (y, *twin.parameters())]
    largest = max(gradient.abs().max().item() for gradient in wanted if gradient is not None)
    for ours, reference in zip(gradients, wanted, strict=True):
        assert ours is not None and reference is not None
        assert_equal_within(ours, reference, torch.float32, "gradients", scale=largest)


@pytest.mark.parametrize(("name", "options"), SETTINGS.values(), ids=SETTINGS)
def test_every_block_can_write_over_its_map(name: str, options: dict[str, Any]) -> None:
    block = randomize(build_block(name, channels=16, **options)).eval()
    x = torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        expected = block(x)
        assert torch.equal(apply_in_place(block, x), expected) and torch.equal(x, expected)
