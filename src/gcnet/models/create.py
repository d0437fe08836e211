"""Networks by name, with or without context blocks and weights."""

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gcnet.blocks import Builder
from gcnet.errors import UserError
from gcnet.models.checkpoints.source import read_state_dict
from gcnet.models.files import ModelCard, load_strictly, set_card
from gcnet.models.insertion import insert
from gcnet.models.names import HOSTS, build_host, default_classes, is_detector, published_placement, split_name

_LOG = logging.getLogger("gcnet")


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
    """Build a classifier, images (N, 3, H, W) float -> logits (N, num_classes), or a detector.

    What a detector maps to what is said at `gcnet.models.detector.mask_rcnn.build_mask_rcnn`, which also builds those
    of other numerics, norms and heads than the default.

    Args:
        name: one of `list_models()`, plain or with a prefix that puts blocks at their published places (`gc_resnet50`);
            any classifier of timm or torchvision by its own name (timm first; `torchvision/NAME` and `timm/NAME` say
            which); or a detector (`mask_rcnn_gc_resnet50`, `cascade_mask_rcnn_gc_resnext101_32x4d_dcn`).
        num_classes: length of the logits; by default 1000, for CIFAR ResNets 10, for the scenes network 6. Of a
            detector the classes of objects, without the background; by default COCO's 80.
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
    classes = num_classes or default_classes(host_name)
    model = build_host(host_name, classes)
    host_names = set(model.state_dict())
    if "block" in placement:
        insert(model, placement.pop("block"), **placement, **options)
    if weights is not None:
        found = _published_weights(host_name) if str(weights) == "pretrained" else read_state_dict(Path(weights))
        _load_weights(model, found, host_names, str(weights))
    set_card(model, ModelCard(architecture=host_name, num_classes=classes))
    return model


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
    if library == "torchvision" or plain in HOSTS or is_detector(plain):
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
