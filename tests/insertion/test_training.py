"""Training with contexts before the last convolution, judged by the same network with the block after the norm."""

import copy
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gcnet
from gcnet.insertion.residual_blocks import expansion
from insertion.test_fuse import HOSTS, images, network

ADDING = ["gc", "snl", "gc_eca", "gc_affine"]


def without_early_contexts(model: nn.Module) -> nn.Module:
    """A copy whose blocks run after the norm, since a hook could see its output."""
    other = copy.deepcopy(model)
    for name, module in other.named_modules():
        if name.endswith("bn3"):
            module.register_forward_hook(lambda *_: None)
    return other


def step(model: nn.Module, x: Tensor, run: Callable[..., Tensor] | None = None) -> Mapping[str, Tensor]:
    """The output, the gradients of input and parameters, and the buffers after a step in training mode."""
    model.train()
    x = x.clone().requires_grad_()
    y = model(x) if run is None else run(model, x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)).sum().backward()
    assert x.grad is not None
    found = {"output": y.detach(), "input": x.grad, **dict(model.named_buffers())}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("key.bias"):  # the softmax cancels it: rounding
            found[name] = parameter.grad
    return found


def assert_same_step(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name] - value).abs().max().item()
        assert difference <= tolerance * max(value.abs().max().item(), 1e-6), f"{name}: {difference:.1e}"


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of channels of every context that is computed early."""
    channels: list[int] = []

    def counted(block: nn.Module, h: Tensor, *rest: object) -> Tensor:
        channels.append(h.shape[1])
        return function(block, h, *rest)

    function = expansion.term_of_block
    monkeypatch.setattr(expansion, "term_of_block", counted)
    return channels


@pytest.mark.parametrize("block", ADDING)
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.slow
def test_a_step_has_the_same_outputs_gradients_and_statistics(host: str, block: str, early: list[int]) -> None:
    model = network(host, block)
    expected = step(without_early_contexts(model), images())
    assert early == []
    found = step(model, images())
    assert len(early) == len(gcnet.inserted(model)[0].sites)
    assert_same_step(found, expected)


@pytest.mark.parametrize("pooling", ["attention", "average"])
def test_a_step_in_channels_last_is_the_same(pooling: str, early: list[int]) -> None:
    model = network("torchvision", "gc", pooling=pooling).to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    expected = step(without_early_contexts(model), x)
    assert_same_step(step(model, x), expected)
    assert len(early) == 6


def test_running_statistics_of_the_first_block_are_equal_to_the_bit(early: list[int]) -> None:
    model = network("torchvision", "gc", torch.float32)
    other = without_early_contexts(model)
    step(model, images(dtype=torch.float32))
    step(other, images(dtype=torch.float32))
    first, theirs = model.layer2[0].bn3, other.layer2[0].bn3
    assert len(early) == 6
    assert torch.equal(first.running_mean, theirs.running_mean)
    assert torch.equal(first.running_var, theirs.running_var)
    assert first.num_batches_tracked == theirs.num_batches_tracked == 1


def test_norms_in_eval_mode_keep_their_statistics(early: list[int]) -> None:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return model(x)

    model = network("torchvision", "gc")
    expected = step(without_early_contexts(model), images(), run)
    before = model.layer2[0].bn3.running_mean.clone()
    assert_same_step(step(model, images(), run), expected)
    assert torch.equal(model.layer2[0].bn3.running_mean, before)
    assert len(early) == 6


@pytest.mark.parametrize("lacks", ["tracking", "bias"])
def test_norms_without_tracking_or_bias_run_as_they_are(lacks: str, early: list[int]) -> None:
    model = network("torchvision", "gc")
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name.endswith("bn3"):
            module.track_running_stats = lacks == "bias"
            if lacks == "bias":
                module.register_parameter("bias", None)
    expected = step(without_early_contexts(model), images())
    assert_same_step(step(model, images()), expected)
    assert early == []


def test_a_norm_without_a_counter_of_batches_needs_none(early: list[int]) -> None:
    model = network("torchvision", "gc")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
    expected = step(without_early_contexts(model), images())
    assert_same_step(step(model, images()), expected)
    assert len(early) == 6


@pytest.mark.parametrize("block", ADDING)
def test_norms_may_have_a_higher_precision_than_the_network(block: str, early: list[int]) -> None:
    model = network("torchvision", block, torch.float32)
    exact = step(without_early_contexts(copy.deepcopy(model).double()), images())["output"]
    model.bfloat16()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    x = images(dtype=torch.bfloat16)
    late, found = (step(one, x)["output"] for one in (without_early_contexts(model), model))
    assert len(early) == 6
    assert (found - exact).abs().mean() < 1.5 * (late - exact).abs().mean()


@pytest.mark.parametrize("place", ["context", "context.context", "context.context.key", "context.add.transform"])
def test_backward_hooks_see_the_gradients_of_the_parts_of_a_block(place: str, early: list[int]) -> None:
    model = network("torchvision", "gc")
    expected = step(model, images())
    assert len(early) == 6
    model, seen = network("torchvision", "gc"), list[tuple[Tensor, ...]]()
    part = model.get_submodule(f"layer3.0.{place}")
    part.register_full_backward_hook(lambda _, __, gradients: seen.append(gradients))
    assert_same_step(step(model, images()), expected)
    assert len(early) == 6 + 5
    assert len(seen) == 1 and seen[0][0].abs().max() > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", ["gc", "se"])
def test_a_hook_on_a_block_keeps_its_output(block: str, training: bool) -> None:
    base = network("torchvision", block).layer3[0].train(training)
    kept = list[Tensor]()
    base.context.register_forward_hook(lambda _, __, y: kept.extend((y, y.clone())))
    x = torch.randn(2, 512, 5, 6, dtype=torch.float64)
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            base(x)
    assert len(kept) == 4 and torch.equal(kept[0], kept[1]) and torch.equal(kept[2], kept[3])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", ADDING)
def test_gradients_of_one_image_with_a_graph_are_those_without(block: str, training: bool) -> None:
    base = network("torchvision", block).layer3[0].train(training)
    x = torch.randn(1, 512, 5, 6, dtype=torch.float64, requires_grad=True)
    with_graph, without = (
        torch.autograd.grad(base(x).square().sum(), [x, base.bn3.weight], create_graph=graph) for graph in (True, False)
    )
    for found, expected in zip(with_graph, without, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("block", ADDING)
def test_batched_gradients_are_those_one_by_one(block: str, training: bool) -> None:
    base = network("torchvision", block).layer3[0].train(training)
    x = torch.randn(2, 512, 5, 6, dtype=torch.float64, requires_grad=True)
    y = base(x).sum((2, 3))[0, :3]
    expected = torch.stack([torch.autograd.grad(value, x, retain_graph=True)[0] for value in y])
    (found,) = torch.autograd.grad(y, x, torch.eye(3).double(), is_grads_batched=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_stochastic_depth_drops_the_term_with_its_branch(early: list[int]) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet26", num_classes=7, zero_init_last=False, drop_path_rate=0.8)
    gcnet.insert(model, "gc")
    with torch.no_grad():
        for _, parameter in gcnet.context_parameters(model):
            parameter.add_(0.1)

    def run(model: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return model(x)

    model.double()
    expected = step(without_early_contexts(model), images(), run)
    assert_same_step(step(model, images(), run), expected)
    assert len(early) == 6


def test_a_checkpointed_stage_has_the_same_gradients(early: list[int]) -> None:
    model = network("torchvision", "gc")
    expected = step(without_early_contexts(model), images())

    def run(model: nn.Module, x: Tensor) -> Tensor:
        stage = model.layer3
        stage.forward = lambda x, forward=stage.forward: checkpoint(forward, x, use_reentrant=False)
        return model(x)

    found = step(model, images(), run)
    assert len(early) == 8
    assert_same_step(
        {name: value for name, value in found.items() if name not in dict(model.named_buffers())},
        {name: value for name, value in expected.items() if name not in dict(model.named_buffers())},
    )


def test_bf16_is_as_close_to_float64_as_the_block_after_the_norm() -> None:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float()

    model = network("torchvision", "gc", torch.float32)
    x = images(dtype=torch.float32)
    exact = step(without_early_contexts(copy.deepcopy(model).double()), x.double())["output"]
    errors = [
        (step(one, x, run)["output"] - exact).abs().mean().item() for one in (without_early_contexts(model), model)
    ]
    assert errors[1] < 1.5 * errors[0], errors


def test_an_empty_batch_passes_through_the_last_norm_as_through_every_other(early: list[int]) -> None:
    model = network("torchvision", "gc").train()
    assert model.layer2(images()[:0, :1].expand(0, 256, 37, 43)).shape == (0, 512, 19, 22)
    assert early == []


@pytest.mark.parametrize("block", ["se", "gct", "grn", "dnl"])
def test_other_blocks_run_after_the_norm(block: str, early: list[int]) -> None:
    step(network("torchvision", block), images())
    assert early == []


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torch_func_and_forward_gradients_work(early: list[int]) -> None:
    model = network("torchvision", "gc").train()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(images(), torch.ones_like(images()))
        assert torch.autograd.forward_ad.unpack_dual(model(dual)).tangent is not None
    parameters = dict(model.named_parameters())

    def loss(values: Mapping[str, Tensor]) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        return torch.func.functional_call(model, (dict(values), buffers), images()).sum()

    gradients = torch.func.grad(loss)(parameters)
    assert gradients.keys() == parameters.keys()
    assert early == []


@pytest.mark.usefixtures("unchecked_shapes")  # A symbolic tensor is none.
@pytest.mark.parametrize("training", [False, True])
def test_symbolic_tracing_runs_the_block_after_the_norm(training: bool, early: list[int]) -> None:
    model = network("torchvision", "gc").train(training)
    other = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert early == []
    torch.testing.assert_close(other(images()), model(images()))


COMPILED = """
import copy
import torch
from torch._inductor.utils import run_and_get_code
from torchvision.models.resnet import Bottleneck, ResNet
import gcnet

torch.manual_seed(0)
model = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5).double()
gcnet.insert(model, "gc")
with torch.no_grad():
    for _, parameter in gcnet.context_parameters(model):
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
block = model.layer2[0].train()
other = copy.deepcopy(block)

def step(module):
    x = torch.randn(4, 256, 14, 14, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    y = module(x)
    y.square().sum().backward()
    return y.detach(), x.grad

expected = step(other)
found, programs = run_and_get_code(step, torch.compile(block))
for ours, theirs in zip(found, expected, strict=True):
    torch.testing.assert_close(ours, theirs)
for (name, ours), theirs in zip(block.named_parameters(), other.parameters(), strict=True):
    if not name.endswith("key.bias"):  # the softmax cancels it: rounding
        torch.testing.assert_close(ours.grad, theirs.grad)
for ours, theirs in zip(block.buffers(), other.buffers(), strict=True):
    torch.testing.assert_close(ours, theirs)
kernels = [line.split(" = ")[0] for line in programs[0].splitlines() if line.startswith("cpp_fused")]
fused = [name for name in kernels if "addcmul" in name]
assert len(fused) == 1 and "relu" in fused[0] and "_add_" in fused[0], kernels
"""


@pytest.mark.slow
def test_a_compiled_step_adds_the_term_in_the_kernel_of_norm_shortcut_and_relu() -> None:
    # In a process without the checks of shapes, which torch.compile does not trace.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_step_on_a_gpu_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("torchvision", "gc")
    expected = step(without_early_contexts(model), images())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # the operations that a compiler would fuse
    found = step(copy.deepcopy(model).cuda(), images().cuda())
    assert_same_step({name: value.cpu() for name, value in found.items()}, expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_a_step_by_kernels_on_a_gpu_is_near_that_of_the_cpu_in_float64(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # at the kinks of ReLU, it moves gradients far
    model = network("torchvision", "gc")
    expected = step(without_early_contexts(model), images())
    moved = copy.deepcopy(model).float().cuda().to(memory_format=layout)
    found = step(moved, images(dtype=torch.float32).cuda().to(memory_format=layout))
    assert_same_step({name: value.double().cpu() for name, value in found.items()}, expected, 2e-2)
