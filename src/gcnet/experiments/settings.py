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
    """Train the models of tables of the GCNet paper."""

    table: tuple[str, ...]
    """Names of tables, or all; rows in several tables are trained once."""
    scale: Literal["full", "small"]
    """Train the models: full is the published protocol, small takes minutes to hours on a CPU."""
    weights: str | None = None
    """Initial weights with `scale`, for COCO of the backbone: a file, or "pretrained" (IMAGENET1K_V1) (default:
    random for small; for full on ImageNet those of the plain network, which is trained first)."""
    seeds: int | None = None
    """Number of seeds (default: 3 for small, 1 for full)."""
    data: DataSettings = field(default_factory=lambda: DataSettings(data="cifar10"))
    """Images and preprocessing."""
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    """Optimization."""
    machine: MachineSettings = field(default_factory=lambda: MachineSettings(precision="float32", channels_last=True))
    """Device and precision."""
    jobs: int | None = None
    """Number of parallel trainings (default: one per GPU; on the CPU one per core, at most 4; under torchrun one per
    process, and with 1 all processes share each training)."""
    cluster: str | None = None
    """Run the trainings on this Ray cluster: HOST:PORT of its head node, or auto; all nodes must share the data and
    the output folder. Requires the extra "ray"."""
    output: str | None = None
    """Folder for runs and tables (default: runs/reproduce-TABLE-SCALE)."""

    given: tuple[str, ...] = field(default=(), metadata=INTERNAL)

    def __post_init__(self) -> None:
        """Check tables, seeds and initial weights."""
        if self.machine.shard_model:
            raise UserError("`shard_model` is for single trainings by gcnet train")
        if not self.table:
            raise UserError("`table` must name at least one table, or be all")
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"`seeds` must be at least 1, found {self.seeds}")
