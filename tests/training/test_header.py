"""The header of a run: what is trained, from which weights, on which data, how and where."""

from pathlib import Path
from typing import Any

import pytest

from gcnet.training.header import print_header
from gcnet.training.settings import TrainSettings, override
from gcnet.workflows.run import assembled
from training.photos import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def header(data: Path | str, **changes: Any) -> list[str]:
    chosen: dict[str, Any] = {"data": str(data), "model": "cifar_resnet20", "batch_size": 10, "steps": 3}
    settings = override(TrainSettings(), **(chosen | changes))
    lines: list[str] = []
    with assembled(settings, None) as (trainer, _):
        print_header(trainer, settings, Path("runs/a"), lines.append)
    return lines


def test_the_header_names_images_classes_size_weights_recipe_and_machine(photos: Path) -> None:
    lines = header(photos, block="gc", grad_accumulation=2)
    assert lines[0] == "cifar_resnet20: 278,264 parameters, 8,997 of them in inserted blocks"
    assert (
        f"data: {photos}: 57 training images (19 per class), 21 validation images, 3 classes, 11 x 11 pixels" in lines
    )
    assert "weights: random initialization" in lines
    assert "augmentation: crop pad, flip 0.5" in lines
    assert any(
        line.startswith("preset scratch: 3 steps of 10 images in 2 micro-batches, 5 per epoch") for line in lines
    )
    assert "device: cpu, float32, 1 thread, no data-loader workers, seed 0" in lines
    assert lines[-1] == "results in runs/a"


def test_the_header_states_warm_up_and_clipping(photos: Path) -> None:
    lines = header(photos, steps=30, warmup_epochs=2.0, warmup_start_factor=0.001, clip_grad_norm=35.0)
    expected = "cosine after warm-up of 10 steps from 0.001 of it, gradient norm clipped to 35"
    assert any(line.endswith(expected) for line in lines)


def test_fine_tuning_without_weights_is_noted(photos: Path) -> None:
    assert any("`preset=finetune` without `weights`" in line for line in header(photos, preset="finetune"))
    assert not any("without `weights`" in line for line in header(photos))


def test_control_characters_in_a_path_are_escaped(tmp_path: Path) -> None:
    lines = header(write_photos(tmp_path / "a\x1b[31mb"))
    assert not any("\x1b" in line for line in lines)
    assert any(r"a\x1b[31mb" in line for line in lines)
