"""Running a network to see its shapes: on inputs of every form, and without a trace on networks of every kind."""

import threading
from io import FileIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insert, inserted, remove
from gcnet.insertion.dry_run import run_once


class Small(nn.Module):
    """Two convolutions; what a test adds to it runs in `touch`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.touch(x)
        return self.second(self.norm(self.first(x)))

    def touch(self, _: Tensor) -> None:
        pass


class Locked(Small):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def touch(self, _: Tensor) -> None:
        with self.lock:
            assert not self.training


class Logging(Small):
    def __init__(self) -> None:
        super().__init__()
        self.file = FileIO(__file__)


class Numbered(Small):
    """A Python generator and one of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = iter(number for number in range(9))
        self.generator = torch.Generator().manual_seed(3)

    def touch(self, _: Tensor) -> None:
        torch.rand(3, generator=self.generator)


class Keeping(Small):
    """Activations kept in a list, which are no leaves of the graph, a counter, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.count = 0
        self.register_buffer("seen", torch.zeros(()))

    def touch(self, image: Tensor) -> None:
        self.kept.append(self.first(image))
        self.count += 1
        self.seen += 1
        self.latest = image


class Reader:
    """An object whose bound method is a hook, and that cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.maps: list[Tensor] = []

    def keep(self, _: nn.Module, __: Any, output: Tensor) -> None:
        self.maps.append(output)


def hooked() -> Small:
    model = Small()
    model.reader = Reader()
    model.second.register_forward_hook(model.reader.keep)
    return model


@pytest.mark.parametrize("build", [Locked, Logging, Numbered, Keeping, hooked])
def test_a_network_with_any_attributes_is_left_unchanged(build: Any) -> None:
    model = build()
    x = torch.randn(2, 3, 9, 11)
    if isinstance(model, Keeping):
        model(x)  # The list then holds a tensor with a graph.
    model.train()
    model.norm.eval()
    before = observed(model)
    insert(model, "gc", at="first", ratio=2, example_input=x)
    after = observed(model)
    if isinstance(model, Logging):
        model.file.close()
    assert [name for name in after if ".context." not in name] == list(before)
    assert all(same(after[name], before[name]) for name in before)


def observed(model: nn.Module) -> dict[str, Any]:
    """Weights, buffers, modes, random states, and the plain attributes that the networks above have."""
    found: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    found |= {f"mode of {name}": module.training for name, module in model.named_modules() if "context" not in name}
    found |= {f"hooks of {name}": len(model.get_submodule(name)._forward_pre_hooks) for name in ("first", "second")}
    found["numpy"] = np.random.get_state()[1].tolist()
    found["generator"] = getattr(model, "generator", torch.Generator()).get_state()
    found["kept"] = len(getattr(model, "kept", []))
    found["count"] = getattr(model, "count", 0)
    found["latest"] = getattr(model, "latest", torch.zeros(1))
    found["maps"] = len(model.reader.maps) if hasattr(model, "reader") else 0
    return found


def same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second


def test_a_failure_in_a_network_that_cannot_be_copied_is_the_networks_own() -> None:
    model = Locked()
    before = observed(model)
    with pytest.raises(UserError, match="expected input.* to have 3 channels, but got 5 channels.*another `example_in"):
        insert(model, "gc", example_input=torch.zeros(1, 5, 9, 9))
    assert all(same(value, before[name]) for name, value in observed(model).items())
    assert not model.first._forward_hooks and not model._forward_pre_hooks


class Named(Small):
    """Takes its image by keyword only, as many networks of Hugging Face are called."""

    def forward(self, *, pixel_values: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(pixel_values * scale)


class Dictionary(Small):
    """Takes one dict."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return super().forward(batch["image"])


@pytest.mark.parametrize("build", [Named, Dictionary])
def test_a_dict_as_example_is_keyword_arguments_or_one_argument(build: Any) -> None:
    key = "pixel_values" if build is Named else "image"
    model = build()
    assert [site.name for site in insert(model, "se", at="second", example_input={key: torch.zeros(1, 3, 9, 9)}).sites]
    with pytest.raises(UserError, match="dict of keyword arguments"):
        insert(build(), "se", at="second")


class Sized(nn.Module):
    """Says in its configuration which images it takes, and refuses others."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv2d(1, 8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (64, 48):
            raise ValueError("Input image size doesn't match the model")
        return self.embed(x)


@pytest.mark.parametrize(
    "config",
    [
        SimpleNamespace(image_size=(64, 48)),
        {"image_size": [64, 48]},
        SimpleNamespace(vision_config=SimpleNamespace(image_size=(64, 48))),
    ],
    ids=["object", "dict", "vision"],
)
def test_the_size_in_a_networks_configuration_is_used(config: Any) -> None:
    model = Sized(config)
    assert insert(model, "se", at="embed", ratio=2).sites[0].channels == 8
    assert run_once(model, None).example.tensors[0].shape == (2, 1, 64, 48)


class Asserting(Small):
    def touch(self, x: Tensor) -> None:
        if x.shape[-1] != 32:
            raise AssertionError


class OutOfMemory(Small):
    def touch(self, _: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class WithoutGradients(Small):
    def touch(self, _: Tensor) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError("made for inference")


def test_the_error_of_a_network_is_the_cause_and_shown() -> None:
    with pytest.raises(UserError, match=r"failed on \(2, 3, 224, 224\) .*\(AssertionError\): use") as found:
        insert(Asserting(), "gc")
    assert isinstance(found.value.__cause__, AssertionError)
    with pytest.raises(torch.OutOfMemoryError):
        insert(OutOfMemory(), "gc")


def test_failed_trial_runs_of_insertion_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="gcnet"):
        insert(WithoutGradients(), "gc", at="first")
        assert not caplog.records
        insert(WithoutGradients(), "gc")
    (record,) = caplog.records
    assert "the network with gradients" in record.message and "made for inference" in caplog.text


def test_a_shape_without_positions_is_refused() -> None:
    with pytest.raises(UserError, match=r"every side of a shape must be at least 1, found \(3, -1, 8\)"):
        insert(Small(), "gc", example_input=(3, -1, 8))


def test_blocks_inserted_in_inference_mode_can_be_trained() -> None:
    model = Small()
    with torch.inference_mode():
        insert(model, "gc", at="second", ratio=2, example_input=(3, 9, 11))
    model(torch.randn(2, 3, 9, 11)).square().sum().backward()
    assert any(parameter.grad.any() for _, parameter in context_parameters(model))


def test_blocks_inserted_under_the_meta_device_are_where_their_network_is() -> None:
    model = Small().eval()
    x = torch.randn(2, 3, 9, 11)
    before = model(x)
    with torch.device("meta"):
        insert(model, "gc", at="second", ratio=2)
    assert {parameter.device.type for _, parameter in context_parameters(model)} == {"cpu"}
    assert torch.equal(model(x), before)
    with torch.device("meta"):
        empty = Small()
    insert(empty, "gc", at="second", ratio=2)
    assert all(parameter.is_meta for _, parameter in context_parameters(empty))


def test_names_with_brackets_are_names() -> None:
    model = nn.Module()
    model.m = nn.ModuleDict({"1x1[0]": nn.Conv2d(3, 8, 1), "1x10": nn.Conv2d(8, 8, 1)})
    model.forward = lambda x: model.m["1x10"](model.m["1x1[0]"](x))
    assert [site.name for site in insert(model, "se", at="m.1x1[0]", ratio=2).sites] == ["m.1x1[0]"]


def test_one_insertion_of_several_is_removed() -> None:
    model = Small().eval()
    x = torch.randn(2, 3, 9, 11)
    before, names = model(x), list(model.state_dict())
    first = insert(model, "gc", at="first", ratio=2, example_input=x)
    insert(model, "se", at="second", ratio=2, example_input=x)
    with pytest.raises(UserError, match='there is no inserted block at "third"; blocks: first, second'):
        remove(model, ["first", "third"])
    remove(model, first)
    assert [insertion.block for insertion in inserted(model)] == ["se"]
    insert(model, "gc", at="first", ratio=2, example_input=x)
    remove(model, "sec*")
    assert [insertion.block for insertion in inserted(model)] == ["gc"]
    remove(model, inserted(model)[0])
    assert torch.equal(model(x), before) and list(model.state_dict()) == names


def test_blocks_whose_hooks_were_cleared_can_still_be_removed() -> None:
    model = Small().eval()
    x = torch.randn(2, 3, 9, 11)
    before, names = model(x), list(model.state_dict())
    insert(model, "gc", at="first", ratio=2, example_input=x)
    for module in model.modules():
        module._forward_hooks.clear()
    assert inserted(model) == ()
    with pytest.raises(UserError, match="hook was cleared, so it does not run: gcnet.remove it first"):
        insert(model, "gc", at="first", ratio=2, example_input=x)
    remove(model)
    assert list(model.state_dict()) == names and torch.equal(model(x), before)
    insert(model, "gc", at="first", ratio=2, example_input=x)
    assert len(inserted(model)) == 1
