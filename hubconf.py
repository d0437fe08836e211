"""Entry points of `torch.hub`: networks with context blocks by name.

    torch.hub.load("user/gcnet", "gc_resnet50", weights="model.safetensors")

`torch.hub.list` and `torch.hub.help` list and describe them; `source="local"` loads from a clone. `create_model` loads
every other name of `gcnet.list_models()`.
"""

import sys
from pathlib import Path as _Path
from typing import Any as _Any

from torch.nn import Module as _Module

dependencies = ["torch", "torchvision", "timm", "safetensors", "jaxtyping", "huggingface_hub"]

# From a clone, gcnet need not be installed.
sys.path.append(str(_Path(__file__).parent / "src"))


def create_model(name: str, **options: _Any) -> _Module:
    """Network by name, with context blocks and weights.

    Args:
        name: one of `gcnet.list_models()`, such as "eca_resnet50" or "mask_rcnn_gc_resnet50".
        **options: of `gcnet.create_model`: num_classes, weights (a file, "pretrained", "hf://user/name" or a published
            checkpoint), block, ratio, stages, download, ...

    Returns:
        The network, in training mode; with fresh weights unless `weights` are given.
    """
    import gcnet

    return gcnet.create_model(name, **options)


def predictor(model: str, **options: _Any) -> _Any:
    """Trained network that is called with images: paths, PIL images, arrays or tensors.

    Args:
        model: model file, run folder, "hf://user/name", or published checkpoint.
        **options: of `gcnet.load`: device, download, precision, ...

    Returns:
        The predictor; its attribute `model` is the network.
    """
    import gcnet

    return gcnet.load(model, **options)


def gc_resnet50(**options: _Any) -> _Module:
    """ResNet-50 with global context blocks in stages 3 to 5 (GCNet, arXiv 1904.11492): images -> logits.

    Args:
        **options: as for `create_model`: num_classes (default: 1000), weights, ratio, ...
    """
    return create_model("gc_resnet50", **options)


def gc_resnet101(**options: _Any) -> _Module:
    """ResNet-101 with global context blocks in stages 3 to 5 (GCNet, arXiv 1904.11492): images -> logits.

    Args:
        **options: as for `create_model`: num_classes (default: 1000), weights, ratio, ...
    """
    return create_model("gc_resnet101", **options)


def nl_resnet50(**options: _Any) -> _Module:
    """ResNet-50 with a non-local block (arXiv 1711.07971): images -> logits.

    Args:
        **options: as for `create_model`: num_classes (default: 1000), weights, ...
    """
    return create_model("nl_resnet50", **options)


def se_resnet50(**options: _Any) -> _Module:
    """ResNet-50 with squeeze-excitation blocks (arXiv 1709.01507): images -> logits.

    Args:
        **options: as for `create_model`: num_classes (default: 1000), weights, ratio, ...
    """
    return create_model("se_resnet50", **options)


def mask_rcnn_gc_resnet50(**options: _Any) -> _Module:
    """Mask R-CNN with FPN on a ResNet-50 with global context blocks: images -> boxes, labels, scores and masks.

    Args:
        **options: as for `create_model`: num_classes (default: 80, those of COCO), weights, detector, ...
    """
    return create_model("mask_rcnn_gc_resnet50", **options)
