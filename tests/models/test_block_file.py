"""Files of blocks alone: small, strict, and put back where they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from torchvision.models.resnet import Bottleneck, ResNet

from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insert, inserted
from gcnet.models.backbones.cifar_resnet import CifarResNet
from gcnet.models.block_file import load_context, save_context
from gcnet.models.model_file import save_model
from gcnet.storage import StorageError
from gcnet.tensor_files import load_tensors, save_tensors
from insertion.networks import create, images, randomize


@pytest.mark.parametrize("name", ["2-D", "swin", "vit"])
def test_blocks_trained_alone_load_into_another_copy_of_the_network(tmp_path: Path, name: str) -> None:
    model = create(name)
    insert(model, "gc", example_input=images(name))
    randomize(model)
    save_context(model, tmp_path / "blocks.safetensors")
    fresh = create(name)
    load_context(fresh, tmp_path / "blocks.safetensors")
    assert torch.equal(fresh(images(name)), model(images(name)))
    assert inserted(fresh) == inserted(model)
    bytes_of_blocks = sum(4 * parameter.numel() for _, parameter in context_parameters(model))
    assert (tmp_path / "blocks.safetensors").stat().st_size < 2 * bytes_of_blocks + 8192


def test_residual_blocks_and_custom_builders_are_rebuilt_and_load_into_existing_blocks(
    tmp_path: Path,
) -> None:
    def build_norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    torch.manual_seed(0)
    model, fresh = CifarResNet(20).eval(), CifarResNet(20).eval()
    fresh.load_state_dict(model.state_dict())
    insert(model, "gc", stages=(3,))
    insert(model, build_norm, stages=(1,), position="after_add")
    randomize(model)
    save_context(model, tmp_path / "blocks.safetensors")
    with pytest.raises(UserError, match=r"is not one of gcnet.list_blocks\(\): pass builders="):
        load_context(fresh, tmp_path / "blocks.safetensors")
    assert inserted(fresh) == ()
    builders = {f"{__name__}.{build_norm.__qualname__}": build_norm}
    load_context(fresh, tmp_path / "blocks.safetensors", builders=builders)
    x = torch.randn(2, 3, 17, 19)
    output = model(x)
    assert torch.equal(fresh(x), output)
    randomize(model)
    assert not torch.equal(model(x), output)
    load_context(model, tmp_path / "blocks.safetensors")
    assert torch.equal(model(x), output)


def test_files_and_networks_that_do_not_fit_are_refused_and_leave_the_model_unchanged(tmp_path: Path) -> None:
    model = create("2-D")
    with pytest.raises(UserError, match="this Sequential has no inserted blocks"):
        save_context(model, tmp_path / "blocks.safetensors")
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(StorageError, match="not a file of blocks but a model"):
        load_context(model, tmp_path / "model.safetensors")
    insert(model, "gc", example_input=images("2-D"))
    save_context(model, tmp_path / "blocks.safetensors")
    other = CifarResNet(20)
    names = list(other.state_dict())
    with pytest.raises(UserError, match="blocks were inserted at 2, which this network does not have"):
        load_context(other, tmp_path / "blocks.safetensors")
    assert list(other.state_dict()) == names
    insert(other, "gc")
    with pytest.raises(UserError, match="has a block at 2, where this network has none; gcnet.remove"):
        load_context(other, tmp_path / "blocks.safetensors")


def compiled_stage(model: nn.Module) -> nn.Module:
    model.layer3 = torch.compile(model.layer3)
    return model


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, compiled_stage, nn.DataParallel, AveragedModel, lambda model: torch.compile(AveragedModel(model))],
)
def test_files_of_wrapped_networks_have_the_names_of_the_network_itself(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    model, plain = CifarResNet(20).eval(), CifarResNet(20).eval()
    insert(model, "gc")
    randomize(model)
    save_context(model, tmp_path / "expected.safetensors")
    wrapped = wrap(model)
    save_context(wrapped, tmp_path / "blocks.safetensors")
    assert (tmp_path / "blocks.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()
    load_context(plain, tmp_path / "blocks.safetensors")
    for (_, found), (_, expected) in zip(context_parameters(plain), context_parameters(model), strict=True):
        assert torch.equal(found, expected)
    randomize(plain)
    save_context(plain, tmp_path / "other.safetensors")
    load_context(wrapped, tmp_path / "other.safetensors")
    for (_, found), (_, expected) in zip(context_parameters(wrapped), context_parameters(plain), strict=True):
        assert torch.equal(found, expected)


class Sharded(torch.Tensor):
    """A tensor that only knows its part, as FSDP2's."""

    def full_tensor(self) -> torch.Tensor:
        raise AssertionError("all processes must ask for it together")


def test_sharded_and_offloaded_weights_are_not_saved(tmp_path: Path) -> None:
    model = CifarResNet(20)
    insert(model, "gc", stages=(3,), blocks=(0,))
    key = model.layer3[0].context.context.key
    key.weight = nn.Parameter(key.weight.detach().as_subclass(Sharded))
    with pytest.raises(UserError, match=r"weights of layer3\.0\.context are sharded \(FSDP\).*full_state_dict=True"):
        save_context(model, tmp_path / "blocks.safetensors")
    key.weight = nn.Parameter(torch.empty(1, 64, device="meta"))
    with pytest.raises(UserError, match=r"not in memory: context\.key\.weight is on the meta device"):
        save_context(model, tmp_path / "blocks.safetensors")
    assert not list(tmp_path.iterdir())


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)


def weight_normalized(layer: nn.Module) -> None:
    torch.nn.utils.weight_norm(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("change", [pruned, weight_normalized, parametrizations.weight_norm])
def test_changed_layers_are_saved_as_the_weights_that_they_compute_with(
    tmp_path: Path, change: Callable[[nn.Module], object]
) -> None:
    torch.manual_seed(0)
    model = CifarResNet(20).eval()
    plain = CifarResNet(20).eval()
    plain.load_state_dict(model.state_dict())
    insert(model, "gc", ratio=4)
    for module in list(randomize(model).modules()):
        if type(module).__name__ == "Pointwise":
            change(module)
    with torch.no_grad():
        for name, parameter in context_parameters(model):
            if "weight" in name:
                parameter.mul_(-1.5)
    save_context(model, tmp_path / "blocks.safetensors")
    load_context(plain, tmp_path / "blocks.safetensors")
    x = torch.randn(2, 3, 17, 19)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)


def test_buffers_of_flop_counters_are_not_saved(tmp_path: Path) -> None:
    model, plain = CifarResNet(20), CifarResNet(20)
    insert(model, "gc")
    for module in model.modules():
        for name in ("total_ops", "total_params"):  # as thop.profile does
            module.register_buffer(name, torch.zeros(1, dtype=torch.float64))
    save_context(model, tmp_path / "blocks.safetensors")
    load_context(plain, tmp_path / "blocks.safetensors")
    load_context(model, tmp_path / "blocks.safetensors")
    assert [name for name, _ in context_parameters(plain)] == [name for name, _ in context_parameters(model)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([{}], [{"ratio": 4}]),
        ([{}], [{"at": ["c1", "c2", "c3"]}]),
        ([{}], [{"fusion": "add", "heads": 1}]),
        ([{}], [{"stages": (2,)}, {"stages": (1, 3)}]),
        ([{"blocks": (0, 1, 2)}], [{}]),
        (
            [{"stages": (2,), "fusion": "both"}],
            [{"stages": (2,), "blocks": blocks, "fusion": "both"} for blocks in ((1, 2), (0,))],
        ),
    ],
)
def test_equal_blocks_with_other_spellings_of_options_are_loaded(
    tmp_path: Path, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    model, other = CifarResNet(20), CifarResNet(20)
    for network, calls in ((model, first), (other, second)):
        for options in calls:
            insert(network, "gc", **options)
    randomize(model)
    save_context(model, tmp_path / "blocks.safetensors")
    load_context(other, tmp_path / "blocks.safetensors")
    expected = dict(context_parameters(model))
    for name, parameter in context_parameters(other):
        assert torch.equal(parameter, expected[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "scale"}, "fusion add instead of scale"),
        ({"norm_eps": 1e-3}, "norm_eps 1e-05 instead of 0.001"),
        ({"position": "after_add"}, "position after_norm instead of after_add"),
        ({"ratio": 2}, "has shape"),
        ({"stages": (3,)}, "where this network has none"),
        ({}, "this network has a block at layer3.0, layer3.1, layer3.2, for which"),
    ],
)
def test_other_blocks_are_refused_with_their_difference_and_kept(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    model, other = CifarResNet(20), CifarResNet(20)
    insert(model, "gc", stages=(1, 2) if not options else None)
    insert(other, "gc", **options)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    save_context(model, tmp_path / "blocks.safetensors")
    with pytest.raises(UserError, match=message):
        load_context(other, tmp_path / "blocks.safetensors")
    assert before.keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("with_widths", [True, False])
def test_a_network_of_another_width_is_refused_and_unchanged(tmp_path: Path, with_widths: bool) -> None:
    model, other = (ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=width) for width in (8, 16))
    insert(model, "gc", stages=(3,), blocks=(0,), position="after_conv2", ratio=2)
    path = tmp_path / "blocks.safetensors"
    save_context(model, path)
    if not with_widths:
        tensors, metadata = load_tensors(path)
        del metadata["widths"]
        save_tensors(path, tensors, metadata)
    names = list(other.state_dict())
    with pytest.raises(UserError, match=r"another width: layer2\.0\.bn.* channels there and"):
        load_context(other, path)
    assert list(other.state_dict()) == names and inserted(other) == ()


def edit(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda metadata: metadata["insertions"][0].update(changes)


def edit_place(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda metadata: metadata["insertions"][0]["places"][0].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata.pop("insertions"),
        lambda metadata: metadata.update(insertions=[]),
        lambda metadata: metadata.update(insertions="gc"),
        lambda metadata: metadata.update(insertions=[7]),
        lambda metadata: metadata["insertions"][0].pop("ratio"),
        lambda metadata: metadata["insertions"][0].pop("position"),
        edit(ratio="16"),
        edit(ratio=-1),
        edit(ratio=float("inf")),
        edit(block=["gc"]),
        edit(block="gc\x1b[31m"),
        edit(custom=None),
        edit(position="nowhere"),
        edit(position={}),
        edit(options=[1]),
        edit(options={"heads": "2"}),
        edit(options={"fusion": None}),
        edit(options={"channels": 3}),
        edit(places=[]),
        edit(places="layer1"),
        edit(places=[{"name": "layer3.0"}]),
        edit(stages="3"),
        edit_place(prefix=-3),
        edit_place(channels=10**12),
        edit_place(channels=True),
        edit_place(dims=7),
        edit_place(name=5),
        edit_place(code="import os"),
        edit(block="gc_slots", options={"slots": 10**9}, ratio=None),
    ],
)
def test_invalid_metadata_is_one_sentence_and_changes_nothing(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    model = CifarResNet(20)
    insert(model, "gc", stages=(3,))
    path = tmp_path / "blocks.safetensors"
    save_context(model, path)
    tensors, metadata = load_tensors(path)
    metadata = json.loads(json.dumps(metadata))
    change(metadata)
    save_tensors(path, tensors, metadata)
    for base in (CifarResNet(20), model):
        names = list(base.state_dict())
        with pytest.raises(UserError) as raised:
            load_context(base, path)
        assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)
        assert list(base.state_dict()) == names
