"""Missing memory in validation, prediction and analysis: one sentence with the batch and what needs less."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import gcnet
from gcnet.data.settings import DataSettings
from gcnet.errors import OutOfMemory
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.tasks.registry import open_task
from gcnet.training.distributed import Processes
from gcnet.training.network_settings import NetworkSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, TrainSettings

CPU = torch.device("cpu")


def exhaust(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")


@pytest.fixture
def model(tmp_path: Path) -> str:
    file = tmp_path / "model.safetensors"
    save_model(create_model("gc_scenes_resnet"), file, preprocessing={"image_size": 32})
    for number in range(3):
        Image.new("RGB", (33, 37), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return str(file)


@pytest.mark.parametrize(
    ("network", "function", "sentence"),
    [
        (
            "scenes_resnet",
            "gcnet.tasks.classification.training.evaluate_classifier",
            r"batches of 6 images \(validation with `batch_size=6`\); use a smaller `batch_size`$",
        ),
        (
            "mask_rcnn_scenes_resnet",
            "gcnet.tasks.detection.training.evaluate_detector",
            r"batches of 1 image \(validation\); use a smaller `min_size` and `max_size`, or `precision=bf16`$",
        ),
    ],
)
def test_validation(network: str, function: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(
        network=NetworkSettings(model=network),
        data=DataSettings(data="scenes", limit_train=6, limit_val=3),
        recipe=RecipeSettings(batch_size=6, steps=1),
        machine=MachineSettings(device="cpu"),
    )
    monkeypatch.setattr(function, exhaust)
    with pytest.raises(OutOfMemory, match=rf"^the GPU is out of memory: could not allocate 2.50 GiB with {sentence}"):
        open_task(settings, Processes()).evaluate(nn.Identity(), CPU, stop=lambda: False)


@pytest.mark.parametrize(
    ("batch_size", "sentence"),
    [
        (
            2,
            r"batches of 2 images \(`batch_size=2`\); use a smaller `batch_size`, or `batch_size=auto`, which tries "
            "what fits$",
        ),
        (1, r"batches of 1 image \(`batch_size=1`\); use smaller images or `precision=bf16`$"),
    ],
)
def test_prediction(
    batch_size: int, sentence: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcnet.tasks.classification.predict.class_scores", exhaust)
    with pytest.raises(OutOfMemory, match=f"could not allocate 2.50 GiB with {sentence}"):
        gcnet.predict(tmp_path, model=model, batch_size=batch_size, device="cpu")


def test_analysis(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcnet.workflows.attention_statistics.measure_batches", exhaust)
    sentence = r"batches of 5 images \(`batch_size=5`\); use a smaller `batch_size`$"
    with pytest.raises(OutOfMemory, match=sentence):
        gcnet.analyze(model, data="scenes", statistics=True, batch_size=5, device="cpu")
    monkeypatch.setattr("gcnet.tasks.classification.attention.attention_of_image", exhaust)
    with pytest.raises(OutOfMemory, match=r"batches of 1 image \(one at a time\); use smaller images$"):
        gcnet.analyze(model, images=tmp_path, device="cpu", output=tmp_path / "maps")
