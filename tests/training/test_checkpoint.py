"""State of any shape to a file and back, with no pickle and every bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from gcnet.storage import StorageError
from gcnet.training.checkpoint import (
    load_optimizer,
    load_state,
    random_states,
    restore_random_states,
    save_state,
    seed_everything,
)


def test_nested_state_is_restored_unchanged(tmp_path):
    tied = torch.randn(3, 5)
    state = {
        "tree": {
            "list": [1, None, True, "text", 0.1 + 0.2],
            "tuple": (1, (2.5,)),
            7: {"x": torch.arange(4)},
            "empty": {},
        },
        "tensors": [tied, tied.t(), torch.tensor(3.5, dtype=torch.float64), torch.zeros(0, 2), tied.bfloat16()],
    }
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state")
    assert loaded["tree"]["list"] == state["tree"]["list"]
    assert loaded["tree"]["tuple"] == (1, (2.5,))
    assert torch.equal(loaded["tree"][7]["x"], torch.arange(4))
    assert loaded["tree"]["empty"] == {}
    for one, other in zip(state["tensors"], loaded["tensors"], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_values_that_json_cannot_store_are_named(tmp_path):
    with pytest.raises(TypeError, match="a.b: a checkpoint holds no object"):
        save_state(tmp_path / "state", {"a": {"b": object()}})


def test_a_model_file_is_not_taken_for_a_checkpoint(tmp_path):
    from gcnet.tensor_files import save_tensors

    save_tensors(tmp_path / "model", {"weight": torch.zeros(2)}, {"kind": "model"})
    with pytest.raises(ValueError, match="must be a training checkpoint"):
        load_state(tmp_path / "model")
    with pytest.raises(StorageError, match="cannot read"):
        load_state(tmp_path / "missing")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("build", [lambda p: SGD(p, 0.1, 0.9), lambda p: AdamW(p, 0.1)], ids=["sgd", "adamw"])
def test_an_optimizer_is_restored_with_values_and_strides(tmp_path, build, memory_format):
    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(2, 3, 7, 7).to(memory_format=memory_format)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Conv2d(3, 5, 3).to(memory_format=memory_format)
    optimizer = build(model.parameters())
    step(model, optimizer, 1)
    save_state(tmp_path / "state", {"optimizer": optimizer.state_dict(), "model": model.state_dict()})
    other = nn.Conv2d(3, 5, 3).to(memory_format=memory_format)
    second = build(other.parameters())
    state = load_state(tmp_path / "state")
    other.load_state_dict(state["model"])
    load_optimizer(second, state["optimizer"])
    for parameter, values in second.state.items():
        for value in values.values():
            assert value.ndim == 0 or value.stride() == parameter.stride()
    step(model, optimizer, 2)
    step(other, second, 2)
    assert torch.equal(model.weight, other.weight)


def test_all_global_generators_are_restored(tmp_path):
    seed_everything(5, 1)
    np.random.standard_normal()  # leaves a second value in numpy's own cache
    random.gauss(0, 1)  # and in python's
    save_state(tmp_path / "state", {"random": random_states()})

    def draw():
        return torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random()

    expected = draw()
    seed_everything(6)
    assert draw() != expected
    restore_random_states(load_state(tmp_path / "state")["random"])
    assert draw() == expected
