"""Settings of `gcnet reproduce`; imports neither torch nor numpy."""

from dataclasses import dataclass, field
from typing import Literal

from gcnet.arguments import INTERNAL
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings


@dataclass(frozen=True)
class ReproduceSettings:
    """Train the models of a table of the GCNet paper, or count their costs, beside published numbers.

    `scale=small` trains the rows as cifar_resnet20 on small images; `scale=full` is the published protocol (COCO: 1x,
    synchronized batch norms; ImageNet: 40 epochs from a trained model). The same command resumes an interrupted run.
    With `cost_only`, accuracies are the published ones.

    Examples:
      gcnet reproduce --list
      gcnet reproduce --table design --cost-only
      gcnet reproduce --table design pooling-fusion --scale small --data cifar10 --weights resnet20.th
      gcnet reproduce --table design --scale full --data coco --weights pretrained
    """

    table: tuple[str, ...] = ()
    """Names of tables, or all; rows in several tables are trained once."""
    list: bool = False
    """List the tables."""
    cost_only: bool = False
    """Count the costs of the models without training."""
    scale: Literal["full", "small"] | None = None
    """Train the models: full is the published protocol, small takes minutes to hours on a CPU."""
    weights: str | None = None
    """Initial weights with `scale`, for COCO of the backbone: a file, or "pretrained" (IMAGENET1K_V1) (default:
    random, for small only)."""
    seeds: int | None = None
    """Number of seeds (default: 3 for small, 1 for full)."""
    data: DataSettings = field(default_factory=lambda: DataSettings(data="cifar10"))
    """Images and preprocessing."""
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    """Optimization."""
    machine: MachineSettings = field(default_factory=lambda: MachineSettings(channels_last=True))
    """Device and precision."""
    jobs: int | None = None
    """Number of parallel trainings (default: one per CPU core, at most 4; one on a GPU)."""
    output: str | None = None
    """Folder for runs and tables (default: runs/reproduce-TABLE-SCALE)."""

    given: tuple[str, ...] = field(default=(), metadata=INTERNAL)

    def __post_init__(self) -> None:
        """Check that exactly one of `list`, `cost_only` and `scale` is given."""
        if self.list + self.cost_only + (self.scale is not None) != 1 or self.list == bool(self.table):
            raise UserError(
                "gcnet reproduce takes `list`, or `table=NAME` with `cost_only`, `scale=full` or `scale=small`"
            )
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"`seeds` must be at least 1, found {self.seeds}")
        if self.scale == "full" and self.weights is None:
            raise UserError(
                "`scale=full` starts from a trained plain network: give `weights=FILE`, or `weights=pretrained`"
            )
