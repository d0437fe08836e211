"""Published weights of torchvision and timm, from the cache or the network."""

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from torch import Tensor

from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.errors import UserError, nearest, printable
from gcnet.models.registry import BASE_MODELS, is_detector

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

PRETRAINED = "pretrained"
_SECONDS = 0.8  # timeout of a server
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Published:
    """Published weights of one network.

    Attributes:
        library: "torchvision" or "timm".
        network: name of the network in that library.
        version: name of the weights there, such as IMAGENET1K_V2 or a1_in1k.
    """

    library: str
    network: str
    version: str

    def __str__(self) -> str:
        joint = "." if self.library == "timm" and self.version else " "
        return f"{self.library} {self.network}{joint}{self.version}".rstrip()


def find_published(name: str, weights: str | Path | None, argument: str = "weights") -> Published | None:
    """Return the published weights that an argument names; None for None and for a file.

    Args:
        name: of a base model.
        weights: "pretrained" for the library's own choice (torchvision's DEFAULT, the first tag of timm), or the name
            of one version: IMAGENET1K_V1, or a tag of timm such as a1_in1k.
        argument: name of the argument, for errors.

    Raises:
        UserError: no weights are published for this network, or none of that name and no such file exists.
    """
    text = "" if weights is None else str(weights)
    if not text or (text != PRETRAINED and _is_path(text)):
        return None
    library, versions = published_versions(name)
    if not versions:
        missing = "" if text == PRETRAINED else f', and there is no file "{printable(text)}"'
        raise UserError(f'no pretrained weights are published for "{name}"{missing}: give `{argument}=FILE`')
    chosen = versions[0] if text in (PRETRAINED, "DEFAULT") else text
    version = next((version for version in versions if version.lower() == chosen.lower()), None)
    if version is None:
        proposal = nearest(text, versions) or ";"
        raise UserError(
            f'`{argument}` must be a file, "pretrained", or published weights of {name}: there is no file '
            f'"{printable(text)}"{proposal} published: {", ".join(versions)}'
        )
    return Published(library, _plain(name), version)


def published_versions(name: str) -> tuple[str, list[str]]:
    """Return the library of the base model `name` and the names of its published weights, the default first."""
    library, plain = name.rpartition("/")[0], _plain(name)
    if library == "torchvision" or name in BASE_MODELS or is_detector(plain):
        return "torchvision", _torchvision_versions(plain)
    import timm

    if library in ("", "timm") and timm.is_model(plain):
        return "timm", _timm_versions(plain, name)
    return ("torchvision", _torchvision_versions(plain)) if library == "" else ("", [])


def torchvision_weights(name: str, version: str) -> Any:
    """Return the member of torchvision's weights enumeration, which has `transforms` and `url`.

    Args:
        name: of the network.
        version: name of the weights.
    """
    import torchvision.models

    return torchvision.models.get_model_weights(name)[version]


def timm_config(published: Published) -> "PretrainedCfg":
    """Return timm's configuration of `published`: file, preprocessing, classes."""
    import timm

    config = timm.get_pretrained_cfg(f"{published.network}.{published.version}".rstrip("."))
    if config is None:
        raise AssertionError(f"timm lost {published}")
    return config


def published_file(published: Published) -> Path | None:
    """Return the cached file of `published`, None if it is not in the cache."""
    import torch

    hub = Path(torch.hub.get_dir(), "checkpoints")
    if published.library == "torchvision":
        return _existing(hub / _file_name(torchvision_weights(published.network, published.version).url))
    import huggingface_hub

    config = timm_config(published)
    if config.hf_hub_id is not None:
        for file in filter(None, (config.hf_hub_filename, *_HUB_FILES)):
            cached = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
            if isinstance(cached, str):
                return Path(cached)
    return _existing(hub / _file_name(config.url)) if isinstance(config.url, str) else None


def read_published(published: Published, argument: str, image_size: int | None = None) -> dict[str, Tensor]:
    """Return the published tensors by the keys of their library's network, from the cache or the internet.

    Args:
        published: the weights.
        argument: name of the user's argument, for errors.
        image_size: side of the images in pixels, for timm to resize position embeddings.

    Raises:
        UserError: they are not in the cache, and their server cannot be reached.
    """
    cached = published_file(published)
    if cached is None:
        _require_network(_server(published), published, argument)
    if published.library == "torchvision":
        if cached is not None:
            return read_state_dict(cached)
        return torchvision_weights(published.network, published.version).get_state_dict(check_hash=True)
    import timm

    name = f"{published.network}.{published.version}".rstrip(".")
    overlay = {"state_dict": read_state_dict(cached)} if cached is not None and cached.suffix != ".npz" else None
    size: dict[str, Any] = {"img_size": image_size} if image_size and timm_config(published).fixed_input_size else {}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **size).state_dict()


def _server(published: Published) -> str:
    if published.library == "torchvision":
        return "download.pytorch.org"
    return urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or "huggingface.co"


def _torchvision_versions(plain: str) -> list[str]:
    import torchvision.models

    if plain not in torchvision.models.list_models(module=torchvision.models):
        return []
    members = torchvision.models.get_model_weights(plain)
    first = getattr(members, "DEFAULT", None)
    names = [member.name for member in members]
    return names if first is None else [first.name, *(name for name in names if name != first.name)]


def _timm_versions(plain: str, name: str) -> list[str]:
    import timm

    tag = name.rpartition("/")[2].partition(".")[2]
    tagged = (tagged_name.partition(".")[2] for tagged_name in timm.list_models(f"{plain}.*", pretrained=True))
    first = timm.get_pretrained_cfg(f"{plain}.{tag}" if tag else plain)
    if first is None or not first.has_weights:
        return []
    return list(dict.fromkeys([tag or first.tag or "", *tagged]))


def _plain(name: str) -> str:
    """The name without the library prefix and timm's tag."""
    return name.rpartition("/")[2].partition(".")[0]


def _is_path(text: str) -> bool:
    return os.path.exists(text) or os.sep in text or bool(Path(text).suffix)


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _file_name(url: str) -> str:
    return Path(urlparse(url).path).name


def _require_network(host: str, published: Published, argument: str) -> None:
    """Fail at once without internet access, where the libraries would retry for most of a minute."""
    if any(os.environ.get(proxy) for proxy in _PROXIES):
        return
    answers: list[OSError | None] = []
    # In a thread, since name resolution has no timeout.
    probe = threading.Thread(target=_probe, args=(host, answers), daemon=True)
    probe.start()
    probe.join(_SECONDS)
    failure = answers[0] if answers else OSError("no answer")
    if failure is not None:
        raise UserError(
            f"{published} is not in the cache, and {host} cannot be reached ({failure}): give `{argument}=FILE`"
        ) from failure


def _probe(host: str, answers: list[OSError | None]) -> None:
    try:
        socket.create_connection((host, 443), timeout=_SECONDS).close()
        answers.append(None)
    except OSError as error:
        answers.append(error)
