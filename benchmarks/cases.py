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
    build_compiled,
    build_fused,
    build_fused_detector,
    build_mask_rcnn,
)
from benchmarks.exported import RUNTIMES, build_exported
from benchmarks.loading import LoadingCase, loader
from benchmarks.peers import build_mmcv_context, build_mmcv_non_local, build_timm_context
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

    @property
    def names(self) -> list[str]:
        """Names of the contestants."""
        return [contestant.name for contestant in self.contestants]


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


def fused(sizes: Sizes) -> list[Case]:
    """A residual network by `gcnet.fuse` in inference, with blocks in c3 to c5 and without, against the plain one."""
    return [
        Case("fused", "forward", _fused(sizes.host, (batch, 3, sizes.pixels, sizes.pixels), precision))
        for precision in LAYOUTS
        for batch in sizes.batches
    ]


def compiled(sizes: Sizes) -> list[Case]:
    """A residual network by `torch.compile`, with `gc` and without, against the plain one and mmcv's block."""
    shapes = [(batch, 3, sizes.pixels, sizes.pixels) for batch in sizes.batches]
    return [
        *(
            Case("compiled", "forward", _compiled(sizes.host, shape, precision, fuse=True))
            for precision in LAYOUTS
            for shape in shapes
        ),
        Case("compiled", "training_step", _compiled(sizes.host, shapes[-1], LAYOUTS[-1], fuse=False)),
    ]


def detector(sizes: Sizes) -> list[Case]:
    """Mask R-CNN by `gcnet.fuse` in inference, with `gc` in c3 to c5 and without."""
    shape = (1, 3, *sizes.detector_image)
    names = {name: partial(build_fused_detector, name, sizes.detector_image) for name in sizes.detectors}
    return [Case("detector", "forward", _against_first(names, shape, PLAIN))]


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


def exported(sizes: Sizes) -> list[Case]:
    """A residual network with `gc` in inference as an exported file, against PyTorch."""
    name = f"gc_{sizes.host}"
    shapes = [(batch, 3, sizes.pixels, sizes.pixels) for batch in sizes.batches]
    return [Case("exported", "forward", (_named(name, shape), *_runtimes(name, shape))) for shape in shapes]


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


BENCHMARKS: dict[str, Callable[[Sizes], Sequence[Case | LoadingCase]]] = {
    function.__name__: function
    for function in (
        gc_forward,
        gc_backward,
        networks,
        fused,
        compiled,
        detector,
        non_local,
        doubling,
        precision,
        exported,
        loader,
    )
}


def _ours(name: str, shape: Shape, precision: Precision = PLAIN, against: tuple[str, ...] = ()) -> Contestant:
    return Contestant(name, partial(build_block, name, channels=shape[1]), shape, precision, against)


def _named(name: str, shape: Shape) -> Contestant:
    return Contestant(name, partial(create_model, name), shape)


def _runtimes(name: str, shape: Shape) -> list[Contestant]:
    return [
        Contestant(f"{name} {runtime}", partial(build_exported, name, runtime, shape[-1]), shape, against=(name,))
        for runtime in RUNTIMES
    ]


def _copy(shape: Shape, precision: Precision) -> Contestant:
    return Contestant("copy", Copy, shape, precision)


def _global_context(shape: Shape, precision: Precision, *floor: str) -> tuple[Contestant, ...]:
    mmcv, timm = (partial(build, shape[1]) for build in (build_mmcv_context, build_timm_context))
    return (
        _ours("gc", shape, precision, ("mmcv", "timm", *floor)),
        Contestant("mmcv", mmcv, shape, precision, floor),
        Contestant("timm", timm, shape, precision, floor),
    )


_FUSED = ("gc", "se", "snl", "gc_eca", "gc_affine")


def _fused(host: str, shape: Shape, precision: Precision) -> tuple[Contestant, ...]:
    plain = f"{host} fused"
    peers = {"mmcv": build_mmcv_context, "timm": build_timm_context}
    return (
        Contestant(host, partial(create_model, host), shape, precision),
        Contestant(plain, partial(build_fused, host), shape, precision, (host,)),
        Contestant(f"{plain}, again", partial(build_fused, host), shape, precision, (plain,)),
        *(
            Contestant(f"{block}_{host} fused", partial(build_fused, host, block), shape, precision, (plain, host))
            for block in _FUSED
        ),
        *(
            Contestant(f"{name}_gc_{host}", partial(create_model, host, block=block), shape, precision, (plain, host))
            for name, block in peers.items()
        ),
    )


def _compiled(host: str, shape: Shape, precision: Precision, *, fuse: bool) -> tuple[Contestant, ...]:
    build = {name: partial(create_model, name) for name in (host, f"gc_{host}")}
    if fuse:
        build = {host: partial(build_fused, host), f"gc_{host}": partial(build_fused, host, "gc")}
    builds = {**build, f"mmcv_gc_{host}": partial(create_model, host, block=build_mmcv_context)}
    names = {f"{name} compiled": partial(build_compiled, build) for name, build in builds.items()}
    return _against_first(names, shape, precision)


def _against_first(
    builds: Mapping[str, Callable[[], nn.Module]], shape: Shape, precision: Precision
) -> tuple[Contestant, ...]:
    """The contestants, each compared with the first, which also takes part a second time."""
    first = next(iter(builds))
    again = {f"{first}, again": builds[first]}
    return tuple(
        Contestant(name, build, shape, precision, () if name == first else (first,))
        for name, build in {**builds, **again}.items()
    )


def _networks(host: str, shape: Shape, precision: Precision) -> tuple[Contestant, ...]:
    theirs = f"mmcv_gc_{host}"
    blocks = {f"gc_{host}": "gc", f"se_{host}": "se", f"snl_{host}": "snl", theirs: build_mmcv_context}
    return (
        Contestant(host, partial(create_model, host), shape, precision),
        Contestant(f"{host}, again", partial(create_model, host), shape, precision, (host,)),
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
