"""`gcnet.convert_checkpoint`: a network from a checkpoint of another library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gcnet.data.downloads import check_download
from gcnet.models.checkpoint_cache import original_file
from gcnet.models.conversion import convert_weights


def convert_checkpoint(
    checkpoint: str | Path | Mapping[str, Any],
    source: str | None = None,
    *,
    ema: bool = False,
    download: bool = False,
) -> nn.Module:
    """Convert a checkpoint of another library to a network with the same outputs.

    Nothing in the file is executed. Its keys and shapes must be exactly those of the network that they describe.
    `gcnet.save_model` writes the network with classes, preprocessing and origin.

    Args:
        checkpoint: a file of `torch.save` or safetensors; its content: tensors by name, possibly within entries such as
            "state_dict" and with prefixes such as "module."; or the name of a published checkpoint.
        source: "mmdet" (mmdet 2 and 3), "mmdet1" (mmdet 1.x and xvjiarui/GCNet), "mmaction", "mmpretrain", "mmseg",
            "timm" or "torchvision"; None to recognize it by keys and metadata.
        ema: convert the moving average of the weights (an entry such as "ema_state_dict") instead of the weights.
        download: download a published checkpoint that is not in the cache.

    Returns:
        The network in eval mode on the CPU.

    Raises:
        UserError: an unreadable or unrecognized checkpoint, or keys or shapes that do not fit the network they
            describe, or NaN or infinite weights; the message names them. A published checkpoint that is not in the
            cache, without `download`; `download` with anything else.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = gcnet.convert_checkpoint(resnet18().state_dict(), "torchvision")
        >>> gcnet.save_model(model, "resnet18.safetensors")
    """
    if download:
        check_download((checkpoint if isinstance(checkpoint, str) else None,))
    if isinstance(checkpoint, str):
        checkpoint, source = original_file(checkpoint, source, download=download)
    return convert_weights(checkpoint, source, ema=ema).model
