"""Settings of `gcnet simplify`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gcnet.arguments import POSITIONAL
from gcnet.data.settings import PreprocessingSettings
from gcnet.errors import UserError
from gcnet.workflows.analyze import AnalyzeSettings
from gcnet.workflows.evaluate import EvaluateSettings

_SUFFIX = ".safetensors"
_SHARED = ("weights", "data", "download_dir", "scene_distance", "seed", "limit", "preprocessing", "batch_size")


@dataclass(frozen=True)
class SimplifySettings:
    """Replace non-local blocks whose attention does not depend on the query by simpler blocks, in a new model file.

    Which those are is measured on your data, as by gcnet analyze --statistics. The new blocks start from the weights of
    the old ones: snl takes over attention and output, gc the attention alone. Says the accuracy before and after.
    """

    model: str = field(metadata=POSITIONAL)
    """Model file, run folder (its best weights), or a network by name (then with `weights`)."""
    data: str
    """scenes (generated), scenes-control, cifar10, cifar100, a folder with val/ or with class folders, or a CSV."""
    output: Path
    """The new model file (.safetensors)."""
    block: Literal["snl", "gc"] = "snl"
    """What to put there: snl, the same where all queries are the same, or gc, which is then to be trained."""
    ratio: float | None = None
    """gc: channels over those of its bottleneck (default: 16, in the small networks 4)."""
    threshold: float | None = None
    """Average cosine distance up to which maps, and what is added, count as the same for all queries (default: 0.1)."""
    all: bool = False
    """Replace every block that can be, whatever its distances."""
    weights: str | None = None
    """Weights for a network by name: a file, "pretrained", or the name of published ones such as IMAGENET1K_V1."""
    download_dir: str = "data"
    """Folder of downloaded data sets (cifar10, cifar100)."""
    scene_distance: int | None = None
    """Scenes: pixels between the reference patch and the nearest shape (default: half of a 64 px image)."""
    seed: int = 0
    """Seed of generated scenes."""
    limit: int | None = None
    """Use only so many images, evenly spread (default: 100 for the distances, all for the accuracy)."""
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    batch_size: int | None = None
    """Images at a time (default: 8 for the distances, 64 for the accuracy)."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work, before anything is loaded."""
        if self.output.suffix != _SUFFIX:
            raise UserError(f"`output` is a new model file and ends in {_SUFFIX}, found {self.output}")
        if os.path.realpath(self.output) == os.path.realpath(self.model):
            raise UserError(f"`output` must be another file, and {self.output} is the model itself")
        if self.ratio is not None and self.block != "gc":
            raise UserError(f"`ratio` belongs to `block=gc`, found `block={self.block}`")
        if self.ratio is not None and not self.ratio >= 1:
            raise UserError(f"`ratio` must be at least 1, found {self.ratio:g}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"`threshold` is a cosine distance from 0 to 1, found {self.threshold:g}")
        if self.threshold is not None and self.all:
            raise UserError("`all` replaces blocks whatever their distances; give one of `all` and `threshold`")
        self.for_statistics()
        self.for_accuracy()

    def for_statistics(self) -> AnalyzeSettings:
        """The settings of `gcnet analyze --statistics` by which blocks are measured."""
        return AnalyzeSettings(self.model, statistics=True, **self._shared())

    def for_accuracy(self) -> EvaluateSettings:
        """The settings of `gcnet evaluate` by which both networks are evaluated."""
        return EvaluateSettings(self.model, **self._shared())

    def _shared(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SHARED}
