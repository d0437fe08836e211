"""Training on a device: single steps of a classifier and of a detector, and runs that go on to the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cuda.closeness import assert_near_together
from gcnet.data.coco.loading import DetectionBatch
from gcnet.data.loader import Batch
from gcnet.models.create import create_model
from gcnet.tasks.classification.training import ClassificationTraining
from gcnet.tasks.detection.training import DetectionTraining
from gcnet.training.distributed import Processes
from gcnet.training.progress import Silent
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, TrainSettings, override
from gcnet.training.trainer import Trainer
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training

PRECISIONS = ["float32", "bf16", "fp16"]
STEPS = 4  # of which the scaler of fp16 may skip the first


class SamePhotos(ClassificationTraining):
    """Classification on one batch that is made up."""

    steps_per_epoch = STEPS
    classes = ("a", "b", "c")
    evaluation_images = 0
    image_size = None

    def __init__(self) -> None:
        self._mixers, self._weights, self.settings = [], None, TrainSettings()
        self.batch = Batch(torch.randn(6, 3, 32, 32), torch.arange(6) % 3, [str(index) for index in range(6)], [])


class SameObjects(DetectionTraining):
    """Detection on one batch that is made up, each image with a square object of every class."""

    steps_per_epoch = STEPS
    classes = ("a", "b", "c")
    evaluation_images = 0
    image_size = None
    metric = "segm_AP_fraction"

    def __init__(self) -> None:
        self.settings = TrainSettings()
        images = [torch.rand(3, 64, 64), torch.rand(3, 51, 64)]
        corners = torch.tensor([[4.0, 4.0], [30.0, 8.0], [16.0, 28.0]])
        masks = torch.zeros(3, 64, 64, dtype=torch.uint8)
        for mask, (left, top) in zip(masks, corners.int().tolist(), strict=True):
            mask[top : top + 20, left : left + 20] = 1
        targets = [
            {
                "boxes": torch.cat([corners, corners + 20], 1),
                "labels": torch.arange(1, 4),
                "masks": masks[:, : image.shape[1]].contiguous(),
            }
            for image in images
        ]
        self._predicts_masks = True
        self.batch = DetectionBatch(images, targets, ["0", "1"], [0, 1], [])


def skip_slow_half(precision: str, device: torch.device) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("convolutions in fp16 take long on a CPU; test_loop.py has fp16 there")


def steps(
    task: SamePhotos | SameObjects, network: nn.Module, device: torch.device, **machine: Any
) -> tuple[Trainer, list[float]]:
    """A few steps on the same batch: the trainer after them, and the mean loss of each."""
    recipe = RecipeSettings(steps=STEPS, batch_size=len(task.batch), lr=0.02, warmup_epochs=0.0, schedule="constant")
    trainer = Trainer(
        task,
        network,
        recipe=recipe,
        machine=MachineSettings(**machine),
        device=device,
        processes=Processes(),
    )
    outcomes = [trainer.train_step(task.batch) for _ in range(STEPS)]
    return trainer, [sum(outcome.loss_sums.values()) / outcome.own_images for outcome in outcomes]


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_classifier_learns_in_each_precision(precision: str, channels_last: bool, device: torch.device) -> None:
    skip_slow_half(precision, device)
    network = create_model("cifar_resnet20", num_classes=3, block="gc")
    trainer, losses = steps(SamePhotos(), network, device, precision=precision, channels_last=channels_last)
    assert losses[-1] < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())
    trainer.check_weights()


def test_a_classifiers_first_step_is_that_of_the_cpu(device: torch.device) -> None:
    weights = []
    for place in (torch.device("cpu"), device):
        torch.manual_seed(1)
        network = create_model("cifar_resnet20", num_classes=3, block="gc").double()
        task = SamePhotos()
        task.batch = Batch(task.batch.images.double(), task.batch.labels, task.batch.names, [])
        trainer, _ = steps(task, network, place)
        weights.append(list(trainer.network.parameters()))
    assert_near_together(weights[1], weights[0], torch.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_detector_takes_steps_in_each_precision(precision: str, device: torch.device) -> None:
    skip_slow_half(precision, device)
    network = create_model("mask_rcnn_gc_scenes_resnet", num_classes=3, detector={"rois_per_image": 32})
    before = [parameter.clone() for parameter in network.parameters()]
    trainer, losses = steps(SameObjects(), network, device, precision=precision)
    assert losses[-1] < losses[0]
    assert any(not torch.equal(one, other.cpu()) for one, other in zip(before, network.parameters(), strict=True))
    trainer.check_weights()


def test_a_deterministic_run_that_was_interrupted_ends_with_the_same_bits(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, Any] = {"model": "cifar_resnet20", "block": "gc", "data": "scenes", "device": str(device)}
    chosen |= {"limit_train": 8, "limit_val": 4, "batch_size": 4, "steps": 4, "ema_decay": 0.9, "deterministic": True}
    chosen |= {"plots": False, "save_every_steps": 1, "log_every": 1, "precision": "bf16"}
    whole = run_training(override(TrainSettings(), **chosen, output=str(tmp_path / "whole")), reporter=Silent())
    take = Trainer.train_step

    def interrupted(self: Trainer, *arguments: Any) -> Any:
        if self.step == 2:
            raise KeyboardInterrupt
        return take(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_training(override(TrainSettings(), **chosen, output=str(tmp_path / "part")), reporter=Silent())
    resumed = resume(tmp_path / "part", reporter=Silent())
    assert resumed.last_weights.read_bytes() == whole.last_weights.read_bytes()
