"""Weights of a host for a network with blocks, of a classifier for a detector's backbone, and published ones."""

import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.models.checkpoints.source import read_state_dict
from gcnet.models.files import load_strictly
from gcnet.models.names import HOSTS, build_host, is_detector

_LOG = logging.getLogger("gcnet")
_COUNTER = ".num_batches_tracked"
_OFFSETS = ".conv_offset."


def load_weights(model: nn.Module, source: str | Path, host_name: str, host_names: set[str]) -> None:
    """Load weights of the host or of the whole; a head for another number of classes stays new, which is said.

    Args:
        model: the network, with its blocks.
        source: a file, or "pretrained".
        host_name: of the network without its blocks.
        host_names: names of the weights of the network without its blocks.

    Raises:
        UserError: the weights cannot be had, or do not fit.
    """
    found = read_weights(source, host_name, argument="weights")
    own = model.state_dict()
    found = _counters(own) | found
    fresh = _fresh(own, found, host_names)
    unfit = [name for name in found if name in own and own[name].shape != found[name].shape]
    head = {name.rpartition(".")[0] for name in unfit}
    if unfit and len(head) == 1 and all(own[name].shape[1:] == found[name].shape[1:] for name in unfit):
        _LOG.warning(
            "%s has %d classes and the network %d: its classifier (%s) starts anew",
            *(source, len(found[unfit[0]]), len(own[unfit[0]]), head.pop()),
        )
        fresh |= set(unfit)
    load_strictly(model, found | {name: own[name] for name in fresh}, str(source))


def load_backbone(model: nn.Module, source: str | Path, classifier: str) -> None:
    """Load a classifier's weights, but for its head, into the layers that a detector took over.

    Offsets of deformable convolutions stay as they are; so do blocks, where the file has none.

    Args:
        model: a detector.
        source: a file of ours, torchvision's or timm's, or "pretrained".
        classifier: name of the plain classifier.

    Raises:
        UserError: the weights cannot be had, or do not fit.
    """
    found = read_weights(source, classifier, argument="backbone_weights")
    body = model.get_submodule("backbone.body")
    own = body.state_dict()
    with torch.device("meta"):
        plain = build_host(classifier, 1).state_dict()
    head = {name for name in plain if not hasattr(body, name.partition(".")[0])}
    unread = {name for name in found if name in head or (name.endswith(_COUNTER) and name not in own)}
    found = _counters(own) | {name: value for name, value in found.items() if name not in unread}
    fresh = _fresh(own, found, set(plain))
    load_strictly(body, found | {name: own[name] for name in fresh}, str(source))


def read_weights(source: str | Path, host_name: str, *, argument: str) -> dict[str, Tensor]:
    """Weights by name, of a file or published; `argument` is what the user gave them as."""
    return _published_weights(host_name, argument) if str(source) == "pretrained" else read_state_dict(Path(source))


def _counters(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch counters, which files older than PyTorch 0.4.1 lack and no network here reads."""
    return {name: value for name, value in own.items() if name.endswith(_COUNTER)}


def _fresh(own: dict[str, Tensor], found: Iterable[str], host_names: set[str]) -> set[str]:
    """The names of what stays new: offsets, and blocks of which nothing is found."""
    added = {name for name in own if name not in host_names}
    offsets = {name for name in added if _OFFSETS in name}
    blocks = added - offsets
    return (offsets | blocks if blocks.isdisjoint(found) else offsets).difference(found)


def _published_weights(name: str, argument: str) -> dict[str, Tensor]:
    """The weights that torchvision (for its own and our names) or timm publish, from their cache or the network."""
    import torchvision.models

    library, _, plain = name.rpartition("/")
    if library == "torchvision" or plain in HOSTS or is_detector(plain):
        if plain not in torchvision.models.list_models(module=torchvision.models):
            raise UserError(f'no pretrained weights are published for "{name}": give {argument}=FILE')
        _require_network("download.pytorch.org", name, argument)
        return torchvision.models.get_model_weights(plain)["DEFAULT"].get_state_dict(check_hash=True)
    import timm

    _require_network("huggingface.co", name, argument)
    return timm.create_model(plain, pretrained=True).state_dict()


def _require_network(host: str, name: str, argument: str) -> None:
    """Fail at once without a network, where the libraries would try for most of a minute."""
    if any(os.environ.get(proxy) for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return
    try:
        socket.create_connection((host, 443), timeout=0.7).close()
    except OSError as error:
        raise UserError(
            f'{argument}="pretrained" for "{name}" come from {host}, which cannot be reached ({error}): '
            f"give {argument}=FILE"
        ) from error
