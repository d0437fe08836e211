"""Settings refuse contradictions, presets fill what is left open, and config.json brings them back."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import jaxtyping
import pytest

from gcnet.data.settings import AugmentSettings, DataSettings
from gcnet.errors import UserError
from gcnet.training.network_settings import DetectorSettings, NetworkSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, OutputSettings, TrainSettings, override


def test_finetune_is_the_papers_second_stage():
    recipe = RecipeSettings(preset="finetune")
    assert recipe.length(steps_per_epoch=10) == 400
    assert recipe.peak_lr == 0.02
    assert recipe.with_defaults().schedule == "cosine"
    assert recipe.warmup_steps(10) == 0
    assert (recipe.optimizer, recipe.momentum, recipe.decay) == ("sgd", 0.9, 1e-4)


def test_scratch_warms_up_and_runs_for_120_epochs():
    recipe = RecipeSettings()
    assert (recipe.length(10), recipe.warmup_steps(10), recipe.peak_lr) == (1200, 50, 0.1)


def test_the_presets_warm_up_is_at_most_a_tenth_of_a_short_run():
    assert RecipeSettings(epochs=3).warmup_steps(10) == 3
    assert RecipeSettings(epochs=3, warmup_epochs=2).warmup_steps(10) == 20


def test_given_settings_override_the_preset():
    recipe = RecipeSettings(preset="finetune", steps=7, lr=0.5, weight_decay=0.0)
    assert (recipe.length(10), recipe.peak_lr, recipe.decay) == (7, 0.5, 0.0)


def test_a_resolved_recipe_leaves_nothing_open_and_means_the_same():
    recipe = RecipeSettings(epochs=2.5)
    resolved = recipe.with_steps(37)
    assert None not in (resolved.steps, resolved.lr, resolved.weight_decay, resolved.warmup_epochs)
    assert resolved.length(37) == recipe.length(37)
    assert resolved.warmup_steps(37) == recipe.warmup_steps(37)
    assert resolved.with_steps(37) == resolved


REFUSED = {
    "epochs and steps": (RecipeSettings, {"epochs": 1.0, "steps": 1}, "`epochs` or `steps`, not both"),
    "no epochs": (RecipeSettings, {"epochs": 0.0}, "`epochs` must be positive and at most 10.9, found 0.0"),
    "no steps": (RecipeSettings, {"steps": 0}, "`steps` must be positive"),
    "negative rate": (RecipeSettings, {"lr": -0.1}, "`lr` must be positive and finite, found -0.1"),
    "rate that is no number": (RecipeSettings, {"lr": float("nan")}, "`lr` must be positive"),
    "automatic batches in parts": (
        RecipeSettings,
        {"batch_size": "auto", "grad_accumulation": 2},
        "`batch_size=auto` chooses `grad_accumulation`, found `grad_accumulation=2`",
    ),
    "uneven micro-batches": (RecipeSettings, {"batch_size": 10, "grad_accumulation": 3}, "equal micro-batches"),
    "nesterov adamw": (RecipeSettings, {"optimizer": "adamw", "nesterov": True}, "`nesterov` requires"),
    "nesterov without momentum": (RecipeSettings, {"momentum": 0.0, "nesterov": True}, "needs `momentum`"),
    "smoothing of one": (RecipeSettings, {"label_smoothing": 1.0}, r"in \[0, 1\)"),
    "average of one": (RecipeSettings, {"ema_decay": 1.0}, "between 0 and 1"),
    "final above peak": (RecipeSettings, {"lr": 0.1, "min_lr": 0.2}, "is above `lr=0.1`"),
    "final of a constant": (RecipeSettings, {"schedule": "constant", "min_lr": 0.01}, "requires `schedule=cosine`"),
    "milestone beyond": (RecipeSettings, {"milestones": (1.5,)}, "fractions of the run"),
    "negative seed": (MachineSettings, {"seed": -1}, "`seed` must be 0 or more"),
    "huge seed": (MachineSettings, {"seed": 2**63}, "`seed` must be 0 or more, and below"),
    "endless": (RecipeSettings, {"epochs": 1e300}, "`epochs` must be positive and at most 10"),
    "save every 0 steps": (OutputSettings, {"save_every_steps": 0}, "`save_every_steps` must be positive"),
    "evaluate never": (OutputSettings, {"evaluate_every": float("inf")}, "must be positive and finite, found inf"),
    "huge short side": (DetectorSettings, {"min_size": (800, 10_001)}, "`min_size` must be at most 10,000 pixels"),
    "ratio of zero": (NetworkSettings, {"ratio": 0.0}, "`ratio` must be positive"),
    "option without a value": (NetworkSettings, {"block_options": ("pooling",)}, 'takes NAME=VALUE.*found "pooling"'),
}


@pytest.mark.parametrize(("kind", "values", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_contradiction_is_refused_on_construction(kind, values, sentence):
    with pytest.raises(UserError, match=sentence):
        kind(**values)


UNKNOWN = {
    "unknown preset": (RecipeSettings, {"preset": "scrach"}, 'unknown `preset` "scrach"; did you mean "scratch"'),
    "unknown optimizer": (RecipeSettings, {"optimizer": "adam"}, 'did you mean "adamw"'),
    "unknown schedule": (RecipeSettings, {"schedule": "cos"}, 'did you mean "cosine"'),
    "unknown precision": (
        MachineSettings,
        {"precision": "fp32"},
        'unknown `precision` "fp32"; valid: auto, float32, bf16, fp16',
    ),
}


@pytest.fixture
def unchecked_types():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")  # a user has no type checker
@pytest.mark.parametrize(("kind", "values", "sentence"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_name_gets_the_nearest_valid_one(kind, values, sentence):
    with pytest.raises(UserError, match=sentence):
        kind(**values)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"insert_at": ("layer3",)}, "`insert_at`"),
        ({"ratio": 4.0, "block_options": ("heads=2",)}, "`ratio` and `block_options`"),
    ],
)
def test_sites_and_options_need_a_block(given: dict, names: str) -> None:
    with pytest.raises(UserError, match=f"^{names} without a block: add `block`"):
        NetworkSettings("resnet18", **given).block_arguments()
    assert NetworkSettings("gc_resnet18", **given).block_arguments()["block"] is None
    assert NetworkSettings("resnet18", block="se", **given).block_arguments()["block"] == "se"


def test_block_options_are_numbers_booleans_and_strings():
    network = NetworkSettings(block_options=("pooling=average", "use-scale=False", "reduction=4", "a=b=c"))
    assert network.read_block_options() == {"pooling": "average", "use_scale": False, "reduction": 4, "a": "b=c"}


def test_settings_survive_config_json():
    settings = TrainSettings(
        network=NetworkSettings(stages=(2, 3), block_options=("a=1",)),
        data=DataSettings(data="cifar10"),
        augment=AugmentSettings(crop_scale=(0.5, 1.0)),
        recipe=RecipeSettings(freeze=("a*",), epochs=3.5),
        machine=MachineSettings(seed=5, precision="bf16"),
        output=OutputSettings(save_every_epochs=None),
    )
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda stored: stored["recipe"].update(lrr=1), 'unknown setting "lrr"; did you mean "lr"'),
        (lambda stored: stored.update(recipes={}), 'unknown group of settings "recipes"; did you mean "recipe"'),
    ],
    ids=["setting", "group"],
)
def test_an_unknown_setting_in_config_json_is_named(change, sentence):
    stored = TrainSettings().to_dict()
    change(stored)
    with pytest.raises(UserError, match=sentence):
        TrainSettings.from_dict(stored)


def test_override_finds_the_group_of_a_setting():
    settings = override(TrainSettings(), seed=3, steps=9, data="cifar10")
    assert (settings.machine.seed, settings.recipe.steps, settings.data.data) == (3, 9, "cifar10")
    assert override(override(TrainSettings(), epochs=2.0), epochs=None, steps=4).recipe.steps == 4
    with pytest.raises(UserError, match='unknown setting "sed"; did you mean "seed"'):
        override(settings, sed=3)


def test_settings_with_absolute_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "start.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    anchored = override(TrainSettings(), data="photos", weights="start.safetensors").with_absolute_paths()
    assert anchored.data.data == str(tmp_path / "photos")
    assert anchored.network.weights == str(tmp_path / "start.safetensors")
    assert override(TrainSettings(), weights="pretrained").with_absolute_paths().network.weights == "pretrained"
    assert TrainSettings().with_absolute_paths().data.data == "scenes"
    for name in ("scenes", "cifar10"):
        (tmp_path / name).mkdir()
        assert override(TrainSettings(), data=name).with_absolute_paths().data.data == name
    assert override(TrainSettings(), data="./scenes").with_absolute_paths().data.data == str(tmp_path / "scenes")


def test_download_belongs_to_published_weights_too():
    for weights in ("pretrained", "IMAGENET1K_V1", "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco"):
        assert override(TrainSettings(), weights=weights, download=True).data.download
    assert override(TrainSettings(), backbone_weights="pretrained", download=True).data.download
    for weights in (None, "weights.safetensors", "runs/first"):
        with pytest.raises(UserError, match="`download` belongs to .* published weights, such as"):
            override(TrainSettings(), weights=weights, download=True)


def test_settings_cannot_be_changed():
    settings = TrainSettings()
    with pytest.raises(FrozenInstanceError):
        settings.recipe.lr = 1.0
    assert replace(settings.recipe, lr=1.0).peak_lr == 1.0


def test_settings_of_commands_import_without_torch():
    script = (
        "import sys, gcnet.cli.train; print([m for m in ('torch', 'numpy', 'timm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"


def test_the_learning_rate_of_a_preset_is_scaled_with_the_batch() -> None:
    assert RecipeSettings().peak_lr == 0.1
    assert RecipeSettings(batch_size=32).peak_lr == pytest.approx(0.025)
    assert RecipeSettings(batch_size=32).scaling() == "0.1 for 128 images, scaled to 32"
    assert RecipeSettings(batch_size=32, lr=0.3).peak_lr == 0.3
    assert RecipeSettings(preset="mmdet-1x", batch_size=2).peak_lr == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("given", "images", "processes", "expected"),
    [
        ({}, 24, 1, 24),
        ({}, 25, 2, 24),
        ({"grad_accumulation": 4}, 27, 2, 24),
        ({}, 128, 1, None),
        ({}, 1000, 2, None),
        ({}, 1000, 3, 126),
        ({"preset": "mmdet-1x"}, 1000, 3, 15),
        ({"batch_size": 64}, 24, 1, 64),
    ],
)
def test_only_a_default_batch_shrinks_to_the_number_of_images_and_to_equal_shares(
    given: dict[str, int], images: int, processes: int, expected: int | None
) -> None:
    assert RecipeSettings(**given).with_batch_size_for(images, processes).batch_size == expected  # type: ignore[arg-type]


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(UserError, match="an image or more for each of 3 processes x 1 micro-batches, found 2 training"):
        RecipeSettings().with_batch_size_for(2, 3)
