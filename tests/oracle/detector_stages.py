"""The stages of a gcnet detector, each given the original's output of the stage before, against the original's."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.decode import open_image

BOX_TOLERANCE = 0.01
"""Pixels within which boxes of both are the same detection or proposal."""
LEVELS = ("0", "1", "2", "3", "pool")
"""Names of the maps of the pyramid."""


class DetectorStages:
    """A detector and a run of the original.

    Every method returns differences by name: of maps relative to their standard deviation, of boxes in pixels, of
    scores and masks absolute; and counts.

    Args:
        model: the converted detector, in evaluation mode.
        original: inputs and outputs of the original's stages.
        sizes: height and width of the `original` and of the `resized` image.
    """

    def __init__(self, model: Any, original: Mapping[str, Tensor], sizes: Mapping[str, Sequence[int]]) -> None:
        self.model = model
        self.original = original
        self.shape, self.resized = (tuple(sizes[name]) for name in ("original", "resized"))
        self.images = ImageList(original["input"], [self.resized])
        self.heads = list(getattr(model.roi_heads, "stages", [model.roi_heads]))

    def features(self) -> dict[str, Tensor]:
        """The original's pyramid, by gcnet's names of the levels."""
        return OrderedDict(zip(LEVELS, self._levels("p", 5), strict=True))

    def proposals(self) -> Tensor:
        """The original's proposals (P, 4)."""
        return self.original["box_pool0.rois"][:, 1:]

    def _levels(self, name: str, count: int) -> list[Tensor]:
        return [self.original[f"{name}.{level}"] for level in range(count)]

    def maps(self) -> dict[str, float]:
        """Backbone from the same image tensor, pyramid from the same C2 to C5, and RPN head from the same pyramid."""
        backbone, stages = self.model.backbone, self._levels("c", 4)
        pyramid = backbone.fpn(OrderedDict({str(level): stage for level, stage in enumerate(stages)}))
        logits, deltas = self.model.rpn.head(self._levels("p", 5))
        return {
            "C2 to C5": _relative(backbone.body(self.original["input"]).values(), stages),
            "P2 to P6": _relative(pyramid.values(), self._levels("p", 5)),
            "RPN head": _relative([*logits, *deltas], [*self._levels("rpn.logits", 5), *self._levels("rpn.deltas", 5)]),
        }

    def proposal_selection(self) -> dict[str, float]:
        """Proposals from the same RPN outputs: those of the original without one of ours within `BOX_TOLERANCE`."""
        rpn = self.model.rpn
        logits, deltas = self._levels("rpn.logits", 5), self._levels("rpn.deltas", 5)
        anchors = rpn.anchor_generator(self.images, self._levels("p", 5))
        counts = [level[0].numel() for level in logits]
        objectness, flat_deltas = concat_box_prediction_layers(logits, deltas)
        decoded = rpn.box_coder.decode(flat_deltas, anchors).reshape(1, -1, 4)
        (ours,), _ = rpn.filter_proposals(decoded, objectness, [self.resized], counts)
        nearest = torch.cdist(self.proposals(), ours, p=torch.inf).amin(1)
        return {
            "proposals missing": int((nearest > BOX_TOLERANCE).sum()),
            "proposals": len(nearest),
            "proposals, ours": len(ours),
        }

    def box_heads(self) -> dict[str, float]:
        """RoI pooling from the same pyramid and RoIs, and box heads from the same pooled maps, over all stages."""
        pooled, outputs = [0.0], [0.0]
        for number, stage in enumerate(self.heads):
            rois = self.original[f"box_pool{number}.rois"][:, 1:]
            theirs = self.original[f"box_pool{number}"]
            pooled.append(_relative([stage.box_roi_pool(self.features(), [rois], [self.resized])], [theirs]))
            logits, deltas = stage.box_predictor(stage.box_head(theirs))
            their_logits, their_deltas = self._levels(f"box_head{number}", 2)
            objects = deltas if deltas.shape == their_deltas.shape else deltas[:, 4:]
            background_last = torch.cat([logits[:, 1:], logits[:, :1]], dim=1)
            outputs.append(_relative([background_last, objects], [their_logits, their_deltas]))
        return {"pooled RoIs": max(pooled), "box head": max(outputs)}

    def detections(self) -> dict[str, float]:
        """Detections from the same pyramid and proposals, in pixels of the resized image."""
        (ours,), _ = self.model.roi_heads(self.features(), [self.proposals()], [self.resized])
        theirs = {"boxes": self.original["mask_pool0.rois"][:, 1:]}
        theirs |= {name: self.original[name] for name in ("scores", "labels")}
        return _compare_detections(ours, theirs)

    def masks(self) -> dict[str, float]:
        """Mask heads from the same pooled maps, and pasted masks from the same mask logits and boxes."""
        pooled, outputs, probabilities = [0.0], [0.0], []
        labels = self.original["labels"]
        rois = self.original["mask_pool0.rois"][:, 1:]
        for number, stage in enumerate(self.heads):
            theirs, their_logits = self.original[f"mask_pool{number}"], self.original[f"mask_head{number}"]
            pooled.append(_relative([stage.mask_roi_pool(self.features(), [rois], [self.resized])], [theirs]))
            logits = stage.mask_predictor(stage.mask_head(theirs))[:, 1:]
            outputs.append(_relative([logits], [their_logits]))
            probabilities.append(their_logits[torch.arange(len(labels)), labels, None].sigmoid())
        result = [{"boxes": rois.clone(), "masks": torch.stack(probabilities).mean(0)}]
        (pasted,) = self.model.transform.postprocess(result, [self.resized], [self.shape])
        different = _differing_pixels(pasted["masks"], self.original)
        return {"pooled RoIs of masks": max(pooled), "mask head": max(outputs)} | different

    def whole_from_tensor(self) -> dict[str, float]:
        """The whole detector on the original's image tensor."""
        features = self.model.backbone(self.original["input"])
        proposals, _ = self.model.rpn(self.images, features)
        ours, _ = self.model.roi_heads(features, proposals, [self.resized])
        ours = self.model.transform.postprocess(ours, [self.resized], [self.shape])
        return self._compare_whole(ours[0], proposals[0])

    def whole_from_file(self, image: Path) -> dict[str, float]:
        """The whole detector on the image file."""
        pixels = image_to_tensor(open_image(image, upright=False))
        batch, _ = self.model.transform([pixels])
        features = self.model.backbone(batch.tensors)
        proposals, _ = self.model.rpn(batch, features)
        (ours,) = self.model([pixels])
        input_difference = (batch.tensors - self.original["input"]).abs().max().item()
        return {"input": input_difference} | self._compare_whole(ours, proposals[0])

    def _compare_whole(self, ours: Mapping[str, Tensor], proposals: Tensor) -> dict[str, float]:
        nearest = torch.cdist(self.proposals(), proposals, p=torch.inf).amin(1)
        theirs = {name: self.original[name] for name in ("boxes", "scores", "labels")}
        result: dict[str, float] = {"proposals missing": int((nearest > 0.1).sum())}
        result |= {"proposals": len(nearest), "proposals, ours": len(proposals)}
        result |= _compare_detections(ours, theirs)
        if len(ours["masks"]) == len(self.original["masks"]):
            result |= _differing_pixels(ours["masks"], self.original)
        return result


def _relative(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Largest difference over all maps, each relative to the standard deviation of the original's."""
    return max(
        ((one - other).abs().max() / other.std().clamp(min=1e-12)).item()
        for one, other in zip(ours, theirs, strict=True)
    )


def _compare_detections(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Detections at the same place of both lists, where labels are equal and boxes within a tenth of a pixel."""
    count = min(len(ours["boxes"]), len(theirs["boxes"]))
    boxes = (ours["boxes"][:count] - theirs["boxes"][:count]).abs().amax(1)
    scores = (ours["scores"][:count] - theirs["scores"][:count]).abs()
    same = (ours["labels"][:count] == theirs["labels"][:count] + 1) & (boxes < 0.1)
    return {
        "detections, same order": int(same.sum()),
        "detections": max(len(ours["boxes"]), len(theirs["boxes"])),
        "boxes": boxes[same].max().item() if same.any() else 0.0,
        "scores": scores[same].max().item() if same.any() else 0.0,
    }


def _differing_pixels(ours: Tensor, theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Pixels where masks (D, 1, H, W) differ from the original's, and pixels of the original's boxes."""
    left, top, right, bottom = theirs["boxes"].round().unbind(1)
    area = ((right - left) * (bottom - top)).sum()
    return {"mask pixels that differ": int(((ours[:, 0] >= 0.5) != theirs["masks"]).sum()), "mask pixels": int(area)}
