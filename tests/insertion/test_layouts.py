"""The axis of the channels, and class tokens, in networks that say neither."""

from collections import namedtuple
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.insertion import insert, inserted
from insertion.networks import randomize


class Bare(nn.Module):
    """A layer with a weight of its own, which no type of module explains: it mixes the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels) / channels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.gelu(F.linear(x, self.weight))


class BareFirst(Bare):
    """The same for the second axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Embed(nn.Module):
    """A patch embedding without a convolution; `order` is the order of its output's axes (N, H, W, C)."""

    def __init__(self, side: int, channels: int, order: tuple[int, ...]) -> None:
        super().__init__()
        self.side, self.order = side, order
        self.weight = nn.Parameter(torch.randn(channels, 3 * side * side) / (3 * side**2) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        patches = F.unfold(x, self.side, stride=self.side).transpose(1, 2)
        return F.linear(patches, self.weight).view(n, h // self.side, w // self.side, -1).permute(self.order)


class Maps(nn.Module):
    """Square maps with as many channels as rows and columns at one size of the image."""

    def __init__(self, order: tuple[int, ...], block: type[nn.Module], fixed: bool) -> None:
        super().__init__()
        self.embed, self.fixed = Embed(4, 12, order), fixed
        self.blocks = nn.Sequential(block(12), block(12))

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed and x.shape[-2:] != (48, 48):
            raise ValueError("this network takes images of 48 pixels")
        return self.blocks(self.embed(x)).flatten(1)


ORDERS = {"first": ((0, 3, 1, 2), BareFirst), "last": ((0, 1, 2, 3), Bare)}


@pytest.mark.parametrize("order", ORDERS)
def test_the_axis_of_the_channels_is_measured_where_all_sides_are_equal(order: str) -> None:
    model = Maps(*ORDERS[order], fixed=False).eval()
    insert(model, "se", at="blocks.*", ratio=4, example_input=(3, 48, 48))
    assert inserted(model)[0].sites[0].form == ("map" if order == "first" else "channels-last map")
    assert_acts_by_hand(randomize(model), ["blocks.0", "blocks.1"], torch.randn(2, 3, 48, 48), last=order == "last")


@pytest.mark.parametrize("order", ORDERS)
def test_an_unknown_channel_axis_is_refused_and_can_be_given(order: str) -> None:
    model, x = Maps(*ORDERS[order], fixed=True).eval(), torch.randn(2, 3, 48, 48)
    with pytest.raises(
        UserError, match=r"the channel axis of blocks.0, which returns \(2, 12, 12, 12\), is unknown: use `layout`"
    ):
        insert(model, "se", at="blocks.*", ratio=4, example_input=x)
    assert inserted(model) == ()
    with pytest.raises(UserError, match='unknown layout "last".* valid: channels_first'):
        insert(model, "se", at="blocks.*", ratio=4, example_input=x, layout="last")
    insert(model, "se", at="blocks.*", ratio=4, example_input=x, layout=f"channels_{order}")
    assert_acts_by_hand(randomize(model), ["blocks.0", "blocks.1"], x, last=order == "last")


def assert_acts_by_hand(model: nn.Module, names: list[str], x: Tensor, *, last: bool) -> None:
    """Every block acts as it does on the map with the channels moved to the second axis by hand."""
    for name in names:
        module = model.get_submodule(name)
        inputs: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
        outputs: list[Tensor] = []
        other = module.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output))
        model(x)
        handle.remove()
        other.remove()
        plain = module.forward(inputs[0])
        moved = plain.movedim(-1, 1) if last else plain
        expected = module.context(moved)
        torch.testing.assert_close(outputs[0], expected.movedim(1, -1) if last else expected)
        assert not torch.allclose(outputs[0], plain, atol=1e-3)


def test_convnext_at_a_size_with_as_many_rows_as_channels() -> None:
    model = timm.create_model("test_convnext", num_classes=3).eval()
    channels = model.stages[0].blocks[0].conv_dw.out_channels
    side = 4 * channels
    sites = insert(model, "se", at="stages.0", ratio=4, example_input=(3, side, side)).sites
    assert (sites[0].channels, sites[0].form) == (channels, "map")
    assert model(torch.randn(1, 3, side // 2, side + 32)).isfinite().all()


class Tokens(nn.Module):
    """Tokens of a fixed number, without any layer of a known type, and class tokens where the test wants them."""

    def __init__(self, *, start: int = 0, end: int = 0, fixed: bool = True) -> None:
        super().__init__()
        self.embed, self.fixed = Embed(8, 20, (0, 1, 2, 3)), fixed
        self.start, self.end = nn.Parameter(torch.randn(1, start, 20)), nn.Parameter(torch.randn(1, end, 20))
        self.blocks = nn.ModuleList([Block(20), Block(20), Block(20)])

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed and x.shape[-2:] != (48, 64):
            raise ValueError("this network takes images of 48 x 64 pixels")
        x = self.embed(x).flatten(1, 2)
        n = x.shape[0]
        x = torch.cat([self.start.expand(n, -1, -1), x, self.end.expand(n, -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


class Block(nn.Module):
    """Attention of one head with a layer of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = Bare(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x + (x @ x.transpose(1, 2) / 20).softmax(-1) @ x)


def test_unknown_tokens_are_refused_and_can_be_declared() -> None:
    model, x = Tokens().eval(), torch.randn(2, 3, 48, 64)
    with pytest.raises(UserError, match="the channel axis of blocks.0"):
        insert(model, "se", at="blocks.*", ratio=4, example_input=x)
    insert(model, "se", at="blocks.*", ratio=4, example_input=x, layout="tokens")
    assert [(site.channels, site.form) for site in inserted(model)[0].sites] == [(20, "tokens")] * 3
    assert_acts_by_hand(randomize(model), ["blocks.1"], x, last=True)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (1, 0), (0, 1), (2, 3)])
@pytest.mark.parametrize("fixed", [False, True])
def test_class_tokens_of_any_name_and_at_both_ends_are_left_alone(start: int, end: int, fixed: bool) -> None:
    model, x = Tokens(start=start, end=end, fixed=fixed).eval(), torch.randn(2, 3, 48, 64)
    insert(model, "se", at="blocks.*", ratio=4, example_input=x, layout="tokens" if fixed else None)
    randomize(model)
    block = model.blocks[0]
    tokens = torch.randn(2, start + 48 + end, 20)
    found, plain = block(tokens), block.forward(tokens)
    assert torch.equal(found[:, :start], plain[:, :start])
    assert torch.equal(found[:, start + 48 :], plain[:, start + 48 :])
    middle = block.context(plain[:, start : start + 48].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found[:, start : start + 48], middle)


class OneQuery(Tokens):
    """Gives the attention of its class token to a module, (N, heads, 1, P)."""

    def __init__(self) -> None:
        super().__init__(start=1)
        self.dropout = nn.Dropout(0.1)
        self.blocks[2].register_forward_hook(lambda _, __, output: self.attend(output))

    def attend(self, tokens: Tensor) -> Tensor:
        weights = self.dropout((tokens[:, None, :1] @ tokens[:, None].transpose(2, 3)).softmax(-1))
        return tokens + weights[:, 0].transpose(1, 2)


def test_the_attention_of_one_query_is_no_map_of_positions() -> None:
    model = OneQuery().eval()
    insert(model, "se", at="blocks.0", ratio=4, example_input=(3, 48, 64), layout="tokens")
    randomize(model)
    tokens = torch.randn(2, 49, 20)
    assert torch.equal(model.blocks[0](tokens)[:, 0], model.blocks[0].forward(tokens)[:, 0])


class Pooled(nn.Module):
    """A class token that is made of the image, so that it cannot be measured, after a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 20, 8, 8)
        self.blocks = nn.ModuleList([Block(20), Block(20)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, 0]


def test_class_tokens_that_cannot_be_measured_are_asked_for() -> None:
    model = Pooled().eval()
    with pytest.raises(UserError, match="returns 49 tokens, 1 more than the positions of a map.*use `prefix_tokens`"):
        insert(model, "se", at="blocks.0", ratio=4, example_input=(3, 48, 64))
    insert(model, "se", at="blocks.0", ratio=4, example_input=(3, 48, 64), prefix_tokens=1)
    randomize(model)
    tokens = torch.randn(2, 49, 20)
    assert torch.equal(model.blocks[0](tokens)[:, 0], model.blocks[0].forward(tokens)[:, 0])
    for wrong in (-1, (1, 2, 3), "one"):
        with pytest.raises((UserError, TypeError), match="prefix_tokens"):
            insert(Pooled(), "se", at="blocks.0", ratio=4, example_input=(3, 48, 64), prefix_tokens=wrong)
    with pytest.raises(UserError, match="must be fewer than the 49 tokens"):
        insert(Pooled(), "se", at="blocks.0", ratio=4, example_input=(3, 48, 64), prefix_tokens=(40, 9))


class Windows(nn.Module):
    """As many windows of an image as positions in each: the first axis is the batch times the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attn = Embed(4, 6, (0, 1, 2, 3)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        n, h, w, c = maps.shape
        windows = maps.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        return self.attn(windows).mean(1)


def test_a_batch_as_long_as_a_window_is_no_reason_to_refuse() -> None:
    model = Windows()
    assert insert(model, "se", at="attn", ratio=2, example_input=torch.zeros(4, 3, 16, 16)).sites[0].form == "tokens"


class BatchSecond(nn.Module):
    """Tokens (P, N, C) within, as many networks of language and open_clip have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.embed(x).transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 5, 6), (5, 5, 6)])
def test_outputs_whose_batch_is_the_second_axis_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"the first axis must be the batch, but mix returns \(P, N, C\)"):
        insert(BatchSecond(), "se", at="mix", example_input=torch.zeros(shape))


Result = namedtuple("Result", "map attention")


class Several(nn.Module):
    """Gives its map and something else, as a tuple, a list or a named tuple."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        return Result(x, x.sum()) if self.kind is Result else self.kind([x, (x.sum(), None)])


@pytest.mark.parametrize("kind", [tuple, list, Result])
def test_of_several_outputs_the_block_acts_on_the_first(kind: Any) -> None:
    model = nn.Sequential(Several(kind), nn.Identity()).eval()
    x = torch.randn(2, 3, 7, 9)
    before = model(x)
    insert(model, "gc", at="0", ratio=2, example_input=x)
    assert torch.equal(model(x)[0], before[0])
    randomize(model)
    after = model(x)
    assert type(after) is type(before) and len(after) == 2
    torch.testing.assert_close(after[0], model[0].context(before[0]))
    assert torch.equal(torch.as_tensor(after[1][0] if kind is not Result else after[1]), before[0].sum())
