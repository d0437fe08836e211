"""What global context adds to a residual network on a GPU: inference and training steps beside the plain network.

The plain network takes part twice, so that the rows show the spread.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from benchmarks.gpu_case import Case, Precision
from benchmarks.turns import Work
from gcnet.analysis.timing import fill_zero_parameters
from gcnet.insertion.fuse import fuse
from gcnet.models.create import create_model

PRECISIONS = (
    Precision("float32", "contiguous"),
    Precision("float32", "channels_last"),
    Precision("bf16 autocast", "channels_last"),
)
QUICK = PRECISIONS[1:]


def network_cases(host: str, shape: tuple[int, ...], device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Inference and training step of the network with and without `gc`, under each precision."""
    for precision in QUICK if quick else PRECISIONS:
        torch.manual_seed(0)
        networks = {name: create_model(network).to(device) for name, network in _contestants(host).items()}
        for network in networks.values():
            network.to(memory_format=precision.memory_format)
            fill_zero_parameters(network)
        images = torch.randn(shape, device=device).contiguous(memory_format=precision.memory_format)
        half = precision.dtype == "bf16 autocast"
        variants = ("eager", "compiled") if half and device.type == "cuda" else ("eager",)
        for variant in variants:
            for task, build in (("inference", _inference), ("training_step", _training_step)):
                chosen = {name: _variant(network, task, variant) for name, network in networks.items()}
                works = {name: build(network, images, half) for name, network in chosen.items()}
                yield Case(f"{task}, {variant}", precision, shape, works, against=host)


def _contestants(host: str) -> dict[str, str]:
    return {host: host, f"{host}, again": host, f"gc_{host}": f"gc_{host}"}


def _variant(network: nn.Module, task: str, variant: str) -> nn.Module:
    """The network itself for training, its fused copy for inference; compiled where that is asked for."""
    chosen = fuse(network) if task == "inference" else network
    return cast(nn.Module, torch.compile(chosen)) if variant == "compiled" else chosen


def _inference(network: nn.Module, images: torch.Tensor, half: bool) -> Work:
    network.eval()

    def run() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            network(images)

    return run


def _training_step(network: nn.Module, images: torch.Tensor, half: bool) -> Work:
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9)
    labels = torch.arange(len(images), device=images.device)
    network.train()

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            logits = network(images)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return run
