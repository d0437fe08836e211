"""Detectors of mmdet's `configs/gcnet` with random weights: checkpoints, and every stage of a run on an image file."""

import time
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmdet.apis.inference import get_test_pipeline_cfg
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn
from weights import randomize

register_all_modules(init_default_scope=True)

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
_HEADS = {"rpn_cls": 2.0, "rpn_reg": 0.3, "fc_cls": 2.5, "fc_reg": 0.7, "conv_logits": 2.0}
# Larger outputs of blocks and larger offsets amplify rounding from block to block.
_BLOCKS = {"bn3": 0.2, "channel_add_conv": 0.1, "conv_offset": 0.05}
_KEPT: dict[tuple[Any, ...], Any] = {}


def names() -> list[str]:
    """Names of the configs."""
    return sorted(path.stem for path in (CONFIGS / "gcnet").glob("*.py"))


def detector(config: str, *, seed: int, image: str, size: tuple[int, int]) -> Any:
    """The detector in evaluation mode, with its pipeline for images of at most `size` (long and short side)."""
    key = (config, seed, image, *size)
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = _build(config, seed=seed, image=image, size=size)
    return _KEPT[key]


def _build(config: str, *, seed: int, image: str, size: tuple[int, int]) -> nn.Module:
    settings = Config.fromfile(CONFIGS / "gcnet" / f"{config}.py")
    settings.model.backbone.init_cfg = None
    pipeline = get_test_pipeline_cfg(settings)
    next(step for step in pipeline if step["type"] == "Resize")["scale"] = tuple(size)
    model = MODELS.build(settings.model).eval()
    model.settings, model.pipeline = settings, Compose(pipeline)
    randomize(model, lambda: model.test_step(batch_of(model, image)), seed=seed, spread=_HEADS | _BLOCKS)
    return model


def batch_of(model: Any, image: str, image_id: int = 0) -> dict[str, Any]:
    """A batch of one image file, as the pipeline of the detector returns it."""
    packed = model.pipeline({"img_path": image, "img_id": image_id})
    return {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}


def checkpoint(path: str, config: str, **options: Any) -> None:
    """Write the detector's checkpoint as mmengine's runner does."""
    model = detector(config, **options)
    meta = {
        "epoch": 12,
        "iter": 87960,
        "cfg": model.settings.pretty_text,
        "experiment_name": config,
        "time": time.strftime("%Y%m%d_%H%M%S"),
        "mmengine_version": "0.10.7",
        "dataset_meta": mmdet.datasets.CocoDataset.METAINFO,
    }
    save_checkpoint({"meta": meta, "state_dict": model.state_dict()}, path)


@torch.no_grad()
def run(path: str, config: str, **options: Any) -> dict[str, Any]:
    """Run the detector on its image, and write inputs and outputs of every stage to `path`.

    Returns:
        Height and width of the original and of the resized image.
    """
    model = detector(config, **options)
    stages: dict[str, Tensor] = {}
    handles = [module.register_forward_hook(_record(name, stages)) for name, module in _stages(model).items()]
    batch = model.data_preprocessor(batch_of(model, options["image"]), False)
    (sample,) = model.predict(batch["inputs"], batch["data_samples"])
    for handle in handles:
        handle.remove()
    found = sample.pred_instances
    stages |= {"input": batch["inputs"], "boxes": found.bboxes, "scores": found.scores, "labels": found.labels}
    stages["masks"] = found.masks
    save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in stages.items()}, path)
    return {"original": list(sample.ori_shape), "resized": list(sample.img_shape)}


def _stages(model: Any) -> dict[str, nn.Module]:
    """Modules by the name of the stage, of which the heads of a cascade have several."""
    stages = {"c": model.backbone, "p": model.neck, "rpn": model.rpn_head}
    parts = {
        "box_pool": "bbox_roi_extractor",
        "box_head": "bbox_head",
        "mask_pool": "mask_roi_extractor",
        "mask_head": "mask_head",
    }
    for name, attribute in parts.items():
        part = getattr(model.roi_head, attribute)
        modules = part if isinstance(part, nn.ModuleList) else [part]
        stages |= {f"{name}{number}": module for number, module in enumerate(modules)}
    return stages


def _record(stage: str, stages: dict[str, Tensor]) -> Any:
    """Hook that keeps the outputs of a stage, and the RoIs of one that pools."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if "pool" in stage:
            stages[f"{stage}.rois"] = inputs[1]
        if stage == "rpn":
            for name, levels in zip(("logits", "deltas"), output, strict=True):
                stages.update({f"rpn.{name}.{level}": tensor for level, tensor in enumerate(levels)})
        elif isinstance(output, tuple):
            stages.update({f"{stage}.{number}": tensor for number, tensor in enumerate(output)})
        else:
            stages[stage] = output

    return hook
