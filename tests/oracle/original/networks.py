"""Networks of mmpretrain, mmsegmentation and mmaction2 with random weights: checkpoints, inputs and outputs."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn
from weights import randomize

_BLOCKS = {"bn3": 0.2, "theta": 0.3, "phi": 0.3, "conv_out": 0.05}


def run(folder: str, library: str, config: str, *, shape: list[int], seed: int) -> None:
    """Write `checkpoint.pth`, and to `outputs.safetensors` the `input` and the outputs of the network by name.

    Args:
        folder: of the files.
        library: "mmpretrain", "mmseg" or "mmaction".
        config: file of the library's configs, without suffix.
        shape: of the random input.
        seed: of weights and input.
    """
    _add_missing_modules()
    package = importlib.import_module(library)
    settings = Config.fromfile(Path(package.__file__).parent / ".mim" / "configs" / f"{config}.py")
    importlib.import_module(f"{library}.utils").register_all_modules(init_default_scope=False)
    init_default_scope(library)
    model = importlib.import_module(f"{library}.registry").MODELS.build(_without_downloads(settings.model)).eval()
    example = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    call = _CALLS[library]
    with torch.no_grad():
        randomize(model, lambda: call(model, example), seed=seed, spread=_BLOCKS)
        outputs = call(model, example)
    save_file(
        {"input": example} | {name: x.contiguous() for name, x in outputs.items()}, Path(folder, "outputs.safetensors")
    )
    meta = {"mmengine_version": "0.10.7", "cfg": settings.pretty_text}
    save_checkpoint({"meta": meta, "state_dict": model.state_dict()}, str(Path(folder, "checkpoint.pth")))


def _without_downloads(model: Any) -> Any:
    """The settings of a model, none of whose parts loads weights."""
    for part in (model, model.backbone):
        part.update({name: None for name in ("pretrained", "init_cfg") if name in part})
    return model


def _classes(model: Any, images: Tensor) -> dict[str, Tensor]:
    return {"logits": model(images, mode="tensor")}


def _stages(model: Any, images: Tensor) -> dict[str, Tensor]:
    return {f"layer{number}": stage for number, stage in enumerate(model.backbone(images), 1)}


def _clip_classes(model: Any, clips: Tensor) -> dict[str, Tensor]:
    """Logits of clips (N, 3, T, H, W); TSM takes their frames as images."""
    if type(model.backbone).__name__ != "ResNetTSM":
        return {"logits": model.cls_head(model.backbone(clips))}
    frames = clips.transpose(1, 2).flatten(0, 1)
    return {"logits": model.cls_head(model.backbone(frames), num_segs=clips.shape[2])}


_CALLS: Mapping[str, Callable[[nn.Module, Tensor], dict[str, Tensor]]] = {
    "mmpretrain": _classes,
    "mmseg": _stages,
    "mmaction": _clip_classes,
}


def _add_missing_modules() -> None:
    """Modules that the wheel of mmaction2 lacks and imports."""
    for name in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
        module: Any = ModuleType(name)
        module.DRN = None
        sys.modules.setdefault(name, module)
