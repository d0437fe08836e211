"""Settings of `gcnet simplify`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gcnet.arguments import POSITIONAL, advanced
from gcnet.data.downloads import check_download
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError, printable
from gcnet.tasks.settings import MODEL_SUFFIX, AnalyzeSettings, EvaluateSettings

_OF_BOTH = ("weights", "data", "download_dir", "scene_distance", "seed", "limit", "preprocessing", "batch_size")


@dataclass(frozen=True)
class SimplifySettings:
    """Replace query-independent non-local blocks by simpler blocks, and write a new model file.

    Query dependence is measured on `data`, as by gcnet analyze --statistics. snl blocks take over attention and output
    weights, gc blocks only attention. Accuracy is printed before and after.

    Example:
      gcnet simplify runs/first --data photos --output simple.safetensors
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights are used), model on the Hugging Face Hub (hf://user/name), published
    checkpoint (`gcnet models --published` lists them), or a model name with `weights`."""
    data: str
    """scenes or scenes-control (generated), cifar10, cifar100, a folder with val/ or with class folders,
    a CSV, or shards."""
    output: Path
    """New model file (.safetensors)."""
    overwrite: bool = False
    """Overwrite an existing file of `output`."""
    block: Literal["snl", "gc"] = "snl"
    """Replacement: snl is equivalent for query-independent blocks; gc needs further training."""
    ratio: float | None = advanced(None)
    """Reduction ratio of gc blocks (default: 16; 4 in CIFAR models)."""
    threshold: float | None = None
    """Maximum cosine distance between positions at which a block counts as query-independent (default: 0.1)."""
    all: bool = False
    """Replace all non-local blocks, whatever their distance."""
    weights: str | None = None
    """Weights for a model given by name: a file, "pretrained", a published version such as IMAGENET1K_V1, hf://user/name,
    or a published checkpoint."""
    download: bool = False
    """Download a model on the Hub or published weights; nothing is downloaded otherwise."""
    download_dir: str = advanced("data")
    """Folder of downloaded data sets (cifar10, cifar100)."""
    scene_distance: int | None = advanced(None)
    """Generated scenes: pixels between the reference patch and the nearest shape (default: half of a 64-pixel
    image)."""
    seed: int = advanced(0)
    """Random seed of generated scenes."""
    limit: int | None = None
    """Maximum number of images, evenly spread (default: 100 to measure distances, all for accuracy)."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    """Image preprocessing, if it differs from that of the model."""
    batch_size: int | None = advanced(None)
    """Batch size (default: 8 to measure distances, 64 for accuracy)."""
    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto uses CUDA if available."""

    def __post_init__(self) -> None:
        """Refuse invalid settings, before anything is loaded."""
        if self.download:
            check_download((self.model,), weights=(self.weights,))
        if self.output.suffix != MODEL_SUFFIX:
            raise UserError(f"`output` must be a new model file ending in {MODEL_SUFFIX}, found {self.output}")
        if os.path.realpath(self.output) == os.path.realpath(self.model):
            raise UserError(f"`output` must be another file, but {self.output} is the model itself")
        if self.output.exists() and not self.overwrite:
            raise UserError(f"`output`: {printable(self.output)} exists already; `overwrite` replaces it")
        if self.ratio is not None and self.block != "gc":
            raise UserError(f"`ratio` requires `block=gc`, found `block={self.block}`")
        if self.ratio is not None and not self.ratio >= 1:
            raise UserError(f"`ratio` must be at least 1, found {self.ratio:g}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"`threshold` must be a cosine distance from 0 to 1, found {self.threshold:g}")
        if self.threshold is not None and self.all:
            raise UserError("`all` replaces blocks whatever their distances; give one of `all` and `threshold`")
        self.for_statistics()
        self.for_accuracy()

    def for_statistics(self) -> AnalyzeSettings:
        """Return the settings for measuring query dependence."""
        return AnalyzeSettings(self.model, statistics=True, **self._shared())

    def for_accuracy(self) -> EvaluateSettings:
        """Return the settings for evaluating both networks."""
        return EvaluateSettings(self.model, **self._shared())

    def _shared(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OF_BOTH}
