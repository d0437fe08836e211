"""Losses of mmdet's detectors, and their gradients, from given maps of the pyramid, objects and proposals."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmdet
import torch
from fixed_samples import fixed_samples
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from mmengine.structures import InstanceData
from safetensors.torch import load_file, save_file
from torch import Tensor

register_all_modules(init_default_scope=True)

_CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_" / "models"
_SMALL = {"channels": 16, "features": 64}


def run(folder: str, config: str, *, shapes: Sequence[tuple[int, int]], seed: int) -> None:
    """Compute losses and gradients of a batch.

    Reads `inputs.safetensors` of the folder: `map.LEVEL` (N, C, H, W); and `boxes.IMAGE`, `labels.IMAGE` from 0,
    `masks.IMAGE` and `proposals.IMAGE`. Writes `outputs.safetensors`: `loss.NAME`, `gradient.NAME` of the maps,
    `positive.NAME.IMAGE`, the sampled boxes, and `proposals.IMAGE` of the proposal network; and the checkpoints
    `weights.pth` and `gradients.pth`, the latter with the gradient of the sum of all losses in place of each weight.

    Args:
        folder: of the files.
        config: name of a file of `configs/_base_/models`; its backbone becomes ResNet-18, its heads narrow.
        shapes: height and width of each image.
        seed: of the weights.
    """
    inputs = load_file(Path(folder, "inputs.safetensors"))
    model = _build(config, seed)
    maps = [inputs[f"map.{level}"].requires_grad_() for level in range(5)]
    samples = [_sample(inputs, image, shape) for image, shape in enumerate(shapes)]
    outputs: dict[str, Tensor] = {}
    with fixed_samples(), _recorded(model, outputs):
        losses, proposals = _rpn_losses(model, maps, samples)
        given = [InstanceData(bboxes=inputs[f"proposals.{image}"]) for image in range(len(shapes))]
        losses |= {key: loss for key, loss in model.roi_head.loss(maps, given, samples).items() if "loss" in key}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
        flat = [(torch.zeros_like(x) if dx is None else dx).flatten() for x, dx in zip(maps, gradients, strict=True)]
        outputs |= {f"loss.{name}": loss.detach(), f"gradient.{name}": torch.cat(flat)}
    sum(losses.values()).backward()
    outputs |= {f"proposals.{image}": found.bboxes for image, found in enumerate(proposals)}
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in outputs.items()}, Path(folder, "outputs.safetensors")
    )
    _save(Path(folder, "weights.pth"), model.state_dict())
    gradients = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    gradients |= {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    _save(Path(folder, "gradients.pth"), gradients)


def _build(config: str, seed: int) -> Any:
    """The detector in training mode, with weights of the heads for outputs of order one."""
    settings = Config.fromfile(_CONFIGS / f"{config}.py").model
    settings.backbone.update(depth=18, init_cfg=None)
    settings.neck.update(in_channels=[64, 128, 256, 512], out_channels=_SMALL["channels"])
    settings.rpn_head.update(in_channels=_SMALL["channels"], feat_channels=_SMALL["channels"])
    heads = settings.roi_head
    heads.bbox_roi_extractor.out_channels = _SMALL["channels"]
    for head in heads.bbox_head if isinstance(heads.bbox_head, list) else [heads.bbox_head]:
        head.update(in_channels=_SMALL["channels"], fc_out_channels=_SMALL["features"])
    if "mask_head" in heads:
        heads.mask_roi_extractor.out_channels = _SMALL["channels"]
        heads.mask_head.update(in_channels=_SMALL["channels"], conv_out_channels=_SMALL["channels"])
    model = MODELS.build(settings).train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("rpn_head", "roi_head")):
                scale = (2 / weight[0].numel()) ** 0.5 if weight.dim() > 1 else 0.1
                weight.normal_(0, scale * (0.15 if "_reg" in name else 1), generator=generator)
    return model


def _sample(inputs: dict[str, Tensor], image: int, shape: tuple[int, int]) -> DetDataSample:
    height, width = (4 * side for side in inputs["map.0"].shape[-2:])
    padded = tuple(-(-side // 32) * 32 for side in shape)
    sample = DetDataSample(
        metainfo={"img_shape": tuple(shape), "pad_shape": padded, "batch_input_shape": (height, width)}
    )
    sample.gt_instances = InstanceData(
        bboxes=inputs[f"boxes.{image}"],
        labels=inputs[f"labels.{image}"],
        masks=BitmapMasks(inputs[f"masks.{image}"].numpy(), height, width),
    )
    return sample


def _rpn_losses(model: Any, maps: list[Tensor], samples: list[Any]) -> tuple[dict[str, Tensor], list[Any]]:
    """The losses of the proposal network and its proposals."""
    objects = copy.deepcopy(samples)
    for sample in objects:
        sample.gt_instances.labels.zero_()
    settings = model.train_cfg.rpn_proposal
    losses, proposals = model.rpn_head.loss_and_predict(maps, objects, proposal_cfg=settings)
    return {name: sum(levels) for name, levels in losses.items()}, proposals


@contextmanager
def _recorded(model: Any, outputs: dict[str, Tensor]) -> Iterator[None]:
    """Keep the positive boxes that each sampler takes of each image."""
    heads = model.roi_head.bbox_sampler
    stages = heads if isinstance(heads, list) else [heads]
    samplers = {"rpn": model.rpn_head.sampler} | {f"stage{number}": stage for number, stage in enumerate(stages)}
    for name, sampler in samplers.items():
        sampler.sample = _recording(name, sampler.sample, outputs)
    yield


def _recording(name: str, sample: Callable[..., Any], outputs: dict[str, Tensor]) -> Callable[..., Any]:
    def recording(*arguments: Any, **options: Any) -> Any:
        result = sample(*arguments, **options)
        image = sum(key.startswith(f"positive.{name}.") for key in outputs)
        outputs[f"positive.{name}.{image}"] = result.pos_priors
        return result

    return recording


def _save(path: Path, state_dict: dict[str, Tensor]) -> None:
    meta = {"mmengine_version": "0.10.7", "dataset_meta": mmdet.datasets.CocoDataset.METAINFO}
    save_checkpoint({"meta": meta, "state_dict": state_dict}, str(path))
