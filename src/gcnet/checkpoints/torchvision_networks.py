"""Network source torchvision: classifiers, Faster R-CNN and Mask R-CNN."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.checkpoints.key_table import KeyTable, Rule
from gcnet.checkpoints.library_networks import LIKELY_SHARE, fitting_network, misfit, nearest_share
from gcnet.checkpoints.network import NetworkDescription, NetworkSource, require
from gcnet.checkpoints.residual_networks import residual_network
from gcnet.checkpoints.torchvision import torchvision_preprocessing, torchvision_weights
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError

_NAME = "torchvision"
_CLASSES = "roi_heads.box_predictor.cls_score.bias"
_BODY = "backbone.body."
_HEADS = ("fc.", "classifier.", "head.", "heads.")  # of classifiers
_OWN_NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d")
_COCO_ROWS = 91
_OLD_RULES = (
    Rule("backbone.fpn.inner_blocks.#.*", "backbone.fpn.inner_blocks.#.0.*"),
    Rule("backbone.fpn.layer_blocks.#.*", "backbone.fpn.layer_blocks.#.0.*"),
    Rule("rpn.head.conv.*", "rpn.head.conv.0.0.*"),
    *(Rule(f"roi_heads.mask_head.mask_fcn{number + 1}.*", f"roi_heads.mask_head.{number}.0.*") for number in range(4)),
)
"""Keys before torchvision 0.13, which its published COCO_V1 files have."""


class TorchvisionSource(NetworkSource):
    """Classifiers, and Faster R-CNN and Mask R-CNN on ResNets, versions 1 and 2."""

    license = "BSD-3-Clause"

    def recognizes(self, weights: WeightFile) -> bool:
        if _is_detector(weights):
            return True
        has_head = any(key.startswith(_HEADS) for key in weights.tensors)
        return has_head and fitting_network(weights.tensors, _candidates(), _classifier) is not None

    def resembles(self, weights: WeightFile) -> bool:
        return nearest_share(weights.tensors, _candidates(), _classifier) >= LIKELY_SHARE

    def describe(self, weights: WeightFile) -> NetworkDescription:
        return _detector(weights) if _is_detector(weights) else _described_classifier(weights)

    def convert(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        return _table(network).to_ours(tensors)

    def to_library(self, tensors: Mapping[str, Tensor], network: NetworkDescription) -> dict[str, Tensor]:
        if any(".context." in key for key in tensors):
            raise UserError(f"{_NAME} has no context blocks, but {network.architecture} has some here")
        conventions = (network.detector or {}).get("conventions", "mmdet")
        if "rcnn" in network.architecture and conventions != _NAME:
            raise UserError(
                f"{_NAME} has other anchors, RoIAlign and resizing than a detector of conventions {conventions}, whose "
                "weights would give other outputs there"
            )
        return _table(network).to_theirs(tensors)


def _is_detector(weights: WeightFile) -> bool:
    return _CLASSES in weights.tensors and f"{_BODY}conv1.weight" in weights.tensors


def _table(network: NetworkDescription) -> KeyTable:
    return KeyTable([*(_OLD_RULES if network.layout.get("old") else ()), Rule("*", "*")])


@cache
def _candidates() -> dict[str, int | None]:
    """Number of parameters of the published weights by name of the classifier."""
    import torchvision.models

    names = torchvision.models.list_models(module=torchvision.models)
    members = {name: next(iter(torchvision.models.get_model_weights(name)), None) for name in names}
    return {name: member.meta["num_params"] if member else None for name, member in members.items()}


def _classifier(name: str) -> nn.Module:
    import torchvision.models

    arguments: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **arguments)


def _described_classifier(weights: WeightFile) -> NetworkDescription:
    fit = fitting_network(weights.tensors, _candidates(), _classifier)
    if fit is None:
        raise misfit(weights, _candidates(), _classifier, _NAME)
    version, is_known = _version(fit.name, weights.origin)
    return NetworkDescription(
        fit.name if fit.name in _OWN_NAMES else f"{_NAME}/{fit.name}",
        num_classes=fit.num_classes,
        preprocessing=torchvision_preprocessing(fit.name, version),
        notes=() if is_known else (f"preprocessing of {fit.name} {version}",),
    )


def _version(network: str, origin: str) -> tuple[str, bool]:
    """The published weights whose file has this name, and whether there are some; else the first ones."""
    import torchvision.models

    versions = [member.name for member in torchvision.models.get_model_weights(network)]
    for version in versions:
        if Path(torchvision_weights(network, version).url).name == Path(origin).name:
            return version, True
    return versions[0], False


def _detector(weights: WeightFile) -> NetworkDescription:
    keys = weights.tensors
    classes = require(weights, _CLASSES, _NAME).shape[0] - 1
    kind = "mask_rcnn" if any(key.startswith("roi_heads.mask_head.") for key in keys) else "faster_rcnn"
    is_frozen = f"{_BODY}bn1.num_batches_tracked" not in keys
    is_deep = "roi_heads.box_head.0.0.weight" in keys
    convolutions = sum(key.startswith("rpn.head.conv.") and key.endswith(".weight") for key in keys)
    sizes = {
        "fpn_channels": (require(weights, "rpn.head.cls_logits.weight", _NAME).shape[1], 256),
        "head_width": (require(weights, _CLASSES.replace("bias", "weight"), _NAME).shape[1], 1024),
    }
    names = _coco_names() if classes == _COCO_ROWS - 1 else None
    return NetworkDescription(
        f"{kind}_{residual_network(weights, _BODY, _NAME)}",
        num_classes=classes,
        detector={
            "conventions": _NAME,
            **({"norm": "frozen", "norm_eps": 0.0} if is_frozen else {"norm": "batch"}),
            **({"box_head": "4conv1fc"} if is_deep else {}),
            **({"rpn_convs": convolutions} if convolutions > 1 else {}),
            **{name: size for name, (size, usual) in sizes.items() if size != usual},
        },
        class_names=names,
        category_ids=None if names is None else tuple(range(1, _COCO_ROWS)),
        notes=(_EPSILON_NOTE,) if is_frozen else (),
        layout={"old": "rpn.head.conv.weight" in keys},
    )


_EPSILON_NOTE = (
    "norm_eps is 0, as in torchvision's COCO_V1 weights and networks trained from them; torchvision uses 1e-5 if only "
    "the backbone had pretrained weights"
)


def _coco_names() -> tuple[str, ...]:
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
