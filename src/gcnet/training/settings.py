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
from gcnet.data.settings import AugmentSettings, DataSettings, is_pattern
from gcnet.errors import UserError, nearest, printable, unknown
from gcnet.remote_files import check_without_secret, is_remote
from gcnet.renamed import new_name, renamed
from gcnet.training.checks import check
from gcnet.training.network_settings import DetectorSettings, NetworkSettings
from gcnet.training.recipe import RecipeSettings

if TYPE_CHECKING:
    import torch


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
    """Compile the network, or the backbone of a detector, with torch.compile: a slow first step, then faster ones."""
    shard_model: bool = advanced(False)
    """Shard weights, gradients and optimizer state over the processes of torchrun (FSDP2), for networks that do not fit
    on one GPU (gcnet train only)."""

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
    """Write checkpoints in a thread while training continues; takes extra memory of the size of the checkpoint."""
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
    """Replace the lock of a run at a URL if its process was lost and has not renewed it for ten minutes."""

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
