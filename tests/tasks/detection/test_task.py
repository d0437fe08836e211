"""Detectors trained by the same trainer: on generated scenes, and on COCO's own images by two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gcnet.data.scenes import Scenes
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import read_model_file
from gcnet.tasks.detection.network import mask_rcnn_options, with_detection_defaults
from gcnet.tasks.detection.training import DetectionTraining
from gcnet.training.network_settings import DetectorSettings
from gcnet.training.optimizer import build_schedule, freeze
from gcnet.training.progress import Silent
from gcnet.training.run_folder import RunFolder, open_folder
from gcnet.training.settings import TrainSettings, override
from gcnet.workflows.dry_run import dry_run
from gcnet.workflows.resume import resume
from gcnet.workflows.run import RunResult
from gcnet.workflows.train import run_training

SMALL: dict[str, Any] = {
    "model": "mask_rcnn_gc_scenes_resnet",
    "data": "scenes",
    "limit_train": 8,
    "limit_val": 3,
    "batch_size": 2,
    "steps": 6,
    "rois_per_image": 16,
    "device": "cpu",
    "plots": False,
    "save_every_steps": 2,
    "save_every_epochs": None,
    "log_every": 2,
}


def settings(output: Path, **changes: Any) -> TrainSettings:
    return override(TrainSettings(), **(SMALL | {"output": str(output)} | changes))


def run(output: Path, **changes: Any) -> RunResult:
    return run_training(settings(output, **changes), reporter=Silent())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tmp_path_factory.mktemp("whole") / "run", plots=True)


def test_a_detectors_run_has_its_own_columns_and_pictures(whole: RunResult):
    folder = RunFolder(whole.folder)
    columns = folder.results.read_text().splitlines()[0].split(",")
    assert columns[:7] == [
        "epoch",
        "step",
        "train_loss",
        "bbox_AP_fraction",
        "bbox_AP50_fraction",
        "segm_AP_fraction",
        "segm_AP50_fraction",
    ]
    assert whole.metric == "segm_AP_fraction"
    assert whole.last is not None
    assert whole.last["images"] == 3
    parts = [row for row in folder.rows() if row["kind"] == "train"][0]
    names = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
    assert parts["loss"] == pytest.approx(sum(parts[name] for name in names))
    for picture in (folder.curves, folder.train_images):
        with Image.open(picture) as image:
            assert min(image.size) > 200


def test_weights_determine_detector_and_classes(whole: RunResult):
    card = read_model_file(whole.best_weights)[1]
    assert card.class_names == ("reference", "dark", "bright")
    assert card.category_ids == (1, 2, 3)
    found = load_model(whole.last_weights)([torch.rand(3, 64, 64)])
    assert set(found[0]) == {"boxes", "labels", "scores", "masks"}


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.slow
def test_a_broken_run_ends_with_the_same_bits(
    tmp_path: Path, whole: RunResult, monkeypatch: pytest.MonkeyPatch, step: int
):
    prepare = DetectionTraining.prepare

    def crash(self: DetectionTraining, batch: Any, at: int, device: torch.device) -> object:
        if at == step:
            raise KeyboardInterrupt
        return prepare(self, batch, at, device)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTraining, "prepare", crash)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    resumed = resume(tmp_path / "run", reporter=Silent())
    assert resumed.last_weights.read_bytes() == whole.last_weights.read_bytes()


def test_accumulated_halves_of_a_batch_train(tmp_path: Path):
    assert run(tmp_path / "run", steps=2, batch_size=4, grad_accumulation=2).finished


COCO_PRESETS = {  # epochs, epochs of the steps, warm-up start factor, maximum gradient norm, conventions
    "mmdet-1x": (12, 8, 11, 0.001, 0, "mmdet"),
    "paper-1x": (12, 8, 11, 1 / 3, 35, "mmdet1"),
    "paper-2x": (24, 16, 22, 1 / 3, 35, "mmdet1"),
}


@pytest.mark.parametrize("preset", COCO_PRESETS)
def test_presets_on_coco_are_those_of_the_configs_scaled_to_the_batch(preset: str) -> None:
    epochs, first, second, start, clip, conventions = COCO_PRESETS[preset]
    chosen = with_detection_defaults(override(TrainSettings(), model="mask_rcnn_resnet50", batch_size=8, preset=preset))
    recipe = chosen.recipe
    assert (chosen.detector.conventions, recipe.clip_grad_norm) == (conventions, clip)
    assert (recipe.momentum, recipe.weight_decay, recipe.peak_lr) == (0.9, 1e-4, pytest.approx(0.01))
    schedule = build_schedule(recipe, 7330)
    assert schedule.total == epochs * 7330
    assert schedule.at(0) == pytest.approx(0.01 * start)
    assert schedule.at(250) == pytest.approx(0.01 * (start + (1 - start) / 2))
    assert schedule.at(500) == pytest.approx(0.01)
    assert [schedule.at(epoch * 7330 + step) for epoch in (first, second) for step in (-1, 0)] == pytest.approx(
        [0.01, 0.001, 0.001, 0.0001]
    )


def test_detectors_train_with_mmdets_recipe_and_losses_by_default() -> None:
    chosen = with_detection_defaults(override(TrainSettings(), model="mask_rcnn_gc_resnet50"))
    assert (chosen.recipe.preset, chosen.detector.conventions) == ("mmdet-1x", "mmdet")
    given = override(TrainSettings(), model="mask_rcnn_gc_resnet50", preset="paper-1x", conventions="torchvision")
    assert with_detection_defaults(given).detector.conventions == "torchvision"


def test_pretrained_backbones_of_torchvision_are_the_first_published_ones() -> None:
    """The paper and mmdet start from them; DEFAULT is IMAGENET1K_V2 for ResNet-50."""
    for model, expected in (("mask_rcnn_gc_resnet50", "IMAGENET1K_V1"), ("mask_rcnn_cifar_resnet20", "pretrained")):
        chosen = with_detection_defaults(override(TrainSettings(), model=model, backbone_weights="pretrained"))
        assert chosen.detector.backbone_weights == expected
    file = with_detection_defaults(override(TrainSettings(), model="mask_rcnn_resnet50", backbone_weights="a.pth"))
    assert file.detector.backbone_weights == "a.pth"


def test_the_stem_is_frozen_and_statistics_kept_only_where_there_are_weights_to_keep():
    fresh = with_detection_defaults(override(TrainSettings(), model="mask_rcnn_resnet50"))
    loaded = with_detection_defaults(override(TrainSettings(), model="mask_rcnn_resnet50", backbone_weights="a.pth"))
    assert (fresh.detector.norm, fresh.recipe.freeze) == ("batch", ())
    assert loaded.detector.norm == "eval_stats"
    assert loaded.recipe.freeze is not None
    assert with_detection_defaults(override(fresh, norm="frozen")).detector.norm == "frozen"


def test_a_frozen_stem_is_the_first_convolution_and_c2_without_inserted_blocks():
    recipe = with_detection_defaults(override(TrainSettings(), model="mask_rcnn_resnet50", backbone_weights="a")).recipe
    for name in ("mask_rcnn_resnet18", "mask_rcnn_se_resnet50"):
        with torch.device("meta"):
            model = create_model(name, num_classes=1)
        frozen = freeze(model, recipe.freeze or (), optional=recipe.preset_freeze)
        stem = [
            key for key, _ in model.named_parameters() if key.startswith(("backbone.body.conv1", "backbone.body.bn1"))
        ]
        first = [key for key, _ in model.named_parameters() if key.startswith("backbone.body.layer1")]
        assert set(frozen) == {*stem, *(key for key in first if ".context." not in key)}
    assert any(".context." in key for key in first)


@pytest.mark.parametrize(
    ("model", "changes", "stems"),
    [
        ("mask_rcnn_resnet18", {"norm": "frozen"}, {"conv1", "layer1"}),
        ("mask_rcnn_gc_cifar_resnet20", {}, {"conv1", "bn1", "layer1"}),
        ("mask_rcnn_gc_scenes_resnet", {}, {"stem"}),
        ("mask_rcnn_scenes_resnet", {"norm": "frozen"}, {"stem"}),
    ],
)
def test_presets_freeze_what_a_network_has(model: str, changes: dict[str, Any], stems: set[str]):
    chosen = with_detection_defaults(override(TrainSettings(), model=model, backbone_weights="a", **changes))
    with torch.device("meta"):
        network = create_model(model, num_classes=1, detector={"norm": chosen.detector.norm})
    frozen = freeze(network, chosen.recipe.freeze or (), optional=chosen.recipe.preset_freeze)
    assert {name.split(".")[2] for name in frozen} == stems
    with pytest.raises(UserError, match="matches no parameter"):
        freeze(network, ["backbone.body.none.*"], optional=chosen.recipe.preset_freeze)


def test_short_and_long_side_travel_with_the_weights_in_the_proportion_of_800_to_1333():
    assert mask_rcnn_options(DetectorSettings(min_size=(400, 480)))["image_size"] == (480, 800)
    assert mask_rcnn_options(DetectorSettings(min_size=(400,), max_size=500))["image_size"] == (400, 500)
    assert "image_size" not in mask_rcnn_options(DetectorSettings())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mixup": 0.2}, "`mixup=0.2` is only for classifiers"),
        ({"erasing": 0.2}, "`erasing=0.2` is only for classifiers"),
        ({"max_size": 64}, "`max_size` requires `min_size`"),
        ({"model": "scenes_resnet", "rois_per_image": 4}, "`rois_per_image=[0-9]+` is only for detectors"),
        ({"resize": 70}, "`resize=70` is only for classifiers"),
    ],
)
def test_settings_of_the_other_task_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        run(tmp_path / "run", **({"rois_per_image": None} | changes))
    assert not (tmp_path / "run").exists()


def write_scenes(root: Path, count: int = 6) -> Path:
    for split in ("train", "val"):
        Scenes(count, split=split).write_coco(root / split, root / "annotations" / f"instances_{split}.json")
    return root


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "gcnet", *map(str, arguments)]


def header_of(*arguments: object) -> str:
    """What the command says; it must end well."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_the_command_reports_repaired_skipped_and_refused_entries(tmp_path: Path):
    root = write_scenes(tmp_path / "data")
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 2]
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    printed = header_of(
        *("train", "--model", "mask_rcnn_scenes_resnet", "--data", root, "--batch-size", 2, "--steps", 1),
        *("--norm", "sync", "--device", "cpu", "--output", tmp_path / "run"),
    )
    assert "lr 0.0025 (0.02 for 16 images, scaled to 2), step" in printed
    assert "1 training images without objects are skipped" in printed
    assert "1 x invalid bbox" in printed
    assert "--norm sync works on CUDA only" in printed
    chosen = open_folder(tmp_path / "run")[1]
    assert (chosen.recipe.preset, chosen.recipe.schedule, chosen.detector.norm) == (
        "mmdet-1x",
        "step",
        "sync",
    )


def test_a_dry_run_reports_the_cost_of_a_detector(tmp_path: Path):
    estimate = dry_run(settings(tmp_path / "run", model="mask_rcnn_scenes_resnet"))
    assert estimate.steps == 6
    assert estimate.flops > 1e6
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_on_a_folder_laid_out_as_coco_publishes_it(data_root: Path, tmp_path: Path):
    """The setup of eight GPUs, here with two processes on the CPU."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gcnet"]
    arguments = (
        *("train", "--model", "mask_rcnn_gc_resnet18", "--data", data_root / "coco-mini", "--device", "cpu"),
        *("--min-size", 96, "--rois-per-image", 32, "--batch-size", 4, "--limit-train", 16, "--limit-val", 5),
        *("--steps", 2, "--output", tmp_path / "run"),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*torchrun, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr
    row = RunFolder(tmp_path / "run").evaluations()[-1]
    assert row["images"] == 5
    assert 0 <= row["segm_AP_fraction"] <= 1
    assert all(tensor.isfinite().all() for tensor in read_model_file(RunFolder(tmp_path / "run").last)[0].values())
