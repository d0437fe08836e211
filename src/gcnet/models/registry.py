"""Model registry: resolves names to a base model and the placement of its blocks."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gcnet.blocks import BLOCKS
from gcnet.errors import UserError, nearest, raise_if_out_of_memory
from gcnet.models.own_blocks import remove_own_blocks
from gcnet.models.unknown_names import unknown_model, unknown_tag
from gcnet.torchvision_import import import_torchvision


def _torchvision_resnet(name: str) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        import torchvision.models

        return getattr(torchvision.models, name)(weights=None, num_classes=num_classes)

    return build


def _resnext101_32x4d(num_classes: int) -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes=num_classes, groups=32, width_per_group=4)


def _cifar_resnet(depth: int) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        from gcnet.models.backbones.cifar_resnet import CifarResNet

        return CifarResNet(depth, num_classes)

    return build


def _scenes_resnet(num_classes: int) -> nn.Module:
    from gcnet.models.backbones.scenes_resnet import ScenesResNet

    return ScenesResNet(num_classes)


_SMALL_INPUTS = {"cifar_": 32, "scenes_": 64}

BASE_MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18": _torchvision_resnet("resnet18"),
    "resnet34": _torchvision_resnet("resnet34"),
    "resnet50": _torchvision_resnet("resnet50"),
    "resnet101": _torchvision_resnet("resnet101"),
    "resnext50_32x4d": _torchvision_resnet("resnext50_32x4d"),
    "resnext101_32x4d": _resnext101_32x4d,
    "cifar_resnet20": _cifar_resnet(20),
    "cifar_resnet56": _cifar_resnet(56),
    "scenes_resnet": _scenes_resnet,
}
_CLASSES = {"cifar_resnet20": 10, "cifar_resnet56": 10, "scenes_resnet": 6}
_KINETICS = 400  # classes of networks for clips


def _dilated_resnet(name: str) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=num_classes, output_stride=8)

    return build


def _video_resnet(name: str) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        from gcnet.models.backbones.video_resnet import VIDEO_DESIGNS, VideoResNet

        return VideoResNet(VIDEO_DESIGNS[name], num_classes)

    return build


_VIDEO = ("i3d_resnet50", "slowonly_resnet50", "tsm_resnet50")

# Networks of converted checkpoints. The dilated ones are backbones of segmentation networks with a stem of three
# convolutions, and dilation instead of the strides of c4 and c5 (ResNetV1c-D8 of mmsegmentation).
_CONVERTED = {
    "resnet50c_d8": _dilated_resnet("resnet50c"),
    "resnet101c_d8": _dilated_resnet("resnet101c"),
    **{name: _video_resnet(name) for name in _VIDEO},
}


# Options of `build_mask_rcnn` for base models of small images.
_MOST_CLASSES = 100_000_000
_SMALL_DETECTOR: dict[str, Any] = {"image_size": (64, 64), "rois_per_image": 64, "fpn_channels": 64, "head_width": 128}
_CIFAR_DETECTOR = _SMALL_DETECTOR | {"anchor_sizes": (10.0, 16.0, 24.0, 32.0)}
_DETECTOR_DEFAULTS: dict[str, dict[str, Any]] = {
    "cifar_resnet20": _CIFAR_DETECTOR,
    "cifar_resnet56": _CIFAR_DETECTOR,
    "scenes_resnet": _SMALL_DETECTOR | {"anchor_sizes": (10.0,)},
}


def _detector(base: str, kind: str, suffix: str, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    from gcnet.models.detector.backbone import make_deformable
    from gcnet.models.detector.mask_rcnn import build_mask_rcnn

    backbone = BASE_MODELS[base](1)
    if suffix == _DEFORMABLE:
        make_deformable(backbone)
    chosen = _DETECTOR_DEFAULTS.get(base, {}) | dict(options)
    return build_mask_rcnn(backbone, num_classes=num_classes, cascade=kind == _CASCADE, masks=kind != _FASTER, **chosen)


# Name of a detector: kind, block prefix if any, base model, and _dcn for deformable convolutions in c3-c5.
_MASK, _CASCADE, _FASTER, _DEFORMABLE = "mask_rcnn_", "cascade_mask_rcnn_", "faster_rcnn_", "_dcn"
_DETECTOR_KINDS = (_MASK, _CASCADE, _FASTER)
_PLAIN_BASES = ("resnet18", "resnet34", "cifar_resnet20", "cifar_resnet56", "scenes_resnet")
_BOTTLENECK_BASES = ("resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x4d")
_DETECTORS: dict[str, tuple[str, str, str]] = {  # base model, kind and suffix by name
    kind + base + suffix: (base, kind, suffix)
    for kind in _DETECTOR_KINDS
    for bases, suffixes in ((_PLAIN_BASES, ("",)), (_BOTTLENECK_BASES, ("", _DEFORMABLE)))
    for base in bases
    for suffix in suffixes
}

WITHOUT_BLOCKS = "plain_"
"""Prefix of networks of timm without their own attention blocks: plain_seresnet50."""

_LISTED = ("gc_", "snl_", "se_", "nl_")
# Stages of small networks that correspond to those of ResNets.
_CIFAR_STAGES = {(2, 3, 4, 5): (1, 2, 3), (4,): (2,)}
_SMALL_STAGES = {
    "cifar_resnet20": _CIFAR_STAGES,
    "cifar_resnet56": _CIFAR_STAGES,
    "scenes_resnet": {(2, 3, 4, 5): (1,), (4,): (1,)},
}


def list_models() -> list[str]:
    """Return the names of the classifiers of this package, plain and with the blocks of the GCNet paper.

    Names of other blocks are prefixes, too (`eca_resnet50`); classifiers of timm and torchvision are valid as well.
    """
    return [prefix + base for base in BASE_MODELS for prefix in ("", *_LISTED)]


def list_detectors() -> list[str]:
    """Return the names of the detectors, plain and with the blocks of the GCNet paper; other block names are prefixes,
    too.
    """
    return [
        kind + prefix + name.removeprefix(kind)
        for name in _DETECTORS
        for kind in _DETECTOR_KINDS
        if name.startswith(kind)
        for prefix in ("", *_LISTED)
    ]


def is_detector(name: str) -> bool:
    """Whether `name` is the name of a detector."""
    return name.startswith(_DETECTOR_KINDS)


def takes_clips(name: str) -> bool:
    """Whether the network `name` takes clips (N, 3, T, H, W) instead of images."""
    return name in _VIDEO


def has_masks(name: str) -> bool:
    """Whether the detector called `name` predicts masks."""
    return is_detector(name) and not name.startswith(_FASTER)


def without_masks(name: str) -> str:
    """Return the name of the detector `name` without masks: `mask_rcnn_resnet50` -> `faster_rcnn_resnet50`."""
    kind = next(kind for kind in (_CASCADE, _MASK, _FASTER) if name.startswith(kind))
    return _FASTER + name.removeprefix(kind)


def default_classes(base_name: str) -> int:
    """Return the default number of classes of the network `base_name`."""
    if takes_clips(base_name):
        return _KINETICS
    return 80 if is_detector(base_name) else _CLASSES.get(base_name, 1000)


def small_input(base_name: str) -> int | None:
    """Return the image size in pixels of the network `base_name` if it is for small images; else None."""
    return next((side for start, side in _SMALL_INPUTS.items() if base_name.startswith(start)), None)


def split_name(name: str) -> tuple[str, str]:
    """Split a block prefix from `name`: `gc_resnet50` -> (`gc_`, `resnet50`).

    Likewise `mask_rcnn_gc_resnet50` -> (`gc_`, `mask_rcnn_resnet50`); the prefix of any other name is empty.

    Returns:
        Prefix and name of the base model.
    """
    kind = next((kind for kind in _DETECTOR_KINDS if name.startswith(kind)), "")
    for prefix in _prefixes():
        base = kind + name.removeprefix(kind + prefix)
        if name.startswith(kind + prefix) and (base in BASE_MODELS or base in _DETECTORS):
            return prefix, base
    return "", name


def _prefixes() -> dict[str, str]:
    """Block by prefix; "nl_" is the embedded Gaussian non-local block."""
    return {"nl_": "nl_embedded_gaussian"} | {f"{block}_": block for block in BLOCKS}


def backbone_name(base_name: str) -> str:
    """Return the classifier that the detector `base_name` is built on; other names are returned unchanged."""
    return _DETECTORS[base_name][0] if base_name in _DETECTORS else base_name


def detector_options(base_name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return validated options of `build_mask_rcnn`, sequences as tuples.

    Args:
        base_name: name of a detector.
        options: values by name.

    Raises:
        UserError: not a detector, an unknown option, or an invalid value.
    """
    if not is_detector(base_name):
        proposal = nearest(_DETECTOR_KINDS[0] + base_name, list_detectors())
        raise UserError(f'detector= holds options of a detector, and "{base_name}" is a classifier{proposal}')
    from gcnet.models.detector.mask_rcnn import check_detector_options

    check_detector_options(options)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def published_placement(prefix: str, base_name: str) -> dict[str, Any]:
    """Return the arguments of `insert` of a prefix.

    Args:
        prefix: such as `gc_`.
        base_name: name of the base model.
    """
    block = _prefixes().get(prefix)
    if block is None:
        return {}
    placement: dict[str, Any] = {"block": block, **BLOCKS[block].placement}
    small = _SMALL_STAGES.get(backbone_name(base_name))
    if small and "stages" in placement:
        placement["stages"] = small[placement["stages"]]
    return placement


def build_base_model(
    name: str, num_classes: int | None, detector: Mapping[str, Any] | None = None, image_size: int | None = None
) -> nn.Module:
    """Build a network without blocks by name, with fresh weights.

    Args:
        name: of the network.
        num_classes: number of classes; None for the default.
        detector: options of `build_mask_rcnn`.
        image_size: image size in pixels of networks that are built for one size (ViT, Swin, ...).

    Returns:
        The network.

    Raises:
        UserError: unknown name, or a network that cannot be built for this size.
    """
    classes = num_classes or default_classes(name)
    if classes > _MOST_CLASSES:
        raise UserError(f"a network has at most {_MOST_CLASSES:,} classes, found {classes:,}")
    import_torchvision()
    options = {} if detector is None else detector_options(name, detector)
    if name in BASE_MODELS:
        return BASE_MODELS[name](classes)
    if name in _CONVERTED:
        return _CONVERTED[name](classes)
    if name in _DETECTORS:
        return _detector(*_DETECTORS[name], classes, options)
    library, _, plain = name.rpartition("/")
    if library in ("", "timm"):
        import timm

        if timm.is_model(plain) or timm.is_model(plain.partition(".")[0]):
            return _from_timm(plain, classes, image_size)
        if plain.startswith(WITHOUT_BLOCKS) and timm.is_model(plain.removeprefix(WITHOUT_BLOCKS)):
            return _without_blocks(plain.removeprefix(WITHOUT_BLOCKS), classes, image_size)
    if library in ("", "torchvision"):
        import torchvision.models

        if plain in torchvision.models.list_models(module=torchvision.models):
            return _from_torchvision(plain, classes, image_size)
    raise unknown_model(name, own=list_models(), detectors=list_detectors(), prefixes=_prefixes())


def _from_timm(name: str, classes: int, image_size: int | None) -> nn.Module:
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise unknown_tag(name) from error
    has_size = image_size is not None and config is not None and config.fixed_input_size
    size: dict[str, Any] = {"img_size": image_size} if has_size else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, **size)
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise_if_out_of_memory(error)
        if not size and _on_meta_device():
            raise  # some networks compute with tensors while they are built; callers build them off the meta device
        if not size:
            raise UserError(f"timm cannot build {name}: {error}") from error
        raise UserError(
            f"{name} cannot be built for images of {image_size} pixels: give another `image_size`"
        ) from error


def _without_blocks(name: str, classes: int, image_size: int | None) -> nn.Module:
    model = _from_timm(name, classes, image_size)
    if not remove_own_blocks(model):
        raise UserError(f'{name} of timm has no attention blocks: use "{name}" instead of "{WITHOUT_BLOCKS}{name}"')
    return model


def _from_torchvision(name: str, classes: int, image_size: int | None) -> nn.Module:
    import torchvision.models

    # Other classifiers of torchvision take any image size, or 224 only (MaxViT).
    size: dict[str, Any] = {"image_size": image_size} if image_size and name.startswith("vit_") else {}
    arguments: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **size, **arguments)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise_if_out_of_memory(error)
        if not size:
            raise
        raise UserError(f"{name} cannot be built for images of {image_size} pixels") from error


def _on_meta_device() -> bool:
    import torch

    return torch.empty(0).is_meta
