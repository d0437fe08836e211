"""What is trained, where the blocks go, and what is refused before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comparison.small import small
from gcnet.arguments import settings_from
from gcnet.comparison.plan import (
    Variant,
    check_names,
    create_variant,
    data_settings,
    placement,
    plan_trainings,
    recipe_settings,
)
from gcnet.comparison.settings import CompareSettings
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insertion_records
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings

SAME = CompareSettings(model="cifar_resnet20", data=DataSettings(data="somewhere"))


def test_all_blocks_are_trained_with_the_same_recipe_data_and_seeds() -> None:
    trainings = plan_trainings(replace(SAME, seeds=2, machine=MachineSettings(seed=5)), epochs=10, variants={})
    assert [(training.seed, training.block) for training in trainings] == [
        (seed, block) for seed in (5, 6) for block in ("none", "se", "nl_embedded_gaussian", "snl", "gc")
    ]
    first = trainings[0].settings
    for training in trainings:
        found = training.settings
        assert (found.recipe, found.data, found.augment) == (first.recipe, first.data, first.augment)
        assert found.machine == replace(first.machine, seed=training.seed)


def test_the_network_starts_from_the_same_weights_with_every_block() -> None:
    states = []
    for block in ("none", "se", "gc", "nl_embedded_gaussian"):
        torch.manual_seed(3)
        states.append(create_variant(SAME, block, {}, 3).state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in states[0].items() for state in states[1:])


def test_by_default_every_block_has_the_same_sites() -> None:
    found = {
        block: [name.partition(".context.")[0] for name, _ in context_parameters(create_variant(SAME, block, {}, 3))]
        for block in ("se", "gc", "nl_gaussian")
    }
    assert set(found["se"]) == set(found["gc"]) == set(found["nl_gaussian"])
    assert len(set(found["gc"])) == 9


def test_published_placement_gives_each_block_its_own_sites() -> None:
    settings = CompareSettings(model="resnet18", placement="published")
    with torch.device("meta"):
        records = {
            block: insertion_records(create_variant(settings, block, {}, 3))[0]
            for block in ("se", "gc", "nl_dot_product")
        }
    assert records["se"]["stages"] == [2, 3, 4, 5]
    assert records["gc"]["stages"] == [3, 4, 5]
    assert (records["nl_dot_product"]["stages"], records["nl_dot_product"]["blocks"]) == ([4], [-2])
    assert records["nl_dot_product"]["block"] == "nl_dot_product"


def test_named_sites_are_the_same_for_every_block() -> None:
    settings = replace(SAME, insert_at=("layer1.*",), stages=None, position=None)
    for block in ("se", "snl"):
        places = {
            name.partition(".context.")[0] for name, _ in context_parameters(create_variant(settings, block, {}, 3))
        }
        assert places == {"layer1.0", "layer1.1", "layer1.2"}


def test_a_ratio_is_given_to_the_blocks_that_have_one() -> None:
    settings = replace(SAME, ratio=8)
    assert placement(settings, "gc", {}) == {"block": "gc", "ratio": 8}
    assert placement(settings, "snl", {}) == {"block": "snl"}
    assert placement(settings, "none", {}) == {}


def test_scenes_have_a_control_setting_with_no_block_and_gc_alone() -> None:
    settings = CompareSettings(model="cifar_resnet20")
    control = [
        training for training in plan_trainings(settings, epochs=2, variants={}) if training.setting == "control"
    ]
    assert [training.block for training in control] == ["none", "gc"]
    assert {training.settings.data.data for training in control} == {"scenes-control"}
    main = plan_trainings(settings, epochs=2, variants={})[0].settings.data
    assert replace(control[0].settings.data, data="scenes") == main


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(CompareSettings(control=False), id="not wanted"),
        pytest.param(CompareSettings(blocks="se,gc"), id="nothing to compare with"),
        pytest.param(CompareSettings(data=DataSettings(data="cifar10")), id="other data"),
    ],
)
def test_without_use_for_it_there_is_no_control_setting(settings: CompareSettings) -> None:
    assert settings.control_blocks() == ()


def test_the_demonstrations_recipe_is_for_scenes_without_a_preset() -> None:
    assert recipe_settings(CompareSettings()).steps is not None
    assert recipe_settings(CompareSettings(recipe=RecipeSettings(preset="scratch"))).steps is None
    assert recipe_settings(SAME).steps is None
    changed = recipe_settings(CompareSettings(recipe=RecipeSettings(epochs=3.0), given=("optimizer",)))
    assert (changed.steps, changed.epochs, changed.peak_lr) == (None, 3.0, 0.05)


def test_the_number_of_scenes_can_be_chosen() -> None:
    settings = CompareSettings(data=DataSettings(limit_train=77))
    assert data_settings(settings, "main").limit_train == 77
    assert data_settings(settings, "control").limit_train == 77


def test_a_run_is_evaluated_ten_times_or_once_an_epoch() -> None:
    assert plan_trainings(SAME, epochs=2, variants={})[0].settings.output.evaluate_every == pytest.approx(0.2)
    assert plan_trainings(SAME, epochs=40, variants={})[0].settings.output.evaluate_every == 1.0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"blocks": "none,gcc"}, r'unknown block "gcc"; did you mean "gc"\?', id="unknown block"),
        pytest.param({"blocks": "none,,gc"}, "`blocks` takes names separated by commas", id="empty name"),
        pytest.param({"blocks": "gc,none,gc"}, 'each block once, found "gc" twice', id="repeated block"),
        pytest.param({"model": "gc_resnet50"}, 'without blocks, "resnet50", found "gc_resnet50"', id="block in name"),
        pytest.param({"seeds": 0}, "`seeds` must be at least 1, found 0", id="no seeds"),
        pytest.param({"jobs": 0}, "`jobs` must be at least 1, found 0", id="no jobs"),
        pytest.param(
            {"placement": "published", "stages": (3,)},
            "`stages`, `position` and `insert_at` need `placement` same",
            id="contradiction",
        ),
        pytest.param({"insert_at": ("layer1",), "stages": (3,)}, "`insert_at` excludes", id="at and stages"),
    ],
)
def test_invalid_settings_are_refused_in_a_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        settings = replace(SAME, **changes)
        check_names(settings, {})
        settings.block_names()


def test_the_identity_of_a_comparison_leaves_out_where_and_how_many_at_a_time(tmp_path: Path) -> None:
    one = small(tmp_path, tmp_path / "a")
    other = small(tmp_path, tmp_path / "b", jobs=3)
    assert one.identity() == other.identity()
    assert one.identity() != small(tmp_path, tmp_path / "a", seeds=2).identity()


def test_a_recipe_setting_given_at_its_default_is_a_choice_too() -> None:
    given = settings_from(CompareSettings, {"optimizer": "sgd", "epochs": 2})
    assert given.recipe_choices() == {"optimizer": "sgd", "epochs": 2}
    assert given.identity()["recipe"]["optimizer"] == "sgd"
    assert CompareSettings().identity()["recipe"]["optimizer"] is None


def test_an_entry_may_have_options_and_a_ratio_of_its_own() -> None:
    settings = CompareSettings(
        model="cifar_resnet20", ratio=2, blocks="none,gc,gc:ratio=4,gc:pooling=average:fusion=scale"
    )
    check_names(settings, {})
    assert placement(settings, "gc:ratio=4", {}) == {"block": "gc", "ratio": 4}
    found = placement(settings, "gc:pooling=average:fusion=scale", {})
    assert found == {"block": "gc", "ratio": 2, "block_options": ("pooling=average", "fusion=scale")}
    network = create_variant(settings, "gc:pooling=average:fusion=scale", {}, 3)
    assert insertion_records(network)[0]["options"] == {"pooling": "average", "fusion": "scale"}
    assert plan_trainings(settings, epochs=2, variants={})[3].name == "main-gc-pooling=average-fusion=scale-seed0"


def test_a_variant_has_its_own_sites() -> None:
    variants = {"+1 GC": Variant("gc", placement={"stages": (2,), "blocks": (-2,), "position": "after_add"})}
    network = create_variant(replace(SAME, stages=(1, 2, 3)), "+1 GC", variants, 3)
    assert {name.partition(".context.")[0] for name, _ in context_parameters(network)} == {"layer2.1"}


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        pytest.param("gc:heads", 'NAME=VALUE, as in gc:fusion=scale; found "heads"', id="no value"),
        pytest.param("gc:head=2", r'takes no option "head"; did you mean "heads"\?', id="unknown option"),
        pytest.param("gc:ratio=much", '`ratio` must be a number, found "much"', id="not a number"),
        pytest.param("snl:ratio=4", 'block "snl" takes no option "ratio"', id="no ratio"),
        pytest.param("none:ratio=4", "takes no options", id="options of none"),
    ],
)
def test_entries_that_cannot_be_built_are_refused(entry: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_names(replace(SAME, blocks=f"none,{entry}"), {})
