"""From the settings of a comparison to its trainings: which block goes where, and the same recipe for all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gcnet.blocks import BLOCKS, Builder, block_options
from gcnet.compare.settings import DEMO_RECIPE, DEMO_TRAIN, DEMO_VAL, CompareSettings
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, unknown
from gcnet.models.create import create_model
from gcnet.models.names import published_placement, require_classifier, split_name
from gcnet.report.results import BASELINE, CONTROL, MAIN
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
    require_classifier(settings.model)
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
        prefix = "nl_" if block.startswith("nl_") else f"{block}_"
        chosen |= published_placement(prefix, settings.model)
    else:
        chosen |= {"stages": settings.stages, "position": settings.position}
    return {"block": block} | {name: value for name, value in chosen.items() if name != "block" and value is not None}


def create_variant(settings: CompareSettings, block: str, builders: Builders, num_classes: int) -> "nn.Module":
    """The network with one block; the host is built first, so that a seed gives it the same weights for every block."""
    found = placement(settings, block, builders)
    if block in builders:
        found["block"] = builders[block]
    return create_model(settings.model, num_classes=num_classes, weights=settings.weights, **found)


def data_settings(settings: CompareSettings, setting: str) -> DataSettings:
    """The images of a setting; scenes are as many as the demonstration needs unless their number is given."""
    data = settings.data
    if settings.control_data is not None and setting == CONTROL:
        data = replace(data, data=settings.control_data)
    if not data.is_generated:
        return data
    return replace(data, limit_train=data.limit_train or DEMO_TRAIN, limit_val=data.limit_val or DEMO_VAL)


def recipe_settings(settings: CompareSettings) -> RecipeSettings:
    """The recipe: the demonstration's on scenes unless a preset is named, then what is given."""
    given = settings.recipe.given()
    is_demo = settings.data.is_generated and "preset" not in given
    recipe = dict(DEMO_RECIPE) if is_demo else {}
    if "epochs" in given:
        recipe.pop("steps", None)
    if given.get("optimizer", recipe.get("optimizer")) != recipe.get("optimizer"):
        recipe = {name: value for name, value in recipe.items() if name not in ("lr", "weight_decay")}
    return RecipeSettings(**(recipe | given))


def plan(settings: CompareSettings, *, epochs: float, builders: Builders) -> list[Training]:
    """All trainings, seed by seed; `epochs` is their length, over which ten evaluations or more are spread."""
    recipe = recipe_settings(settings)
    output = OutputSettings(
        save_every_epochs=None,
        save_every_minutes=0.5,
        evaluate_every=min(epochs / _CURVE_POINTS, 1.0),
        pictures=False,
    )
    pairs = [(MAIN, block) for block in settings.block_names()] + [(CONTROL, b) for b in settings.control_blocks()]
    return [
        Training(
            setting,
            block,
            seed,
            TrainSettings(
                network=_network(settings, block, builders),
                data=data_settings(settings, setting),
                augment=settings.augment,
                recipe=recipe,
                machine=MachineSettings(
                    device=settings.device,
                    seed=seed,
                    precision=settings.precision,
                    channels_last=settings.channels_last,
                ),
                output=output,
            ),
        )
        for seed in settings.seed_numbers()
        for setting, block in pairs
    ]


def _network(settings: CompareSettings, block: str, builders: Builders) -> NetworkSettings:
    return NetworkSettings(model=settings.model, weights=settings.weights, **placement(settings, block, builders))
