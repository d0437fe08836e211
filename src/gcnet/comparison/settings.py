"""Settings of a comparison; imports neither torch nor numpy."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from gcnet.arguments import INTERNAL, advanced, check_choices
from gcnet.data.settings import AugmentSettings, DataSettings
from gcnet.errors import UserError
from gcnet.training.network_settings import DetectorSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings

CONTROL_OF = {"scenes": "scenes-control"}


@dataclass(frozen=True)
class CompareSettings:
    """Train a model with different blocks, and report accuracy (AP of detectors) and cost.

    Defaults run the demonstration: five blocks on generated scenes whose class depends on a distant object, and a
    control setting that needs no context. On scenes, the default recipe is the demonstration's. The same command
    resumes an interrupted comparison.

    Examples:
      gcnet compare
      gcnet compare --blocks none,se,gc --seeds 3 --model cifar_resnet20 --data cifar10 --epochs 30
    """

    blocks: str = "none,se,nl_embedded_gaussian,snl,gc"
    """Blocks to compare, separated by commas, with options after colons such as gc:pooling=average:ratio=4; none
    is the model without a block."""
    seeds: int = 1
    """Number of seeds; 3 or more for confidence intervals."""
    model: str = "scenes_resnet"
    """Model name, without a block."""
    weights: str | None = None
    """Initial weights of all models: a file, "pretrained", or a published version such as IMAGENET1K_V1
    (default: random)."""
    placement: Literal["same", "published"] = advanced("same")
    """Insert all blocks at the same sites, or each as published."""
    ratio: float | None = advanced(None)
    """Reduction ratio of the blocks (default: 16; 4 in CIFAR models)."""
    stages: tuple[int, ...] | None = advanced(None)
    """Stages that get the blocks: 2 to 5 (c2 to c5), in CIFAR models 1 to 3."""
    position: str | None = advanced(None)
    """Position in the residual block: after_norm, after_add or after_conv2."""
    insert_at: tuple[str, ...] | None = advanced(None)
    """Modules with a block on their output, instead of `stages`."""
    control: bool = advanced(True)
    """On scenes, also compare none and gc in the control setting, where no context is needed."""
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    """Options of detectors."""
    data: DataSettings = field(default_factory=DataSettings)
    """Images and preprocessing."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """Augmentation of training images."""
    recipe: RecipeSettings = field(default_factory=RecipeSettings)
    """Optimization."""
    machine: MachineSettings = field(default_factory=lambda: MachineSettings(channels_last=True))
    """Device and precision."""
    jobs: int | None = None
    """Number of parallel trainings (default: one per GPU; on the CPU one per core, at most 4; under torchrun one per
    process, and with 1 all processes share each training)."""
    cluster: str | None = None
    """Run the trainings on this Ray cluster: HOST:PORT of its head node, or auto; all nodes must share the data and
    the output folder. Requires the extra "ray"."""
    output: str | None = None
    """Folder for runs and report; an existing comparison is resumed (default: runs/compare-DATA)."""

    given: tuple[str, ...] = field(default=(), metadata=INTERNAL)

    def __post_init__(self) -> None:
        """Check settings that do not depend on the network."""
        for name in ("seeds", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"`{name}` must be at least 1, found {value}")
        if self.machine.shard_model:
            raise UserError("`shard_model` is for single trainings by gcnet train")
        check_choices(self)
        if self.recipe.batch_size == "auto":
            raise UserError("`batch_size` of a comparison must be a number, the same for all blocks; found auto")
        if self.placement == "published" and (self.stages, self.position, self.insert_at) != (None, None, None):
            raise UserError("`stages`, `position` and `insert_at` need `placement` same, found `placement` published")
        if self.insert_at is not None and self.stages is not None:
            raise UserError("`insert_at` excludes `stages`; give one of them")
        names = self.block_names()
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise UserError(f'`blocks` must name each block once, found "{repeated}" twice')

    def block_names(self) -> tuple[str, ...]:
        """Return the blocks to compare, in order.

        Raises:
            UserError: a name is empty.
        """
        names = tuple(name.strip() for name in self.blocks.split(","))
        if not all(names):
            raise UserError(f'`blocks` takes names separated by commas, such as none,se,gc; found "{self.blocks}"')
        return names

    def control_blocks(self) -> tuple[str, ...]:
        """Return the blocks of the control setting: none, and gc or else the last block; empty without such a pair."""
        names = self.block_names()
        others = [name for name in names if name != "none"]
        if self.control_data is None or "none" not in names or not others:
            return ()
        return "none", "gc" if "gc" in others else others[-1]

    def seed_numbers(self) -> tuple[int, ...]:
        """Return the seeds in order."""
        return tuple(range(self.machine.seed, self.machine.seed + self.seeds))

    def recipe_choices(self) -> dict[str, Any]:
        """Return the recipe settings that are given or not at their defaults, by name."""
        values = ((item, getattr(self.recipe, item.name)) for item in fields(self.recipe))
        return {item.name: value for item, value in values if value != item.default or item.name in self.given}

    @property
    def control_data(self) -> str | None:
        """The control setting's data, where there is one and it is wanted."""
        return CONTROL_OF.get(self.data.data) if self.control else None

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the results, as JSON values."""
        from gcnet.tasks.registry import task_of

        identity = asdict(self)
        for name in ("output", "jobs", "cluster", "given"):
            del identity[name]
        del identity["data"]["workers"]
        identity["recipe"] = dict.fromkeys(identity["recipe"]) | self.recipe_choices()
        machine = identity["machine"]
        later = {"tf32": None, "compile": False, "shard_model": False}
        for name, default in later.items():  # older comparisons lack these settings
            if machine[name] is default:
                del machine[name]
        for group in task_of(self.model).unused_settings:
            identity.pop(group, None)
        return identity
