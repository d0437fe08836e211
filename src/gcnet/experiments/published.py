"""Published results of networks by name, each with its source; imports neither torch nor numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

PUBLICATIONS: Mapping[str, str] = {
    "O": "README of github.com/xvjiarui/GCNet, commit 029db54",
    "T1": "Table 1 of GCNet, arXiv 1904.11492",
    "ECA": "table of ECA-Net, arXiv 1910.03151",
    "PVT": "table of PVT, arXiv 2102.12122",
    "PI": "README of github.com/implus/PytorchInsight",
    "AK": "README of github.com/akamaster/pytorch_resnet_cifar10",
}
"""Sources of published values, by the mark behind the value."""


@dataclass(frozen=True)
class PublishedResult:
    """Published value.

    Attributes:
        value: with the published digits.
        source: key of `PUBLICATIONS`.
    """

    value: str
    source: str

    def __str__(self) -> str:
        return f"{self.value} [{self.source}]"


@dataclass(frozen=True)
class PublishedNetwork:
    """Published results of one network.

    Attributes:
        scores: in percent: top-1 and top-5 of a classifier, box and mask AP of a detector trained with the 1x schedule.
        parameters: in millions.
        multiply_adds: in billions; papers print them under the name "FLOPs".
    """

    scores: tuple[PublishedResult, ...]
    parameters: PublishedResult | None = None
    multiply_adds: PublishedResult | None = None


def _official(box: str, mask: str) -> PublishedNetwork:
    return PublishedNetwork((PublishedResult(box, "O"), PublishedResult(mask, "O")))


def _top1(value: str, source: str) -> PublishedNetwork:
    return PublishedNetwork((PublishedResult(value, source),))


_X101 = "cascade_mask_rcnn_{}resnext101_32x4d{}"

PUBLISHED: Mapping[str, PublishedNetwork] = {
    "resnet50": _top1("76.38", "PI"),
    "se_resnet50": _top1("77.18", "PI"),  # with the recipe of resnet50
    "gc_resnet50": PublishedNetwork(
        (PublishedResult("77.70", "ECA"), PublishedResult("93.66", "ECA")),
        PublishedResult("28.08", "ECA"),
        PublishedResult("3.87", "ECA"),
    ),
    "cifar_resnet20": _top1("91.73", "AK"),
    "cifar_resnet56": _top1("93.39", "AK"),
    "mask_rcnn_resnet50": _official("37.2", "33.8"),
    "mask_rcnn_nl_resnet50": PublishedNetwork(
        (PublishedResult("38.0", "ECA"), PublishedResult("34.7", "T1")),
        PublishedResult("46.5", "ECA"),
        PublishedResult("288.7", "ECA"),
    ),
    "mask_rcnn_gc_resnet50": PublishedNetwork(
        _official("39.4", "35.7").scores, PublishedResult("46.9", "ECA"), PublishedResult("279.6", "ECA")
    ),
    "mask_rcnn_resnet101": _official("39.8", "36.0"),
    "mask_rcnn_gc_resnet101": _official("41.1", "37.4"),
    "mask_rcnn_resnext101_32x4d": _official("41.2", "37.3"),
    "mask_rcnn_gc_resnext101_32x4d": _official("42.4", "38.0"),
    _X101.format("", ""): _official("44.7", "38.3"),
    _X101.format("gc_", ""): _official("45.9", "39.3"),
    _X101.format("", "_dcn"): _official("47.1", "40.4"),
    _X101.format("gc_", "_dcn"): _official("47.9", "40.9"),
}
"""Published results by the name for `create_model`, with blocks of ratio 16."""

PUBLISHED_RATIO_4: Mapping[str, PublishedNetwork] = {
    "mask_rcnn_gc_resnet50": PublishedNetwork(
        _official("39.9", "36.2").scores, PublishedResult("54.2", "PVT"), PublishedResult("279.6", "PVT")
    ),
    "mask_rcnn_gc_resnet101": _official("41.7", "37.6"),
    "mask_rcnn_gc_resnext101_32x4d": _official("42.9", "38.5"),
    _X101.format("gc_", ""): _official("46.5", "39.7"),
    _X101.format("gc_", "_dcn"): _official("47.9", "40.8"),
}
"""Likewise, with blocks of ratio 4."""


def published_lines(name: str) -> list[str]:
    """Return the published results of the network `name`, a line each; for a classifier, of its Mask R-CNN as well.

    Example:
        >>> published_lines("gc_resnet101")
        ['mask_rcnn_gc_resnet101: 41.1 [O] / 37.4 [O]', 'mask_rcnn_gc_resnet101, ratio 4: 41.7 [O] / 37.6 [O]']
    """
    lines = []
    for network in dict.fromkeys((name, f"mask_rcnn_{name}")):
        for table, suffix in ((PUBLISHED, ""), (PUBLISHED_RATIO_4, ", ratio 4")):
            if network in table:
                lines.append(f"{network}{suffix}: {_line(table[network])}")
    return lines


def _line(network: PublishedNetwork) -> str:
    counts = ((network.parameters, "M parameters"), (network.multiply_adds, "G multiply-adds"))
    scores = " / ".join(map(str, network.scores))
    return ", ".join([scores, *(f"{count.value} {unit} [{count.source}]" for count, unit in counts if count)])
