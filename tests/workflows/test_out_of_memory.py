"""Missing memory in validation, prediction and analysis: one sentence with the batch and what needs less."""

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gcnet
from gcnet.checkpoints.foreign_files import read_state_dict
from gcnet.data.settings import DataSettings
from gcnet.errors import OutOfMemory, UserError
from gcnet.models.create import create_model
from gcnet.models.model_file import read_model_file, save_model
from gcnet.tasks import predictor
from gcnet.tasks.registry import open_task
from gcnet.tensor_files import save_tensors
from gcnet.training.distributed import Processes
from gcnet.training.network_settings import NetworkSettings
from gcnet.training.recipe import RecipeSettings
from gcnet.training.settings import MachineSettings, TrainSettings
from training.photos import fast_start

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
    ("network", "parts", "function", "sentence"),
    [
        (
            "scenes_resnet",
            1,
            "gcnet.tasks.classification.training.evaluate_classifier",
            r"batches of 6 images \(validation with `batch_size=6`\); use a smaller `batch_size`$",
        ),
        (
            "scenes_resnet",
            3,
            "gcnet.tasks.classification.training.evaluate_classifier",
            r"batches of 2 images \(validation with `batch_size=6`, `grad_accumulation=3`\); use a smaller ",
        ),
        (
            "mask_rcnn_scenes_resnet",
            1,
            "gcnet.tasks.detection.training.evaluate_detector",
            r"batches of 1 image \(validation\); use a smaller `min_size` and `max_size`, or `precision=bf16`$",
        ),
    ],
)
def test_validation(network: str, parts: int, function: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(
        network=NetworkSettings(model=network),
        data=DataSettings(data="scenes", limit_train=6, limit_val=3),
        recipe=RecipeSettings(batch_size=6, grad_accumulation=parts, steps=1),
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


class _Exhausted(TorchDispatchMode):
    """Memory for some operations of tensors only."""

    def __init__(self, operations: float = math.inf) -> None:
        super().__init__()
        self.operations, self.done = operations, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.done += 1
        on_meta = any(isinstance(value, torch.Tensor) and value.is_meta for value in args)
        if self.done > self.operations and not on_meta and str((kwargs or {}).get("device")) != "meta":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4194304 bytes")
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_missing_memory_is_not_taken_for_another_error(command: str, model: str, tmp_path: Path) -> None:
    commands: dict[str, Callable[[], object]] = {
        "evaluate": lambda: gcnet.evaluate(model, data="scenes", limit=2, device="cpu"),
        "predict": lambda: gcnet.predict(tmp_path, model=model, device="cpu"),
        "export": lambda: gcnet.export(model, output=tmp_path / "model.onnx"),
    }
    run = commands[command]
    with _Exhausted() as loaded:
        read_model_file(Path(model))
    with _Exhausted() as whole:
        run()
    (tmp_path / "model.onnx").unlink(missing_ok=True)
    for part in range(6):
        operations = loaded.done + (whole.done - loaded.done) * part // 6
        with pytest.raises((OutOfMemory, RuntimeError)) as raised, _Exhausted(operations):
            run()
        assert isinstance(raised.value, OutOfMemory) or not isinstance(raised.value, UserError), raised.value


def test_weight_files_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"weight": torch.ones(3)}
    torch.save(weights, tmp_path / "weights.pth")
    save_tensors(tmp_path / "weights.safetensors", weights, {})
    missing = RuntimeError("unable to mmap 46830571 bytes from file: Cannot allocate memory (12)")
    for name in ("torch.load", "safetensors.torch.load_file"):
        monkeypatch.setattr(name, Mock(side_effect=missing))
    for name in ("weights.pth", "weights.safetensors"):
        with pytest.raises(RuntimeError, match="Cannot allocate memory") as raised:
            read_state_dict(tmp_path / name)
        assert raised.value is missing


def predict_photos(photo: Path, model: str) -> None:
    """40 photos of 18 MB each, and 300 MiB of memory."""
    predictor.available_cores = lambda: 1
    network = gcnet.load(model, device="cpu")
    network(photo)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    most = int(status["VmData"].split()[0]) * 1024 + 300 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    assert len(network([photo] * 40, batch_size=40).images) == 40


@pytest.mark.slow
def test_a_batch_holds_the_inputs_of_the_network_and_not_the_photos(model: str, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2000), (9, 99, 199)).save(tmp_path / "photo.jpg")
    process = fast_start().Process(target=predict_photos, args=(tmp_path / "photo.jpg", model))
    process.start()
    process.join(100)
    process.kill()
    assert process.exitcode == 0


def test_analysis(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcnet.workflows.attention_statistics.measure_batches", exhaust)
    sentence = r"batches of 5 images \(`batch_size=5`\); use a smaller `batch_size`$"
    with pytest.raises(OutOfMemory, match=sentence):
        gcnet.analyze(model, data="scenes", statistics=True, batch_size=5, device="cpu")
    monkeypatch.setattr("gcnet.tasks.classification.attention.attention_of_image", exhaust)
    with pytest.raises(OutOfMemory, match=r"batches of 1 image \(one at a time\); use smaller images$"):
        gcnet.analyze(model, images=tmp_path, device="cpu", output=tmp_path / "maps")
