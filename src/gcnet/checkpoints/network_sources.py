"""Network sources by name, and recognition of the source of a checkpoint."""

from collections.abc import Mapping

from gcnet.checkpoints.mmaction import MmactionSource
from gcnet.checkpoints.mmdet import SAME_ROWS, MmdetSource
from gcnet.checkpoints.mmpretrain import MmpretrainSource
from gcnet.checkpoints.mmseg import MmsegSource
from gcnet.checkpoints.network import NetworkSource
from gcnet.checkpoints.timm_networks import TimmSource
from gcnet.checkpoints.torchvision_networks import TorchvisionSource
from gcnet.checkpoints.weight_file import WeightFile
from gcnet.errors import UserError, printable, unknown

NETWORK_SOURCES: Mapping[str, NetworkSource] = {
    "mmdet": MmdetSource(),
    # mmdet 1.x and xvjiarui/GCNet: the background is the first class, as in our detectors.
    "mmdet1": MmdetSource("mmdet1", heads="", conventions="mmdet1", rows=SAME_ROWS),
    "mmaction": MmactionSource(),
    "mmpretrain": MmpretrainSource(),
    "mmseg": MmsegSource(),
    "timm": TimmSource(),
    "torchvision": TorchvisionSource(),
}

_SHOWN = 4


def choose_source(weights: WeightFile, name: str | None = None) -> str:
    """Return the name of the source of a checkpoint.

    Args:
        weights: the checkpoint.
        name: the user's choice; None to recognize it by keys and metadata.

    Raises:
        UserError: an unknown name, or no source or several recognize the checkpoint.
    """
    if name is not None:
        if name not in NETWORK_SOURCES:
            raise unknown("source", name, NETWORK_SOURCES)
        return name
    names = [name for name, source in NETWORK_SOURCES.items() if source.recognizes(weights)]
    names = names or [name for name, source in NETWORK_SOURCES.items() if source.resembles(weights)][:1]
    if len(names) > 1:
        raise UserError(f"{weights.origin} may be a checkpoint of {' or of '.join(names)}: give `source`")
    if not names:
        keys = list(weights.tensors)
        shown = ", ".join(map(printable, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")
        raise UserError(
            f"{weights.origin} is not recognized as a checkpoint of {', '.join(NETWORK_SOURCES)}; its keys are {shown}"
            "; with `source` the message names the differences from that library"
        )
    return names[0]
