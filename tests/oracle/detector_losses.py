"""Losses, gradients and samples of a gcnet detector against those of the original."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from gcnet import convert_checkpoint
from oracle.detector_batch import SHAPES, SIDE
from oracle.original.fixed_samples import fixed_samples

_NAMES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_bbox",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_mask": "loss_mask",
}
"""Losses by gcnet's and by mmdet's name; a cascade has a prefix, `stage0.` and `s0.`."""


class DetectorLosses:
    """A batch of `original/detector_losses.py` and the converted detector in training mode.

    Args:
        folder: with the files of the batch.
    """

    def __init__(self, folder: Path) -> None:
        self.inputs = load_file(folder / "inputs.safetensors")
        self.original = load_file(folder / "outputs.safetensors")
        self.gradients = convert_checkpoint(folder / "gradients.pth").state_dict()
        self.folder = folder

    def detector(self) -> Any:
        """The detector, in training mode."""
        return convert_checkpoint(self.folder / "weights.pth").train()

    def differences(self, model: Any) -> dict[str, float]:
        """Largest differences of the losses, of their gradients and of the samples from the original's.

        Args:
            model: of `detector`, which tests may have changed.

        Returns:
            By loss, relative differences of the loss and of its gradient with respect to the maps; "weights", relative
            difference of the gradient of all losses with respect to the weights; "positives" and "proposals",
            differences in pixels.
        """
        maps = [self.inputs[f"map.{level}"].clone().requires_grad_() for level in range(5)]
        samples: dict[str, list[Tensor]] = {}
        with fixed_samples(), _recorded(model, samples):
            losses, proposals = self._losses(model, maps)
        result = {}
        for name, loss in losses.items():
            own = name.split(".")[-1]
            theirs = name.replace("stage", "s").replace(own, _NAMES[own])
            gradients = torch.autograd.grad(loss, maps, retain_graph=True, allow_unused=True)
            flat = [
                (torch.zeros_like(x) if dx is None else dx).flatten() for x, dx in zip(maps, gradients, strict=True)
            ]
            result[name] = _relative(loss.detach(), self.original[f"loss.{theirs}"])
            result[f"{name}, gradient"] = _relative(torch.cat(flat), self.original[f"gradient.{theirs}"])
        sum(losses.values()).backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        result["weights"] = max(_relative(grad, self.gradients[name]) for name, grad in gradients.items())
        result["positives"] = max(
            _farthest(boxes, self.original[f"positive.{name}.{image}"])
            for name, images in samples.items()
            for image, boxes in enumerate(images)
        )
        result["proposals"] = max(
            _farthest(boxes, self.original[f"proposals.{image}"]) for image, boxes in enumerate(proposals)
        )
        return result

    def _losses(self, model: Any, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The losses by name, and the proposals of the proposal network."""
        features = dict(zip(("0", "1", "2", "3", "pool"), maps, strict=True))
        count = len(SHAPES)
        targets = [
            {
                "boxes": self.inputs[f"boxes.{image}"],
                "labels": self.inputs[f"labels.{image}"] + 1,
                "masks": self.inputs[f"masks.{image}"],
            }
            for image in range(count)
        ]
        images = ImageList(torch.zeros(count, 3, SIDE, SIDE), list(SHAPES))
        proposals, rpn_losses = model.rpn(images, features, targets)
        given = [self.inputs[f"proposals.{image}"] for image in range(count)]
        _, losses = model.roi_heads(features, given, list(SHAPES), targets)
        return rpn_losses | losses, proposals

    def positives_by_level(self) -> dict[str, list[int]]:
        """Positive boxes of the original of each level of the pyramid: anchors, and RoIs of each stage."""
        result = {}
        for name in sorted({key.split(".")[1] for key in self.original if key.startswith("positive.")}):
            boxes = torch.cat([self.original[f"positive.{name}.{image}"] for image in range(len(SHAPES))])
            sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
            # Anchors have sides of 32 to 512 pixels; RoIs of 112 pixels on come from the second level.
            levels = (sides / 32).log2().round() if name == "rpn" else (sides / 56).log2().floor().clamp(0, 3)
            result[name] = torch.bincount(levels.long(), minlength=5 if name == "rpn" else 4).tolist()
        return result


@contextmanager
def _recorded(model: Any, samples: dict[str, list[Tensor]]) -> Iterator[None]:
    """Keep the positive anchors and RoIs of each image."""
    stages = list(getattr(model.roi_heads, "stages", [model.roi_heads]))
    for number, stage in enumerate(stages):
        stage.select_training_samples = _recording(f"stage{number}", stage.select_training_samples, samples)
    match, sample = model.rpn.match, model.rpn.fg_bg_sampler
    anchors: list[Tensor] = []

    def keep_anchors(boxes: Tensor, *rest: Any) -> Tensor:
        anchors.append(boxes)
        return match(boxes, *rest)

    def keep_samples(labels: list[Tensor]) -> Any:
        positive, negative = sample(labels)
        samples["rpn"] = [boxes[chosen.bool()] for boxes, chosen in zip(anchors, positive, strict=True)]
        return positive, negative

    model.rpn.match, model.rpn.fg_bg_sampler = keep_anchors, keep_samples
    yield


def _recording(name: str, select: Any, samples: dict[str, list[Tensor]]) -> Any:
    def recording(proposals: list[Tensor], targets: Any) -> Any:
        rois, matches, labels, box_targets = select(proposals, targets)
        samples[name] = [boxes[classes > 0].detach() for boxes, classes in zip(rois, labels, strict=True)]
        return rois, matches, labels, box_targets

    return recording


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value of the original."""
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()


def _farthest(ours: Tensor, theirs: Tensor) -> float:
    """Largest distance in pixels from a box of either set to the nearest of the other; infinite at other counts."""
    if len(ours) != len(theirs):
        return float("inf")
    distances = torch.cdist(ours, theirs, p=torch.inf)
    return max(distances.amin(0).max().item(), distances.amin(1).max().item())
