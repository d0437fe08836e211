"""Comparisons of detectors: how their networks are built and measured, and what a whole one in small leaves behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import gcnet.comparison.measure
from comparison.small import Listener, small, small_detectors
from gcnet.cli import main
from gcnet.comparison.experiment import run_comparison
from gcnet.comparison.plan import Variant, check_names, create_variant, plan_trainings, training_settings
from gcnet.comparison.report import sample_pictures
from gcnet.comparison.results import read_results
from gcnet.comparison.settings import CompareSettings
from gcnet.data.scenes import CATEGORIES, OBJECTS
from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insertion_records
from gcnet.models.create import create_model
from gcnet.tasks.detection.costs import MeasuredDetector
from gcnet.tasks.registry import open_task, task_of, with_defaults
from gcnet.training.distributed import Processes
from gcnet.training.network_settings import DetectorSettings
from gcnet.training.recipe import RecipeSettings

SETTINGS = small_detectors(Path("nowhere"))


def build_scale(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1, groups=channels)


def test_detectors_start_from_the_same_weights_whatever_the_block() -> None:
    states = []
    for block in ("none", "se", "gc", "build_scale"):
        torch.manual_seed(3)
        states.append(create_variant(SETTINGS, block, {"build_scale": Variant(build_scale)}, 3).state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in states[0].items() for state in states[1:])


def test_a_custom_builder_uses_the_same_sites_of_a_detector_as_a_named_block() -> None:
    networks = [
        create_variant(SETTINGS, block, {"build_scale": Variant(build_scale)}, 3) for block in ("gc", "build_scale")
    ]
    places = [{name.partition(".context.")[0] for name, _ in context_parameters(network)} for network in networks]
    assert places[0] == places[1] == {f"backbone.body.layer1.{index}" for index in range(3)}


def test_published_placement_of_detectors_is_that_of_their_backbone() -> None:
    settings = CompareSettings(model="mask_rcnn_resnet18", placement="published")
    records = {
        block: insertion_records(create_variant(settings, block, {}, 3))[0] for block in ("gc", "nl_dot_product")
    }
    assert records["gc"]["stages"] == [3, 4, 5]
    assert (records["nl_dot_product"]["stages"], records["nl_dot_product"]["blocks"]) == ([4], [-2])


def test_detector_settings_apply_to_every_training() -> None:
    trainings = plan_trainings(replace(SETTINGS, control=True, seeds=2), epochs=1, variants={})
    assert len(trainings) == 8
    assert {training.settings.detector for training in trainings} == {SETTINGS.detector}
    assert {training.settings.data.data for training in trainings} == {"scenes", "scenes-control"}


def test_the_demonstration_of_detectors_is_shorter_and_of_fewer_scenes() -> None:
    demonstration = CompareSettings(model="mask_rcnn_scenes_resnet")
    recipe = with_defaults(training_settings(demonstration, "none", {})).recipe
    assert (recipe.length(400), recipe.batch_size, recipe.schedule, recipe.optimizer) == (400, 8, "cosine", "adamw")
    data = training_settings(demonstration, "none", {}).data
    assert (data.limit_train, data.limit_val) == (3_200, 200)
    named = replace(demonstration, recipe=RecipeSettings(preset="paper-2x"))
    assert with_defaults(training_settings(named, "none", {})).recipe.schedule == "step"


def test_a_detector_with_a_block_in_its_name_is_refused() -> None:
    with pytest.raises(UserError, match='without blocks, "mask_rcnn_resnet18", found "mask_rcnn_gc_resnet18"'):
        check_names(replace(SETTINGS, model="mask_rcnn_gc_resnet18"), {})


def test_options_of_detectors_are_refused_for_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--limit-train", "8", "--limit-val", "4", "--batch-size", "4", "--output", str(tmp_path / "out"))
    assert main(["compare", "--rois-per-image", "9", *flags]) == 2
    printed = capsys.readouterr().err
    assert "--rois-per-image" in printed and "detector" in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_identity_of_a_comparison_has_options_of_detectors_only_for_detectors(tmp_path: Path) -> None:
    assert "detector" not in small(tmp_path, tmp_path / "out").identity()
    other = replace(SETTINGS, detector=replace(SETTINGS.detector, rois_per_image=17))
    assert other.identity() != SETTINGS.identity()


@pytest.mark.parametrize(
    ("model", "detector", "size"),
    [
        pytest.param("mask_rcnn_resnet18", DetectorSettings(), (800, 1333), id="the usual size"),
        pytest.param("mask_rcnn_scenes_resnet", DetectorSettings(), (64, 64), id="small network"),
        pytest.param("mask_rcnn_resnet18", DetectorSettings(min_size=(48, 64), max_size=90), (64, 90), id="given"),
        pytest.param("mask_rcnn_resnet18", DetectorSettings(backbone_weights="gone.pth"), (800, 1333), id="no file"),
    ],
)
def test_the_size_of_images_is_that_of_the_evaluation(
    model: str, detector: DetectorSettings, size: tuple[int, int]
) -> None:
    task = open_task(
        with_defaults(training_settings(replace(SETTINGS, model=model, detector=detector), "none", {})), Processes()
    )
    assert task_of(task.settings.network.model).input_size(task) == size


def test_detection_data_are_described_and_shown_with_their_objects() -> None:
    task = open_task(with_defaults(training_settings(SETTINGS, "none", {})), Processes())
    words = task.describe_data(task_of(task.settings.network.model).input_size(task))
    assert (
        words == "6 training and 3 validation images, 3 classes of objects, resized to a long side of at most 32 pixels"
    )
    assert task.describe_data((800, 1333)).endswith(
        "resized to a short side of 800 and a long side of at most 1,333 pixels"
    )
    pictures = sample_pictures(task_of(task.settings.network.model), task)
    assert len(pictures) == 3
    for picture in pictures:
        counts = {name: int(count) for count, name in (part.split() for part in picture.label.split(", "))}
        assert counts.pop(CATEGORIES[0]) == 1
        assert set(counts) <= set(CATEGORIES) and sum(counts.values()) == OBJECTS


@pytest.mark.parametrize("name", ["mask_rcnn_scenes_resnet", "cascade_mask_rcnn_cifar_resnet20"])
def test_a_measured_detector_has_a_loss_in_training_and_all_its_detections_in_evaluation(name: str) -> None:
    torch.manual_seed(0)
    model = MeasuredDetector(create_model(name, num_classes=5, detector={"norm": "batch"}), 5)
    images = torch.rand(2, 3, 64, 64)
    loss = model.train()(images)
    assert loss.shape == () and loss > 0
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.inference_mode():
        found = model.eval()(images)
    assert all(len(one["boxes"]) == 100 and one["labels"].eq(1).all() for one in found)
    assert all(one["masks"].shape == (100, 1, 64, 64) for one in found)


def test_made_up_objects_have_boxes_around_their_masks_and_lie_in_the_image() -> None:
    model = MeasuredDetector(create_model("mask_rcnn_scenes_resnet", num_classes=3), 3)
    target = model._objects(torch.rand(3, 37, 53))
    assert target["labels"].unique().tolist() == [1, 2, 3]
    for box, mask in zip(target["boxes"].long(), target["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert mask.sum() == (box[2] - box[0]) * (box[3] - box[1]) > 0


@pytest.mark.slow
def test_a_comparison_of_detectors_leaves_mask_and_box_ap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
    monkeypatch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)
    listener = Listener()
    comparison = run_comparison(
        ["none", "gc", build_scale], settings=small_detectors(tmp_path / "out"), reporter=listener
    )
    assert [run.block for run in comparison.runs] == ["none", "gc", "build_scale"]
    for run in comparison.runs:
        row = json.loads(
            (tmp_path / "out" / "runs" / f"main-{run.block}-seed0" / "metrics.jsonl").read_text().split("\n")[-2]
        )
        assert run.scores == {"segm_AP_fraction": row["segm_AP_fraction"], "bbox_AP_fraction": row["bbox_AP_fraction"]}
        assert run.images == 3 and run.curve[-1].scores == {"segm_AP_fraction": row["segm_AP_fraction"]}
    assert read_results(tmp_path / "out" / "results.json") == comparison
    assert listener.lines[-1].startswith("[3/3] build_scale, seed 0: mask AP ")
    costs = comparison.costs
    assert costs["gc"].sites == costs["build_scale"].sites == 3
    assert costs["gc"].analytic_flops == costs["gc"].added_flops > 0
    assert costs["build_scale"].added_parameters == 3 * 2 * 32
    assert 0 < costs["none"].forward_seconds_median < 60 and 0 < costs["none"].step_seconds_median < 60


@pytest.mark.slow
def test_the_peak_memory_of_a_detector_is_measured_in_a_process_of_its_own() -> None:
    task = open_task(with_defaults(training_settings(SETTINGS, "none", {})), Processes())
    spec = gcnet.comparison.measure.MeasurementSpec(3, (32, 32), 3, "cpu", 1, task.flops)
    precision = gcnet.analysis.timing.Precision()
    (peak,) = gcnet.comparison.measure._peak_memories(replace(SETTINGS, blocks="none"), {}, spec, precision)
    assert (peak or 0) > 1_000_000


def test_frozen_parts_of_the_recipe_are_frozen_when_a_detector_is_measured() -> None:
    detector = DetectorSettings(backbone_weights="pretrained")
    settings = CompareSettings(model="mask_rcnn_resnet18", blocks="none", detector=detector, data=SETTINGS.data)
    assert with_defaults(training_settings(settings, "none", {})).recipe.freeze
    network = create_variant(replace(settings, detector=DetectorSettings()), "none", {}, 3)
    model = gcnet.comparison.measure._runnable(settings, network, 3)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "detector.backbone.body.conv1.weight" in frozen
    assert not any("layer2" in name or "roi_heads" in name for name in frozen)
