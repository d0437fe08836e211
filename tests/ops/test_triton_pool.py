"""Attention pooling by Triton: its cases in a process of their own, what compilers make of it, what importing costs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses import FakeTensorMode

from gcnet.ops.triton_check import has_triton
from gcnet.ops.triton_pool import attention_pool_triton, can_pool

HERE = Path(__file__).parent
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
)

needs_triton = pytest.mark.skipif(not has_triton(), reason="needs Triton")


def run(*arguments: str | Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=environment | variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_cases(file: str, device: str, folder: Path) -> int:
    """Run a file of cases in a process of its own, in Triton's interpreter or on a GPU; returns how many pass."""
    choice = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if device == "interpreter" else {}
    options = ["--noconftest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'cases'}"]
    printed = run("-m", "pytest", *options, HERE / file, **choice)
    assert "skipped" not in printed
    return int(re.findall(r"(\d+) passed", printed)[0])


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("device", ["interpreter", CUDA])
def test_all_cases(device: str, tmp_path: Path) -> None:
    assert run_cases("triton_pool_cases.py", device, tmp_path) > 70


def test_importing_the_package_imports_no_triton() -> None:
    run("-c", "import sys, gcnet.blocks, gcnet.ops.triton_pool; assert 'triton' not in sys.modules")


@pytest.mark.parametrize("value", ["0", "off"])
def test_an_environment_variable_switches_the_kernels_off(value: str) -> None:
    check = "from gcnet.ops.triton_check import is_off; assert is_off()"
    run("-c", check, GCNET_TRITON=value)


def test_maps_on_the_cpu_are_left_to_the_plain_layers() -> None:
    assert not can_pool(torch.zeros(1, 3, 5))


class Pool(nn.Module):
    """The least that can be compiled and exported."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 17))
        self.bias = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return attention_pool_triton(x, self.weight, self.bias)


@needs_triton
@pytest.mark.usefixtures("unchecked_shapes")
def test_export_keeps_one_operator_for_maps_of_any_size() -> None:
    sizes = ({axis: torch.export.Dim(name) for axis, name in [(0, "samples"), (2, "height"), (3, "width")]},)
    program = torch.export.export(Pool(), (torch.randn(2, 17, 5, 7),), dynamic_shapes=sizes)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.gcnet.attention_pool.default) == 1


class Hopper:
    """What tracing a kernel asks of a GPU's driver, where there is none."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@needs_triton
@pytest.mark.usefixtures("unchecked_shapes")
def test_compilers_see_the_kernels_and_their_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    class Loss(Pool):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (super().forward(x).sum(),)

    monkeypatch.setattr(driver, "_active", Hopper())
    with FakeTensorMode():
        graph, _ = aot_export_module(Loss(), [torch.randn(2, 17, 5, 7)], trace_joint=True, output_loss_index=0)
    kernels = torch.ops.higher_order.triton_kernel_wrapper_functional
    written = [node.kwargs["tensors_to_clone"] for node in graph.graph.find_nodes(op="call_function", target=kernels)]
    assert written == [
        ["sums_ptr", "peaks_ptr", "masses_ptr"],
        ["context_ptr", "peak_ptr", "mass_ptr"],
        ["grad_x_ptr", "grad_weights_ptr"],
    ]


@needs_triton
@pytest.mark.parametrize(("dtype", "capability"), [("fp32", 80), ("bf16", 90)])
@pytest.mark.parametrize(("channels", "contiguous"), [(256, True), (2048, True), (2048, False)])
@pytest.mark.parametrize("name", ["_pool_kernel", "_merge_kernel", "_gradient_kernel"])
def test_kernels_compile_for_gpus_and_keep_their_tile_in_registers(
    name: str, channels: int, contiguous: bool, dtype: str, capability: int, tmp_path: Path, monkeypatch: Any
) -> None:
    from gcnet.ops import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, name)
    unaligned = contiguous and channels == 2048  # rows of 7 x 7 positions are
    x = torch.empty(2, channels, 49 if unaligned else 3136, device="meta")
    tile = triton_kernels.plan(x, channels)[2] | {"BLOCK_SPLITS": 64}
    if name == "_merge_kernel":
        tile |= {"BLOCK_CHANNELS": 32, "num_warps": 4}
    constants = tile | {"x_stride_position" if contiguous else "x_stride_channel": 1}
    types = {"x_ptr": f"*{dtype}", "grad_x_ptr": f"*{dtype}"}
    stack = compiled_for(kernel, constants, types, capability, tmp_path, not unaligned)
    assert stack <= (160 if name == "_gradient_kernel" and unaligned else 0)


def compiled_for(
    kernel: Any,
    constants: dict[str, Any],
    types: dict[str, str],
    capability: int,
    folder: Path,
    aligned: bool = True,
) -> int:
    """Compile a kernel for a GPU of this compute capability; returns the bytes of stack that each thread uses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    known = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[str | int]]] = {}
    for place, argument in enumerate(kernel.arg_names):
        pointer = argument.endswith("_ptr")
        signature[argument] = types.get(argument, "*fp32" if pointer else "i32")
        size = argument.startswith(("positions", "x_stride", "stride"))
        if argument in known:
            signature[argument] = "constexpr"
        elif pointer or argument == "channels" or (aligned and size):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, known, attributes)
    options = {"num_warps": constants["num_warps"]}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

    (folder / "kernel.cubin").write_bytes(binary.asm["cubin"])
    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([reader, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, timeout=60)
    spilled = re.search(r"STACK:(\d+)", done.stdout + done.stderr)
    assert spilled is not None, done.stdout
    return int(spilled[1])
