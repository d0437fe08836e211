"""What a network's name stands for: the plain host, and the blocks at their published places that a prefix adds."""

from collections.abc import Callable
from typing import Any

from torch import nn

from gcnet.errors import UserError, unknown


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
        from gcnet.models.cifar_resnet import CifarResNet

        return CifarResNet(depth, num_classes)

    return build


def _scenes_resnet(num_classes: int) -> nn.Module:
    from gcnet.models.scenes_resnet import ScenesResNet

    return ScenesResNet(num_classes)


HOSTS: dict[str, Callable[[int], nn.Module]] = {
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
DEFAULT_CLASSES = {"cifar_resnet20": 10, "cifar_resnet56": 10, "scenes_resnet": 6}

# The published places: GC and SNL in every residual block of c3 to c5 (`insert`'s default), SE in every block of every
# stage (arXiv 1709.01507), one NL before the last residual block of c4 ends, on its output (arXiv 1711.07971).
_PREFIXES: dict[str, dict[str, Any]] = {
    "gc_": {"block": "gc"},
    "snl_": {"block": "snl"},
    "se_": {"block": "se", "stages": (2, 3, 4, 5)},
    "nl_": {"block": "nl_embedded_gaussian", "stages": (4,), "blocks": (-2,), "position": "after_add"},
}
# In our small networks: the stages that play the same part.
_CIFAR_STAGES = {"se_": (1, 2, 3), "nl_": (2,)}
_SMALL_STAGES = {
    "cifar_resnet20": _CIFAR_STAGES,
    "cifar_resnet56": _CIFAR_STAGES,
    "scenes_resnet": {"se_": (1,), "nl_": (1,)},
}


def list_models() -> list[str]:
    """The networks with names of our own, plain and with each prefix; timm's and torchvision's come on top."""
    return [prefix + host for host in HOSTS for prefix in ("", *_PREFIXES)]


def split_name(name: str) -> tuple[str, str]:
    """`gc_resnet50` -> (`gc_`, `resnet50`); the prefix is empty for every other name."""
    for prefix in _PREFIXES:
        if name.startswith(prefix) and name.removeprefix(prefix) in HOSTS:
            return prefix, name.removeprefix(prefix)
    return "", name


def published_placement(prefix: str, host_name: str) -> dict[str, Any]:
    """Arguments of `insert` that a prefix stands for in a host."""
    placement = dict(_PREFIXES.get(prefix, {}))
    stages = _SMALL_STAGES.get(host_name, {}).get(prefix)
    return placement if stages is None else placement | {"stages": stages}


def build_host(name: str, num_classes: int | None) -> nn.Module:
    """A plain network by name, with fresh weights."""
    classes = num_classes or DEFAULT_CLASSES.get(name, 1000)
    if name in HOSTS:
        return HOSTS[name](classes)
    library, _, plain = name.rpartition("/")
    if library in ("", "timm"):
        import timm

        if timm.is_model(plain) or timm.is_model(plain.partition(".")[0]):
            return timm.create_model(plain, pretrained=False, num_classes=classes)
    if library in ("", "torchvision"):
        import torchvision.models

        if plain in torchvision.models.list_models(module=torchvision.models):
            return torchvision.models.get_model(plain, weights=None, num_classes=classes)
    raise _unknown_model(name)


def _unknown_model(name: str) -> UserError:
    import timm
    import torchvision.models

    others = [*timm.list_models(), *torchvision.models.list_models(module=torchvision.models)]
    return unknown("model", name, [*list_models(), *others])
