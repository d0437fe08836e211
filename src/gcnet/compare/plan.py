"""From the settings of a comparison to its trainings: which block goes where, and the same recipe for all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gcnet.blocks import BLOCKS, Builder, block_options
from gcnet.compare.settings import DEMONSTRATION, DETECTORS_DEMONSTRATION, CompareSettings, Demonstration
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, unknown
from gcnet.models.insertion import insert
from gcnet.models.names import is_detector, published_placement, split_name
from gcnet.report.results import BASELINE, CONTROL, MAIN
from gcnet.training.kinds import build_network, filled
from gcnet.training.settings import (
    MachineSettings,
    NetworkSettings,
    OutputSettings,
    RecipeSettings,
    TrainSettings,
)

if TYPE_CHECKING:
    from torch import nn

Builders = Mapping[str, Builder]

_CURVE_POINTS = 10


@dataclass(frozen=True)
class Training:
    """One training of the comparison; `network` is what `create_model` is told beyond name and classes."""

    setting: str
    block: str
    seed: int
    settings: TrainSettings

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.setting}-{self.block}-seed{self.seed}"


def check_names(settings: CompareSettings, builders: Builders) -> None:
    """Raise UserError for an unknown block, and for a network that has a block in its name already."""
    valid = (BASELINE, *BLOCKS, *builders)
    for name in settings.block_names():
        if name not in valid:
            raise unknown("block", name, valid)
    prefix, host = split_name(settings.model)
    if prefix:
        raise UserError(
            f'compare puts the blocks in itself: --model takes a plain network, "{host}", found "{settings.model}"'
        )


def placement(settings: CompareSettings, block: str, builders: Builders) -> dict[str, Any]:
    """What `create_model` is told to put `block` in its place; empty for no block."""
    if block == BASELINE:
        return {}
    chosen: dict[str, Any] = {"ratio": settings.ratio if "ratio" in block_options(builders.get(block, block)) else None}
    if settings.placement == "published":
        chosen |= published_placement(f"{block}_", settings.model)
    else:
        chosen |= {"stages": settings.stages, "position": settings.position, "at": settings.at}
    return {"block": block} | {name: value for name, value in chosen.items() if name != "block" and value is not None}


def create_variant(settings: CompareSettings, block: str, builders: Builders, num_classes: int) -> "nn.Module":
    """The network with one block; the host is built first, so that a seed gives it the same weights for every block."""
    own = builders.get(block)
    network = build_network(filled(describe(settings, BASELINE if own else block, builders)), num_classes)
    if own is not None:
        chosen = placement(settings, block, builders)
        insert(network, own, **{name: value for name, value in chosen.items() if name != "block"})
    return network


def data_settings(settings: CompareSettings, setting: str) -> DataSettings:
    """The images of a setting; scenes are as many as the demonstration needs unless their number is given."""
    data = settings.data
    if settings.control_data is not None and setting == CONTROL:
        data = replace(data, data=settings.control_data)
    if not data.is_generated:
        return data
    demonstration = _demonstration(settings)
    return replace(
        data,
        limit_train=data.limit_train or demonstration.train,
        limit_val=data.limit_val or demonstration.val,
    )


def recipe_settings(settings: CompareSettings) -> RecipeSettings:
    """The recipe: the demonstration's on scenes unless a preset is named, then what is given."""
    given = settings.recipe.given()
    is_demo = settings.data.is_generated and "preset" not in given
    recipe = dict(_demonstration(settings).recipe) if is_demo else {}
    if "epochs" in given:
        recipe.pop("steps", None)
    if given.get("optimizer", recipe.get("optimizer")) != recipe.get("optimizer"):
        recipe = {name: value for name, value in recipe.items() if name not in ("lr", "weight_decay")}
    return RecipeSettings(**(recipe | given))


def _demonstration(settings: CompareSettings) -> Demonstration:
    return DETECTORS_DEMONSTRATION if is_detector(settings.model) else DEMONSTRATION


def plan(settings: CompareSettings, *, epochs: float, builders: Builders) -> list[Training]:
    """All trainings, seed by seed; `epochs` is their length, over which ten evaluations or more are spread."""
    output = OutputSettings(
        save_every_epochs=None,
        save_every_minutes=0.5,
        evaluate_every=min(epochs / _CURVE_POINTS, 1.0),
        pictures=False,
    )
    pairs = [(MAIN, block) for block in settings.block_names()] + [(CONTROL, b) for b in settings.control_blocks()]
    return [
        Training(setting, block, seed, describe(settings, block, builders, setting=setting, seed=seed, output=output))
        for seed in settings.seed_numbers()
        for setting, block in pairs
    ]


def describe(
    settings: CompareSettings,
    block: str,
    builders: Builders,
    *,
    setting: str = MAIN,
    seed: int = 0,
    output: OutputSettings | None = None,
) -> TrainSettings:
    """The settings of one training, as `gcnet train` would take them (of a builder of the user's own without it)."""
    return TrainSettings(
        network=NetworkSettings(model=settings.model, weights=settings.weights, **placement(settings, block, builders)),
        detector=settings.detector,
        data=data_settings(settings, setting),
        augment=settings.augment,
        recipe=recipe_settings(settings),
        machine=MachineSettings(
            device=settings.device, seed=seed, precision=settings.precision, channels_last=settings.channels_last
        ),
        output=output or OutputSettings(),
    )
