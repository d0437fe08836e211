"""Parameters, FLOPs, time and memory, judged by counts done by hand and by networks whose cost is published."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from gcnet.analysis.cost import (
    analytic_flops,
    as_meta,
    count_flops,
    count_parameters,
    submodule_input_shapes,
)
from gcnet.analysis.memory import peak_memory, training_step_peak_memory
from gcnet.analysis.timing import Precision, fill_zero_parameters, forward_call, interleaved_times, training_step_call
from gcnet.blocks import block_options, build_block, list_blocks
from gcnet.errors import UserError
from gcnet.models.create import create_model
from gcnet.models.detector.backbone import DeformableConv2d
from gcnet.tasks.detection.costs import count_detector_flops

CHANNELS, HEIGHT, WIDTH = 32, 7, 5
POSITIONS = HEIGHT * WIDTH


def test_a_parameter_used_twice_counts_once() -> None:
    layer = nn.Linear(5, 5, bias=False)
    assert count_parameters(nn.Sequential(layer, layer)) == 25


def test_a_convolution_costs_two_flops_a_multiply_add_for_one_image() -> None:
    convolution = nn.Conv2d(3, 7, 3, padding=1)
    assert count_flops(convolution, (5, 3, 11, 13)) == 2 * 11 * 13 * 3 * 7 * 9


def test_resnet50_costs_the_published_4_09_billion_multiply_adds() -> None:
    from torchvision.models import ResNet50_Weights, resnet50

    published = ResNet50_Weights.IMAGENET1K_V1.meta["_ops"]
    assert count_flops(resnet50(), (1, 3, 224, 224)) / 2e9 == pytest.approx(published, abs=0.005)


def test_counting_leaves_the_model_unchanged() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Dropout())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_flops(model, (2, 3, 7, 7))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_counting_copies_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(*_: object) -> None:
        raise AssertionError("values were copied, which takes the memory of the network on its GPU")

    model = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5))
    model[0].weight.requires_grad_(False)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", copied)
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", copied)
    assert count_flops(model, (1, 3, 7, 7)) == 2 * 3 * 5 * 7 * 7
    assert [parameter.requires_grad for parameter in as_meta(model).parameters()] == [False, True, True]


@pytest.mark.parametrize("name", list_blocks())
def test_the_counter_agrees_with_the_formula_of_every_block(name: str) -> None:
    block = build_block(name, channels=CHANNELS, ratio=4 if "ratio" in block_options(name) else None)
    expected = analytic_flops(name, channels=CHANNELS, positions=POSITIONS, ratio=4)
    assert count_flops(block, (3, CHANNELS, HEIGHT, WIDTH)) == expected


@pytest.mark.parametrize("name", [name for name in list_blocks() if name.startswith("nl_")])
def test_the_formula_holds_for_sub_sampled_keys_and_another_reduction(name: str) -> None:
    block = build_block(name, channels=CHANNELS, sub_sample=True, reduction=4)
    expected = analytic_flops(
        name, channels=CHANNELS, positions=POSITIONS, reduction=4, key_positions=(HEIGHT // 2) * (WIDTH // 2)
    )
    assert count_flops(block, (1, CHANNELS, HEIGHT, WIDTH)) == expected


@pytest.mark.parametrize("pooling", ["attention", "average"])
@pytest.mark.parametrize("fusion", ["add", "scale", "both"])
def test_the_formula_of_global_context_holds_for_its_variants(pooling: str, fusion: str) -> None:
    block = build_block("gc", channels=CHANNELS, ratio=4, pooling=pooling, fusion=fusion)
    expected = analytic_flops("gc", channels=CHANNELS, positions=POSITIONS, ratio=4, pooling=pooling, fusion=fusion)
    assert count_flops(block, (1, CHANNELS, HEIGHT, WIDTH)) == expected


def test_costs_of_global_context_equal_those_counted_by_hand() -> None:
    logits = pooled = 2 * 35 * 32
    squeeze = expand = 2 * 32 * 8
    assert analytic_flops("gc", channels=32, positions=35, ratio=4) == logits + pooled + squeeze + expand


def test_a_block_without_a_formula_has_no_analytic_count() -> None:
    assert analytic_flops("my_block", channels=32, positions=35) is None


def test_blocks_inside_a_network_are_counted_at_the_size_they_meet() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), build_block("snl", channels=32))
    assert submodule_input_shapes(model, (2, 3, 14, 10), ["1"]) == {"1": (2, 32, 7, 5)}
    assert count_flops(model[1], (2, 32, 7, 5)) == analytic_flops("snl", channels=32, positions=POSITIONS)


def test_a_deformable_convolution_costs_a_convolution_and_that_of_its_offsets() -> None:
    plain = nn.Conv2d(6, 10, 3, stride=2, padding=1, groups=2)
    positions = 6 * 9  # of an output from 11 x 17
    own, offsets = 10 * (6 // 2) * 9, (2 * 9) * 6 * 9
    assert count_flops(DeformableConv2d(plain), (3, 6, 11, 17)) == 2 * positions * (own + offsets)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def multiply_adds_after_the_backbone(stages: int = 1, box_outputs: int = 81 * 5) -> int:
    """Pyramid and proposals of Mask R-CNN on ResNet-50 at 800 x 1280, 1000 boxes and 100 masks, by hand."""
    cells = {256: 200 * 320, 512: 100 * 160, 1024: 50 * 80, 2048: 25 * 40}
    pyramid = sum(count * (channels * 256 + 256 * 256 * 9) for channels, count in cells.items())
    proposals = (sum(cells.values()) + 13 * 20) * (256 * 256 * 9 + 256 * 3 * 5)
    box = 7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * box_outputs
    mask = 14 * 14 * (4 * 256 * 256 * 9 + 256 * 256 * 4) + 28 * 28 * 256 * 81
    return pyramid + proposals + stages * (1000 * box + 100 * mask)


def test_costs_of_a_detector_equal_those_counted_by_hand() -> None:
    model = on_meta("mask_rcnn_resnet50")
    body = count_flops(on_meta("resnet50"), (1, 3, 800, 1280)) - 2 * 2048 * 1000  # without its linear layer
    assert count_detector_flops(model) == body + 2 * multiply_adds_after_the_backbone()
    assert count_detector_flops(model) / 2e9 == pytest.approx(259.34, abs=0.005)
    assert count_detector_flops(model, (790, 1270)) == count_detector_flops(model), "images are padded"
    fewer = count_detector_flops(model, proposals=999, detections=100)
    assert count_detector_flops(model) - fewer == 2 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * 81 * 5)
    without = count_detector_flops(model, proposals=0, detections=0)
    assert without < count_detector_flops(model, detections=0) < count_detector_flops(model)


def test_a_cascade_costs_its_heads_three_times() -> None:
    body = count_flops(on_meta("resnet50"), (1, 3, 800, 1280)) - 2 * 2048 * 1000
    expected = body + 2 * multiply_adds_after_the_backbone(stages=3, box_outputs=81 + 4)
    assert count_detector_flops(on_meta("cascade_mask_rcnn_resnet50")) == expected


@pytest.mark.parametrize("size", [(800, 1280), (800, 1344), (224, 224)])
def test_global_context_adds_a_thousandth_at_most_to_a_detector(size: tuple[int, int]) -> None:
    plain, context = (count_detector_flops(on_meta(f"mask_rcnn_{name}"), size) for name in ("resnet50", "gc_resnet50"))
    positions = {512: 64, 1024: 256, 2048: 1024}  # pixels to a position of c3, c4 and c5
    blocks = {512: 4, 1024: 6, 2048: 3}
    by_formula = sum(
        blocks[channels] * analytic_flops("gc", channels=channels, positions=size[0] * size[1] // area)
        for channels, area in positions.items()
    )
    assert context - plain == by_formula
    assert 0 < context - plain <= 0.001 * plain


def test_attention_and_deformable_convolutions_of_a_detector_are_counted() -> None:
    size = (160, 224)
    plain = count_detector_flops(on_meta("mask_rcnn_resnet50"), size)
    non_local = count_detector_flops(on_meta("mask_rcnn_nl_resnet50"), size) - plain
    assert non_local == analytic_flops("nl_embedded_gaussian", channels=1024, positions=10 * 14)
    offsets = {128: 20 * 28 * 4, 256: 10 * 14 * 6, 512: 5 * 7 * 3}  # positions times blocks, by width
    expected = 2 * sum(count * 2 * 9 * width * 9 for width, count in offsets.items())
    assert count_detector_flops(on_meta("mask_rcnn_resnet50_dcn"), size) - plain == expected


def test_counting_other_networks_as_a_detector_is_refused() -> None:
    with pytest.raises(UserError, match="takes a detector, such as mask_rcnn_resnet50; found CifarResNet"):
        count_detector_flops(on_meta("cifar_resnet20"))
    model = on_meta("mask_rcnn_scenes_resnet")
    with pytest.raises(UserError, match=r"found \(0, 64\), 1000 proposals and 100 detections"):
        count_detector_flops(model, (0, 64))
    with pytest.raises(UserError, match="-1 proposals"):
        count_detector_flops(model, (64, 64), proposals=-1)


def test_times_are_interleaved_and_every_variant_gets_the_same_repetitions() -> None:
    order: list[str] = []
    calls = {name: partial(order.append, name) for name in ("a", "b", "c")}
    times = interleaved_times(calls, repetitions=3, warm_up=1)
    rounds = [order[start : start + 3] for start in range(0, 12, 3)]
    assert len(order) == 12 and all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1, "no call always follows the same other one"
    assert all(timing.repetitions == 3 and 0 <= timing.minimum <= timing.median for timing in times.values())


def test_zero_matrices_of_a_new_block_are_filled_before_timing() -> None:
    block = build_block("gc", channels=32, ratio=4)
    x = torch.randn(2, 32, 7, 5)
    assert torch.equal(block(x), x)
    assert fill_zero_parameters(block) == 1
    assert not torch.equal(block(x), x)


def test_timed_steps_train_without_moving_the_weights_far() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(2, 3, 7, 7)
    model(images)
    before = model[0].weight.detach().clone()
    training_step_call(model, images)()
    assert model[0].weight.grad is not None and model[0].weight.grad.any()
    torch.testing.assert_close(model[0].weight, before)
    forward_call(model, images)()
    assert not model.training


def test_calls_run_under_the_numerics_they_are_given() -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    class Look(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.append((y.dtype, x.is_contiguous(memory_format=torch.channels_last)))
            return y

    precision = Precision(torch.bfloat16, channels_last=True)
    forward_call(Look(3, 5, 1), torch.randn(2, 3, 7, 5), precision)()
    training_step_call(Look(3, 5, 1), torch.randn(2, 3, 7, 5), precision)()
    assert seen == [(torch.bfloat16, True)] * 2


def _wide_network(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.ReLU())


@pytest.mark.slow
def test_peak_memory_of_a_step_grows_with_the_activations_that_must_be_kept() -> None:
    shape = (8, 3, 128, 128)
    activation = 4 * 8 * 128 * 128
    small, large = (training_step_peak_memory(partial(_wide_network, width), shape) for width in (16, 80))
    assert small is not None and large is not None
    rise = (large - small) / (64 * activation)
    assert 1.5 < rise < 8, "the step keeps or makes between two and a few maps of 64 more channels"


def _copy_twice(values: int) -> Callable[[], object]:
    ones = torch.ones(values)

    def call() -> torch.Tensor:
        ones.clone()  # freed at once
        return ones.clone()

    return call


@pytest.mark.slow
@pytest.mark.parametrize("values", [3_000_000, 12_000_000])
def test_peak_memory_of_a_copy_after_another_is_that_of_one(values: int) -> None:
    found = peak_memory(partial(_copy_twice, values), warm_up=1)
    assert found == pytest.approx(4 * values, rel=0.03)


def test_peak_memory_of_a_builder_that_cannot_be_sent_is_not_claimed() -> None:
    assert training_step_peak_memory(lambda: nn.Identity(), (1, 3, 2, 2)) is None


def test_analytic_counts_are_whole_numbers() -> None:
    assert all(
        math.trunc(flops) == flops
        for name in list_blocks()
        if (flops := analytic_flops(name, channels=48, positions=35)) is not None
    )
