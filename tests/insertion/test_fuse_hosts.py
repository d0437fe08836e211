"""`gcnet.fuse` of networks with parts of the user's own, whose outputs and maps must not change."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

import gcnet
from gcnet.errors import UserError
from gcnet.insertion import inserted
from gcnet.insertion.fuse import fuse
from gcnet.insertion.residual_blocks.fused import FusedBottleneck
from insertion.test_fuse import assert_equal_outputs, images, network, randomized, small_resnet


class PreActivated(resnet.Bottleneck):
    """torchvision's bottleneck with each norm before its convolution."""

    def __init__(self, inplanes: int, planes: int, *rest: Any, **options: Any) -> None:
        super().__init__(inplanes, planes, *rest, **options)
        self.bn1 = nn.BatchNorm2d(inplanes)
        self.bn3 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x).relu())
        out = self.conv3(self.bn3(self.conv2(self.bn2(out).relu())).relu())
        return out + (x if self.downsample is None else self.downsample(x))


class LateNorm(resnet.ResNet):
    """torchvision's ResNet with the first norm after the pooling."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.bn1(self.maxpool(self.relu(self.conv1(x)))))
        return self.layer4(self.layer3(self.layer2(x))).mean((2, 3))


class LeakyNorm(nn.BatchNorm2d):
    """A batch norm that also activates."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.leaky_relu(super().forward(input), 0.3)


def _pre_activated() -> nn.Module:
    return resnet.ResNet(PreActivated, [1, 1, 1, 1])  # ty: ignore[invalid-argument-type]


def _late_norm() -> nn.Module:
    model = LateNorm(resnet.Bottleneck, [1, 1, 1, 1])
    gcnet.insert(model, "gc")
    return model


def _leaky_norms() -> nn.Module:
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], norm_layer=LeakyNorm)


def _sequential_with_own_forward() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model.forward = lambda input: model[0](model[1](input))  # ty: ignore[invalid-assignment]
    return model


def _hooked_frozen_norm() -> nn.Module:
    model = small_resnet(norm_layer=FrozenBatchNorm2d)
    model.layer1[0].bn1.register_forward_hook(lambda _, __, output: 2 * output)
    return model


@pytest.mark.parametrize(
    "build", [_pre_activated, _late_norm, _leaky_norms, _sequential_with_own_forward, _hooked_frozen_norm]
)
def test_norms_are_not_folded_where_a_class_has_its_own_forward(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = randomized(build(), torch.float64)
    assert_equal_outputs(model, fuse(model), images())


def test_norms_without_affine_parameters_or_momentum_are_folded() -> None:
    torch.manual_seed(0)
    model = small_resnet()
    for name, norm in list(model.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            model.set_submodule(name, nn.BatchNorm2d(norm.num_features, affine=False, momentum=None))
    gcnet.insert(model.double().eval(), "gc")
    model(images())
    fused = fuse(model)
    assert all(site.is_fused for site in inserted(fused)[0].sites)
    assert_equal_outputs(model, fused, images())


class Half(nn.Identity):
    """Half of a map, also in eval mode."""

    def forward(self, input: Tensor) -> Tensor:
        return input / 2


@pytest.mark.parametrize(
    ("child", "reason"), [("bn3", "its last norm, Half,"), ("drop_path", "has a Half after"), ("drop_block", "")]
)
def test_layers_of_a_residual_block_that_the_user_replaced_still_run(child: str, reason: str) -> None:
    model = network("timm", "gc")
    setattr(model.layer3[1], child, Half())
    fused = fuse(model)
    site = next(site for site in inserted(fused)[0].sites if site.name == "layer3.1")
    assert reason in site.obstacle and bool(reason) == bool(site.obstacle)
    assert_equal_outputs(model, fused, images())


def test_synchronized_norms_are_folded() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network("torchvision", "gc"))
    fused = fuse(model)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in fused.modules())
    assert all(site.is_fused for site in inserted(fused)[0].sites)
    assert_equal_outputs(model, fused, images())


def test_residual_blocks_that_are_not_bottlenecks_are_named() -> None:
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    gcnet.insert(model, "gc")
    assert "a BasicBlock has no 1x1 convolution" in str(inserted(fuse(model))[0])


def test_bottlenecks_of_a_network_of_this_package_are_fused() -> None:
    model = randomized(gcnet.create_model("gc_scenes_resnet"), torch.float64)
    fused = fuse(model)
    assert all(site.is_fused for site in inserted(fused)[0].sites)
    assert_equal_outputs(model, fused, images())


@pytest.mark.parametrize("place", ["layer3.1", "layer3.1.conv1"])
@pytest.mark.parametrize("before", [False, True])
def test_no_hook_sees_its_input_change(place: str, before: bool) -> None:
    """A hook of the user, added after fusing."""
    fused = fuse(network("torchvision", "gc"))
    module, kept = fused.get_submodule(place), list[tuple[Tensor, Tensor]]()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], *__: Tensor) -> None:
        (x,) = inputs
        kept.append((x, x.clone()))

    if before:
        module.register_forward_pre_hook(keep)
    else:
        module.register_forward_hook(keep)
    with torch.no_grad():
        fused(images())
    assert len(kept) == 1 and torch.equal(*kept[0])


@pytest.mark.parametrize("place", ["layer3.0", "layer3.0.relu", "layer3.0.downsample", "layer3.0.downsample.0"])
def test_no_hook_sees_its_output_change(place: str) -> None:
    fused, kept = fuse(network("torchvision", "gc")), list[tuple[Tensor, Tensor]]()
    module = fused.get_submodule(place)
    module.register_forward_hook(lambda _, __, output: kept.append((output, output.clone())))
    with torch.no_grad():
        fused(images())
    assert kept and torch.equal(*kept[-1])


class Recorder(nn.Conv2d):
    """A convolution that keeps its input."""

    def forward(self, input: Tensor) -> Tensor:
        self.kept, self.copied = input, input.clone()
        return super().forward(input)


class Subsample(nn.Module):
    """Every position of a map, as a view."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :, :]


def test_a_layer_that_keeps_the_shortcut_does_not_see_it_change() -> None:
    model = network("torchvision", "gc")
    model.layer3[1].conv1.__class__ = Recorder
    fused = fuse(model)
    assert isinstance(fused.layer3[1], FusedBottleneck)
    assert_equal_outputs(network("torchvision", "gc"), fused, images())
    assert torch.equal(fused.layer3[1].conv1.kept, fused.layer3[1].conv1.copied)


def test_the_input_behind_a_view_as_downsampling_is_not_overwritten() -> None:
    model = network("torchvision", "gc")
    model.layer3[1].downsample = nn.Sequential(Subsample())
    block = fuse(model).layer3[1]
    x = torch.randn(3, 1024, 5, 7, dtype=torch.float64)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(block(x), model.layer3[1](x))
    assert torch.equal(x, before)


@pytest.mark.usefixtures("unchecked_shapes")  # A symbolic tensor is none.
@pytest.mark.parametrize("host", ["torchvision", "timm"])
@pytest.mark.parametrize("block", ["gc", "se"])
def test_a_fused_network_is_traced_symbolically(host: str, block: str) -> None:
    fused = fuse(network(host, block))
    assert_equal_outputs(fused, torch.fx.symbolic_trace(fused), images())
    features = create_feature_extractor(fused, ["layer2", "layer3.0"])
    with torch.no_grad():
        assert [tuple(x.shape[1:]) for x in features(images()).values()] == [(512, 5, 6), (1024, 3, 3)]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripting_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"torch\.jit\.script does not support context blocks"):
        torch.jit.script(fuse(network("torchvision", "se")))


def test_a_part_of_a_fused_network_is_neither_saved_nor_changed(tmp_path) -> None:
    part = fuse(nn.Sequential(network("torchvision", "gc")))[0]
    with pytest.raises(UserError, match="cannot be saved"):
        gcnet.save_model(part, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="cannot be fused again"):
        fuse(part)
    assert not list(tmp_path.iterdir())


def test_threads_share_a_fused_network() -> None:
    fused = fuse(network("torchvision", "gc"))
    batches = [images(1 + index % 3) + index for index in range(6)]
    with torch.no_grad():
        expected = [fused(x) for x in batches]
    found: dict[int, Tensor] = {}

    def run(index: int) -> None:
        with torch.inference_mode():
            found[index] = fused(batches[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, output in enumerate(expected):
        torch.testing.assert_close(found[index], output, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 3, 37, 43), (1, 3, 16, 16), (3, 3, 16, 16)], ids=str)
def test_empty_batches_and_maps_of_one_position_are_equal(shape: tuple[int, ...]) -> None:
    model = network("torchvision", "gc")
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fuse(model)(x), model(x), rtol=1e-9, atol=1e-9)
