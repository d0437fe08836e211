"""Steps of training in two gloo processes by PyTorch's own `nn.SyncBatchNorm`, which is made to run on a CPU here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gcnet.insertion.residual_blocks import expansion
from gcnet.ops.synchronized_batch_norm import _of_everyone
from insertion.test_fuse import images, network

IMAGES = 6
LIBRARY = torch.library.Library("aten", "IMPL")


def norm_on_cpu() -> None:
    """Give PyTorch the five functions of `nn.SyncBatchNorm`, which it has for GPUs only, and let it take a CPU."""
    for function in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        LIBRARY.impl(function.__name__, function, "CPU")
    forward = nn.SyncBatchNorm.forward

    def forward_on_cpu(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
        # It runs on GPUs, and on a device that is registered by its name.
        with patch.object(torch._C, "_get_privateuse1_backend_name", lambda: "cpu"):
            return forward(norm, x)

    nn.SyncBatchNorm.forward = forward_on_cpu  # ty: ignore[invalid-assignment]
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None  # refuses a CPU, too


def _wide(vector: Tensor) -> Tensor:
    return vector[:, None, None]


def batch_norm_stats(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_gather_stats_with_counts(
    _: Tensor,
    means: Tensor,
    inverses: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    total = counts.sum()
    shares = (counts / total)[:, None]
    mean = (shares * means).sum(0)
    variance = (shares * (inverses**-2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_elemt(z: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, _: float) -> Tensor:
    return (z - _wide(mean)) * _wide(inverse * weight) + _wide(bias)


def batch_norm_backward_reduce(
    grad: Tensor, z: Tensor, mean: Tensor, inverse: Tensor, *_: Tensor | bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total, along = grad.sum((0, 2, 3)), (grad * (z - _wide(mean))).sum((0, 2, 3))
    return total, along, along * inverse, total.clone()


def batch_norm_backward_elemt(
    grad: Tensor, z: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, total: Tensor, along: Tensor, count: Tensor
) -> Tensor:
    of_mean, of_variance = total / count.sum(), along * inverse**2 / count.sum()
    return (grad - _wide(of_mean) - (z - _wide(mean)) * _wide(of_variance)) * _wide(inverse * weight)


def weights_of_loss() -> Tensor:
    """For each image and class: the loss is the sum of the outputs, multiplied by these."""
    return torch.randn(IMAGES, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def own_images(rank: int, first: int) -> slice:
    """Those of a process, where the first one has `first` images and the other the rest."""
    return slice(first) if rank == 0 else slice(first, None)


def run_all(folder: Path, device: str, cases: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
    """Save what a process finds in steps, by case, and in the calls below.

    Args:
        folder: for a file of each rank.
        device: cpu in float64, or cuda in float32 for both processes.
        cases: number of images of the first process, and the ranks whose blocks run after the norm.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    if device == "cpu":
        norm_on_cpu()
    dist.init_process_group("gloo")
    found: dict[str, Any] = {name: step(torch.device(device), *case) for name, case in cases.items()}
    if device == "cpu":
        found |= {"twice": differentiate_twice(), "gathered": gather_both_ways()}
    torch.save(found, folder / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


def step(device: torch.device, first: int, late: tuple[int, ...]) -> dict[str, Any]:
    """Output, gradients and buffers of a second step, and how many contexts were early."""
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    own = own_images(dist.get_rank(), first)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network("torchvision", "gc", dtype)).to(device).train()
    start = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if dist.get_rank() in late:
        for name, module in model.named_modules():
            if name.endswith("bn3"):
                module.register_forward_hook(lambda *_: None)
    # Small buckets, whose exchange alternates with that of the norms. They have their order after one step.
    wrapped = DistributedDataParallel(model, bucket_cap_mb=0.001)  # ty: ignore[invalid-argument-type]
    x, y = torch.empty(0), torch.empty(0)
    with early_counted() as early:
        for _ in range(2):
            model.load_state_dict(start, strict=False)
            model.zero_grad()
            x = images(IMAGES, dtype)[own].to(device).requires_grad_()
            y = wrapped(x)
            (y * weights_of_loss()[own].to(y)).sum().backward()
    of_x = torch.zeros_like(x) if x.grad is None else x.grad  # None of an empty batch
    found = {"output": y.detach(), "input": of_x, **dict(model.named_buffers())}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name] = 2 * parameter.grad  # DistributedDataParallel averages over the processes.
    return {name: value.cpu() for name, value in found.items()} | {"early": len(early)}


def differentiate_twice() -> dict[str, Any]:
    """A gradient with `create_graph` and without, and what the gradient of that gradient raises.

    Only norms with early contexts take statistics over both processes.
    """
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network("torchvision", "gc")).train()
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.train(name.endswith("bn3") and not name.startswith("layer1"))
    x = images(2).requires_grad_()
    loss = model(x).square().sum()
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (with_graph,) = torch.autograd.grad(loss, x, create_graph=True)
    try:
        with_graph.square().sum().backward()
    except RuntimeError as error:
        return {"once": once, "with graph": with_graph.detach(), "error": str(error)}
    return {"once": once, "with graph": with_graph.detach(), "error": ""}


def gather_both_ways() -> dict[str, Tensor]:
    """What a process gets by gloo's operation, and by that of the other backends."""
    own, group = torch.arange(3.0) + 10 * dist.get_rank(), dist.group.WORLD
    with patch.object(dist, "get_backend", lambda _: "nccl"):
        by_others = _of_everyone(own, group)
    return {"gloo": _of_everyone(own, group), "others": by_others}


@contextmanager
def early_counted() -> Iterator[list[int]]:
    """A list that grows with every context that is computed early."""
    found: list[int] = []
    function = expansion.term_of_block

    def counted(*arguments: Any) -> Tensor:
        found.append(1)
        return function(*arguments)

    with patch.object(expansion, "term_of_block", counted):
        yield found
