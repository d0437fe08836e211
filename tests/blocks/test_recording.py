"""The named blocks in the programs that PyTorch's tools make of a network: traces, ONNX, forward-mode gradients."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from gcnet.errors import UserError
from named_blocks import SETTINGS, every, make
from random_weights import randomize
from tolerances import assert_equal_within

# Of the older tools, and of what of a traced program is constant.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning", "ignore:Constant folding"
)
WITH_FUSED_SOFTMAX = [name for name in SETTINGS if name.startswith(("nl_gaussian", "nl_embedded", "dnl"))]


def run_onnx(file: bytes, x: Tensor) -> Tensor:
    runtime: Any = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output)


@pytest.mark.usefixtures("unchecked_shapes")
@every
def test_trace_gives_the_same_output_at_every_size(name: str) -> None:
    block = randomize(make(name)).eval()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            program = torch.jit.trace(block, torch.randn(2, 22, 6, 10))  # It checks itself by a second run.
            for shape in ((2, 22, 6, 10), (1, 22, 13, 7)):
                x = torch.randn(shape)
                assert_equal_within(program(x), block(x), torch.float32)


def test_scripting_a_block_names_what_works_instead() -> None:
    with pytest.raises(UserError, match=r"torch\.jit\.script does not support context blocks: use torch\.export"):
        torch.jit.script(nn.Sequential(make("gc")))


@pytest.mark.usefixtures("unchecked_shapes")
@every
def test_older_onnx_exporter_writes_the_same_function(name: str) -> None:
    pytest.importorskip("onnxruntime")
    block, x, file = randomize(make(name)).eval(), torch.randn(2, 22, 6, 10), io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(block, (x,), file, dynamo=False)
        assert_equal_within(run_onnx(file.getvalue(), x), block(x), torch.float32)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in WITH_FUSED_SOFTMAX])
def test_forward_mode_derivative_is_the_slope(name: str) -> None:
    block = randomize(make(name)).double().eval()
    x, direction = torch.randn(2, 2, 22, 5, 7, dtype=torch.float64)
    step = 1e-6 * direction
    slope = (block(x + step) - block(x - step)) / 2e-6
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(block(forward_ad.make_dual(x, direction))).tangent
    assert derivative is not None
    torch.testing.assert_close(derivative, slope, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.func.jvp(block, (x,), (direction,))[1], derivative)


@pytest.mark.parametrize("name", WITH_FUSED_SOFTMAX)
def test_pytorchs_fused_attention_refuses_forward_mode_by_name(name: str) -> None:
    x = torch.randn(1, 22, 3, 5)
    with pytest.raises(NotImplementedError, match="forward AD with _scaled_dot_product"):
        torch.func.jvp(make(name).eval(), (x,), (x,))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["gc", "gc heads", "snl", "gc_affine"])
def test_second_derivative_by_torch_func_is_that_of_autograd(name: str) -> None:
    block = randomize(make(name)).double().eval()
    x = torch.randn(1, 22, 1, 2, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return block(x).square().sum()

    expected = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(torch.func.hessian(loss)(x), expected)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["gc", "snl", "se"])
def test_gradients_of_every_sample_by_vmap_are_those_one_by_one(name: str) -> None:
    block, x = randomize(make(name)).double().eval(), torch.randn(3, 22, 5, 7, dtype=torch.float64)
    parameters = dict(block.named_parameters())

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(block, parameters, (sample[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for index, sample in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, sample), list(parameters.values()))
        for key, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[key][index], gradient)
