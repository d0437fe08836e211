"""`gcnet.fuse`: the same outputs, judged by the network that was not fused."""

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

import gcnet
from gcnet.analysis.capture import capture
from gcnet.errors import UserError
from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d
from gcnet.insertion import context_parameters, insert, inserted
from gcnet.insertion.fuse import fuse
from gcnet.insertion.insert import replace
from gcnet.insertion.residual_blocks.fused import FusedBottleneck, FusedStage, Stage
from tolerances import assert_equal_within


def small_resnet(**options: object) -> nn.Module:
    """A ResNet of bottlenecks with two residual blocks in each stage."""
    return resnet.ResNet(resnet.Bottleneck, [2, 2, 2, 2], num_classes=7, **options)  # ty: ignore[invalid-argument-type]


HOSTS = {
    "torchvision": small_resnet,
    "resnext": lambda: small_resnet(groups=4, width_per_group=8),
    "dilated": lambda: small_resnet(replace_stride_with_dilation=[False, True, True]),
    "frozen norms": lambda: small_resnet(norm_layer=FrozenBatchNorm2d),
    "fixed norms": lambda: small_resnet(norm_layer=FixedBatchNorm2d),
    "timm": lambda: timm.create_model("resnet26", num_classes=7, zero_init_last=False),
    "timm, silu": lambda: timm.create_model("resnet26", num_classes=7, zero_init_last=False, act_layer="silu"),
}
BLOCKS = [
    ("gc", {}),
    ("gc", {"pooling": "average"}),
    ("gc", {"fusion": "scale"}),
    ("gc", {"fusion": "both"}),
    ("gc", {"heads": 4}),
    ("gc", {"heads": 8}),
    ("snl", {}),
    ("se", {}),
    ("se", {"identity_init": True}),
    ("ese", {}),
    ("eca", {}),
    ("lct", {}),
    ("gct", {}),
    ("gc_eca", {}),
    ("gc_affine", {}),
    ("fca", {}),
    ("fca", {"grid": 14, "frequencies": 32}),
    ("ge", {}),
]
NOT_LINEAR = [("grn", {}), ("gated_gct", {}), ("srm", {}), ("gc_slots", {}), ("ge", {"extent": 2}), ("dnl", {})]


def randomized(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Random weights of the blocks, and random statistics and affine parameters of the norms, in eval mode."""
    generator = torch.Generator().manual_seed(1)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        for module in model.modules():
            if isinstance(getattr(module, "running_mean", None), torch.Tensor):
                uniform(module.running_mean, -0.2, 0.2)
                uniform(module.running_var, 0.5, 1.5)
                uniform(module.weight, 0.2, 0.7)
                uniform(module.bias, -0.1, 0.1)
    return model.to(dtype).eval()


def network(host: str, block: str, dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = HOSTS[host]()
    insert(model, block, **options)
    return randomized(model, dtype)


def images(count: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, 3, 37, 43, generator=torch.Generator().manual_seed(2)).to(dtype)


def assert_equal_outputs(model: nn.Module, fused: nn.Module, x: torch.Tensor) -> None:
    """The largest difference is at most 1e-10 (float64) or 1e-5 (float32) of the largest output."""
    before = x.clone()
    with torch.no_grad():
        expected, actual = model(x), fused(x)
    scale = expected.abs().max()
    assert (actual - expected).abs().max() <= scale * {torch.float64: 1e-10, torch.float32: 1e-5}[x.dtype]
    assert torch.equal(x, before)


@pytest.mark.parametrize(("block", "options"), BLOCKS, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_the_outputs_of_every_linear_block_are_equal_and_all_its_sites_are_fused(
    block: str, options: dict[str, object], count: int
) -> None:
    model = network("torchvision", block, **options)
    fused = fuse(model)
    assert sum(isinstance(module, FusedBottleneck) for module in fused.modules()) == len(inserted(model)[0].sites)
    assert_equal_outputs(model, fused, images(count))
    assert_equal_outputs(model, fused, images(count).to(memory_format=torch.channels_last))


@pytest.mark.parametrize("block", ["gc", "se"])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.slow
def test_the_outputs_are_equal_in_other_networks(host: str, block: str, dtype: torch.dtype) -> None:
    model = network(host, block, dtype)
    fused = fuse(model)
    assert any(isinstance(module, FusedBottleneck) for module in fused.modules())
    assert not any(hasattr(module, "running_mean") for module in fused.modules())
    for count in (1, 2, 5, 64):
        assert_equal_outputs(model, fused, images(count, dtype))
        assert_equal_outputs(model, fused, images(count, dtype).to(memory_format=torch.channels_last))


@pytest.mark.parametrize("block", ["gc", "se"])
@pytest.mark.parametrize("count", [1, 3])
def test_bf16_is_as_close_to_float64_as_the_network_itself(block: str, count: int) -> None:
    model = network("torchvision", block, torch.float32)
    batches = images(12, torch.float32).split(count)  # one image alone says little
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(torch.cat(batches).double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [torch.cat([one(x) for x in batches]) for one in (model, fuse(model))]
    errors = [(outputs - exact).square().mean().item() ** 0.5 for outputs in found]
    assert errors[1] < 1.5 * errors[0], errors


@pytest.mark.parametrize(("block", "options"), NOT_LINEAR, ids=str)
def test_other_blocks_stay_as_they_are(block: str, options: dict[str, object]) -> None:
    model = network("torchvision", block, **options)
    fused = fuse(model)
    assert not any(isinstance(module, FusedBottleneck) for module in fused.modules())
    assert_equal_outputs(model, fused, images())


def test_the_network_itself_does_not_change() -> None:
    model = network("torchvision", "gc")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fuse(model)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_inserted_lists_fused_blocks_and_the_reasons_of_the_others() -> None:
    model = network("torchvision", "gc")
    model.layer3[1].conv3.register_forward_hook(lambda *_: None)
    (insertion,) = inserted(fuse(model))
    assert insertion.parameters == inserted(model)[0].parameters
    assert [site.name for site in insertion.sites if not site.is_fused] == ["layer3.1"]
    assert str(insertion).endswith(
        "; 5 of 6 fused; not fused: layer3.1 (its last convolution is not a plain 1x1 convolution)"
    )
    assert [site.is_fused for site in inserted(model)[0].sites] == [None] * 6


def _with_hook_on_the_block(model: nn.Module) -> None:
    model.layer4[1].context.context.register_forward_pre_hook(lambda *_: None)


def _with_backward_hook_on_the_norm(model: nn.Module) -> None:
    model.layer4[1].bn3.register_full_backward_hook(lambda *_: None)


def _with_backward_hook_on_the_block(model: nn.Module) -> None:
    model.layer4[1].context.register_full_backward_pre_hook(lambda *_: None)


def _pruned(model: nn.Module) -> None:
    prune.l1_unstructured(model.layer4[1].conv3, "weight", amount=0.5)


def _weight_normalized(model: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(model.layer4[1].conv3)


def _with_group_norm(model: nn.Module) -> None:
    model.layer4[1].bn3 = nn.GroupNorm(8, 2048).double()


def _with_batch_statistics(model: nn.Module) -> None:
    model.layer4[1].bn3 = nn.BatchNorm2d(2048, track_running_stats=False).double().eval()


@pytest.mark.parametrize(
    "change",
    [
        _with_hook_on_the_block,
        _with_backward_hook_on_the_norm,
        _with_backward_hook_on_the_block,
        _pruned,
        _weight_normalized,
        _with_group_norm,
        _with_batch_statistics,
    ],
)
def test_a_residual_block_with_other_parts_keeps_its_forward_pass(change) -> None:
    model = network("torchvision", "gc")
    change(model)
    fused = fuse(model)
    sites = inserted(fused)[0].sites
    assert [site.name for site in sites if not site.is_fused] == ["layer4.1"]
    assert_equal_outputs(model, fused, images())


@pytest.mark.parametrize("position", ["after_add", "after_conv2"])
def test_other_positions_stay_as_they_are(position: str) -> None:
    model = network("torchvision", "gc", position=position)
    fused = fuse(model)
    assert not any(site.is_fused for site in inserted(fused)[0].sites)
    assert_equal_outputs(model, fused, images())


def test_a_shared_batch_norm_is_not_folded() -> None:
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(5)
    model = randomized(
        nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, 3), shared), nn.Sequential(nn.Conv2d(5, 5, 3), shared)),
        torch.float64,
    )
    fused = fuse(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == 1
    assert_equal_outputs(model, fused, images())


def test_a_map_that_a_hook_or_the_caller_keeps_is_not_overwritten() -> None:
    model = network("torchvision", "gc")
    fused = fuse(model)
    assert isinstance(fused.layer3, FusedStage)
    kept: list[torch.Tensor] = []
    handle = fused.layer3[0].register_forward_hook(lambda _, __, output: kept.extend((output, output.clone())))
    with torch.no_grad():
        fused(images())
        handle.remove()
        x = torch.randn(3, 512, 5, 7, dtype=torch.float64).relu()
        for block in fused.layer3:
            kept.extend((x, x.clone()))
            x = block(x)
    for tensor, copied in zip(kept[::2], kept[1::2], strict=True):
        assert torch.equal(tensor, copied)


def test_gradients_reach_the_input_of_a_fused_network() -> None:
    model = network("torchvision", "gc")
    gradients = []
    for net in (model, fuse(model)):
        x = images().requires_grad_()
        net(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-10)


def test_a_fused_network_is_copied_and_pickled() -> None:
    fused = fuse(network("timm", "gc"))
    assert_equal_outputs(fused, copy.deepcopy(fused), images())
    assert_equal_outputs(fused, pickle.loads(pickle.dumps(fused)), images())


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_fused_network_is_exported_traced_and_compiled() -> None:
    model = network("torchvision", "gc", torch.float32)
    fused, x = fuse(model), images(3, torch.float32)
    size = torch.export.Dim("height", min=33, max=99)
    exported = torch.export.export(fused, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", max=9), 2: size}})
    with torch.no_grad():
        expected = model(x)
        traced = torch.jit.trace(fused, x), torch.jit.trace(fused, x[:1])
        for other in (exported.module(), *traced, torch.compile(fused, fullgraph=True)):
            assert_equal_within(other(x), expected, torch.float32)


def test_a_fused_network_is_neither_saved_nor_changed(tmp_path) -> None:
    fused = fuse(network("torchvision", "gc"))
    message = "a network of gcnet.fuse cannot be {}: use the network that was fused"
    for action, call in {
        "saved": lambda: gcnet.save_model(fused, tmp_path / "fused.safetensors"),
        "changed": lambda: gcnet.remove(fused),
        "fused again": lambda: gcnet.fuse(fused),
    }.items():
        with pytest.raises(UserError, match=message.format(action)):
            call()
    with pytest.raises(UserError, match=message.format("changed")):
        gcnet.insert(fused, "se")
    with pytest.raises(UserError, match=message.format("changed")):
        replace(fused, "layer3.0", "se")
    assert not list(tmp_path.iterdir())


def test_attention_and_gates_of_fused_blocks_are_those_of_the_network() -> None:
    for block in ("gc", "se"):
        model = network("torchvision", block)
        records = []
        for net in (model, fuse(model)):
            with capture(net) as captured, torch.no_grad():
                net(images())
            maps = [attention.weights for _, attention in captured.attention]
            records.append(maps or [gate.weights for gate in captured.gates])
        assert len(records[0]) == len(inserted(model)[0].sites)
        for expected, actual in zip(*records, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)


class WideOperations(TorchDispatchMode):
    """The names of the operations that read or write a map (N, C, ...) with C channels, but views.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        is_wide = any(t.dim() > 2 and t.shape[1] == self.channels and t[0, 0].numel() > 1 for t in tensors)
        if is_wide and not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return result


@pytest.mark.parametrize(
    ("block", "count", "expected"),
    [
        ("gc", 1, ["convolution", "add_", "relu_"]),
        ("gc_eca", 1, ["convolution", "add_", "relu_"]),
        ("gc", 3, ["add_", "convolution", "add_", "relu_"]),
        ("se", 1, ["convolution", "addcmul", "relu_"]),
        ("se", 3, ["convolution", "addcmul", "relu_"]),
    ],
)
def test_no_operation_reads_the_wide_map_between_the_last_convolution_and_the_sum(
    block: str, count: int, expected: list[str]
) -> None:
    """The first `add_` of several images adds the term to the shortcut, which is not the output of the convolution."""
    fused = fuse(network("torchvision", block))
    x = torch.randn(count, 512, 5, 7).double()
    with torch.no_grad(), WideOperations(512) as wide:
        fused.layer2[1](x, Stage(is_recorded=False, source=fused.layer2[0]))
    convolutions = [name for name in wide.names if name == "convolution"]
    assert len(convolutions) == 2  # the first one reads the input of the residual block
    assert wide.names[1:] == expected
