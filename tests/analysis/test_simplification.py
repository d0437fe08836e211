"""Simpler blocks from the weights of non-local ones, judged by loops, and by networks whose queries agree."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gcnet.analysis.query_independence import Interval, Layer
from gcnet.analysis.simplification import find_non_local, mean_inputs, replace_blocks, shared_weights, why_kept
from gcnet.blocks import build_block
from gcnet.insertion import context_parameters, insert, insertion_records
from gcnet.models.backbones.cifar_resnet import CifarResNet
from gcnet.models.create import create_model
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from tolerances import assert_equal_within

SOFTMAX = {
    "gaussian": ("nl_gaussian", {}),
    "gaussian batch": ("nl_gaussian", {"normalization": "batch"}),
    "embedded": ("nl_embedded_gaussian", {}),
    "embedded unscaled": ("nl_embedded_gaussian", {"use_scale": False}),
    "embedded batch": ("nl_embedded_gaussian", {"normalization": "batch", "reduction": 3}),
}


def randomize(module: nn.Module) -> nn.Module:
    """Every parameter and statistic in float64 and away from its start."""
    module.double().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.5)
    return module


def built(case: str, channels: int) -> nn.Module:
    name, options = SOFTMAX[case]
    return randomize(build_block(name, channels=channels, **options))


def as_snl(block: nn.Module, mean: Tensor) -> nn.Module:
    snl = build_block("snl", channels=len(mean)).double()
    for layer, weights in shared_weights(block, mean).items():
        snl.get_submodule(layer).load_state_dict(weights)
    return snl


def layer(name: str, distance: float, *, new: bool = False) -> Layer:
    interval = Interval(distance, distance, distance)
    return Layer(name, "ContextBlock", (3, 5), 7, 11, False, new, interval, interval, interval, None, 0.0)


@pytest.mark.parametrize("case", SOFTMAX)
def test_snl_adds_what_a_loop_over_positions_adds_with_the_mean_query(case: str) -> None:
    block, x = built(case, 7), torch.randn(2, 7, 3, 5, dtype=torch.float64)
    mean = torch.randn(7, dtype=torch.float64)
    added = (as_snl(block, mean)(x) - x).flatten(2)
    parts = block.state_dict()

    def project(role: str, vector: Tensor) -> Tensor:
        weight = parts.get(f"context.{role}.weight")
        return vector if weight is None else weight @ vector + parts[f"context.{role}.bias"]

    query = project("query", mean)
    scale = len(query) ** -0.5 if "embedded" in case and "unscaled" not in case else 1.0
    for image in range(2):
        vectors = list(x[image].flatten(1).T)
        logits = torch.stack([scale * query.dot(project("key", vector)) for vector in vectors])
        exponentials = (logits - logits.max()).exp()
        context = sum(
            e / exponentials.sum() * project("value", vector) for e, vector in zip(exponentials, vectors, strict=True)
        )
        expected = _output(parts, context)
        assert_equal_within(added[image], expected[:, None].expand(-1, 15), torch.float64)


def _output(parts: dict[str, Tensor], context: Tensor) -> Tensor:
    if "add.transform.weight" in parts:
        return parts["add.transform.weight"] @ context + parts["add.transform.bias"]
    z = parts["add.transform.0.weight"] @ context + parts["add.transform.0.bias"]
    norm = {name: parts[f"add.transform.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
    return (z - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]


@pytest.mark.parametrize("case", [case for case in SOFTMAX if case.startswith("embedded")])
def test_where_all_queries_are_the_same_the_blocks_are_equal(case: str) -> None:
    block, x = built(case, 7), torch.randn(2, 7, 3, 5, dtype=torch.float64)
    block.get_submodule("context.query").weight.data.zero_()
    with mean_inputs({"block": block}) as means, torch.no_grad():
        expected = block(x)
    assert_equal_within(as_snl(block, means()["block"])(x), expected, torch.float64)


def test_the_mean_is_over_positions_and_images_of_all_batches_and_hooks_are_gone() -> None:
    block = nn.Identity()
    batches = [torch.randn(count, 3, 2, 5) for count in (2, 1)]
    with mean_inputs({"a": block, "never run": nn.Identity()}) as means:
        for x in batches:
            block(x)
    vectors = [x[n, :, i, j].double() for x in batches for n in range(len(x)) for i in range(2) for j in range(5)]
    assert_equal_within(means()["a"], torch.stack(vectors).mean(0), torch.float64)
    assert set(means()) == {"a"}
    assert not block._forward_pre_hooks


@pytest.fixture
def mixed(seed: int) -> nn.Module:
    """A network in float64 with two non-local blocks whose queries agree, one of dot products, and one gc."""
    torch.manual_seed(seed)
    model = create_model("cifar_resnet20", num_classes=3)
    insert(model, "nl_embedded_gaussian", stages=(1, 2), blocks=(0, 1), normalization="batch")
    insert(model, "nl_dot_product", stages=(3,), blocks=(1,), position="after_add")
    insert(model, "gc", stages=(3,), blocks=(0,), ratio=8)
    model.double().eval()
    with torch.no_grad():
        for name, parameter in context_parameters(model):
            parameter.normal_(std=0.1)
            if name.endswith("query.weight"):
                parameter.zero_()
    return model


def means_of(model: nn.Module, names: tuple[str, ...], images: Tensor) -> dict[str, Tensor]:
    blocks = find_non_local(model)
    with torch.no_grad(), mean_inputs({name: blocks[name] for name in names}) as means:
        model(images)
    return means()


def test_a_network_with_snl_instead_is_equal_and_a_file_rebuilds_it(mixed: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 11, 13, dtype=torch.float64)
    names = ("layer1.0.context", "layer2.1.context")
    before = copy.deepcopy(mixed.state_dict())
    simplified = replace_blocks(mixed, means_of(mixed, names, images), "snl")
    with torch.no_grad():
        expected = mixed(images)
        assert_equal_within(simplified(images), expected, torch.float64)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mixed.state_dict().items())
    assert set(find_non_local(simplified)) == {"layer1.1.context", "layer2.0.context", "layer3.1.context"}
    (new,) = (record for record in insertion_records(simplified) if record["block"] == "snl")
    assert [f"{place['name']}.context" for place in new["places"]] == list(names)
    save_model(simplified, tmp_path / "simple.safetensors")
    again = load_model(tmp_path / "simple.safetensors")
    assert set(find_non_local(again)) == set(find_non_local(simplified))
    assert_equal_within(again(images.float()), expected, torch.float32)


def test_gc_takes_the_key_and_starts_as_the_identity(mixed: nn.Module) -> None:
    images = torch.randn(2, 3, 11, 13, dtype=torch.float64)
    name = "layer2.1.context"
    means = means_of(mixed, (name,), images)
    block = replace_blocks(mixed, means, "gc", ratio=4).get_submodule(name)
    x = torch.randn(1, 32, 3, 5, dtype=torch.float64)
    assert torch.equal(block(x), x)
    assert block.get_submodule("add.transform.reduce").weight.shape == (8, 32)
    weights = mixed.get_submodule(f"{name}.context").attention(x)
    rows = block.get_submodule("context").attention(x).flatten()
    assert_equal_within(weights, rows.expand(1, 15, 15), torch.float64)


@pytest.mark.parametrize(
    ("name", "options", "distance", "threshold", "reason"),
    [
        ("nl_embedded_gaussian", {}, 0.05, 0.1, None),
        ("nl_gaussian", {}, 0.05, 0.1, None),
        ("nl_gaussian", {}, 0.05, 0.04, "depends on the query: 0.0500 apart, above 0.04"),
        ("nl_gaussian", {}, 0.9, None, None),
        ("nl_gaussian", {"sub_sample": True}, 0.0, None, "max-pooled"),
        ("nl_dot_product", {}, 0.0, None, "not normalized over positions"),
        ("nl_concatenation", {}, 0.0, 0.1, "not normalized over positions"),
    ],
)
def test_blocks_that_are_kept_have_a_reason(
    name: str, options: dict, distance: float, threshold: float | None, reason: str | None
) -> None:
    found = why_kept(build_block(name, channels=7, **options), layer("a", distance), threshold)
    assert found is None if reason is None else reason in str(found)


def test_new_blocks_and_blocks_composed_otherwise_are_kept() -> None:
    block = build_block("nl_gaussian", channels=7)
    assert "its output is still zero" in str(why_kept(block, layer("a", 0.0, new=True)))
    block.get_submodule("add").transform = nn.Conv2d(3, 7, 1)
    assert "was not built by gcnet.build_block" in str(why_kept(block, layer("a", 0.0)))


def test_a_custom_network_is_simplified() -> None:
    model = CifarResNet(20)
    insert(model, "nl_gaussian", stages=(1,))
    simplified = replace_blocks(model, {"layer1.0.context": torch.zeros(16, dtype=torch.float64)}, "snl")
    assert set(find_non_local(simplified)) == {"layer1.1.context", "layer1.2.context"}
