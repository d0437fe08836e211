"""Network source mmdet: detectors of mmdet 2 and 3, whose background is the last class."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gcnet.checkpoints.coco_classes import COCO_CLASSES, COCO_IDS
from gcnet.checkpoints.key_table import Change, KeyTable, Rule, unchanged
from gcnet.checkpoints.mm_config import backbone_config, class_names
from gcnet.checkpoints.mmcv_blocks import (
    Backbone,
    plugin_insertions,
    plugin_rules,
    with_output_bias,
    without_output_bias,
)
from gcnet.checkpoints.network import NetworkDescription, NetworkSource, require
from gcnet.checkpoints.residual_networks import residual_network, residual_rules
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_BODY = "backbone.body."
_OFFSETS = 18  # of a deformable convolution without modulation: dy and dx of nine samples
_OFFSET_NAMES = ("conv2.conv_offset", "conv2_offset")  # since mmdet 1.0, and before

Changes = Mapping[str, tuple[Change, Change]]
"""What happens to the rows of `fc_cls`, `fc_reg` and `conv_logits`, and the inverse of each."""


def _background_first(tensor: Tensor) -> Tensor:
    return torch.cat((tensor[-1:], tensor[:-1]))


def _background_last(tensor: Tensor) -> Tensor:
    return torch.cat((tensor[1:], tensor[:1]))


def _with_rows(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat((tensor.new_zeros(rows, *tensor.shape[1:]), tensor))


def _without_rows(tensor: Tensor, rows: int) -> Tensor:
    return tensor[rows:].clone()


_ROWS: Changes = {
    "fc_cls": (_background_first, _background_last),
    "fc_reg": (partial(_with_rows, rows=4), partial(_without_rows, rows=4)),
    "conv_logits": (partial(_with_rows, rows=1), partial(_without_rows, rows=1)),
}
SAME_ROWS: Changes = {name: (unchanged, unchanged) for name in _ROWS}


class MmdetSource(NetworkSource):
    """Checkpoints of Faster R-CNN, Mask R-CNN and Cascade Mask R-CNN of mmdet.

    Args:
        name: of the source.
        heads: prefix of the keys of box and mask heads.
        conventions: of the detectors.
        rows: what happens to the rows of the classes.
    """

    def __init__(
        self,
        name: str = "mmdet",
        *,
        heads: str = "roi_head.",
        conventions: str = "mmdet",
        rows: Changes = _ROWS,
    ) -> None:
        self._name, self._heads, self._conventions, self._rows = name, heads, conventions, rows

    def recognizes(self, weights: WeightFile) -> bool:
        keys = weights.tensors
        boxes = any(key.startswith(f"{self._heads}bbox_head.") for key in keys)
        return boxes and any(key.startswith("rpn_head.") for key in keys)

    def describe(self, weights: WeightFile) -> NetworkDescription:
        cascade = any(key.startswith(f"{self._heads}bbox_head.0.") for key in weights.tensors)
        box = f"{self._heads}bbox_head.{'0.' if cascade else ''}"
        classes = require(weights, f"{box}fc_cls.bias", self._name).shape[0] - 1
        names = class_names(weights)
        if names is not None and len(names) != classes:
            raise UserError(f"{weights.origin} names {len(names)} classes, but its box head has {classes}")
        offsets = _offsets(weights)
        return NetworkDescription(
            self._architecture(weights, cascade) + ("_dcn" if offsets else ""),
            num_classes=classes,
            insertions=plugin_insertions(Backbone(weights, ours=_BODY)),
            detector=self._options(weights, box),
            class_names=names,
            category_ids=COCO_IDS if names == COCO_CLASSES else None,
            notes=() if names else ("the file has no class names",),
            layout={"offsets": offsets or _OFFSET_NAMES[0]},
        )

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return with_output_bias(self._table(network).to_ours(tensors))

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return self._table(network).to_theirs(without_output_bias(tensors))

    def _architecture(self, weights: WeightFile, cascade: bool) -> str:
        Backbone(weights).require_usual_layers(self._name)
        masks = any(key.startswith(f"{self._heads}mask_head.") for key in weights.tensors)
        if cascade and not masks:
            raise UserError(f"{weights.origin} is a Cascade R-CNN without masks, and gcnet's cascades have masks")
        kind = "cascade_mask_rcnn" if cascade else "mask_rcnn" if masks else "faster_rcnn"
        return f"{kind}_{residual_network(weights, 'backbone.', self._name)}"

    def _options(self, weights: WeightFile, box: str) -> dict[str, Any]:
        config = backbone_config(weights)
        norm = config.get("norm_cfg")
        synchronized = isinstance(norm, dict) and norm.get("type") == "SyncBN" and config.get("norm_eval") is False
        convolutions = any(key.startswith(f"{box}shared_convs.") for key in weights.tensors)
        sizes = {
            "fpn_channels": (require(weights, "rpn_head.rpn_conv.bias", self._name).shape[0], 256),
            "head_width": (require(weights, f"{box}shared_fcs.0.bias", self._name).shape[0], 1024),
        }
        return {
            "conventions": self._conventions,
            **({"norm": "sync"} if synchronized else {}),
            **({"box_head": "4conv1fc"} if convolutions else {}),
            **{name: size for name, (size, usual) in sizes.items() if size != usual},
        }

    def _table(self, network: NetworkDescription) -> KeyTable:
        cascade = network.architecture.startswith("cascade_")
        stage, ours = ("#.", "roi_heads.stages.#.") if cascade else ("", "roi_heads.")
        box, mask = f"{self._heads}bbox_head.{stage}", f"{self._heads}mask_head.{stage}"
        offsets = network.layout.get("offsets", _OFFSET_NAMES[0])
        rows = dict(self._rows) | ({"fc_reg": (unchanged, unchanged)} if cascade else {})
        return KeyTable(
            [
                *plugin_rules("backbone.layer#.#", f"{_BODY}layer#.#", network.insertions),
                Rule(f"backbone.layer#.#.{offsets}.*", f"{_BODY}layer#.#.conv2.conv_offset.*"),
                *residual_rules("backbone.", _BODY),
                Rule("neck.lateral_convs.#.conv.*", "backbone.fpn.inner_blocks.#.0.*"),
                Rule("neck.lateral_convs.#.bn.*", "backbone.fpn.inner_blocks.#.1.*"),
                Rule("neck.fpn_convs.#.conv.*", "backbone.fpn.layer_blocks.#.0.*"),
                Rule("neck.fpn_convs.#.bn.*", "backbone.fpn.layer_blocks.#.1.*"),
                Rule("rpn_head.rpn_conv.*", "rpn.head.conv.0.0.*"),
                Rule("rpn_head.rpn_cls.*", "rpn.head.cls_logits.*"),
                Rule("rpn_head.rpn_reg.*", "rpn.head.bbox_pred.*"),
                *self._box_rules(box, ours, network.detector or {}),
                Rule(f"{box}fc_cls.*", f"{ours}box_predictor.cls_score.*", *rows["fc_cls"]),
                Rule(f"{box}fc_reg.*", f"{ours}box_predictor.bbox_pred.*", *rows["fc_reg"]),
                Rule(f"{mask}convs.#.conv.*", f"{ours}mask_head.#.0.*"),
                Rule(f"{mask}convs.#.bn.*", f"{ours}mask_head.#.1.*"),
                Rule(f"{mask}upsample.*", f"{ours}mask_predictor.conv5_mask.*"),
                Rule(f"{mask}conv_logits.*", f"{ours}mask_predictor.mask_fcn_logits.*", *rows["conv_logits"]),
            ]
        )

    def _box_rules(self, box: str, ours: str, options: Mapping[str, Any]) -> list[Rule]:
        if options.get("box_head") != "4conv1fc":
            return [Rule(f"{box}shared_fcs.{number}.*", f"{ours}box_head.{name}.*") for number, name in enumerate(_FCS)]
        return [
            Rule(f"{box}shared_convs.#.conv.*", f"{ours}box_head.#.0.*"),
            Rule(f"{box}shared_convs.#.bn.*", f"{ours}box_head.#.1.*"),
            Rule(f"{box}shared_fcs.0.*", f"{ours}box_head.5.*"),
        ]


def _offsets(weights: WeightFile) -> str:
    """The name of the offsets of deformable convolutions in residual blocks, "" without them."""
    found = {
        name: tensor
        for name in _OFFSET_NAMES
        for key, tensor in weights.tensors.items()
        if key.startswith("backbone.") and key.endswith(f".{name}.bias")
    }
    for name, tensor in found.items():
        if tensor.numel() != _OFFSETS:
            raise UserError(
                f"{weights.origin} has deformable convolutions with {tensor.numel()} channels in {name}, and gcnet has "
                f"those of version 1, with {_OFFSETS}"
            )
    return next(iter(found), "")


_FCS = ("fc6", "fc7")
