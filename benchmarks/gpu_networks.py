"""What global context adds to a residual network on a GPU: inference and training steps beside the plain network.

The plain network takes part twice, so that the rows show the spread. Blocks of timm and mmcv are at the same places.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_case import Case, Precision
from benchmarks.gpu_compiled import compiled, forget_compiled
from benchmarks.peers import build_mmcv_context, build_timm_context
from benchmarks.turns import Work
from gcnet.analysis.timing import fill_zero_parameters
from gcnet.insertion.fuse import fuse
from gcnet.models.create import create_model


def network_cases(
    host: str, shape: tuple[int, ...], precision: Precision, device: torch.device, *, compile_them: bool = False
) -> Iterator[Case]:
    """Training step and inference (by `gcnet.fuse`) of the network with and without global context."""
    torch.manual_seed(0)
    networks = {name: build().to(device) for name, build in _contestants(host).items()}
    for network in networks.values():
        network.to(memory_format=precision.memory_format)
        fill_zero_parameters(network)
    images = torch.randn(shape, device=device).contiguous(memory_format=precision.memory_format)
    half = precision.dtype == "bf16 autocast"
    for task, build in (("training_step", _training_step), ("inference", _inference)):
        forget_compiled()
        works = {name: build(network, images, half, compile_them) for name, network in networks.items()}
        yield Case(f"{task}, {'compiled' if compile_them else 'eager'}", precision, shape, works, against=host)


def _contestants(host: str) -> dict[str, Callable[[], nn.Module]]:
    """The most important first."""
    names = {host: host, f"gc_{host}": f"gc_{host}", f"{host}, again": host}
    builds: dict[str, Callable[[], nn.Module]] = {name: partial(create_model, model) for name, model in names.items()}
    for library, block in peers().items():
        builds[f"{library}_gc_{host}"] = partial(create_model, host, block=block)
    return builds


def peers() -> dict[str, Callable[[int], nn.Module]]:
    """The same block of other libraries, where these are installed."""
    builds = {"timm": build_timm_context, "mmcv": build_mmcv_context}
    return {library: build for library, build in builds.items() if find_spec(library) is not None}


def _inference(network: nn.Module, images: Tensor, half: bool, compile_it: bool) -> Work:
    network.eval()
    fused = fuse(network)
    chosen = compiled(fused, images.device) if compile_it else fused

    def run() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            chosen(images)

    return run


def _training_step(network: nn.Module, images: Tensor, half: bool, compile_it: bool) -> Work:
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9)
    labels = torch.arange(len(images), device=images.device)
    network.train()
    chosen = compiled(network, images.device) if compile_it else network

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            logits = chosen(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return run
