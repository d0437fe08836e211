"""Settings of the network of a training run: model, weights and blocks, and options of detectors."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from gcnet.arguments import advanced, check_choices
from gcnet.data.settings import LARGEST_SIDE
from gcnet.renamed import OLD_VALUES
from gcnet.training.checks import check


@dataclass(frozen=True)
class NetworkSettings:
    """Model and context blocks."""

    model: str = "gc_cifar_resnet20"
    """Model name (`gcnet models` lists them); a prefix such as gc_, snl_, se_ or nl_ inserts that block."""
    weights: str | None = None
    """Initial weights of the model, with or without blocks: a file, "pretrained", a published version such as
    IMAGENET1K_V1 or a1_in1k, hf://user/name, or a published checkpoint (`gcnet models --published` lists them)
    (default: random)."""
    block: str | None = None
    """Context block to insert (`gcnet blocks` lists them)."""
    ratio: float | None = advanced(None)
    """Reduction ratio r of the block: C/r bottleneck channels (default: 16; 4 in CIFAR models)."""
    stages: tuple[int, ...] | None = advanced(None)
    """Stages that get the block: 2 to 5 (c2 to c5), in CIFAR models 1 to 3 (default: as published for the
    block)."""
    blocks: tuple[int, ...] | None = advanced(None)
    """Indices of residual blocks within each stage that get the block; negative indices count from the end
    (default: all)."""
    position: str | None = advanced(None)
    """Position in the residual block: after_norm, after_add or after_conv2 (default: as published for the
    block)."""
    insert_at: tuple[str, ...] | None = advanced(None)
    """Modules with a block on their output, instead of `stages`: names, patterns such as 'layer3.*', types, or c2
    to c5."""
    block_options: tuple[str, ...] = advanced(())
    """Block options as NAME=VALUE, such as pooling=average."""

    def __post_init__(self) -> None:
        """Check settings that do not depend on the network."""
        check(self.ratio is None or self.ratio > 0, f"`ratio` must be positive, found {self.ratio}")
        check(
            self.insert_at is None or (self.stages is None and self.blocks is None),
            "`insert_at` excludes `stages` and `blocks`; give one of them",
        )
        for option in self.block_options:
            check("=" in option, f'`block_options` takes NAME=VALUE, such as pooling=average; found "{option}"')

    @property
    def title(self) -> str:
        """Name for figures, such as "resnet18 + gc"."""
        return self.model if self.block is None else f"{self.model} + {self.block}"

    def block_arguments(self) -> dict[str, Any]:
        """Return the arguments of `gcnet.create_model` for the block: name, insertion sites and options.

        Raises:
            UserError: sites or options are given without a block.
        """
        from gcnet.models.registry import split_name

        names = ("ratio", "stages", "blocks", "position", "insert_at", "block_options")
        given = [f"`{name}`" for name in names if getattr(self, name) not in (None, ())]
        check(
            not given or self.block is not None or bool(split_name(self.model)[0]),
            f"{' and '.join(given)} without a block: add `block`, such as `block=gc`, or take a model with one, "
            "such as gc_resnet50",
        )
        return {
            "block": self.block,
            "ratio": self.ratio,
            "stages": self.stages,
            "blocks": self.blocks,
            "position": self.position,
            "at": self.insert_at,
            **self.read_block_options(),
        }

    def read_block_options(self) -> dict[str, Any]:
        """Return `block_options` by name; numbers, true, false and null are parsed, everything else is text."""
        pairs = (option.split("=", 1) for option in self.block_options)
        return {name.strip().replace("-", "_"): _value(text.strip()) for name, text in pairs}


@dataclass(frozen=True)
class DetectorSettings:
    """Detector."""

    backbone_weights: str | None = None
    """Initial weights of the backbone: a classifier's file, "pretrained", a published version, or a published
    checkpoint (default: random)."""
    conventions: Literal["mmdet", "mmdet1", "torchvision"] | None = advanced(None)
    """Implementation to match exactly, in outputs and losses: mmdet (2 and 3), mmdet1 (mmdet 1 and the paper), or
    torchvision (default: of the detector in `weights`, else of the preset, mmdet or mmdet1)."""
    norm: Literal["eval_stats", "frozen", "batch", "sync"] | None = advanced(None)
    """Batch norm of the backbone: eval_stats (fixed running statistics, trained affine), frozen, batch, or sync
    (SyncBatchNorm on GPUs) (default: eval_stats with initial weights, else batch)."""
    box_head: Literal["2fc", "4conv1fc"] = advanced("2fc")
    """Box head; 4conv1fc also has batch norms in the FPN and all heads."""
    min_size: tuple[int, ...] | None = advanced(None)
    """Size of the short side in pixels; several for multi-scale training, the last for evaluation (default: 800;
    64 in small models)."""
    max_size: int | None = advanced(None)
    """Maximum size of the long side in pixels (default: 1333; 64 in small models)."""
    anchor_sizes: tuple[float, ...] | None = advanced(None)
    """Anchor size in pixels for each FPN level (default: 32 64 128 256 512)."""
    rois_per_image: int | None = advanced(None)
    """RoIs sampled per image to train the heads, 25 % positive (default: 512)."""
    detections_per_image: int | None = advanced(None)
    """Maximum detections per image (default: 100)."""
    large_scale_jitter: tuple[float, float] | None = advanced(None)
    """Range of random resizing for large-scale jitter, such as 0.1 2.0; images are cropped or padded to a
    square."""
    empty_images: bool = advanced(False)
    """Train on images without objects, too."""

    def __post_init__(self) -> None:
        """Check settings that do not depend on the network."""
        check_choices(self, OLD_VALUES)
        for name in ("min_size", "max_size", "anchor_sizes", "rois_per_image", "detections_per_image"):
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else () if value is None else (value,)
            check(all(size > 0 for size in sizes), f"`{name}` must be positive, found {value}")
        largest = max(self.min_size or (0,))
        check(largest <= LARGEST_SIDE, f"`min_size` must be at most {LARGEST_SIDE:,} pixels, found {largest}")
        low, high = self.large_scale_jitter or (1.0, 1.0)
        check(
            0 < low <= high <= 10,
            f"`large_scale_jitter` must be 0 < low <= high <= 10, found {low:g} {high:g}",
        )

    def options(self) -> dict[str, Any]:
        """Return the given options of `gcnet.models.detector.mask_rcnn.build_mask_rcnn` by name."""
        names = ("conventions", "norm", "box_head", "anchor_sizes", "rois_per_image", "detections_per_image")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text
