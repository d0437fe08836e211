"""The benchmarks: which contestants meet on which shapes, each a list of cases that are measured one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.contestants import (
    Contestant,
    Copy,
    build_mask_rcnn,
    build_mmcv_context,
    build_mmcv_non_local,
    build_timm_context,
)
from benchmarks.shapes import Shape, Sizes
from benchmarks.tasks import Task
from gcnet.analysis.timing import PLAIN, Precision
from gcnet.blocks import build_block
from gcnet.models.create import create_model

LAYOUTS = (PLAIN, Precision(channels_last=True))
# Options with which a block also stands in the table of blocks.
_OPTIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "gc": ({"heads": 4},),
    "se": ({"identity_init": True},),
    "ge": ({"extent": 4}, {"extent": 4, "gather": "depthwise", "excite": True}),
}


@dataclass(frozen=True)
class Case:
    """Contestants that take turns."""

    benchmark: str
    task: Task
    contestants: tuple[Contestant, ...]


def gc_forward(sizes: Sizes) -> list[Case]:
    """`gc` in inference, against mmcv's, timm's and a copy of the input."""
    return [
        Case("gc_forward", "forward", (*_global_context(shape, precision, "copy"), _copy(shape, precision)))
        for precision in LAYOUTS
        for shape in sizes.maps
    ]


def gc_backward(sizes: Sizes) -> list[Case]:
    """`gc`, forward and backward, against mmcv's and timm's."""
    return [
        Case("gc_backward", "forward_backward", _global_context(shape, precision))
        for precision in LAYOUTS
        for shape in sizes.maps
    ]


def networks(sizes: Sizes) -> list[Case]:
    """A residual network with blocks in c3 to c5 (ratio 16), against the plain one and the one with mmcv's block."""
    runs: list[tuple[Task, int]] = [("forward", batch) for batch in sizes.batches]
    runs.append(("training_step", sizes.batches[-1]))
    return [
        Case("networks", task, _networks(sizes.host, (batch, 3, sizes.pixels, sizes.pixels), precision))
        for precision in LAYOUTS
        for task, batch in runs
    ]


def non_local(sizes: Sizes) -> list[Case]:
    """The non-local blocks in inference, against mmcv's; `nl_concatenation` also with gradients.

    mmcv's concatenation is measured on few positions, since it makes C values for each pair of them, and not with
    gradients, since it divides in place what they need.
    """
    shapes = dict.fromkeys(("embedded_gaussian", "gaussian", "dot_product"), sizes.non_local)
    shapes["concatenation"] = sizes.concatenation
    gradients = _ours("nl_concatenation", sizes.concatenation_gradients)
    return [
        Case("non_local", "forward", _non_local(mode, shape, precision))
        for precision in LAYOUTS
        for mode, shape in shapes.items()
    ] + [Case("non_local", "forward_backward", (gradients,))]


def doubling(sizes: Sizes) -> list[Case]:
    """The non-local blocks of linear cost, as the positions double: each size against the one before."""
    return [
        Case("doubling", "forward", _sizes(name, sizes.doubling)) for name in ("nl_dot_product", "nl_concatenation")
    ]


def precision(sizes: Sizes) -> list[Case]:
    """Training steps under each precision, against float32 in contiguous memory: a classifier and a detector."""
    classifier = partial(create_model, sizes.host)
    detector = partial(build_mask_rcnn, sizes.detector_pixels, sizes.detector_rois)
    return [
        Case("precision", "training_step", _precisions(sizes.host, classifier, (sizes.batches[-1], sizes.pixels))),
        Case("precision", "training_step", _precisions("mask_rcnn_resnet18", detector, (2, sizes.detector_pixels))),
    ]


def positions(sizes: Sizes, blocks: Sequence[str]) -> list[Case]:
    """Every block in inference on more and more positions."""
    return [Case("positions", "forward", tuple(_ours(name, shape) for name in blocks)) for shape in sizes.doubling]


def blocks(sizes: Sizes, names: Sequence[str]) -> list[Case]:
    """A residual network with each block in every residual block of c3 to c5, each time against the plain one."""
    tasks: list[tuple[Task, int]] = [("forward", sizes.batches[-1]), ("training_step", sizes.step_batch)]
    return [
        Case("blocks", task, _with_block(sizes.host, (batch, 3, sizes.pixels, sizes.pixels), name, options))
        for name in names
        for options in ({}, *_OPTIONS.get(name, ()))
        for task, batch in tasks
    ]


BENCHMARKS: dict[str, Callable[[Sizes], list[Case]]] = {
    function.__name__: function for function in (gc_forward, gc_backward, networks, non_local, doubling, precision)
}


def _ours(name: str, shape: Shape, precision: Precision = PLAIN, against: tuple[str, ...] = ()) -> Contestant:
    return Contestant(name, partial(build_block, name, channels=shape[1]), shape, precision, against)


def _copy(shape: Shape, precision: Precision) -> Contestant:
    return Contestant("copy", Copy, shape, precision)


def _global_context(shape: Shape, precision: Precision, *floor: str) -> tuple[Contestant, ...]:
    mmcv, timm = (partial(build, shape[1]) for build in (build_mmcv_context, build_timm_context))
    return (
        _ours("gc", shape, precision, ("mmcv", "timm", *floor)),
        Contestant("mmcv", mmcv, shape, precision, floor),
        Contestant("timm", timm, shape, precision, floor),
    )


def _networks(host: str, shape: Shape, precision: Precision) -> tuple[Contestant, ...]:
    theirs = f"mmcv_gc_{host}"
    blocks = {f"gc_{host}": "gc", f"se_{host}": "se", f"snl_{host}": "snl", theirs: build_mmcv_context}
    return (
        Contestant(host, partial(create_model, host), shape, precision),
        *(
            Contestant(
                name,
                partial(create_model, host, block=block),
                shape,
                precision,
                (host, theirs) if block == "gc" else (host,),
            )
            for name, block in blocks.items()
        ),
    )


def _with_block(host: str, shape: Shape, block: str, options: Mapping[str, Any]) -> tuple[Contestant, ...]:
    name = ", ".join([block, *(f"{option}={value}" for option, value in options.items())])
    build = partial(create_model, host, block=block, stages=(3, 4, 5), position="after_norm", **options)
    return Contestant(host, partial(create_model, host), shape), Contestant(name, build, shape, against=(host,))


def _non_local(mode: str, shape: Shape, precision: Precision) -> tuple[Contestant, ...]:
    theirs = Contestant(f"mmcv_{mode}", partial(build_mmcv_non_local, shape[1], mode), shape, precision)
    return _ours(f"nl_{mode}", shape, precision, (theirs.name,)), theirs


def _sizes(name: str, shapes: Sequence[Shape]) -> tuple[Contestant, ...]:
    names = [f"{name}_{shape[2] * shape[3]}" for shape in shapes]
    before = [(), *((name,) for name in names)]
    return tuple(
        replace(_ours(name, shape, against=against), name=own)
        for own, shape, against in zip(names, shapes, before, strict=False)
    )


def _precisions(name: str, build: Callable[[], nn.Module], images: tuple[int, int]) -> tuple[Contestant, ...]:
    count, pixels = images
    names = {
        name: PLAIN,
        f"{name}_channels_last": Precision(channels_last=True),
        f"{name}_bf16": Precision(torch.bfloat16),
        f"{name}_bf16_channels_last": Precision(torch.bfloat16, channels_last=True),
    }
    return tuple(
        Contestant(own, build, (count, 3, pixels, pixels), precision, () if own == name else (name,))
        for own, precision in names.items()
    )
