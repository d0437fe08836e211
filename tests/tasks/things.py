"""A small detector of three kinds of things that finds many in any image, for tests that need detections."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from gcnet.models.create import create_model
from gcnet.models.model_file import save_model

CLASSES = ("ball", "cube", "traffic light")
CATEGORY_IDS = (3, 7, 12)


def waves(height: int, width: int) -> Tensor:
    """An image (3, height, width) in whole gray levels over 255, which differs from place to place."""
    y, x = torch.meshgrid(torch.arange(height) / 11, torch.arange(width) / 7, indexing="ij")
    return (torch.stack([x.sin(), y.cos(), (x + y).sin()]) * 127 + 128).round() / 255


def write_image(values: Tensor, path: Path) -> Path:
    """Write (3, H, W) in [0, 1] losslessly."""
    Image.fromarray((values * 255).round().byte().permute(1, 2, 0).contiguous().numpy()).save(path)
    return path


@torch.no_grad()
def build_finder(**detector: object) -> nn.Module:
    """A `mask_rcnn_scenes_resnet` with random weights whose logits are spread over the regions of an image."""
    torch.manual_seed(5)
    model = create_model("mask_rcnn_scenes_resnet", num_classes=len(CLASSES), detector=detector).eval()
    seen: list[Tensor] = []
    handle = model.roi_heads.box_head.register_forward_hook(lambda _, __, output: seen.append(output))
    model([waves(71, 97)])
    handle.remove()
    features, logits = seen[0], model.roi_heads.box_predictor.cls_score
    weight = torch.randn(logits.weight.shape)
    weight *= 1.5 / (features @ weight.T).std(dim=0)[:, None]
    logits.weight.copy_(weight)
    logits.bias.copy_(-(features.mean(dim=0) @ weight.T) + torch.tensor([2.0, 0.0, 0.0, 0.0]))
    masks = model.roi_heads.mask_predictor.mask_fcn_logits
    masks.weight.mul_(100)
    masks.bias.zero_()
    return model


def save_finder(path: Path, **detector: object) -> Path:
    """Its model file."""
    save_model(build_finder(**detector), path, class_names=CLASSES, category_ids=CATEGORY_IDS)
    return path
