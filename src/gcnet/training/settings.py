"""Settings of a training run, checked on construction; with the help of each field."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_type_hints

from gcnet.arguments import POSITIONAL, advanced, check_choices, has_type
from gcnet.data.downloads import check_download
from gcnet.data.settings import LARGEST_SIDE, AugmentSettings, DataSettings, is_pattern
from gcnet.errors import UserError, nearest, printable, unknown
from gcnet.remote_files import check_without_secret, is_remote
from gcnet.renamed import OLD_VALUES, new_name, renamed
from gcnet.training.checks import check
from gcnet.training.recipe import RecipeSettings

if TYPE_CHECKING:
    import torch


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


@dataclass(frozen=True)
class MachineSettings:
    """Device and precision."""

    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available. Under torchrun, each process uses its own GPU."""
    seed: int = 0
    """Random seed for initial weights, data order, augmentation and dropout."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Precision: float32, or mixed precision in bf16 or fp16 (fp16 with loss scaling); auto (default) is bf16 on GPUs
    that support it, else float32."""
    channels_last: bool | None = advanced(None)
    """Use the channels_last memory format (default: on GPUs)."""
    tf32: bool | None = advanced(None)
    """Use TF32 for float32 matrix products and convolutions on GPUs (default: as PyTorch, for convolutions only)."""
    deterministic: bool = advanced(False)
    """Use deterministic GPU kernels: slower, but a resumed run is bit-exact."""
    compile: bool = advanced(False)
    """Compile the network with torch.compile, of a detector its backbone: a slow first step, then faster ones."""
    shard_model: bool = advanced(False)
    """Shard weights, gradients and optimizer state over the processes of torchrun (FSDP2), for networks that do not fit
    on one GPU."""

    def __post_init__(self) -> None:
        """Check the names."""
        check(0 <= self.seed < 2**63, f"`seed` must be 0 or more, and below 2^63; found {self.seed}")
        check_choices(self)

    def resolved(self, device: "torch.device") -> "MachineSettings":
        """Return the settings with the precision and the memory format for `device` in the place of defaults."""
        import torch

        from gcnet.devices import choose_memory_format, choose_precision

        is_last = not self.shard_model and choose_memory_format(self.channels_last, device) == torch.channels_last
        return replace(self, precision=cast(Any, choose_precision(self.precision, device)), channels_last=is_last)


_NOT_WRITTEN = ("http", "https", "hf", "file", "local")


@dataclass(frozen=True)
class OutputSettings:
    """Output."""

    output: str | None = None
    """New run folder, or a URL such as s3://bucket/run, where each checkpoint is published (default: runs/NAME,
    numbered if it exists)."""
    save_every_steps: int | None = advanced(None)
    """Save a checkpoint every N steps."""
    save_every_epochs: float | None = advanced(1.0)
    """Save a checkpoint every N epochs."""
    save_every_minutes: float | None = advanced(None)
    """Save a checkpoint every N minutes."""
    save_async: bool = advanced(False)
    """Write checkpoints in a thread while training continues; takes as much memory as the file."""
    evaluate_every: float = advanced(1.0)
    """Evaluate every N epochs, and at the end."""
    log_every: int = advanced(10)
    """Log to metrics.jsonl every N steps."""
    plots: bool = advanced(True)
    """Plot learning curves, the confusion matrix and sample images."""

    def __post_init__(self) -> None:
        """Check the URL and the intervals."""
        check_without_secret(self.output or "", "`output`")
        protocol = (self.output or "").partition("://")[0].lower() if is_remote(self.output) else ""
        if protocol in _NOT_WRITTEN or (protocol and not (self.output or "").partition("://")[2].strip("/")):
            raise UserError(
                f"`output` takes a folder, or a URL that runs can be written to, such as s3://bucket/run; found "
                f"{printable(str(self.output))}"
            )
        for name in ("save_every_steps", "save_every_epochs", "save_every_minutes", "evaluate_every", "log_every"):
            value = getattr(self, name)
            check(value is None or 0 < value < math.inf, f"`{name}` must be positive and finite, found {value}")


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a training run; config.json stores them fully resolved.

    Attributes:
        network: model, weights and block.
        detector: options of detectors.
        data: images and preprocessing.
        augment: augmentation of training images.
        recipe: optimization.
        machine: device and precision.
        output: run folder, intervals of saving, evaluation and logging.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def __post_init__(self) -> None:
        """Refuse a download without effect, and options that sharded networks lack."""
        if self.data.download:
            check_download((), self.data.data, weights=(self.network.weights, self.detector.backbone_weights))
        if self.machine.shard_model:
            self._check_sharding()

    def _check_sharding(self) -> None:
        machine, output = self.machine, self.output
        given = {"compile": machine.compile, "channels_last": machine.channels_last, "save_async": output.save_async}
        excluded = next((name for name, is_given in given.items() if is_given), None)
        check(excluded is None, f"`shard_model` excludes `{excluded}`; give one of them")
        size, precision = self.recipe.batch_size, machine.precision
        check(size != "auto", "`shard_model` needs a number as `batch_size`, found auto")
        check(precision != "fp16", "`shard_model` needs `precision` float32 or bf16, found fp16")
        is_url = output.output is not None and is_remote(output.output)
        check(not is_url, f"`shard_model` needs a folder as `output`, found the URL {output.output}")

    def with_absolute_paths(self) -> "TrainSettings":
        """Return the settings with absolute paths, to resume from any folder, and commits of models on the Hub."""
        data, network, detector = self.data, self.network, self.detector
        paths = {"val": _absolute_data(data.val), "images": _absolute(data.images)}
        paths["download_dir"] = os.path.abspath(data.download_dir)
        if not data.is_built_in:
            paths["data"] = _absolute_data(data.data)
        return replace(
            self,
            data=replace(data, **paths),
            network=replace(network, weights=_absolute(network.weights)),
            detector=replace(detector, backbone_weights=_absolute(detector.backbone_weights)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, group by group."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TrainSettings":
        """Read the settings that `to_dict` wrote.

        Args:
            stored: JSON values, group by group, under the names of this version.

        Returns:
            The settings.

        Raises:
            UserError: an unknown group or setting, or a value of the wrong type.
        """
        groups = {item.name: item.default_factory for item in fields(cls)}
        if not isinstance(stored, Mapping) or not all(isinstance(group, Mapping) for group in stored.values()):
            raise UserError("config.json: the settings are not groups of names and values")
        for name in stored:
            if name not in groups:
                raise unknown("group of settings", name, groups)
        return cls(**{name: _group(groups[name], values) for name, values in stored.items()})


@dataclass(frozen=True)
class ResumeSettings:
    """Resume a run."""

    folder: Path = field(metadata=POSITIONAL)
    """Run folder, or its URL."""
    workers: int | None = None
    """Another number of DataLoader workers, which changes no bit of the result."""
    device: str | None = None
    """Another device, on which bits of the result may differ."""
    epochs: float | None = None
    """Another length in epochs, at least those done; the learning rate then follows the schedule of the new length
    from here on, so that the result differs from that of a run of this length from the start."""
    steps: int | None = None
    """Another length in steps, likewise."""
    data: str | None = None
    """New path of data that moved; the content must be the same."""
    val: str | None = None
    """New path of validation data that moved."""
    images: str | None = None
    """New path of an image folder that moved."""
    download_dir: str | None = None
    """New folder of downloaded data sets."""
    take_over: bool = False
    """Take over the lock of a run at a URL that its process, which was lost, has not renewed for ten minutes."""

    def moved(self) -> dict[str, str]:
        """Return the new paths of data by the name of the setting."""
        paths = {name: getattr(self, name) for name in ("data", "val", "images", "download_dir")}
        return {name: path for name, path in paths.items() if path is not None}

    def applied(self, settings: TrainSettings) -> TrainSettings:
        """Return the settings of a run with the changes.

        Args:
            settings: of the run.
        """
        workers = {} if self.workers is None else {"workers": self.workers}
        device = {} if self.device is None else {"device": self.device}
        length = {"epochs": self.epochs, "steps": self.steps} if self.has_length else {}
        changed = replace(
            settings,
            data=replace(settings.data, **workers, **self.moved()),
            machine=replace(settings.machine, **device),
            recipe=replace(settings.recipe, **length),
        )
        return changed.with_absolute_paths() if self.moved() else changed

    @property
    def has_length(self) -> bool:
        """Whether the length of the run changes."""
        return (self.epochs, self.steps) != (None, None)


def _absolute_data(path: str | None) -> str | None:
    is_local_pattern = path is not None and is_pattern(path) and not is_remote(path)
    return os.path.abspath(path) if path is not None and is_local_pattern else _absolute(path)


def _absolute(path: str | None) -> str | None:
    if path is not None and path.startswith("hf://"):
        from gcnet.checkpoints.hub import with_commit

        return with_commit(path)
    return os.path.abspath(path) if path is not None and os.path.exists(path) else path


def _group(kind: Any, values: Mapping[str, Any]) -> Any:
    valid = [item.name for item in fields(kind)]
    for name in values:
        if name not in valid:
            raise UserError(f'config.json: unknown setting "{name}"{nearest(name, valid)}')
    kinds = get_type_hints(kind)
    read = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in read.items():
        if not has_type(value, kinds[name]):
            raise UserError(f'config.json: "{name}" has a value of the wrong type, {json.dumps(values[name])}')
    return kind(**read)


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def override(settings: TrainSettings, **changes: Any) -> TrainSettings:
    """Return a copy of `settings` with single settings changed by name, in whichever group they are.

    Args:
        settings: to copy.
        **changes: new values, such as `lr=0.1, seed=1`.

    Returns:
        The changed settings.

    Raises:
        UserError: no group has the name.
    """
    groups = {item.name: getattr(settings, item.name) for item in fields(settings)}
    owners = {setting.name: name for name, group in groups.items() if is_dataclass(group) for setting in fields(group)}
    changed: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in owners:
            new = new_name(name)
            raise renamed(name, new) if new in owners else unknown("setting", name, owners)
        changed.setdefault(owners[name], {})[name] = value
    return replace(settings, **{group: replace(groups[group], **values) for group, values in changed.items()})
