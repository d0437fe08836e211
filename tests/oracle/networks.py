"""Networks of mmpretrain, mmsegmentation and mmaction2, converted, against the original."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gcnet import convert_checkpoint
from oracle.original_code import OriginalCode

_IMAGE, _CROP, _CLIP = (2, 3, 97, 131), (1, 3, 97, 131), (1, 3, 8, 67, 83)
NETWORKS: Mapping[str, tuple[int, ...]] = {
    "mmpretrain/resnet/resnet50_8xb32_in1k": _IMAGE,
    "mmpretrain/seresnet/seresnet50_8xb32_in1k": _IMAGE,
    "mmseg/gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024": _CROP,
    "mmseg/nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024": _CROP,
    "mmseg/dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024": _CROP,
    "mmaction/recognition/i3d/i3d_imagenet-pretrained-r50-nl-gaussian_8xb8-32x2x1-100e_kinetics400-rgb": _CLIP,
    "mmaction/recognition/tsm/tsm_imagenet-pretrained-r50-nl-dot-product_8xb16-1x1x8-50e_kinetics400-rgb": _CLIP,
    "mmaction/recognition/slowonly/"
    "slowonly_r50-in1k-pre-nl-embedded-gaussian_8xb16-4x16x1-steplr-150e_kinetics400-rgb": _CLIP,
}
"""Library and config -> shape of the input."""


@torch.no_grad()
def compare_network(original_code: OriginalCode, folder: Path, name: str) -> dict[str, float]:
    """Largest difference of each output from the original's, over the latter's standard deviation.

    Args:
        original_code: its process.
        folder: of the files that are exchanged.
        name: of `NETWORKS`.
    """
    library, config = name.split("/", 1)
    original_code("networks.run", folder=folder, library=library, config=config, shape=NETWORKS[name], seed=3)
    outputs = load_file(folder / "outputs.safetensors")
    model: Any = convert_checkpoint(folder / "checkpoint.pth")
    ours = _outputs(model, outputs.pop("input"), list(outputs))
    return {key: ((ours[key] - theirs).abs().max() / theirs.std()).item() for key, theirs in outputs.items()}


def _outputs(model: Any, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Outputs of the stages of these names, or the logits."""
    result: dict[str, Tensor] = {}
    for name in names:
        if name != "logits":
            model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: result.update({name: y}))
    return result | {"logits": model(x)}
