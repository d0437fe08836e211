"""Weight source timm: `GlobalContext`, `SEModule` and `EcaModule`, and the published classifiers."""

import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from torch import Tensor

from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.checkpoints.source import (
    SE_TABLE,
    BlockWeights,
    Source,
    Table,
    channel_filter,
    describe_gc,
    describe_se,
    kernel,
    torch_hub_file,
    torch_hub_path,
    vector,
)
from gcnet.errors import UserError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


_ATTENTION: Table = {
    "conv_attn.weight": ("context.key.weight", kernel),
    "conv_attn.bias": ("context.key.bias", vector),
}
_ADD: Table = {
    "mlp_add.fc1.weight": ("add.transform.reduce.weight", kernel),
    "mlp_add.fc1.bias": ("add.transform.reduce.bias", vector),
    "mlp_add.norm.weight": ("add.transform.norm.weight", vector),
    "mlp_add.norm.bias": ("add.transform.norm.bias", vector),
    "mlp_add.fc2.weight": ("add.transform.expand.weight", kernel),
    "mlp_add.fc2.bias": ("add.transform.expand.bias", vector),
}
_SCALE: Table = {
    "mlp_scale.fc1.weight": ("scale.transform.reduce.weight", kernel),
    "mlp_scale.fc1.bias": ("scale.transform.reduce.bias", vector),
    "mlp_scale.norm.weight": ("scale.transform.norm.weight", vector),
    "mlp_scale.norm.bias": ("scale.transform.norm.bias", vector),
    "mlp_scale.fc2.weight": ("scale.transform.expand.weight", kernel),
    "mlp_scale.fc2.bias": ("scale.transform.expand.bias", vector),
}

GLOBAL_CONTEXT_TABLE: Table = _ATTENTION | _SCALE | _ADD
"""Keys of `GlobalContext` with any of its parts."""
ECA_TABLE: Table = {"conv.weight": ("scale.transform.weight", channel_filter)}
"""Keys of `EcaModule`."""


def _describe_eca(weights: BlockWeights) -> tuple[str, dict[str, Any]]:
    return "eca", {"kernel_size": weights.converted["scale.transform.weight"].numel()}


SOURCES = {
    "timm_global_context": Source(
        tables=((_ATTENTION, {}), (_SCALE, _ADD, _SCALE | _ADD)), describe=partial(describe_gc, norm_eps=1e-6)
    ),
    "timm_se": Source(tables=((SE_TABLE,),), describe=describe_se),
    "timm_eca": Source(tables=((ECA_TABLE,),), describe=_describe_eca),
}


def timm_config(network: str, version: str) -> "PretrainedCfg":
    """Return timm's configuration of published weights: file, preprocessing, classes.

    Args:
        network: name of the network.
        version: name of the weights, timm's tag; may be empty.
    """
    import timm

    config = timm.get_pretrained_cfg(f"{network}.{version}".rstrip("."))
    if config is None:
        raise AssertionError(f"timm has no weights {network}.{version}")
    return config


def timm_preprocessing(network: str, version: str, *, training: bool = False) -> dict[str, Any]:
    """Return the preprocessing of published weights, as `gcnet.data.settings.Preprocessing` by name.

    Args:
        network: name of the network.
        version: name of the weights, timm's tag; may be empty.
        training: use the image size for training, if timm publishes a larger one for evaluation.

    Raises:
        UserError: preprocessing that gcnet does not support.
    """
    from timm.data import resolve_data_config

    name = f"timm {network}.{version}".rstrip(".")
    config = resolve_data_config(pretrained_cfg=timm_config(network, version).to_dict(), use_test_size=not training)
    height, width = config["input_size"][-2:]
    if height != width or config["crop_mode"] == "border":
        how = f"images of {height} x {width} pixels" if height != width else "images padded to a square"
        raise UserError(f"{name} is for {how}, which gcnet does not support")
    if config["crop_pct"] > 1:  # VOLO at 448 pixels and more
        short = math.floor(height / config["crop_pct"])
        raise UserError(
            f"{name} is for images resized to {short} pixels and padded to {height}, which gcnet does not support"
        )
    return {
        "image_size": height,
        "resize": math.floor(height / config["crop_pct"]),
        "interpolation": config["interpolation"],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "crop_mode": config["crop_mode"],
    }


class TimmCatalog:
    """The published classifiers of timm."""

    def knows(self, network: str) -> bool:
        """Whether timm has a classifier of the name `network`."""
        import timm

        return timm.is_model(network)

    def versions(self, network: str, tag: str) -> list[str]:
        """Return the tags of the published weights of a network, timm's default first.

        Args:
            network: name of the network.
            tag: tag in the user's name of the network, which then comes first; empty if none.
        """
        import timm

        if not self.knows(network):
            return []
        tags = [name.partition(".")[2] for name in timm.list_models(f"{network}.*", pretrained=True)]
        first = timm.get_pretrained_cfg(f"{network}.{tag}" if tag else network)
        if first is None or not first.has_weights:
            return []
        return list(dict.fromkeys([tag or first.tag or "", *tags]))

    def cached_file(self, network: str, version: str) -> Path | None:
        """Return the cached file of published weights, None if it is not in the cache.

        Args:
            network: name of the network.
            version: name of the weights.
        """
        import huggingface_hub

        config = timm_config(network, version)
        if config.hf_hub_id is not None:
            for file in filter(None, (config.hf_hub_filename, *_HUB_FILES)):
                cached = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file)
                if isinstance(cached, str):
                    return Path(cached)
        return torch_hub_file(config.url) if isinstance(config.url, str) else None

    def cache_place(self, network: str, version: str) -> Path:
        """Return the folder of published weights in the cache of huggingface_hub, or their path in that of torch.hub.

        Args:
            network: name of the network.
            version: name of the weights.
        """
        from huggingface_hub.constants import HF_HUB_CACHE

        config = timm_config(network, version)
        if config.hf_hub_id is None and isinstance(config.url, str):
            return torch_hub_path(config.url)
        return Path(HF_HUB_CACHE, f"models--{str(config.hf_hub_id).replace('/', '--')}")

    def server(self) -> str:
        """Return the host name of the download server."""
        return urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname or "huggingface.co"

    def read(self, network: str, version: str, cached: Path | None, image_size: int | None) -> dict[str, Tensor]:
        """Return published tensors by the keys of timm's network.

        Args:
            network: name of the network.
            version: name of the weights.
            cached: their file; None to download it.
            image_size: side of the images in pixels, to resize position embeddings; None for the default.
        """
        import timm

        overlay = {"state_dict": read_state_dict(cached)} if cached is not None and cached.suffix != ".npz" else None
        has_size = image_size is not None and timm_config(network, version).fixed_input_size
        size: dict[str, Any] = {"img_size": image_size} if has_size else {}
        name = f"{network}.{version}".rstrip(".")
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **size).state_dict()
