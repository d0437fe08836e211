"""Classification networks by name, with or without context blocks and weights."""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.blocks import Builder
from gcnet.errors import UserError, unknown
from gcnet.models.checkpoints.source import read_state_dict
from gcnet.models.files import ModelCard, load_strictly, set_card
from gcnet.models.insertion import insert

_LOG = logging.getLogger("gcnet")


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


_HOSTS: dict[str, Callable[[int], nn.Module]] = {
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
_DEFAULT_CLASSES = {"cifar_resnet20": 10, "cifar_resnet56": 10, "scenes_resnet": 6}

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
    **options: Any,
) -> nn.Module:
    """Build a classification network: images (N, 3, H, W) float -> logits (N, num_classes).

    Args:
        name: one of `list_models()`, plain or with a prefix that puts blocks at their published places (`gc_resnet50`);
            or any classifier of timm or torchvision by its own name (timm first; `torchvision/NAME` and `timm/NAME`
            say which).
        num_classes: length of the logits; by default 1000, for CIFAR ResNets 10, for the scenes network 6.
        weights: a file (`.safetensors`, or a `torch.save` file of tensors), of the plain network or of the one with
            blocks; or "pretrained" for the published ones, from the network.
        block: a block to insert, where the name has no prefix; with the further arguments of `gcnet.insert`.
        ratio, stages, blocks, position, options: as for `gcnet.insert`; they also override a prefix's own.

    Raises:
        UserError: an unknown name, weights that do not fit, or what `gcnet.insert` refuses.
    """
    prefix, host_name = split_name(name)
    if prefix and block is not None:
        raise UserError(f'"{name}" has its block in its name: give block= with "{host_name}" instead')
    given = {"block": block, "ratio": ratio, "stages": stages, "blocks": blocks, "position": position}
    placement: dict[str, Any] = published_placement(prefix, host_name) | {
        key: value for key, value in given.items() if value is not None
    }
    if "block" not in placement and (placement or options):
        raise UserError(f"{', '.join([*placement, *options])} belong to a block: give block= or a name with a prefix")
    classes = num_classes or _DEFAULT_CLASSES.get(host_name, 1000)
    model = build_host(host_name, classes)
    host_names = set(model.state_dict())
    if "block" in placement:
        insert(model, placement.pop("block"), **placement, **options)
    if weights is not None:
        found = _published_weights(host_name) if str(weights) == "pretrained" else read_state_dict(Path(weights))
        _load_weights(model, found, host_names, str(weights))
    set_card(model, ModelCard(architecture=host_name, num_classes=classes))
    return model


def list_models() -> list[str]:
    """The networks with names of our own, plain and with each prefix; timm's and torchvision's come on top."""
    return [prefix + host for host in _HOSTS for prefix in ("", *_PREFIXES)]


def split_name(name: str) -> tuple[str, str]:
    """`gc_resnet50` -> (`gc_`, `resnet50`); the prefix is empty for every other name."""
    for prefix in _PREFIXES:
        if name.startswith(prefix) and name.removeprefix(prefix) in _HOSTS:
            return prefix, name.removeprefix(prefix)
    return "", name


def published_placement(prefix: str, host_name: str) -> dict[str, Any]:
    """Arguments of `insert` that a prefix stands for in a host."""
    placement = dict(_PREFIXES.get(prefix, {}))
    stages = _SMALL_STAGES.get(host_name, {}).get(prefix)
    return placement if stages is None else placement | {"stages": stages}


def build_host(name: str, num_classes: int | None) -> nn.Module:
    """A plain network by name, with fresh weights."""
    classes = num_classes or _DEFAULT_CLASSES.get(name, 1000)
    if name in _HOSTS:
        return _HOSTS[name](classes)
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


def _load_weights(model: nn.Module, found: dict[str, Tensor], host_names: set[str], origin: str) -> None:
    """Load weights of the host or of the whole; a head for another number of classes stays new, which is said."""
    own = model.state_dict()
    # Files older than PyTorch 0.4.1 lack the batch counters, which no network here reads.
    found = {name: value for name, value in own.items() if name.endswith(".num_batches_tracked")} | found
    fresh = dict.fromkeys(name for name in own if name not in found and name not in host_names)
    if len(fresh) != len(own) - len(host_names):
        fresh = {}
    unfit = [name for name in found if name in own and own[name].shape != found[name].shape]
    head = {name.rpartition(".")[0] for name in unfit}
    if unfit and len(head) == 1 and all(own[name].shape[1:] == found[name].shape[1:] for name in unfit):
        _LOG.warning(
            "%s has %d classes and the network %d: its classifier (%s) starts anew",
            *(origin, len(found[unfit[0]]), len(own[unfit[0]]), head.pop()),
        )
        fresh |= dict.fromkeys(unfit)
    load_strictly(model, found | {name: own[name] for name in fresh}, origin)


def _published_weights(name: str) -> dict[str, Tensor]:
    """The weights that torchvision (for its own and our names) or timm publish, from their cache or the network."""
    import torchvision.models

    library, _, plain = name.rpartition("/")
    if library == "torchvision" or plain in _HOSTS:
        if plain not in torchvision.models.list_models(module=torchvision.models):
            raise UserError(f'no pretrained weights are published for "{name}": give weights=FILE')
        _require_network("download.pytorch.org", name)
        return torchvision.models.get_model_weights(plain)["DEFAULT"].get_state_dict(check_hash=True)
    import timm

    _require_network("huggingface.co", name)
    return timm.create_model(plain, pretrained=True).state_dict()


def _require_network(host: str, name: str) -> None:
    """Fail at once without a network, where the libraries would try for most of a minute."""
    if any(os.environ.get(proxy) for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return
    try:
        socket.create_connection((host, 443), timeout=0.7).close()
    except OSError as error:
        raise UserError(
            f'weights="pretrained" for "{name}" come from {host}, which cannot be reached ({error}): give weights=FILE'
        ) from error
