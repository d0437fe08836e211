"""Checkpoints of torchvision become networks with torchvision's outputs, and back without a changed bit."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, backbone_utils, mask_rcnn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from gcnet.checkpoints.library_networks import nearest_share
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.errors import UserError
from gcnet.models.card import card_of
from gcnet.models.conversion import Converted, convert_weights


@torch.no_grad()
def _randomize(model: nn.Module) -> nn.Module:
    """Random weights and statistics with which a detector finds objects of many classes."""
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            tensor.normal_(0.0, 0.1)
        elif "cls_score.weight" in key or "mask_fcn_logits.weight" in key:
            tensor.normal_(0.0, 0.3)
    return model.eval()


def _version_1(classes: int = 91) -> nn.Module:
    """`maskrcnn_resnet50_fpn` as torchvision builds it for its COCO_V1 weights."""
    torch.manual_seed(5)
    body = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
    model = mask_rcnn.MaskRCNN(backbone_utils._resnet_fpn_extractor(body, 3), num_classes=classes)
    overwrite_eps(model, 0.0)
    return _randomize(model)


def _version_2(name: str) -> nn.Module:
    torch.manual_seed(6)
    return _randomize(torchvision.models.get_model(name, weights=None, weights_backbone=None))


def _as_before_0_13(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename keys to those of the published COCO_V1 file, the inverse of `_load_from_state_dict` in torchvision."""
    renamed = {}
    for key, tensor in state.items():
        for level in range(4):
            key = key.replace(f"inner_blocks.{level}.0.", f"inner_blocks.{level}.")
            key = key.replace(f"layer_blocks.{level}.0.", f"layer_blocks.{level}.")
            key = key.replace(f"mask_head.{level}.0.", f"mask_head.mask_fcn{level + 1}.")
        renamed[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    return renamed


def _assert_same_detections(theirs: nn.Module, ours: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 211, 307, generator=generator), torch.rand(3, 401, 223, generator=generator)]
    for model in (theirs, ours):
        model.transform.min_size, model.transform.max_size = (320,), 480
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert len(one["labels"]) > 10 and len(set(one["labels"].tolist())) > 1
        for name in one:
            assert torch.equal(one[name], other[name]), name


def _assert_round_trip(converted: Converted, state: dict[str, Tensor]) -> None:
    exported = NETWORK_SOURCES["torchvision"].to_library(converted.model.state_dict(), converted.network)
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[key], tensor) for key, tensor in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("is_old", [False, True], ids=["keys of today", "keys before 0.13"])
def test_mask_rcnn_version_1_gives_the_detections_of_torchvision(is_old: bool) -> None:
    theirs = _version_1()
    state = _as_before_0_13(theirs.state_dict()) if is_old else theirs.state_dict()
    converted = convert_weights(state)
    assert (converted.source, converted.network.architecture) == ("torchvision", "mask_rcnn_resnet50")
    _assert_same_detections(theirs, converted.model)
    _assert_round_trip(converted, state)
    card = card_of(converted.model)
    assert card.class_names == tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
    assert card.category_ids == tuple(range(1, 91))
    assert "norm_eps is 0" in converted.notes[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("maskrcnn_resnet50_fpn_v2", "mask_rcnn_resnet50"),
        ("fasterrcnn_resnet50_fpn_v2", "faster_rcnn_resnet50"),
        ("fasterrcnn_resnet50_fpn", "faster_rcnn_resnet50"),
    ],
)
def test_other_detectors_give_the_detections_of_torchvision(name: str, architecture: str) -> None:
    theirs = _version_2(name)
    converted = convert_weights(theirs.state_dict())
    assert converted.network.architecture == architecture
    _assert_same_detections(theirs, converted.model)
    _assert_round_trip(converted, theirs.state_dict())


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnet18", "resnet18"),
        ("mobilenet_v3_small", "torchvision/mobilenet_v3_small"),
        ("squeezenet1_1", "torchvision/squeezenet1_1"),
        pytest.param("vit_b_16", "torchvision/vit_b_16", marks=pytest.mark.slow),
        pytest.param("swin_t", "torchvision/swin_t", marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", "torchvision/regnet_y_400mf", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", "torchvision/efficientnet_b0", marks=pytest.mark.slow),
        pytest.param("densenet121", "torchvision/densenet121", marks=pytest.mark.slow),
    ],
)
def test_classifiers_give_the_logits_of_torchvision(name: str, architecture: str) -> None:
    torch.manual_seed(2)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    converted = convert_weights(theirs.state_dict())
    assert (converted.source, converted.network.architecture) == ("torchvision", architecture)
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(converted.model(images), theirs(images))
    _assert_round_trip(converted, theirs.state_dict())
    preprocessing = card_of(converted.model).preprocessing
    assert preprocessing is not None and preprocessing["image_size"] == 224


def test_a_classifier_of_other_classes_is_recognized() -> None:
    theirs: Any = torchvision.models.resnet18(num_classes=5)
    converted = convert_weights(theirs.state_dict())
    assert converted.network.num_classes == 5


def test_a_misspelled_key_of_a_classifier_is_named_with_its_nearest_relative() -> None:
    state = torchvision.models.resnet18().state_dict()
    state["layer2.0.conv1.wieght"] = state.pop("layer2.0.conv1.weight")
    for source in ("torchvision", None):
        with pytest.raises(UserError, match=r"lacks layer2.0.conv1.weight \(nearest: \"layer2.0.conv1.wieght\"\)"):
            convert_weights(state, source)


def test_no_network_is_built_for_a_checkpoint_of_another_size() -> None:
    built: list[str] = []
    candidates = {"resnet18": 11_689_512, "unknown": None}
    share = nearest_share({"conv1.weight": torch.empty(3, 3)}, candidates, lambda name: built.append(name) or nn.ReLU())
    assert (share, built) == (0.0, [])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("layer3.0.bn1.weight"), "it lacks layer3.0.bn1.weight"),
        (
            lambda state: state.update({"fc2.weight": torch.ones(2)}),
            'it has the unknown fc2.weight (nearest: "fc.weight")',
        ),
        (
            lambda state: state.update({"conv1.weight": torch.ones(64, 3, 3, 3)}),
            "it has conv1.weight of shape (64, 3, 3, 3), expected (64, 3, 7, 7)",
        ),
        (lambda state: (state.pop("fc.weight"), state.pop("fc.bias")), "it lacks fc.weight, fc.bias"),
    ],
    ids=["missing", "unknown", "misshapen", "headless"],
)
def test_a_changed_classifier_is_recognized_and_the_change_alone_is_named(change: Any, problem: str) -> None:
    theirs: Any = torchvision.models.resnet18(num_classes=5)
    state = theirs.state_dict()
    change(state)
    with pytest.raises(UserError) as error:
        convert_weights(state)
    expected = "the state dict does not fit the network of torchvision resnet18 that its keys describe: "
    assert str(error.value) == expected + problem


def test_other_detectors_of_torchvision_are_not_recognized() -> None:
    state = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights_backbone=None).state_dict()
    with pytest.raises(UserError, match="not recognized"):
        convert_weights(state)
