"""Model files rebuild the whole network, and refuse what is not reference."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.ops import FrozenBatchNorm2d

from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insert
from gcnet.models.card import ModelCard
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import load_strictly, read_model_file, save_model
from gcnet.tensor_files import save_tensors


def images() -> torch.Tensor:
    return torch.randn(2, 3, 37, 41, generator=torch.Generator().manual_seed(0))


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)


def trained(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "cifar_resnet20", "num_classes": 3},
        {"name": "gc_resnet18", "num_classes": 3, "ratio": 8, "fusion": "both", "pooling": "average"},
        {"name": "nl_cifar_resnet20", "sub_sample": True},
        {"name": "timm/resnet10t", "num_classes": 3, "block": "se", "stages": (2, 5), "position": "after_add"},
    ],
    ids=lambda value: value["name"],
)
def test_a_file_rebuilds_its_network(tmp_path: Path, arguments: dict) -> None:
    model = trained(create_model(**arguments))
    save_model(model, tmp_path / "model.safetensors", preprocessing={"size": 37}, class_names=["a", "b", "c"])
    loaded = load_model(tmp_path / "model.safetensors")
    assert torch.equal(loaded(images()), model(images()))
    assert loaded.model_card.class_names == ("a", "b", "c")
    assert loaded.model_card.preprocessing == {"size": 37}


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile])
def test_the_network_within_a_wrapped_one_is_saved(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = trained(create_model("gc_cifar_resnet20", num_classes=3))
    save_model(wrap(model), tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path / "model.safetensors")(images()), model(images()))


CHANGES = [pruned, nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.spectral_norm]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:.*spectral_norm.*deprecated")
@pytest.mark.parametrize(
    "change", [pruned, nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.spectral_norm]
)
def test_changed_layers_are_saved_as_the_weights_that_they_compute_with(
    tmp_path: Path, change: Callable[[nn.Module], object]
) -> None:
    model = trained(create_model("gc_cifar_resnet20", num_classes=3))
    change(model.get_submodule("layer1.0.conv1"))
    with torch.no_grad():
        for parameter in model.get_submodule("layer1.0.conv1").parameters():
            parameter.mul_(-1.5)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, tmp_path / "model.safetensors")
    assert model.layer1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    loaded = load_model(tmp_path / "model.safetensors")
    torch.testing.assert_close(loaded(images()), model.eval()(images()), rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_in_memory_are_not_saved(tmp_path: Path) -> None:
    model = create_model("cifar_resnet20")
    model.linear.weight = nn.Parameter(torch.empty(10, 64, device="meta"))
    with pytest.raises(UserError, match=r"weights of this CifarResNet are not in memory: linear\.weight is on"):
        save_model(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_saves_again_with_the_same_card(tmp_path: Path) -> None:
    save_model(create_model("gc_cifar_resnet20"), tmp_path / "a.safetensors", class_names=["x"])
    save_model(load_model(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_two_insertions_into_a_custom_network_with_a_custom_builder_are_rebuilt(tmp_path: Path) -> None:
    def build_norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    base = timm.create_model("resnet10t", num_classes=3)
    insert(base, "gc", stages=(5,))
    insert(base, build_norm, stages=(3,))
    model = trained(base)
    save_model(model, tmp_path / "own.safetensors")
    with pytest.raises(UserError, match="network of your own"):
        load_model(tmp_path / "own.safetensors")
    with pytest.raises(UserError, match="is not one of gcnet.list_blocks.*pass builders="):
        load_model(tmp_path / "own.safetensors", timm.create_model("resnet10t", num_classes=3))
    name = read_model_file(tmp_path / "own.safetensors")[1].insertions[1]["block"]
    fresh = timm.create_model("resnet10t", num_classes=3)
    loaded = load_model(tmp_path / "own.safetensors", fresh, builders={name: build_norm})
    assert torch.equal(loaded(images()), model(images()))


def test_other_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_tensors(tmp_path / "state.safetensors", {"x": torch.ones(2)}, {"kind": "checkpoint"})
    for name in ("text", "state", "missing"):
        with pytest.raises(UserError, match=name):
            load_model(tmp_path / f"{name}.safetensors")


def test_a_file_from_before_there_were_detectors_still_loads(tmp_path: Path) -> None:
    model = create_model("cifar_resnet20", num_classes=3).eval()
    old = {"architecture": "cifar_resnet20", "num_classes": 3, "insertions": [], "preprocessing": None}
    metadata = {"kind": "model", **old, "class_names": ["a", "b", "c"]}
    save_tensors(tmp_path / "old.safetensors", model.state_dict(), metadata)
    loaded = load_model(tmp_path / "old.safetensors")
    assert torch.equal(loaded(images()), model(images()))
    assert loaded.model_card == ModelCard("cifar_resnet20", 3, (), None, ("a", "b", "c"), None, None)


def test_a_card_is_empty_for_a_network_that_was_never_saved() -> None:
    assert ModelCard() == ModelCard(None, None, (), None, None, None, None)


def test_weights_of_batch_norms_fit_frozen_ones_which_count_no_steps() -> None:
    trained, frozen = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(FrozenBatchNorm2d(3))
    trained.get_buffer("0.running_mean").fill_(2.0)
    load_strictly(frozen, trained.state_dict(), "weights")
    assert frozen.get_buffer("0.running_mean").tolist() == [2.0, 2.0, 2.0]
