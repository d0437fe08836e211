"""`create_model`: networks by name, with context blocks and weights."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from gcnet.blocks import Builder
from gcnet.errors import UserError
from gcnet.insertion import insert
from gcnet.insertion.sites import At
from gcnet.models.card import ModelCard, set_card
from gcnet.models.checkpoint_cache import local_weights
from gcnet.models.model_file import find_card
from gcnet.models.registry import (
    backbone_name,
    build_base_model,
    default_classes,
    detector_options,
    is_detector,
    published_placement,
    split_name,
)
from gcnet.models.weights import load_backbone, load_weights


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    block: str | Builder | None = None,
    ratio: float | None = None,
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    position: str | None = None,
    at: At | None = None,
    detector: Mapping[str, Any] | None = None,
    backbone_weights: str | Path | None = None,
    image_size: int | None = None,
    download: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a classifier, images (N, 3, H, W) float -> logits (N, num_classes), or a detector.

    `gcnet.models.detector.mask_rcnn.build_mask_rcnn` documents inputs and outputs of detectors.

    Args:
        name: one of `list_models()`, plain or with a prefix that inserts blocks at their published sites
            (`gc_resnet50`; every block name is a prefix: `eca_resnet50`); a classifier of timm or torchvision (timm
            first; `torchvision/NAME` and `timm/NAME` choose the library; `plain_NAME` is a network of timm without its
            own attention blocks, such as `plain_seresnet50`); or a detector (`mask_rcnn_gc_resnet50`,
            `cascade_mask_rcnn_gc_resnext101_32x4d_dcn`).
        num_classes: number of classes; by default 1000, for CIFAR ResNets 10, for the scenes network 6; for detectors
            COCO's 80, without the background.
        weights: a file (`.safetensors`, or a `torch.save` file of tensors) of the plain network or of the one with
            blocks; "pretrained" for published weights; a model on the Hub, "hf://user/name"; or a published checkpoint
            that `gcnet models --published` lists, such as "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco". Ratio and
            detector options of a model file or of such a name are the defaults.
        block: a block to insert, if the name has no prefix.
        ratio: reduction ratio of the blocks, as for `gcnet.insert`; overrides that of the prefix.
        stages: stages with blocks, as for `gcnet.insert`; overrides those of the prefix.
        blocks: residual blocks of a stage with blocks, as for `gcnet.insert`; overrides those of the prefix.
        position: place within a residual block, as for `gcnet.insert`; overrides that of the prefix.
        at: insertion sites, as for `gcnet.insert`; replaces `stages`, `blocks` and `position`.
        detector: options of `build_mask_rcnn`: conventions, norm, norm_eps, box_head, image_size, anchor_sizes,
            rois_per_image, detections_per_image, fpn_channels, head_width, rpn_convs. Model files keep them.
        backbone_weights: for detectors, instead of `weights`: weights of a classifier with the same backbone, from a
            file or published, or a published checkpoint of a network around it. Blocks that they lack stay new.
        image_size: image size in pixels. ViT, Swin and other networks of one size are built for it, and position
            embeddings are resized; other networks take any size.
        download: download a model on the Hub, or published weights or a published checkpoint that is not in the cache.
        **options: further options of the block.

    Returns:
        The network, with fresh weights unless weights are given, in training mode.

    Raises:
        UserError: an unknown name or option, weights that do not fit, or an insertion that `gcnet.insert` refuses.

    Example:
        >>> import torch
        >>> model = create_model("gc_cifar_resnet20", num_classes=7)
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 7])
    """
    _check_arguments(name, num_classes, options)
    prefix, base_name = split_name(name)
    if prefix and block is not None:
        raise UserError(f'"{name}" already contains a block: use "{base_name}" with block "{block}"')
    given = {"block": block, "ratio": ratio, "stages": stages, "blocks": blocks, "position": position, "at": at}
    published = published_placement(prefix, base_name)
    if at is not None:  # `at` replaces the published stages, blocks and position
        published = {key: value for key, value in published.items() if key in ("block", "ratio")}
    placement: dict[str, Any] = published | {key: value for key, value in given.items() if value is not None}
    if "block" not in placement and (placement or options):
        raise UserError(
            f"{', '.join([*placement, *options])}: no effect without a block; "
            'name a block, such as "gc", or a model with one, such as "gc_resnet50"'
        )
    if backbone_weights is not None:
        _require_backbone_alone(base_name, weights)
        backbone_weights = local_weights(backbone_weights, download=download)
    if weights is not None:
        weights = local_weights(weights, download=download)
        card = find_card(weights) or ModelCard()
        placement = _ratio_of(card, placement) | placement
        if is_detector(base_name) and card.detector:
            detector = {**card.detector, **(detector or {})}
    classes = num_classes or default_classes(base_name)
    chosen = None if detector is None else detector_options(base_name, detector)
    model = build_base_model(base_name, classes, chosen, image_size)
    base_keys = set(model.state_dict())
    if "block" in placement:
        insert(model, placement.pop("block"), **placement, **options)
    if weights is not None:
        base_options = {"detector": chosen, "image_size": image_size}
        load_weights(model, weights, base_name, base_keys, base_options=base_options, download=download)
    if backbone_weights is not None:
        load_backbone(model, backbone_weights, backbone_name(base_name), download=download)
    set_card(model, ModelCard(base_name, classes, detector=chosen, image_size=image_size))
    return model


def _ratio_of(card: ModelCard, placement: Mapping[str, Any]) -> dict[str, Any]:
    """The ratio of the blocks in `card` of the kind that is inserted."""
    ratios = {record["ratio"] for record in card.insertions if record["block"] == placement.get("block")}
    return {"ratio": ratios.pop()} if len(ratios) == 1 else {}


def _check_arguments(name: object, num_classes: object, options: Mapping[str, Any]) -> None:
    if not isinstance(name, str):
        raise UserError(f'`name` must be the name of a network, such as "resnet50"; found {name!r}')
    if num_classes is not None and (not isinstance(num_classes, Integral) or num_classes < 1):
        raise UserError(f"`num_classes` must be a whole number, at least 1; found {num_classes!r}")
    if "pretrained" in options:
        raise UserError("`pretrained` is not an argument: `weights=pretrained` loads published weights")


def _require_backbone_alone(base_name: str, weights: object) -> None:
    if not is_detector(base_name):
        raise UserError(f'`backbone_weights` needs a detector, and "{base_name}" is a classifier: use `weights`')
    if weights is not None:
        raise UserError("use either `weights`, of the whole detector, or `backbone_weights`, of its backbone")
