"""Files of blocks alone: small, strict, and put back where they were."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gcnet.errors import UserError
from gcnet.models.cifar_resnet import CifarResNet
from gcnet.models.context_files import load_context, save_context
from gcnet.models.files import save_model
from gcnet.models.insertion import context_parameters, insert, inserted
from gcnet.storage import StorageError
from models.insertion.hosts import create, images, randomise


@pytest.mark.parametrize("name", ["2-D", "swin", "vit"])
def test_blocks_trained_alone_come_back_on_the_host_that_is_had_elsewhere(tmp_path: Path, name: str) -> None:
    model = create(name)
    insert(model, "gc", example_input=images(name))
    randomise(model)
    save_context(model, tmp_path / "blocks.safetensors")
    fresh = create(name)
    load_context(fresh, tmp_path / "blocks.safetensors")
    assert torch.equal(fresh(images(name)), model(images(name)))
    assert inserted(fresh) == inserted(model)
    bytes_of_blocks = sum(4 * parameter.numel() for _, parameter in context_parameters(model))
    assert (tmp_path / "blocks.safetensors").stat().st_size < 2 * bytes_of_blocks + 8192


def test_residual_blocks_and_a_builder_of_ones_own_come_back_and_load_into_blocks_that_are_there(
    tmp_path: Path,
) -> None:
    def build_norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    torch.manual_seed(0)
    model, fresh = CifarResNet(20).eval(), CifarResNet(20).eval()
    fresh.load_state_dict(model.state_dict())
    insert(model, "gc", stages=(3,))
    insert(model, build_norm, stages=(1,), position="after_add")
    randomise(model)
    save_context(model, tmp_path / "blocks.safetensors")
    with pytest.raises(UserError, match="is your own: pass builders="):
        load_context(fresh, tmp_path / "blocks.safetensors")
    assert inserted(fresh) == ()
    builders = {f"{__name__}.{build_norm.__qualname__}": build_norm}
    load_context(fresh, tmp_path / "blocks.safetensors", builders=builders)
    x = torch.randn(2, 3, 17, 19)
    output = model(x)
    assert torch.equal(fresh(x), output)
    randomise(model)
    assert not torch.equal(model(x), output)
    load_context(model, tmp_path / "blocks.safetensors")
    assert torch.equal(model(x), output)


def test_wrong_files_and_hosts_get_a_sentence_and_leave_the_model_alone(tmp_path: Path) -> None:
    model = create("2-D")
    with pytest.raises(UserError, match="nothing is inserted in this Sequential"):
        save_context(model, tmp_path / "blocks.safetensors")
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(StorageError, match="not a file of blocks alone but a model"):
        load_context(model, tmp_path / "model.safetensors")
    insert(model, "gc", example_input=images("2-D"))
    save_context(model, tmp_path / "blocks.safetensors")
    other = CifarResNet(20)
    names = list(other.state_dict())
    with pytest.raises(UserError, match="blocks were inserted at 2, which this network does not have"):
        load_context(other, tmp_path / "blocks.safetensors")
    assert list(other.state_dict()) == names
    insert(other, "gc")
    with pytest.raises(UserError, match="others than this network's"):
        load_context(other, tmp_path / "blocks.safetensors")
