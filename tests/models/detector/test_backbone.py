"""The pyramid on networks of any number of stages, and the small detectors: sizes, anchors, sight, training, files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insert
from gcnet.models.backbones.scenes_resnet import RECEPTIVE_FIELD
from gcnet.models.create import create_model
from gcnet.models.detector.backbone import DeformableConv2d, build_pyramid, make_deformable
from gcnet.models.detector.cascade import CascadeRoIHeads
from gcnet.models.detector.mask_rcnn import build_mask_rcnn
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.models.registry import build_base_model

STRIDES = {
    "resnet18": (4, 8, 16, 32, 64),
    "resnet50": (4, 8, 16, 32, 64),
    "cifar_resnet20": (1, 2, 4, 8),
    "cifar_resnet56": (1, 2, 4, 8),
    "scenes_resnet": (4,),
}
SMALL = [name for name in STRIDES if not name.startswith("resnet")]


@pytest.mark.parametrize("base", STRIDES)
def test_maps_are_as_many_as_stages_and_as_large_as_their_strides_say(base: str) -> None:
    with torch.device("meta"):
        backbone, strides = build_pyramid(build_base_model(base, 1), channels=13, batch_norm=False)
        maps = backbone(torch.randn(2, 3, 128, 192))
    assert strides == STRIDES[base]
    assert [tuple(level.shape) for level in maps.values()] == [(2, 13, 128 // s, 192 // s) for s in STRIDES[base]]
    stages = max(len(strides) - 1, 1)
    assert list(maps) == [str(level) for level in range(stages)] + ["pool"] * (len(strides) - stages)
    assert len(backbone.fpn.inner_blocks) == stages


def test_determining_strides_changes_neither_the_backbone_nor_random_states() -> None:
    base = build_base_model("resnet18", 1)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    torch.manual_seed(3)
    ours, _ = build_pyramid(base, channels=7, batch_norm=False)
    stages = {f"layer{number + 1}": str(number) for number in range(4)}
    torch.manual_seed(3)
    reference = BackboneWithFPN(base, stages, [64, 128, 256, 512], 7)
    assert all(torch.equal(value, reference.fpn.state_dict()[name]) for name, value in ours.fpn.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in ours.body.state_dict().items())
    assert ours.body.training
    assert not any(module._forward_hooks for module in ours.modules())


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(UserError, match=r"stages layer1, layer2, \.\.\., found SqueezeNet"):
        build_mask_rcnn(squeezenet1_1())


def test_stages_that_do_not_halve_the_map_are_refused() -> None:
    base = build_base_model("resnet18", 1)
    base.layer3[0].conv1.stride = base.layer3[0].downsample[0].stride = (1, 1)
    with pytest.raises(UserError, match=r"must double from stage to stage, found strides \[4, 8, 8, 16\]"):
        build_mask_rcnn(base)


@pytest.mark.parametrize("base", ["cifar_resnet20", "scenes_resnet"])
@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
def test_anchors_of_a_small_detector_lie_on_every_cell_of_its_maps(base: str, conventions: str) -> None:
    model = create_model(f"mask_rcnn_{base}", num_classes=3, detector={"conventions": conventions}).eval()
    anchors: list[Tensor] = []
    model.rpn.anchor_generator.register_forward_hook(lambda _, __, output: anchors.append(output[0]))
    with torch.no_grad():
        model([torch.rand(3, 64, 64)])
    (found,) = anchors
    cells = [(64 // stride) ** 2 for stride in STRIDES[base]]
    assert len(found) == 3 * sum(cells)
    sides = (found[:, 2:] - found[:, :2]).prod(dim=1).sqrt()
    for level, side in zip(sides.split([3 * count for count in cells]), model_sides(base), strict=True):
        assert (level - side).abs().max() <= (1 if conventions == "torchvision" else 1e-4)
    assert found[: 3 * cells[0], :2].max() > 64 - STRIDES[base][0] - 14, "the last cell is by the image's edge"


def model_sides(base: str) -> tuple[float, ...]:
    return (10.0,) if base == "scenes_resnet" else (10.0, 16.0, 24.0, 32.0)


def test_anchors_are_eight_strides_wide_by_default() -> None:
    with torch.device("meta"):
        sizes = [
            build_mask_rcnn(build_base_model(name, 1)).rpn.anchor_generator.sizes
            for name in ("resnet18", "cifar_resnet20")
        ]
    assert sizes == [((32,), (64,), (128,), (256,), (512,)), ((8,), (16,), (32,), (64,))]


def reached(image: Tensor) -> tuple[int, int]:
    """The first and the last column at which an image has a gradient."""
    columns = torch.nonzero(image.grad.abs().sum(dim=(0, 1, 2))).flatten()
    return int(columns[0]), int(columns[-1])


def sight(name: str) -> tuple[int, int]:
    """The columns of an image of 128 pixels that the class of a box from 60 to 70 depends on."""
    model = create_model(name, num_classes=3).eval()
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.normal_(std=0.1)
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    maps = model.backbone(image)
    heads = model.roi_heads
    regions = heads.box_roi_pool(maps, [torch.tensor([[60.0, 60.0, 70.0, 70.0]])], [(128, 128)])
    heads.box_predictor(heads.box_head(regions))[0].sum().backward()
    return reached(image)


def test_scores_of_a_box_depend_on_little_more_than_the_receptive_field() -> None:
    # A sample lies between cells, of which each is 4 pixels: one cell further, and one more by the pyramid's 3x3.
    beyond = (RECEPTIVE_FIELD - 1) // 2 + 4 + 4
    first, last = sight("mask_rcnn_scenes_resnet")
    assert beyond < 32, "the least distance of what a class depends on in the scenes"
    assert 60 - beyond <= first < 60 - 15
    assert 70 + 15 < last < 70 + beyond


@pytest.mark.parametrize("prefix", ["gc", "nl", "se", "snl"])
def test_with_a_block_scores_of_a_box_depend_on_the_whole_image(prefix: str) -> None:
    first, last = sight(f"mask_rcnn_{prefix}_scenes_resnet")
    assert first <= 1 and last >= 126


def targets() -> list[dict[str, Tensor]]:
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 10:20, 30:40] = 1
    masks[1, 40:51, 5:16] = 1
    boxes = torch.tensor([[30.0, 10.0, 40.0, 20.0], [5.0, 40.0, 16.0, 51.0]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}]


@pytest.mark.parametrize("name", [*(f"mask_rcnn_gc_{base}" for base in SMALL), "cascade_mask_rcnn_scenes_resnet"])
@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
@pytest.mark.slow
def test_a_small_detector_trains_every_parameter_and_finds_things(name: str, conventions: str) -> None:
    model = create_model(name, num_classes=3, detector={"conventions": conventions, "norm": "batch"})
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.add_(0.05 * torch.randn(parameter.shape))
    image = [torch.rand(3, 64, 64)]
    losses = model(image, targets())
    sum(losses.values()).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        (found,) = model.eval()(image)
    assert found["masks"].shape == (len(found["labels"]), 1, 64, 64)
    assert set(found["labels"].tolist()) <= {1, 2, 3}


@pytest.mark.slow
def test_a_small_detector_learns_where_two_squares_are() -> None:
    image = 0.2 + 0.1 * torch.rand(3, 64, 64)
    (target,) = targets()
    for mask, color in zip(target["masks"], (0, 2), strict=True):
        image[color][mask.bool()] = 1.0
    model = create_model("mask_rcnn_scenes_resnet", num_classes=3, detector={"norm": "batch"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(120):
        loss = sum(model([image, image], [target, target]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (found,) = model.eval()([image])
    best = {label: index for index, label in reversed(list(enumerate(found["labels"].tolist())))}
    for box, label, mask in zip(target["boxes"], (1, 3), target["masks"].bool(), strict=True):
        assert found["scores"][best[label]] > 0.5
        assert (found["boxes"][best[label]] - box).abs().max() < 3
        inside = found["masks"][best[label], 0] > 0.5
        assert (inside & mask).sum() / (inside | mask).sum() > 0.6


OPTIONS = {
    "conventions": "torchvision",
    "norm": "frozen",
    "norm_eps": 0.0,
    "box_head": "4conv1fc",
    "image_size": [71, 89],
    "anchor_sizes": [9.0, 18.0, 27.0, 36.0],
    "rois_per_image": 11,
    "fpn_channels": 24,
    "head_width": 40,
}


def test_options_of_a_detector_travel_with_its_file(tmp_path: Path) -> None:
    model = create_model("cascade_mask_rcnn_gc_cifar_resnet20", num_classes=2, detector=OPTIONS).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cls_score" in name:
                parameter.normal_()
    save_model(model, tmp_path / "a.safetensors", class_names=("cat", "dog"), category_ids=(17, 18))
    again = load_model(tmp_path / "a.safetensors")
    assert again.model_card == model.model_card.__class__(
        architecture="cascade_mask_rcnn_cifar_resnet20",
        num_classes=2,
        insertions=again.model_card.insertions,
        class_names=("cat", "dog"),
        detector=OPTIONS | {"image_size": (71, 89), "anchor_sizes": (9.0, 18.0, 27.0, 36.0)},
        category_ids=(17, 18),
    )
    assert (again.transform.min_size, again.transform.max_size) == ((71,), 89)
    assert again.rpn.anchor_generator.sizes == ((9.0,), (18.0,), (27.0,), (36.0,))
    assert isinstance(again.roi_heads, CascadeRoIHeads)
    assert [stage.fg_bg_sampler.batch_size_per_image for stage in again.roi_heads.stages] == [11] * 3
    image = [torch.rand(3, 67, 53)]
    with torch.no_grad():
        expected, found = model(image), again(image)
    assert len(expected[0]["labels"]) > 0
    assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
    save_model(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_new_deformable_convolution_equals_the_original_convolution(stride: int, groups: int) -> None:
    plain = nn.Conv2d(8, 12, 3, stride, padding=1, groups=groups, bias=False)
    deformable = DeformableConv2d(plain)
    x = torch.randn(2, 8, 11, 13)
    torch.testing.assert_close(deformable(x), plain(x), atol=1e-6, rtol=1e-5)
    assert set(deformable.state_dict()) == {"weight", "conv_offset.weight", "conv_offset.bias"}
    assert deformable.conv_offset.weight.shape == (18, 8, 3, 3)


def sample(feature: np.ndarray, y: float, x: float) -> float:
    """Bilinear, zero outside."""
    padded, top, left = np.pad(feature, 2), math.floor(y), math.floor(x)
    if not (-1 < y < feature.shape[0] and -1 < x < feature.shape[1]):
        return 0.0
    corners = padded[top + 2 : top + 4, left + 2 : left + 4]
    return float(np.array([1 - y + top, y - top]) @ corners @ np.array([1 - x + left, x - left]))


def test_shifted_samples_equal_a_loop() -> None:
    torch.manual_seed(0)
    module = DeformableConv2d(nn.Conv2d(2, 3, 3, stride=2, padding=1)).double()
    nn.init.normal_(module.conv_offset.weight, std=0.3)
    nn.init.normal_(module.conv_offset.bias, std=0.5)
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        found, offsets = module(x)[0], module.conv_offset(x)[0].numpy()
    weight, bias, pixels = module.weight.detach().numpy(), module.bias.detach().numpy(), x[0].numpy()
    expected = np.zeros((3, 3, 4))
    for out in range(3):
        for row in range(3):
            for column in range(4):
                total = bias[out]
                for tap in range(9):
                    y = 2 * row - 1 + tap // 3 + offsets[2 * tap, row, column]
                    z = 2 * column - 1 + tap % 3 + offsets[2 * tap + 1, row, column]
                    for channel in range(2):
                        total += weight[out, channel, tap // 3, tap % 3] * sample(pixels[channel], y, z)
                expected[out, row, column] = total
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_under_autocast_it_is_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = DeformableConv2d(nn.Conv2d(6, 6, 3, padding=1)), torch.randn(2, 6, 9, 11)
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_deformable_convolutions_replace_conv2_of_c3_to_c5_without_changing_the_output() -> None:
    model = build_base_model("resnet50", 3).eval()
    images = torch.rand(1, 3, 64, 64)
    names = set(model.state_dict())
    with torch.no_grad():
        before = model(images)
        assert make_deformable(model) == 4 + 6 + 3
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=1e-4)
        insert(model, "gc", blocks=(-1,))
        torch.testing.assert_close(model(images), before, atol=1e-5, rtol=1e-4)
    assert names < set(model.state_dict())
    assert not isinstance(model.layer1[0].conv2, DeformableConv2d)


def test_a_network_of_basic_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="ResNet has none"):
        make_deformable(build_base_model("resnet18", 3))
