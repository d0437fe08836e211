"""Insertion into any network: the right numbers, and nothing lost when the network is copied, converted or compiled."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from gcnet.insertion import context_parameters, insert, inserted, insertion_records, remove
from gcnet.insertion.dry_run import run_once
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from insertion.networks import BASE_MODELS, create, images, randomize


@pytest.fixture(params=BASE_MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def with_blocks(name: str, block: str = "gc") -> nn.Module:
    model = create(name)
    insert(model, block, example_input=BASE_MODELS[name][1])
    return randomize(model)


@pytest.mark.slow
def test_a_new_addition_block_changes_no_output_names_statistics_or_modes(name: str) -> None:
    base = create(name)
    before, names = base(images(name)), list(base.state_dict())
    base.train()
    next(iter(base.children())).eval()
    modes = {key: module.training for key, module in base.named_modules()}
    statistics = copy.deepcopy(dict(base.named_buffers()))
    insert(base, "nl_gaussian", example_input=BASE_MODELS[name][1])
    assert {key: base.get_submodule(key).training for key in modes} == modes
    assert all(torch.equal(base.get_buffer(key), value) for key, value in statistics.items())
    assert torch.equal(base.eval()(images(name)), before)
    assert [key for key in base.state_dict() if ".context." not in key] == names


class Wild(nn.Module):
    """Cannot run on the meta device, and draws random numbers, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x + torch.rand(()).item()))
        return self.second(x if x.sum() > 0 else -x)


def test_the_dry_run_of_a_network_that_needs_real_numbers_leaves_no_trace() -> None:
    model, state = Wild(), torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    run = run_once(model, (3, 7, 9))
    assert [call.name for call in run.calls] == ["", "first", "norm", "second"]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert [site.name for site in insert(model, "snl", at="second", example_input=(1, 3, 7, 9)).sites] == ["second"]


@pytest.mark.slow
def test_the_block_sees_channels_and_positions_where_they_are(name: str) -> None:
    """Judged by another mechanism: a hook on the plain network that lays the output out by hand."""
    model, expected = with_blocks(name, "se"), create(name)
    for site in inserted(model)[0].sites:
        context = model.get_submodule(site.name).context
        expected.get_submodule(site.name).register_forward_hook(_by_hand(name, context))
    assert len(inserted(model)[0].sites) >= 3
    output = model(images(name))
    torch.testing.assert_close(output, expected(images(name)), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(output, create(name)(images(name)), atol=1e-4)


def _by_hand(name: str, context: nn.Module) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def on_map(_: nn.Module, __: object, x: Tensor) -> Tensor:
        return context(x)

    def on_channels_last_map(_: nn.Module, __: object, x: Tensor) -> Tensor:
        return context(x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)

    def on_tokens(_: nn.Module, __: object, x: Tensor) -> Tensor:
        patches = context(x[:, 1:].transpose(1, 2).contiguous()).transpose(1, 2)
        return torch.cat([x[:, :1], patches], dim=1)

    return {"swin": on_channels_last_map, "vit": on_tokens}.get(name, on_map)


@pytest.mark.slow
def test_trained_blocks_all_receive_gradients(name: str) -> None:
    model = with_blocks(name)
    model(images(name)).square().sum().backward()
    for key, parameter in context_parameters(model):
        if not key.endswith("context.key.bias"):  # softmax cancels a constant
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_copies_pickles_and_files_carry_the_blocks(name: str, tmp_path: Path) -> None:
    model = with_blocks(name)
    output = model(images(name))
    assert torch.equal(copy.deepcopy(model)(images(name)), output)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images(name)), output)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", create(name))
    assert torch.equal(loaded(images(name)), output)
    assert insertion_records(loaded) == insertion_records(model)


def test_remove_restores_the_network_exactly(name: str) -> None:
    base = create(name)
    before = {key: (type(module), set(vars(module))) for key, module in base.named_modules()}
    states, output = list(base.state_dict()), base(images(name))
    insert(base, "gc", example_input=BASE_MODELS[name][1])
    randomize(base)
    remove(base)
    assert {key: (type(module), set(vars(module))) for key, module in base.named_modules()} == before
    assert not any(module._forward_hooks for module in base.modules())
    assert list(base.state_dict()) == states
    assert torch.equal(base(images(name)), output)
    assert inserted(base) == () and insertion_records(base) == [] and context_parameters(base) == []


@pytest.mark.parametrize("convert", [convert_sync_batchnorm, freeze_batch_norm_2d])
@pytest.mark.slow
def test_blocks_run_once_after_norms_were_converted_or_frozen(
    name: str, convert: Callable[[nn.Module], nn.Module]
) -> None:
    model = with_blocks(name)
    output, calls = model(images(name)), []
    model = convert(model).eval()
    for site in inserted(model)[0].sites:
        block = model.get_submodule(site.name).context
        block.register_forward_hook(lambda *_, name=site.name: calls.append(name))
    torch.testing.assert_close(model(images(name)), output, rtol=1e-5, atol=1e-5)
    assert sorted(calls) == sorted(site.name for site in inserted(model)[0].sites)


def test_a_block_that_was_replaced_with_its_module_is_not_counted() -> None:
    model = with_blocks("2-D")
    model[2] = nn.ReLU()
    assert [site.name for site in inserted(model)[0].sites] == ["6", "10"]
    assert all(key.startswith(("6.", "10.")) for key, _ in context_parameters(model))
    assert [site["name"] for site in insertion_records(model)[0]["places"]] == ["6", "10"]


@pytest.mark.parametrize("name", ["2-D", "swin", "vit"])
def test_half_precision_autocast_and_float64(name: str) -> None:
    model = with_blocks(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images(name)).isfinite().all()
    model = create(name).double()
    insert(model, "gc", example_input=images(name).double())
    assert {parameter.dtype for _, parameter in context_parameters(model)} == {torch.float64}
    assert model(images(name).double()).dtype == torch.float64


def test_a_module_that_is_used_twice_runs_its_block_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(5, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.mix(x))

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 5, 7, 11)
    insert(model, "snl", at="mix", example_input=x)
    randomize(model)
    mix, context = model.mix, model.mix.context
    once = context(nn.functional.conv2d(x, mix.weight, mix.bias, padding=1))
    expected = context(nn.functional.conv2d(once, mix.weight, mix.bias, padding=1))
    torch.testing.assert_close(model(x), expected)
