"""The tables of GCNet's paper (arXiv 1904.11492, section 5) as rows: on COCO Mask R-CNN, 1x; on ImageNet ResNet-50.

Published values are in `published.py`; rows whose source is unknown have none.
"""

from collections.abc import Mapping
from typing import Any

from gcnet.experiments.published import PUBLISHED, PUBLISHED_RATIO_4
from gcnet.experiments.rows import PaperTable, TableRow, build_linear_bottleneck, build_relu_bottleneck

_AP, _ACCURACY = ("box AP", "mask AP"), ("top-1", "top-5")
_COCO_SIZE, _IMAGENET_SIZE = (800, 1280), (224, 224)
_PLAIN, _GC, _SNL, _NL = (f"mask_rcnn_{prefix}resnet50" for prefix in ("", "gc_", "snl_", "nl_"))

# One block right before the last residual block of c4, as non-local blocks are placed (arXiv 1711.07971).
_ONE: Mapping[str, Any] = {"stages": (4,), "blocks": (-2,), "position": "after_add"}


_BASELINE = TableRow("baseline", _PLAIN, published=PUBLISHED[_PLAIN])
_ALL = TableRow("+all GC", _GC, published=PUBLISHED[_GC])


def _all(label: str, **options: Any) -> TableRow:
    """The full network under another name."""
    return TableRow(label, _ALL.model, options, _ALL.published)


_REGIONS = (
    "The published multiply-adds do not state image size and number of regions; 1000 boxes and 100 masks are counted "
    "here."
)
_PAIRS = (
    "NL's products of all pairs of positions are counted here (16.4 G). The published difference between +1 NL and "
    "+all GC, 9.1 G, is about that of NL's four linear layers alone (8.4 G here, 8.8 G at 800 x 1344), which counters "
    "of layers report."
)
_FROZEN = "The published 54.2 M fits 54.40 M less the stem and c2 (0.23 M), which are frozen in training."
_STRIDES = (
    "torchvision's ResNet-50 strides in its 3x3 convolutions. With the strides in the 1x1 convolutions before them, as "
    "first published, +all GC counts 3.87 G."
)


def _by_fusion(model: str, full: TableRow) -> tuple[TableRow, ...]:
    """Average (avg) or attention (att) pooling, with scale or addition, in all blocks of c3 to c5."""
    pairs = (("avg", "average", "scale"), ("avg", "average", "add"), ("att", "attention", "scale"))
    rows = [
        TableRow(f"{word}+{fusion}", model, {"pooling": pooling, "fusion": fusion}) for word, pooling, fusion in pairs
    ]
    return *rows, full


_BACKBONES = {
    "R50": "mask_rcnn_{}resnet50",
    "R101": "mask_rcnn_{}resnet101",
    "X101": "mask_rcnn_{}resnext101_32x4d",
    "X101+Cascade": "cascade_mask_rcnn_{}resnext101_32x4d",
    "X101+Cascade+DCN": "cascade_mask_rcnn_{}resnext101_32x4d_dcn",
}


def _by_backbone() -> tuple[TableRow, ...]:
    """Each backbone plain, with GC of ratio 16, and with GC of ratio 4."""
    rows = []
    for label, name in _BACKBONES.items():
        plain, gc = name.format(""), name.format("gc_")
        rows.append(TableRow(label, plain, published=PUBLISHED[plain]))
        rows.append(TableRow(f"{label} +GC r16", gc, {"ratio": 16}, PUBLISHED[gc]))
        rows.append(TableRow(f"{label} +GC r4", gc, {"ratio": 4}, PUBLISHED_RATIO_4[gc]))
    return tuple(rows)


_IMAGENET_ALL = TableRow("+all GC", "gc_resnet50", published=PUBLISHED["gc_resnet50"])

TABLES: Mapping[str, PaperTable] = {
    "design": PaperTable(
        "Block design, COCO",
        _AP,
        _COCO_SIZE,
        (
            _BASELINE,
            TableRow("+1 NL", _NL, published=PUBLISHED[_NL]),
            TableRow("+1 SNL", _SNL, _ONE),
            TableRow("+1 GC", _GC, _ONE),
            _ALL,
        ),
        (_REGIONS, _PAIRS),
    ),
    "position": PaperTable(
        "Position in the residual block, COCO",
        _AP,
        _COCO_SIZE,
        (
            _BASELINE,
            TableRow("afterAdd", _GC, {"position": "after_add"}),
            TableRow("after3x3", _GC, {"position": "after_conv2"}),
            _all("after1x1", position="after_norm"),
        ),
        (_REGIONS,),
    ),
    "stages": PaperTable(
        "Stages with GC, COCO",
        _AP,
        _COCO_SIZE,
        (
            _BASELINE,
            *(TableRow(f"c{stage}", _GC, {"stages": (stage,)}) for stage in (3, 4, 5)),
            _all("c3+c4+c5", stages=(3, 4, 5)),
        ),
        (_REGIONS,),
    ),
    "bottleneck": PaperTable(
        "Bottleneck of the transform, COCO",
        _AP,
        _COCO_SIZE,
        (
            _BASELINE,
            TableRow("w/o ratio (SNL)", _SNL),
            TableRow("r16", _PLAIN, {"block": build_linear_bottleneck}),
            TableRow("r16+ReLU", _PLAIN, {"block": build_relu_bottleneck}),
            _all("r16+LN+ReLU"),
        ),
        (_REGIONS,),
    ),
    "ratio": PaperTable(
        "Bottleneck ratio, COCO",
        _AP,
        _COCO_SIZE,
        (
            _BASELINE,
            TableRow("ratio 4", _GC, {"ratio": 4}, PUBLISHED_RATIO_4[_GC]),
            TableRow("ratio 8", _GC, {"ratio": 8}),
            _all("ratio 16", ratio=16),
            TableRow("ratio 32", _GC, {"ratio": 32}),
        ),
        (_FROZEN, _REGIONS),
    ),
    "pooling-fusion": PaperTable(
        "Pooling and fusion, COCO",
        _AP,
        _COCO_SIZE,
        (_BASELINE, *_by_fusion(_GC, _all("att+add"))),
        (_REGIONS,),
    ),
    "backbones": PaperTable("Backbones, COCO", _AP, _COCO_SIZE, _by_backbone()),
    "imagenet": PaperTable(
        "ResNet-50, ImageNet",
        _ACCURACY,
        _IMAGENET_SIZE,
        (
            TableRow("baseline", "resnet50"),
            TableRow("+1 NL", "nl_resnet50"),
            TableRow("+1 SNL", "snl_resnet50", _ONE),
            TableRow("+1 GC", "gc_resnet50", _ONE),
            *_by_fusion("gc_resnet50", _IMAGENET_ALL),
        ),
        (_STRIDES,),
    ),
}
"""The tables by name."""
