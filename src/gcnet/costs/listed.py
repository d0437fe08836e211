"""Parameters and FLOPs of networks by name, for `gcnet models`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch

from gcnet.analysis.cost import count_flops, count_parameters
from gcnet.blocks import block_options, build_block
from gcnet.insertion.dry_run import Example
from gcnet.insertion.families import position_child
from gcnet.insertion.sites import SiteChoice, SiteChooser
from gcnet.models.create import create_model
from gcnet.models.registry import published_placement, split_name
from gcnet.tasks.registry import task_of


@dataclass(frozen=True)
class NetworkCounts:
    """Counts of a network.

    Attributes:
        name: of the network.
        parameters: number of parameters.
        flops: FLOPs of one image (multiply-add = 2).
        size: height and width of the image in pixels.
    """

    name: str
    parameters: int
    flops: int
    size: tuple[int, int]


def count_network(name: str, *, num_classes: int | None = None, image_size: int | None = None) -> NetworkCounts:
    """Count a network by name, with its blocks.

    Args:
        name: as for `create_model`.
        num_classes: number of classes; None for the default of the network.
        image_size: height and width of the image in pixels; None for the default of the network.

    Returns:
        The counts.

    Raises:
        UserError: an unknown name, or a network that does not take the size.
    """
    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
    task = task_of(name)
    size = task.costs.default_image_size(name, model) if image_size is None else (image_size, image_size)
    return NetworkCounts(name, count_parameters(model), task.costs.count_flops(model, size), size)


def count_classifiers(
    names: Sequence[str], *, num_classes: int | None = None, image_size: int | None = None
) -> Iterator[NetworkCounts]:
    """Count classifiers that differ in their blocks, each base model once and equal blocks once.

    A network has the parameters and FLOPs of its base model and those of its blocks, which act after residual blocks.

    Args:
        names: of `list_models()`, with the networks of a base model one after the other.
        num_classes: number of classes; None for the default of each network.
        image_size: height and width of the image in pixels; None for the default of each network.

    Yields:
        The counts, in the order of the names.
    """
    for base, group in groupby(names, key=lambda name: split_name(name)[1]):
        with torch.device("meta"):
            model = create_model(base, num_classes=num_classes)
        size = (image_size, image_size) if image_size else task_of(base).costs.default_image_size(base, model)
        image = (1, 3, *size)
        parameters, flops = count_parameters(model), count_flops(model, image)
        chooser = SiteChooser(model, Example((torch.empty(image, device="meta"),)))
        for name in group:
            blocks = list(_count_blocks(chooser, published_placement(split_name(name)[0], base)))
            added = [sum(counts) for counts in zip(*blocks, strict=True)] or [0, 0]
            yield NetworkCounts(name, parameters + added[0], flops + added[1], size)


def _count_blocks(chooser: SiteChooser, placement: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Parameters and FLOPs of each block of a placement, of which an empty one has none."""
    if not placement:
        return
    options = dict(placement)
    block, ratio = options.pop("block"), options.pop("ratio", None)
    choice = chooser.by_stage(*(options.pop(key, None) for key in ("stages", "blocks", "position")))
    if ratio is None and "ratio" in block_options(block):
        ratio = choice.default_ratio
    for shape in _input_shapes(choice):
        yield _count_block(block, ratio, tuple(options.items()), shape)


def _input_shapes(choice: SiteChoice) -> Iterator[tuple[int, ...]]:
    """Shapes of the maps that the blocks at the sites take."""
    assert choice.run is not None
    child = position_child(choice.position or "")
    for site in choice.sites:
        (call,) = choice.run.of(f"{site}.{child}" if child else site)
        yield tuple(call.output.shape)


@cache
def _count_block(
    block: str, ratio: float | None, options: tuple[tuple[str, Any], ...], shape: tuple[int, ...]
) -> tuple[int, int]:
    with torch.device("meta"):
        module = build_block(block, channels=shape[1], ratio=ratio, dims=len(shape) - 2, **dict(options))
    return count_parameters(module), count_flops(module, shape)
