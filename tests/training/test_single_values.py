"""Batch norms that would get a single value per channel: refused before a run, tolerated after skipped images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gcnet.errors import UserError
from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d
from gcnet.training.single_values import running_statistics_for_single_values, training_norms
from gcnet.workflows.dry_run import dry_run
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training
from training.photos import settings_for, write_photos
from workflows.test_resume import Lines, StoppingAt


def normed_network(classes: int) -> nn.Module:
    """Its second batch norm sees one value per channel and image."""
    features = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(5)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(5, classes))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of which most cannot be read, so that batches of two images have two, one or none."""
    photos = write_photos(tmp_path_factory.mktemp("damaged"), train_images=7, val_images=2)
    for number, path in enumerate(sorted((photos / "train").rglob("*.png"))):
        if number % 3:
            path.write_bytes(b"no image")
    return photos


def run_settings(photos: Path, output: Path, **changes: Any) -> Any:
    return settings_for(photos, output, batch_size=2, mixup=0.0, cutmix=0.0, epochs=1.0, **changes)


def test_norms_with_fixed_statistics_are_not_training() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), FixedBatchNorm2d(3), nn.SyncBatchNorm(3)).train()
    assert list(training_norms(network)) == ["0"]


def test_the_norm_uses_its_running_statistics_and_keeps_them() -> None:
    network = normed_network(3).train()
    network[4].running_mean.fill_(0.25)
    network[4].running_var.fill_(4.0)
    image = torch.rand(1, 3, 7, 7)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(image)
    with running_statistics_for_single_values(network) as names:
        values = network[:4](image)
        normed = network[4](values)
    assert names == ["4"]
    assert torch.allclose(normed, (values - 0.25) / (4.0 + 1e-5) ** 0.5)
    assert torch.equal(network[4].running_mean, torch.full((5,), 0.25))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 4, "grad_accumulation": 4}])
def test_micro_batches_of_one_image_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    settings = settings_for(write_photos(tmp_path / "photos", train_images=4), tmp_path / "run", **changes)
    with pytest.raises(
        UserError, match=r"micro-batches of 1 image, of which batch norms \(4\) would get a single value"
    ):
        run_training(settings, build_model=normed_network, reporter=Lines())
    with pytest.raises(UserError, match="a single value per channel"):
        dry_run(settings, build_model=normed_network)
    assert not (tmp_path / "run").exists()


def test_micro_batches_of_one_image_are_fine_where_norms_see_more_or_are_frozen(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", train_images=2, val_images=2)
    frozen = settings_for(photos, tmp_path / "frozen", batch_size=1, freeze_bn_stats=True, steps=2, epochs=None)
    assert run_training(frozen, build_model=normed_network, reporter=Lines()).finished
    larger = settings_for(photos, tmp_path / "larger", batch_size=1, steps=2, epochs=None)
    wide = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    assert run_training(larger, build_model=lambda _: wide, reporter=Lines()).finished


def test_one_image_left_of_a_batch_is_trained_on_and_resumes_to_the_same_bits(damaged: Path, tmp_path: Path) -> None:
    lines = Lines()
    whole = run_training(run_settings(damaged, tmp_path / "whole"), build_model=normed_network, reporter=lines)
    assert sum("has one image; batch norms use their running statistics" in line for line in lines.printed) == 1
    stopped = run_training(run_settings(damaged, tmp_path / "run"), build_model=normed_network, reporter=StoppingAt(6))
    assert stopped.steps == 6
    resumed = resume(tmp_path / "run", build_model=normed_network, reporter=Lines())
    assert resumed.last_weights.read_bytes() == whole.last_weights.read_bytes()


def test_validation_images_that_cannot_be_read_are_found_before_the_run(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", val_images=1)
    for path in (photos / "val").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 3 .*images can be read; .*blue/0.png: not an image"):
        run_training(run_settings(photos, tmp_path / "run"), build_model=normed_network, reporter=Lines())
    assert not (tmp_path / "run").exists()
