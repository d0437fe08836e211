"""Residual blocks as people use them: some never called, taken apart, with other parts, or with another forward."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from gcnet.errors import UserError
from gcnet.insertion import insert, inserted
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model

RESNETS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: torchvision.models.resnet18(num_classes=7),
    "timm": lambda: timm.create_model("resnet18", num_classes=7),
}


@pytest.fixture(params=RESNETS)
def resnet(request: pytest.FixtureRequest) -> nn.Module:
    return RESNETS[request.param]().eval()


def calls_of_blocks(model: nn.Module, x: Tensor) -> dict[str, int]:
    """How often each inserted block runs, counted by hooks."""
    counts = {}
    for insertion in inserted(model):
        for site in insertion.sites:
            counts[site.name] = 0

            def count(*_: object, name: str = site.name) -> None:
                counts[name] += 1

            model.get_submodule(f"{site.name}.context").register_forward_hook(count)
    model(x)
    return counts


class Truncated(nn.Module):
    """Keeps a whole ResNet and reads c4."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet

    def forward(self, x: Tensor) -> Tensor:
        net = self.resnet
        x = net.maxpool(F.relu(net.bn1(net.conv1(x))))
        return net.layer3(net.layer2(net.layer1(x))).mean((2, 3))


class Apart(Truncated):
    """Calls the parts of the last blocks one by one, to read what is between them."""

    def forward(self, x: Tensor) -> Tensor:
        net = self.resnet
        x = net.layer1(net.maxpool(F.relu(net.bn1(net.conv1(x)))))
        for layer in (net.layer2, net.layer3, net.layer4):
            for block in layer:
                inner = F.relu(block.bn1(block.conv1(x)))
                x = F.relu(block.bn2(block.conv2(inner)) + (x if block.downsample is None else block.downsample(x)))
        return x.mean((2, 3))


def test_residual_blocks_that_are_not_called_get_no_block_by_default(resnet: nn.Module) -> None:
    model, x = Truncated(resnet).eval(), torch.randn(2, 3, 37, 41)
    before = model(x)
    insert(model, "gc")
    counts = calls_of_blocks(model, x)
    assert counts == {f"resnet.layer{stage}.{index}": 1 for stage in (2, 3) for index in (0, 1)}
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("arguments", [{"stages": (4, 5)}, {"at": "c5"}, {"at": "*.layer4.1", "position": "after_add"}])
def test_residual_blocks_that_are_not_called_are_refused_where_they_are_named(
    resnet: nn.Module, arguments: dict
) -> None:
    model = Truncated(resnet)
    names = list(model.state_dict())
    with pytest.raises(UserError, match=r"resnet\.layer4\.\d is not called when the network runs"):
        insert(model, "gc", **arguments)
    assert list(model.state_dict()) == names


def test_residual_blocks_that_are_called_by_their_parts_are_refused(resnet: nn.Module) -> None:
    model = Apart(resnet)
    with pytest.raises(UserError, match="Apart calls no residual block as a whole"):
        insert(model, "gc")
    assert inserted(model) == ()
    x = torch.randn(2, 3, 37, 41)
    insert(model.eval(), "gc", at="*.layer3.1.conv2")
    assert calls_of_blocks(model, x) == {"resnet.layer3.1.conv2": 1}


def test_a_forward_replaced_on_an_instance_is_refused(resnet: nn.Module) -> None:
    block = resnet.layer2[0]
    kind, x = type(block), torch.randn(2, 3, 37, 41)
    block.forward = lambda x: kind.forward(block, x) * 2
    before = resnet(x)
    with pytest.raises(UserError, match=r"the forward of this BasicBlock was replaced.*`at=layer2.0`"):
        insert(resnet, "gc")
    assert inserted(resnet) == () and torch.equal(resnet(x), before)
    insert(resnet, "gc", at="layer2.0")
    assert torch.equal(resnet(x), before) and calls_of_blocks(resnet, x) == {"layer2.0": 1}


@pytest.mark.parametrize("wraps", [False, True])
def test_a_forward_replaced_on_the_class_is_refused(monkeypatch: pytest.MonkeyPatch, wraps: bool) -> None:
    original = BasicBlock.forward

    def forward(self: BasicBlock, x: Tensor) -> Tensor:
        return original(self, x) * 2

    if wraps:
        forward.__wrapped__, forward.__qualname__ = original, original.__qualname__
    monkeypatch.setattr(BasicBlock, "forward", forward)
    model, x = torchvision.models.resnet18(num_classes=7).eval(), torch.randn(2, 3, 37, 41)
    before = model(x)
    with pytest.raises(UserError, match="the forward of BasicBlock was replaced"):
        insert(model, "gc")
    assert torch.equal(model(x), before)
    insert(model, "gc", at="layer4.*")
    assert torch.equal(model(x), before) and set(calls_of_blocks(model, x).values()) == {1}


def test_a_file_of_residual_blocks_does_not_load_into_replaced_forwards(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=7)
    insert(model, "gc", stages=(5,))
    save_model(model, tmp_path / "model.safetensors")
    base = torchvision.models.resnet18(num_classes=7)
    base.layer4[0].forward = lambda x: x
    with pytest.raises(UserError, match="was replaced"):
        load_model(tmp_path / "model.safetensors", base)


class Doubling(BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_stages_without_supported_blocks_are_skipped_by_default_and_refused_by_number() -> None:
    model = torchvision.models.resnet18(num_classes=7).eval()
    model.layer4 = nn.Sequential(Doubling(256, 512, 2, nn.Sequential(nn.Conv2d(256, 512, 1, 2))), Doubling(512, 512))
    x = torch.randn(2, 3, 37, 41)
    before = model.eval()(x)
    with pytest.raises(UserError, match="`stages` must be among 2, 3, 4 for this network, found 5"):
        insert(model, "gc", stages=(4, 5))
    insert(model, "gc")
    assert set(calls_of_blocks(model, x)) == {"layer2.0", "layer2.1", "layer3.0", "layer3.1"}
    assert torch.equal(model(x), before)


def test_a_network_without_its_last_stage_gets_blocks_in_those_it_has() -> None:
    short = nn.Sequential()
    for name, child in torchvision.models.resnet18().eval().named_children():
        if name not in ("layer4", "avgpool", "fc"):
            short.add_module(name, child)
    insert(short, "gc")
    assert set(calls_of_blocks(short, torch.randn(1, 3, 37, 41))) == {
        f"layer{stage}.{index}" for stage in (2, 3) for index in (0, 1)
    }
    features = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)).eval()
    insert(features, "gc")
    assert set(calls_of_blocks(features, torch.randn(1, 3, 37, 41)).values()) == {1}
    assert {site.name.split(".")[0] for site in inserted(features)[0].sites} == {"layer2", "layer3"}


class Wrapped(nn.Module):
    """A convolution with a low-rank path beside it, as adapters have it; it has no `out_channels`."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = layer
        self.low = nn.Conv2d(layer.in_channels, 2, 1, stride=layer.stride)
        self.high = nn.Conv2d(2, layer.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.high(self.low(x))


@pytest.mark.parametrize("wrap", [Wrapped, lambda layer: nn.Sequential(layer, nn.Dropout(0.1))], ids=["adapter", "row"])
@pytest.mark.parametrize("position", ["after_norm", "after_conv2", "after_add"])
@pytest.mark.slow
def test_the_width_of_residual_blocks_is_measured(wrap: Callable, position: str) -> None:
    model, x = torchvision.models.resnet50(num_classes=7).eval(), torch.randn(2, 3, 37, 41)
    for block in (*model.layer3, *model.layer4):
        block.conv2, block.conv3 = wrap(block.conv2), wrap(block.conv3)
    before = model.eval()(x)
    sites = insert(model, "gc", stages=(4, 5), position=position).sites
    expected = {"layer3": 256, "layer4": 512} if position == "after_conv2" else {"layer3": 1024, "layer4": 2048}
    assert all(site.channels == expected[site.name.split(".")[0]] for site in sites)
    assert torch.equal(model(x), before)


def test_a_network_that_only_takes_other_inputs_asks_for_an_example() -> None:
    class Pair(Truncated):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x + y)

    with pytest.raises(UserError, match="missing 1 required positional argument.*use `example_input`"):
        insert(Pair(torchvision.models.resnet18()), "gc")
    x = torch.zeros(1, 3, 40, 40)
    assert len(insert(Pair(torchvision.models.resnet18()), "gc", example_input=(x, x)).sites) == 4


def test_a_detector_takes_blocks_in_its_backbone_without_being_run_in_full() -> None:
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    assert len(insert(model, "gc").sites) == 13
