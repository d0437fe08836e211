"""Whole networks on a device: inserted blocks, evaluation, compilation, capture."""

import copy

import pytest
import torch
from torch import nn

import gcnet
from cuda.closeness import assert_near_together
from gcnet.analysis.capture import capture
from gcnet.data.loader import Batch
from gcnet.models.create import create_model
from gcnet.tasks.classification.metrics import evaluate_classifier
from random_weights import randomize

BASE_MODELS = {"resnet18": 64, "convnext_atto": 64, "vit_tiny_patch16_224": 224}


def with_random_blocks(model: nn.Module) -> nn.Module:
    """The network in evaluation mode, its blocks no longer silent."""
    for name, module in model.named_modules():
        if name.endswith("context"):
            randomize(module)
    return model.eval()


@pytest.mark.parametrize("block", ["gc", "nl_embedded_gaussian"])
@pytest.mark.parametrize("base", BASE_MODELS)
@pytest.mark.slow
def test_a_network_with_new_blocks_gives_the_same_outputs_to_the_bit(
    base: str, block: str, device: torch.device
) -> None:
    model = create_model(base, num_classes=5).eval().to(device)
    images = torch.randn(2, 3, BASE_MODELS[base], BASE_MODELS[base], device=device)
    with torch.inference_mode():
        expected = model(images)
        gcnet.insert(model, block)
        assert torch.equal(model(images), expected)


def test_an_evaluation_gives_the_numbers_of_the_cpu(device: torch.device) -> None:
    torch.manual_seed(1)
    model = with_random_blocks(create_model("gc_cifar_resnet20", num_classes=4)).double()
    batches = [
        Batch(torch.randn(7, 3, 32, 32).double(), torch.randint(4, (7,)), [str(index) for index in range(7)], [])
        for _ in range(3)
    ]
    expected = evaluate_classifier(copy.deepcopy(model), batches, num_classes=4)
    found = evaluate_classifier(model.to(device), batches, num_classes=4, device=device)
    assert (found.top1, found.top5, found.confusion) == (expected.top1, expected.top5, expected.confusion)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_detections_equal_those_on_the_cpu(device: torch.device) -> None:
    torch.manual_seed(1)
    model = create_model("mask_rcnn_gc_scenes_resnet", num_classes=3).eval().double()
    images = [torch.rand(3, 64, 64).double(), torch.rand(3, 51, 64).double()]
    with torch.no_grad():
        expected = copy.deepcopy(model)(images)
        found = model.to(device)([image.to(device) for image in images])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["labels"].cpu(), other["labels"])
        for name in ("boxes", "scores", "masks"):
            torch.testing.assert_close(one[name].cpu(), other[name], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_compiled_network_gives_the_outputs_and_gradients_of_the_plain_one(device: torch.device) -> None:
    blocks = [randomize(gcnet.build_block(name, channels=16, ratio=4)) for name in ("gc", "se")]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).to(
        device
    )
    images = torch.randn(2, 3, 32, 32, device=device)
    compiled = torch.compile(model, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager")
    parameters = list(model.parameters())
    found, expected = (
        [output, *torch.autograd.grad(output.square().sum(), parameters)]
        for output in (compiled(images), model(images))
    )
    assert_near_together(found, expected, torch.float32)


def test_captured_attention_and_gates_are_those_of_the_cpu(device: torch.device) -> None:
    torch.manual_seed(1)
    model = with_random_blocks(create_model("gc_cifar_resnet20", num_classes=5)).double()
    images = torch.randn(2, 3, 32, 32).double()
    kept = []
    for place in (torch.device("cpu"), device):
        placed = copy.deepcopy(model).to(place)
        with torch.no_grad(), capture(placed) as found:
            placed(images.to(place))
        kept.append([(name, attention.weights.cpu()) for name, attention in found.attention])
    assert kept[0]
    for (name, expected), (same, found) in zip(*kept, strict=True):
        assert name == same
        torch.testing.assert_close(found, expected)
