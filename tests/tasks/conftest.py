"""A small network in a model file."""

from pathlib import Path

import pytest
import torch

from gcnet.data.settings import Preprocessing
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from tasks.fruit import CLASSES, SIZE


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `gc_cifar_resnet20` for three classes with random weights."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("model") / "fruit.safetensors"
    model = create_model("gc_cifar_resnet20", num_classes=len(CLASSES)).eval()
    save_model(model, path, preprocessing=Preprocessing(SIZE).to_dict(), class_names=CLASSES)
    return path
