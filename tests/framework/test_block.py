"""The block: one context of the unfused map, then its branches in their order; wrong maps are refused."""

import re

import pytest
import torch
from torch import Tensor, nn

from gcnet.framework import Add, AveragePool, Branch, ContextBlock, Pointwise, Scale
from gcnet.framework.in_place import apply_in_place, fuses_in_place
from tolerances import assert_equal_within


def make_block(names: tuple[str, ...]) -> ContextBlock:
    fusions = {"add": Add, "scale": Scale}
    branches = {name: Branch(Pointwise(3, 3), fusions[name]()) for name in names}
    return ContextBlock(AveragePool(), branches, channels=3).double()


def test_addition_adds_and_scaling_multiplies_by_the_sigmoid() -> None:
    x, term = torch.randn(2, 3, 5, 7).double(), torch.randn(2, 3, 1, 1).double()
    for n in range(2):
        for c in range(3):
            assert_equal_within(Add()(x, term)[n, c], x[n, c] + term[n, c, 0, 0].item(), torch.float64)
            factor = 1 / (1 + torch.exp(-term[n, c, 0, 0]))
            assert_equal_within(Scale()(x, term)[n, c], x[n, c] * factor, torch.float64)


@pytest.mark.parametrize("names", [("scale", "add"), ("add", "scale"), ("add",), ("scale",)], ids="-".join)
def test_branches_act_in_their_order_on_one_context_of_the_unfused_map(names: tuple[str, ...]) -> None:
    block = make_block(names)
    x = torch.randn(2, 3, 5, 7).double()
    mean = x.mean((2, 3), keepdim=True)
    expected = x
    for name in names:
        layer = getattr(block, name).transform
        term = torch.einsum("oc,nchw->nohw", layer.weight, mean) + layer.bias.view(3, 1, 1)
        expected = expected + term if name == "add" else expected * torch.sigmoid(term)
    assert_equal_within(block(x), expected, torch.float64)


def test_names_of_branches_are_the_first_word_of_their_keys() -> None:
    assert list(make_block(("scale", "add")).state_dict()) == [
        "scale.transform.weight",
        "scale.transform.bias",
        "add.transform.weight",
        "add.transform.bias",
    ]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 5, 7, 7), "(N, 3, H, W)"), ((2, 3, 7), "(N, 3, H, W)"), ((3, 7, 7), "(N, 3, H, W)")],
    ids=str,
)
def test_map_of_other_channels_or_axes_is_refused_with_both_shapes(shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"takes maps of shape {expected}, found {shape}")):
        make_block(("add",))(torch.zeros(shape))


@pytest.mark.parametrize(("dims", "axes"), [(1, "W"), (2, "H, W"), (3, "T, H, W")])
def test_refusal_names_the_axes_that_the_block_takes(dims: int, axes: str) -> None:
    block = ContextBlock(AveragePool(), {"add": Branch(nn.Identity(), Add())}, channels=3, dims=dims)
    with pytest.raises(ValueError, match=re.escape(f"(N, 3, {axes})")):
        block(torch.zeros(1, 3))


class Doubled(nn.Module):
    """A part of the user's own."""

    def forward(self, context: Tensor) -> Tensor:
        return 2 * context


def test_custom_parts_make_a_block() -> None:
    block = ContextBlock(AveragePool(), {"add": Branch(Doubled(), Add())}, channels=3)
    x = torch.randn(2, 3, 5, 7)
    assert_equal_within(block(x), x + 2 * x.mean((2, 3), keepdim=True), torch.float32)


def test_a_map_that_nobody_else_reads_is_written_over_only_where_gradients_are_off() -> None:
    block, x = make_block(("scale", "add")), torch.randn(2, 3, 5, 7).double()
    expected = block(x)
    with torch.no_grad():
        copy = x.clone()
        assert torch.equal(block(copy), expected) and torch.equal(copy, x)
        assert apply_in_place(block, copy).data_ptr() == copy.data_ptr() and torch.equal(copy, expected)
    copy = x.clone()
    assert torch.equal(apply_in_place(block, copy), expected) and torch.equal(copy, x)


@pytest.mark.parametrize("part", ["", "context", "add.fusion"])
def test_a_map_that_a_hook_has_seen_is_not_written_over(part: str) -> None:
    block, x = make_block(("add",)), torch.randn(2, 3, 5, 7).double()
    seen: list[Tensor] = []
    block.get_submodule(part).register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    copy = x.clone()
    with torch.no_grad():
        apply_in_place(block, copy)
    assert torch.equal(copy, x) and torch.equal(seen[0], x)


class OwnFusion(nn.Module):
    """A fusion of the user's own, which knows of no `out`."""

    def forward(self, x: Tensor, term: Tensor) -> Tensor:
        return torch.relu(x + term)


def test_a_custom_fusion_never_overwrites_its_map() -> None:
    block = ContextBlock(AveragePool(), {"add": Branch(Doubled(), OwnFusion())}, channels=3)
    x = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        copy = x.clone()
        assert_equal_within(apply_in_place(block, copy), block(x), torch.float32)
        assert torch.equal(copy, x) and not fuses_in_place(block)
