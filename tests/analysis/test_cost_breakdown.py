"""The cost of stages and blocks, judged by hand, by the whole network's, and by what autograd saves on the CPU."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from gcnet.analysis.cost import analytic_flops, count_flops, count_parameters
from gcnet.analysis.cost_breakdown import CostBreakdown, cost_breakdown
from gcnet.blocks import block_options, build_block, list_blocks
from gcnet.models.create import create_model
from gcnet.tasks.detection.costs import DetectorCosts, count_detector_flops

COSTS = DetectorCosts()
DETECTOR_STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "pyramid", "proposals", "boxes", "masks"]


def on_meta(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **arguments)


def saved_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """Bytes of the storages that autograd holds on to on the CPU, found by their addresses."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model.train()(images)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(size for address, size in storages.items() if address not in own)


def by_stage(account: CostBreakdown, what: str) -> dict[str, int]:
    return {stage.name: getattr(stage, what) for stage in account.stages}


def test_a_convolution_keeps_its_input_and_a_rectifier_its_output() -> None:
    account = cost_breakdown(nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU()), (7, 11), 2)
    assert by_stage(account, "saved_bytes") == {"0": 4 * 2 * 3 * 77, "1": 4 * 2 * 5 * 77}
    assert account.total.saved_bytes == 4 * 2 * 8 * 77


def test_tensors_saved_twice_and_views_count_once() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(2).square() * x.flatten(2)).sigmoid()

    network = nn.Sequential(nn.Conv2d(3, 5, 1), Twice())
    image, result = 4 * 3 * 77, 4 * 5 * 77
    assert (
        cost_breakdown(network, (7, 11), 1).total.saved_bytes == image + 3 * result
    )  # the map, its square, and the sigmoid


@pytest.mark.parametrize("name", list_blocks())
def test_a_block_keeps_on_the_meta_device_what_it_keeps_on_the_cpu(name: str) -> None:
    block = build_block(name, channels=32, ratio=4 if "ratio" in block_options(name) else None)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), block)
    assert cost_breakdown(network, (9, 7), 3).total.saved_bytes == saved_bytes(network, torch.randn(3, 3, 9, 7))


@pytest.mark.parametrize("name", ["gc_cifar_resnet20", "nl_resnet18", "timm/vit_tiny_patch16_224", "resnet18"])
def test_a_network_keeps_on_the_meta_device_what_it_keeps_on_the_cpu(name: str) -> None:
    side, model = (224 if "vit" in name else 37), create_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    account = cost_breakdown(model, (side, side), 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert account.total.saved_bytes == saved_bytes(model, torch.randn(2, 3, side, side))


def test_stages_sum_up_to_the_network_and_blocks_are_in_them() -> None:
    model = on_meta("gc_resnet50")
    account = cost_breakdown(model, (224, 224), 2)
    assert account.total.flops == count_flops(model, (1, 3, 224, 224))
    assert account.total.parameters == count_parameters(model) == 28_078_773
    for what in ("parameters", "flops", "saved_bytes"):
        assert sum(by_stage(account, what).values()) == getattr(account.total, what)
    # Of torchvision's ResNet-50, and 2CP + 2C + 3P + 1 for each of the blocks.
    assert by_stage(account, "parameters") == {
        "stem": 64 * 3 * 49 + 128,
        "layer1": 215_808,
        "layer2": 1_219_584 + 4 * 33_889,
        "layer3": 7_098_368 + 6 * 133_313,
        "layer4": 14_964_736 + 3 * 528_769,
        "head": 2048 * 1000 + 1000,
    }
    assert [block.name for block in account.blocks[:2]] == ["layer2.0.context", "layer2.1.context"]
    assert len(account.blocks) == 13
    assert account.blocks[0].parameters == 33_889
    assert account.blocks[0].flops == analytic_flops("gc", channels=512, positions=28 * 28)


def test_flops_are_of_one_image_and_what_is_kept_grows_with_the_batch() -> None:
    one, five = (cost_breakdown(on_meta("gc_cifar_resnet20"), (32, 32), batch) for batch in (1, 5))
    assert by_stage(one, "flops") == by_stage(five, "flops")
    assert 4.9 < five.total.saved_bytes / one.total.saved_bytes <= 5


@pytest.mark.parametrize("name", ["mask_rcnn_gc_resnet18", "cascade_mask_rcnn_gc_resnet50_dcn"])
def test_a_detector_is_broken_down_from_its_stem_to_its_masks(name: str) -> None:
    model = on_meta(name, num_classes=3)
    account = cost_breakdown(model, (96, 160), 2, stages=COSTS.stages, run=COSTS.run_on_meta)
    assert list(by_stage(account, "flops")) == DETECTOR_STAGES
    assert account.total.flops == sum(by_stage(account, "flops").values()) == count_detector_flops(model, (96, 160))
    assert account.total.parameters == sum(by_stage(account, "parameters").values()) == count_parameters(model)
    assert all(block.name.startswith("backbone.body.layer") for block in account.blocks)
    wide = on_meta(name, num_classes=3, detector={"rois_per_image": 1024})
    more = cost_breakdown(wide, (96, 160), 2, stages=COSTS.stages, run=COSTS.run_on_meta)
    kept, doubled = by_stage(account, "saved_bytes"), by_stage(more, "saved_bytes")
    assert [doubled[stage] // kept[stage] for stage in ("pyramid", "boxes", "masks")] == [1, 2, 2]


def test_parameters_of_the_network_itself_are_separate_from_its_parts() -> None:
    account = cost_breakdown(on_meta("timm/vit_tiny_patch16_224"), (224, 224), 1)
    assert by_stage(account, "parameters")["other"] == 192 * (14 * 14 + 1 + 1)  # positions, class token
    assert account.blocks == ()
