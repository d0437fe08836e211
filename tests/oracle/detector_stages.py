"""The stages of a gcnet detector, each given the original's output of the stage before, against the original's."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from gcnet import convert_checkpoint
from gcnet.data.coco.loading import image_to_tensor
from gcnet.data.decode import open_image
from gcnet.data.scenes import Scenes
from oracle.original_code import OriginalCode

SAME = 0.1
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

    @torch.no_grad()
    def all_stages(self) -> dict[str, float]:
        """The differences of every single stage."""
        return self.maps() | self.proposal_selection() | self.box_heads() | self.detections() | self.masks()

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
        """Proposals from the same RPN outputs: those of the original without one of ours within `SAME`."""
        rpn = self.model.rpn
        logits, deltas = self._levels("rpn.logits", 5), self._levels("rpn.deltas", 5)
        anchors = rpn.anchor_generator(self.images, self._levels("p", 5))
        counts = [level[0].numel() for level in logits]
        objectness, flat_deltas = concat_box_prediction_layers(logits, deltas)
        decoded = rpn.box_coder.decode(flat_deltas, anchors).reshape(1, -1, 4)
        (ours,), _ = rpn.filter_proposals(decoded, objectness, [self.resized], counts)
        nearest = torch.cdist(self.proposals(), ours, p=torch.inf).amin(1)
        return {
            "proposals missing": int((nearest > SAME).sum()),
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

    @torch.no_grad()
    def whole_from_file(self, image: Path) -> dict[str, float]:
        """The whole detector on the image file."""
        kept: dict[str, Any] = {}
        handles = [
            self.model.backbone.register_forward_pre_hook(lambda _, inputs: kept.update(input=inputs[0])),
            self.model.rpn.register_forward_hook(lambda _, __, output: kept.update(proposals=output[0][0])),
        ]
        (ours,) = self.model([image_to_tensor(open_image(image, upright=False))])
        for handle in handles:
            handle.remove()
        difference = (kept["input"] - self.original["input"]).abs().max().item()
        return {"input": difference} | self._compare_whole(ours, kept["proposals"])

    def _compare_whole(self, ours: Mapping[str, Tensor], proposals: Tensor) -> dict[str, float]:
        nearest = torch.cdist(self.proposals(), proposals, p=torch.inf).amin(1)
        theirs = {name: self.original[name] for name in ("boxes", "scores", "labels")}
        result: dict[str, float] = {"proposals missing": int((nearest > SAME).sum())}
        result |= {"proposals": len(nearest), "proposals, ours": len(proposals)}
        result |= _compare_detections(ours, theirs)
        matches, same = _matches(ours, theirs)
        kept = {"boxes": theirs["boxes"][same], "masks": self.original["masks"][same]}
        return result | _differing_pixels(ours["masks"][matches][same], kept)


def original_run(
    original_code: OriginalCode, folder: Path, config: str, *, image: Path, size: tuple[int, int]
) -> DetectorStages:
    """Run the original with random weights, and convert its checkpoint.

    Args:
        original_code: its process.
        folder: of the files that are exchanged.
        config: name of a file of mmdet's `configs/gcnet`.
        image: file of the image.
        size: most pixels of the long and of the short side of the resized image.

    Returns:
        The original's run and the converted detector.
    """
    options = {"config": config, "seed": 1, "image": image, "size": size}
    sizes = original_code("detectors.run", path=folder / "stages.safetensors", **options)
    original_code("detectors.checkpoint", path=folder / "checkpoint.pth", **options)
    model: Any = convert_checkpoint(folder / "checkpoint.pth")
    model.transform.max_size, model.transform.min_size = size[0], (size[1],)
    (folder / "checkpoint.pth").unlink()
    return DetectorStages(model, load_file(folder / "stages.safetensors"), sizes)


def small_image(path: Path) -> Path:
    """Write an image of 320 x 200 pixels with textured shapes, and return its path."""
    Scenes(1, size=320, distance=50).read(0).crop((0, 60, 320, 260)).save(path)
    return path


def _relative(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Largest difference over all maps, each relative to the standard deviation of the original's."""
    return max(
        ((one - other).abs().max() / other.std().clamp(min=1e-12)).item()
        for one, other in zip(ours, theirs, strict=True)
    )


def _matches(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Index of our detection of the same class with the nearest box for each of the original, and if it is the same."""
    distances = torch.cdist(theirs["boxes"], ours["boxes"], p=torch.inf)
    distances[theirs["labels"][:, None] + 1 != ours["labels"]] = torch.inf
    nearest, matches = distances.min(1)
    return matches, nearest < SAME


def _compare_detections(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Detections that are missing or at another place in the list, and differences of the others.

    The list is sorted by score, so that only detections of almost equal scores can change places.
    """
    matches, same = _matches(ours, theirs)
    boxes = (ours["boxes"][matches] - theirs["boxes"]).abs().amax(1)
    places = torch.arange(len(matches))
    return {
        "detections missing": len(same) - len(matches[same].unique()),
        "detections out of order": int((matches[same] != places[same]).sum()),
        "detections": len(same),
        "detections, ours": len(ours["boxes"]),
        "boxes": boxes[same].max().item() if same.any() else 0.0,
        "scores": (ours["scores"][matches] - theirs["scores"])[same].abs().max().item() if same.any() else 0.0,
    }


def _differing_pixels(ours: Tensor, theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Pixels where masks (D, 1, H, W) differ from the original's, and pixels of the original's boxes."""
    left, top, right, bottom = theirs["boxes"].round().unbind(1)
    area = ((right - left) * (bottom - top)).sum()
    return {"mask pixels that differ": int(((ours[:, 0] >= 0.5) != theirs["masks"]).sum()), "mask pixels": int(area)}
