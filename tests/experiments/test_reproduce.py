"""The paper's recipe on ImageNet in one call: the network without blocks first, then 40 epochs with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comparison.small import write_images
from gcnet.comparison.settings import CompareSettings
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError
from gcnet.experiments import reproduce
from gcnet.experiments.reproduce import train_plain, train_tables
from gcnet.experiments.settings import ReproduceSettings
from gcnet.training.recipe import PRESETS, RecipeSettings
from gcnet.training.settings import MachineSettings


def full(tmp_path: Path) -> ReproduceSettings:
    return ReproduceSettings(
        table=("imagenet",),
        scale="full",
        data=DataSettings(str(write_images(tmp_path / "images")), image_size=11),
        recipe=RecipeSettings(steps=2, batch_size=9),
        machine=MachineSettings(device="cpu"),
        output=str(tmp_path / "out"),
    )


@pytest.mark.slow
def test_the_network_without_blocks_is_trained_from_scratch_and_not_again(tmp_path: Path) -> None:
    settings = full(tmp_path)
    weights = train_plain(settings, "cifar_resnet20")
    config = json.loads((tmp_path / "out" / "cifar_resnet20-plain" / "config.json").read_text())["settings"]
    assert (config["recipe"]["preset"], config["network"]["block"]) == ("scratch", None)
    before = weights.read_bytes()
    assert train_plain(settings, "cifar_resnet20") == weights
    assert weights.read_bytes() == before


class Called(Exception):  # noqa: N818
    """Raised in place of a comparison."""


def test_rows_start_from_the_network_without_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(_: Any, *, settings: CompareSettings, **__: Any) -> None:
        assert (settings.model, settings.weights) == ("resnet50", str(tmp_path / "resnet50.safetensors"))
        assert settings.recipe.preset == "finetune"
        raise Called

    monkeypatch.setattr(reproduce, "train_plain", lambda _, model, **__: tmp_path / f"{model}.safetensors")
    monkeypatch.setattr(reproduce, "run_comparison", compare)
    with pytest.raises(Called):
        train_tables(full(tmp_path))
    assert (PRESETS["scratch"].epochs, PRESETS["finetune"].epochs, PRESETS["finetune"].lr["sgd"]) == (120, 40, 0.02)


def test_rows_on_coco_need_a_trained_backbone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`scale=full` of mask_rcnn_resnet50 starts from a trained backbone: give"):
        train_tables(replace(full(tmp_path), table=("imagenet", "design")))
