"""What others do to a network after insertion: features, graphs, compiling, checkpointing, several processes.

The blocks are not zero, and each is counted as it runs.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models._features import FeatureHookNet, FeatureListNet
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.utils.checkpoint import checkpoint
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from gcnet.insertion import context_parameters, insert, inserted
from gcnet.models.backbones.cifar_resnet import CifarResNet
from insertion.networks import BASE_MODELS, create, images, randomize


def with_blocks(name: str, block: str = "gc") -> nn.Module:
    model = create(name)
    insert(model, block, example_input=BASE_MODELS[name][1])
    return randomize(model)


def wanted(model: nn.Module, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
    """The outputs of modules, their blocks included, by hooks of the test's own."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *given, name=name: found.update({name: given[2]}))
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def test_earlier_hooks_receive_the_output_of_the_block() -> None:
    model, x = create("2-D"), images("2-D")
    found: list[Tensor] = []
    handle = model[6].register_forward_hook(lambda *given: found.append(given[2]))
    insert(model, "snl", at="6", example_input=x)
    found.clear()
    (expected,) = wanted(randomize(model), ("6",), x)
    assert torch.equal(found[0], expected)
    handle.remove()


@pytest.mark.usefixtures("unchecked_shapes")  # A symbolic tensor is none.
@pytest.mark.parametrize("name", ["1-D", "2-D", "3-D", "convnext", "efficientnet"])
@pytest.mark.parametrize("block", ["gc", "nl_concatenation"])
def test_a_symbolic_graph_runs_every_block(name: str, block: str) -> None:
    model = with_blocks(name, block)
    torch.testing.assert_close(symbolic_trace(model)(images(name)), model(images(name)))


@pytest.mark.usefixtures("unchecked_shapes")
def test_residual_blocks_are_traced_too() -> None:
    model = CifarResNet(20).eval()
    insert(model, "nl_embedded_gaussian", blocks=(0,))
    randomize(model)
    x = torch.randn(2, 3, 17, 19)
    torch.testing.assert_close(symbolic_trace(model)(x), model(x))


@pytest.mark.usefixtures("unchecked_shapes")
def test_torchvisions_feature_extractor_returns_the_output_of_the_blocks() -> None:
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small(num_classes=7).eval()
    insert(model, "gc")
    x = torch.randn(2, 3, 67, 71)
    expected = wanted(randomize(model), ("features.3", "features.11", "classifier"), x)
    assert "features.3.context" in get_graph_node_names(model)[1]
    for train in (False, True):
        extractor = create_feature_extractor(
            copy.deepcopy(model).train(train), ["features.3", "features.11", "classifier"]
        )
        for found, value in zip(extractor.eval()(x).values(), expected, strict=True):
            torch.testing.assert_close(found, value)


def test_the_layers_that_torchvision_takes_out_of_a_network_keep_their_blocks() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    insert(model, "gc", at=["layer2", "layer4.0"])
    x = torch.randn(2, 3, 37, 41)
    expected = wanted(randomize(model), ("layer2", "layer4"), x)
    getter = IntermediateLayerGetter(model, {"layer2": "a", "layer4": "b"})
    for found, value in zip(getter(x).values(), expected, strict=True):
        torch.testing.assert_close(found, value)
    assert [site.name for site in inserted(getter)[0].sites] == ["layer2.1", "layer4.0"]


@pytest.mark.parametrize("wrapper", [FeatureListNet, FeatureHookNet])
def test_timms_feature_networks_run_the_blocks_that_were_there(wrapper: type) -> None:
    model = with_blocks("convnext")
    stages = tuple(f"stages.{index}" for index in range(4))
    expected = wanted(model, stages, images("convnext"))
    features = wrapper(
        model, out_indices=(0, 1, 2, 3), **({"flatten_sequential": True} if wrapper is FeatureListNet else {})
    )
    for found, value in zip(features(images("convnext")), expected, strict=True):
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_vit", "test_resnet"])
def test_blocks_go_into_timms_features_only_networks(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).eval()
    side = 160 if name == "test_vit" else 67
    x = torch.randn(2, 3, side, side)
    before = model(x)
    insert(model, "gc", ratio=8)
    assert all(torch.equal(found, value) for found, value in zip(model(x), before, strict=True))
    calls = []
    for insertion in inserted(randomize(model)):
        for site in insertion.sites:
            context = model.get_submodule(f"{site.name}.context")
            context.register_forward_hook(lambda *_, name=site.name: calls.append(name))
    assert not torch.allclose(model(x)[-1], before[-1])
    assert sorted(calls) == sorted(site.name for site in inserted(model)[0].sites)


@pytest.mark.parametrize("name", ["convnext", "vit", "swin"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = with_blocks(name).train()
        model.set_grad_checkpointing(checkpointing)
        model(images(name)).square().sum().backward()
        gradients.append([parameter.grad for _, parameter in context_parameters(model)])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_one_module_checkpointed_by_hand() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3)), torch.randn(2, 3, 7, 9, requires_grad=True)
    insert(model, "snl", at="0", example_input=x)
    randomize(model)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (found,) = torch.autograd.grad(checkpoint(model[0], x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(found, expected)


def test_distributed_training_reaches_every_block(tmp_path: Path) -> None:
    model = with_blocks("2-D")
    model(images("2-D")).square().sum().backward()
    expected = [parameter.grad.clone() for _, parameter in context_parameters(model)]
    model.zero_grad()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        shared = nn.parallel.DistributedDataParallel(model)
        shared(images("2-D")).square().sum().backward()
        assert [site.name for site in inserted(shared)[0].sites] == ["module.2", "module.6", "module.10"]
        with pytest.raises(ValueError, match="insert before wrapping"):
            insert(shared, "se")
    finally:
        torch.distributed.destroy_process_group()
    for (_, parameter), gradient in zip(context_parameters(model), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("position", ["after_norm", "after_add"])
@pytest.mark.slow
def test_a_traced_residual_network_is_the_same_at_another_size(position: str, gradients: bool) -> None:
    model = CifarResNet(20).eval()
    insert(model, "gc", position=position)
    randomize(model)
    with torch.set_grad_enabled(gradients):
        program = torch.jit.trace(model, torch.randn(2, 3, 17, 19))
        x = torch.randn(3, 3, 29, 23)
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.parametrize(
    ("build", "position", "layer"),
    [
        (torchvision.models.resnet18, "after_norm", "bn2"),
        (torchvision.models.resnet18, "after_add", "relu"),
        (torchvision.models.resnet50, "after_conv2", "relu"),
        (partial(timm.create_model, "resnet18"), "after_norm", "bn2"),
        (partial(timm.create_model, "resnet18"), "after_add", "act2"),
    ],
)
def test_a_map_that_a_hook_keeps_is_not_changed_by_the_block(build: Any, position: str, layer: str) -> None:
    model = build(num_classes=3).eval()
    insert(model, "gc", position=position, at="layer4.0")
    base = randomize(model).layer4[0]
    kept: list[tuple[Tensor, Tensor]] = []
    handle = base.get_submodule(layer).register_forward_hook(lambda *given: kept.append((given[2], given[2].clone())))
    with torch.no_grad():
        watched = model(x := torch.randn(2, 3, 64, 64))
        handle.remove()
        torch.testing.assert_close(model(x), watched)
    context: list[Tensor] = []
    base.context.register_forward_hook(lambda *given: context.append(given[1][0].clone()))
    with torch.no_grad():
        model(x)
    assert any(torch.equal(seen, context[0]) for _, seen in kept)
    if position == "after_norm":
        assert torch.equal(kept[-1][0], kept[-1][1])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["2-D", "swin", "vit"])
def test_the_result_compiles_without_graph_breaks_and_exports(name: str) -> None:
    model = with_blocks(name)
    output = model(images(name))
    torch.testing.assert_close(
        torch.compile(model, fullgraph=True, backend="aot_eager")(images(name)), output, rtol=1e-4, atol=1e-4
    )
    exported = torch.export.export(model, (images(name),)).module()
    torch.testing.assert_close(exported(images(name)), output, rtol=1e-4, atol=1e-4)
