"""What global context adds to a residual network on a GPU: inference and training steps beside the plain network."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from benchmarks.gpu_case import Case, Numerics
from benchmarks.turns import Work
from gcnet.models.create import create_model

NUMERICS = (
    Numerics("float32", "contiguous"),
    Numerics("float32", "channels_last"),
    Numerics("bf16 autocast", "channels_last"),
)
QUICK = NUMERICS[1:]


def network_cases(host: str, shape: tuple[int, ...], device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Inference and training step of the network with and without `gc`, under each numerics."""
    for numerics in QUICK if quick else NUMERICS:
        torch.manual_seed(0)
        networks = {name: create_model(name).to(device) for name in (host, f"gc_{host}")}
        for network in networks.values():
            network.to(memory_format=numerics.memory_format)
        images = torch.randn(shape, device=device).contiguous(memory_format=numerics.memory_format)
        half = numerics.dtype == "bf16 autocast"
        for task, build in (("inference", _inference), ("training_step", _training_step)):
            works = {name: build(network, images, half) for name, network in networks.items()}
            yield Case(task, numerics, shape, works, against=host)


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
