"""Settings of `gcnet reproduce`; imports neither torch nor numpy."""

from dataclasses import dataclass, field
from typing import Literal

from gcnet.comparison.settings import RecipeChoices
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError

SCALES = ("full", "small")


@dataclass(frozen=True)
class ReproduceSettings:
    """Train the networks in a table of GCNet's paper, or only count what they cost, beside what was published.

    `scale=small` trains the same rows in a small network (cifar_resnet20) on small images, in minutes to hours on a
    CPU; full is the published protocol (COCO: 1x, batch norms over all images; ImageNet: 40 epochs from a trained
    network). Interrupted, the same command goes on. With `cost_only` nothing is trained: accuracies stand there as they
    were published, each with its source. Where none is known, there is none.

    For example:

      gcnet reproduce --list
      gcnet reproduce --table design --cost-only
      gcnet reproduce --table design pooling-fusion --scale small --data cifar10 --weights resnet20.th
      gcnet reproduce --table design --scale full --data coco --weights pretrained
    """

    table: tuple[str, ...] = ()
    """Tables by name, or all. Rows that several of them share are trained once."""
    list: bool = False
    """List the tables."""
    cost_only: bool = False
    """Only count what the networks cost."""
    scale: Literal["full", "small"] | None = None
    """Train the rows: full or small."""
    weights: str | None = None
    """With `scale`: trained weights of the plain network that all start from, of COCO's detectors of the backbone: a
    file or "pretrained" (torchvision's IMAGENET1K_V1, as in the paper). Without it small networks train from random
    weights, with the preset scratch."""
    seeds: int | None = None
    """With `scale`: number of seeds (default: 3 of small, 1 of full)."""
    seed: int = 0
    """With `scale`: the first seed."""
    data: DataSettings = field(default_factory=lambda: DataSettings(data="cifar10"))
    recipe: RecipeChoices = field(default_factory=RecipeChoices)
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Precision: float32, or mixed precision (autocast) in bf16 or fp16."""
    jobs: int | None = None
    """Trainings at a time, each with its share of the cores (default: one per core, 4 at most; on a GPU one)."""
    output: str | None = None
    """With `scale`: folder for the runs and the tables (default: runs/reproduce-TABLE-SCALE)."""

    def __post_init__(self) -> None:
        """Refuse what says nothing, or two things."""
        if self.list + self.cost_only + (self.scale is not None) != 1 or self.list == bool(self.table):
            raise UserError("gcnet reproduce takes `list`, or `table=NAME` with `cost_only` or `scale`")
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"`seeds` must be at least 1, found {self.seeds}")
        if self.scale == "full" and self.weights is None:
            raise UserError(
                "`scale=full` starts from a trained plain network: give `weights=FILE`, or `weights=pretrained`"
            )
