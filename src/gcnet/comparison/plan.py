"""Variants of a network and the trainings of a comparison."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gcnet.blocks import BLOCKS, Builder, block_options, check_options
from gcnet.comparison.results import BASELINE, CONTROL, MAIN
from gcnet.comparison.settings import CompareSettings
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, unknown
from gcnet.insertion import insert
from gcnet.models.registry import published_placement, split_name
from gcnet.tasks.registry import build_network, task_of, with_defaults
from gcnet.training.network_settings import NetworkSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import OutputSettings, TrainSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Variant:
    """A block as one network of a comparison has it.

    Attributes:
        block: its name, or your own builder (`channels -> module`); None for the unmodified network.
        options: of the block, `NAME=VALUE` each, as in `NetworkSettings.block_options`.
        placement: of ratio, stages, blocks, position and insert_at, what differs from the rest of the comparison.
    """

    block: str | Builder | None
    options: tuple[str, ...] = ()
    placement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether it is made by a builder of the user's own."""
        return callable(self.block)

    def described(self) -> dict[str, Any]:
        """Return the variant as JSON values; a custom builder by its name."""
        block = getattr(self.block, "__name__", repr(self.block)) if self.is_own else self.block
        return {"block": block, "options": list(self.options), **self.placement}


def read_variant(text: str) -> Variant:
    """Read an entry of `blocks`: a name and options, as in `gc:pooling=average:fusion=scale`.

    Args:
        text: the entry.

    Returns:
        The variant.

    Raises:
        UserError: an unknown block, or an option without a value.
    """
    name, *options = text.split(":")
    valid = (BASELINE, *BLOCKS)
    if name not in valid:
        raise unknown("block", name, valid)
    if name == BASELINE and options:
        raise UserError(f'{BASELINE} is the unmodified network and takes no options, found "{text}"')
    for option in options:
        if "=" not in option:
            raise UserError(
                f'`blocks` takes options as NAME=VALUE, as in gc:fusion=scale; found "{option}" in "{text}"'
            )
    ratios = [option.partition("=")[2] for option in options if option.startswith("ratio=")]
    placement = {"ratio": _number(ratios[-1], text)} if ratios else {}
    return Variant(
        None if name == BASELINE else name,
        tuple(option for option in options if not option.startswith("ratio=")),
        placement,
    )


def _number(text: str, entry: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f'`ratio` must be a number, found "{text}" in "{entry}"') from None


Variants = Mapping[str, Variant]

_CURVE_POINTS = 10


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Attributes:
        setting: `MAIN` or `CONTROL`.
        block: its name.
        seed: of the training.
        settings: as for `gcnet.train`.
        folder: name of its run folder in the output folder, of a training before the comparisons.
    """

    setting: str
    block: str
    seed: int
    settings: TrainSettings
    folder: str = ""

    @property
    def name(self) -> str:
        """The name of its folder."""
        if self.folder:
            return self.folder
        block = re.sub(r"[^\w.+=-]+", "-", self.block)
        return f"{self.setting}-{block}-seed{self.seed}"


def check_names(settings: CompareSettings, variants: Variants) -> None:
    """Check the blocks, their options and the name of the network.

    Args:
        settings: of the comparison.
        variants: by block name.

    Raises:
        UserError: an unknown block or option, or a network with a block in its name.
    """
    for name in settings.block_names():
        variant = variant_of(name, variants)
        if variant.block is not None:
            given = NetworkSettings(block_options=variant.options).read_block_options()
            check_options(
                variant.block, given | {name: value for name, value in variant.placement.items() if name == "ratio"}
            )
    prefix, base = split_name(settings.model)
    if prefix:
        raise UserError(
            f'compare inserts the blocks: `model` takes a network without blocks, "{base}", found "{settings.model}"'
        )


def variant_of(name: str, variants: Variants) -> Variant:
    """Return the variant called `name`: one of `variants`, or a block with options as in `blocks`.

    Args:
        name: of the block.
        variants: by block name.
    """
    return variants[name] if name in variants else read_variant(name)


def placement(settings: CompareSettings, name: str, variants: Variants) -> dict[str, Any]:
    """Return arguments of `NetworkSettings` for the block and its insertion sites.

    Args:
        settings: of the comparison.
        name: of the block.
        variants: by block name.

    Returns:
        Arguments by name, empty for the baseline.
    """
    variant = variant_of(name, variants)
    block = variant.block
    if block is None:
        return {}
    chosen: dict[str, Any] = {"ratio": settings.ratio if "ratio" in block_options(block) else None}
    if settings.placement == "published":
        chosen |= published_placement(f"{block}_", settings.model)
    else:
        chosen |= {"stages": settings.stages, "position": settings.position, "insert_at": settings.insert_at}
    chosen |= {"block": block, "block_options": variant.options or None, **variant.placement}
    return {name: value for name, value in chosen.items() if value is not None}


def create_variant(settings: CompareSettings, name: str, variants: Variants, num_classes: int) -> "nn.Module":
    """Build the network with one block.

    The network without blocks is built first, so that it has the same initial weights for every block.

    Args:
        settings: of the comparison.
        name: of the block.
        variants: by block name.
        num_classes: of the data.

    Returns:
        The network.
    """
    if not variant_of(name, variants).is_own:
        return build_network(
            with_defaults(training_settings(settings, name, variants)), num_classes, image_size=settings.data.image_size
        )
    network = build_network(
        with_defaults(training_settings(settings, BASELINE, variants)), num_classes, image_size=settings.data.image_size
    )
    chosen = placement(settings, name, variants)
    block = chosen.pop("block")
    arguments = NetworkSettings(block=name, **chosen).block_arguments()
    insert(network, block, **{key: value for key, value in arguments.items() if key != "block" and value is not None})
    return network


def data_settings(settings: CompareSettings, setting: str) -> DataSettings:
    """Return the data settings; by default with as many scenes as the demonstration needs.

    Args:
        settings: of the comparison.
        setting: `MAIN` or `CONTROL`.
    """
    data = settings.data
    if settings.control_data is not None and setting == CONTROL:
        data = replace(data, data=settings.control_data)
    if not data.is_generated:
        return data
    demonstration = task_of(settings.model).demonstration
    return replace(
        data,
        limit_train=data.limit_train or demonstration.train,
        limit_val=data.limit_val or demonstration.val,
    )


def recipe_settings(settings: CompareSettings) -> RecipeSettings:
    """Return the recipe for `settings`; on scenes by default that of the demonstration."""
    given = settings.recipe_choices()
    is_demo = settings.data.is_generated and "preset" not in given
    recipe = dict(task_of(settings.model).demonstration.recipe) if is_demo else {}
    if "epochs" in given:
        recipe.pop("steps", None)
    if given.get("optimizer", recipe.get("optimizer")) != recipe.get("optimizer"):
        recipe = {name: value for name, value in recipe.items() if name not in ("lr", "weight_decay")}
    return RecipeSettings(**(recipe | given))


def plan_trainings(settings: CompareSettings, *, epochs: float, variants: Variants) -> list[Training]:
    """List all trainings, seed by seed, with at least ten evaluations each.

    Args:
        settings: of the comparison.
        epochs: length of a training.
        variants: by block name.

    Returns:
        The trainings.
    """
    output = OutputSettings(
        save_every_epochs=None,
        save_every_minutes=0.5,
        evaluate_every=min(epochs / _CURVE_POINTS, 1.0),
        plots=False,
    )
    pairs = [(MAIN, block) for block in settings.block_names()] + [(CONTROL, b) for b in settings.control_blocks()]
    return [
        Training(
            setting,
            block,
            seed,
            training_settings(settings, block, variants, setting=setting, seed=seed, output=output),
        )
        for seed in settings.seed_numbers()
        for setting, block in pairs
    ]


def training_settings(
    settings: CompareSettings,
    block: str,
    variants: Variants,
    *,
    setting: str = MAIN,
    seed: int = 0,
    output: OutputSettings | None = None,
) -> TrainSettings:
    """Build the settings of one training, as for `gcnet.train`; a custom builder is only named.

    Args:
        settings: of the comparison.
        block: its name.
        variants: by block name.
        setting: `MAIN` or `CONTROL`.
        seed: of the training.
        output: run folder and intervals.

    Returns:
        The settings.
    """
    chosen = placement(settings, block, variants)
    if callable(chosen.get("block")):
        chosen["block"] = block
    return TrainSettings(
        network=NetworkSettings(model=settings.model, weights=settings.weights, **chosen),
        detector=settings.detector,
        data=data_settings(settings, setting),
        augment=settings.augment,
        recipe=recipe_settings(settings),
        machine=replace(settings.machine, seed=seed),
        output=output or OutputSettings(),
    )
