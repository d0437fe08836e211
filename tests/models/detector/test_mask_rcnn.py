"""Mask R-CNN: torchvision's numbers with torchvision's parts, parameters to the unit, gradients, blocks, files."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import FrozenBatchNorm2d

from gcnet.blocks import BLOCKS
from gcnet.errors import UserError
from gcnet.framework.fixed_batch_norm import FixedBatchNorm2d
from gcnet.insertion import context_parameters, insert
from gcnet.models.create import create_model
from gcnet.models.detector.backbone import DeformableConv2d, set_norms
from gcnet.models.detector.cascade import CascadeRoIHeads
from gcnet.models.detector.mask_rcnn import build_mask_rcnn, check_detector_options
from gcnet.models.detector.roi_heads import MMDetRoIHeads
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model
from gcnet.models.registry import build_base_model, list_detectors

SMALL = (96, 160)


def detector(**options: object) -> GeneralizedRCNN:
    torch.manual_seed(0)
    return build_mask_rcnn(build_base_model("resnet18", 1), **{"num_classes": 6, "image_size": SMALL, **options})


def photographs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 71, 97, generator=generator), torch.rand(3, 113, 89, generator=generator)]


def targets() -> list[dict[str, torch.Tensor]]:
    masks = torch.zeros(1, 71, 97, dtype=torch.uint8)
    masks[0, 10:50, 20:80] = 1
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return [
        {"boxes": torch.tensor([[20.0, 10.0, 80.0, 50.0]]), "labels": torch.tensor([3]), "masks": masks},
        {**nothing, "masks": torch.zeros(0, 113, 89, dtype=torch.uint8)},
    ]


def calibrated(model: nn.Module) -> nn.Module:
    """Statistics and weights at which a random network finds things of several classes."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.weight.data.fill_(0.5)
            module.running_var.fill_(2.0)
    for name, parameter in model.named_parameters():
        if "cls_score" in name or "bbox_pred" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "eps"), [(MaskRCNN, 1e-5), (MaskRCNN, 0.0), (FasterRCNN, 1e-5)])
def test_with_torchvisions_parts_and_weights_the_outputs_are_torchvisions(kind: type[FasterRCNN], eps: float) -> None:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=lambda width: FrozenBatchNorm2d(width, eps=eps)
    )
    reference = calibrated(kind(backbone, 7, min_size=SMALL[0], max_size=SMALL[1]))
    ours = detector(conventions="torchvision", norm="frozen", norm_eps=eps, masks=kind is MaskRCNN).eval()
    ours.load_state_dict(reference.state_dict())
    with torch.no_grad():
        expected, found = reference(photographs()), ours(photographs())
    for one, other in zip(expected, found, strict=True):
        assert len(one["labels"]) > 3
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
def test_faster_rcnn_is_mask_rcnn_without_its_mask_head(conventions: str) -> None:
    narrow = {"fpn_channels": 16, "head_width": 32}
    boxes, masks = (detector(conventions=conventions, masks=found, **narrow) for found in (False, True))
    assert set(masks.state_dict()) - set(boxes.state_dict()) == {key for key in masks.state_dict() if ".mask_" in key}
    boxes.load_state_dict({key: value for key, value in masks.state_dict().items() if ".mask_" not in key})
    both = [calibrated(model) for model in (boxes, masks)]
    with torch.no_grad():
        found, expected = (model(photographs()) for model in both)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == {"boxes", "labels", "scores"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    without = [{key: value for key, value in target.items() if key != "masks"} for target in targets()]
    losses = []
    for model, told in ((boxes, without), (masks, targets())):
        torch.manual_seed(3)
        losses.append(model.train()(photographs(), told))
    assert set(losses[1]) - set(losses[0]) == {"loss_mask"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_the_detector_of_boxes_has_the_blocks_of_its_name() -> None:
    with torch.device("meta"):
        model = create_model("faster_rcnn_gc_resnet50_dcn", num_classes=3)
    assert context_parameters(model)
    assert not model.roi_heads.has_mask()


COUNTS = {
    "plain": ({}, 44_400_693, 44.40),
    "one nl": ({"block": "nl_embedded_gaussian", "blocks": (-2,), "position": "after_add"}, None, 46.50),
    "one snl": ({"block": "snl", "blocks": (-2,), "position": "after_add"}, None, 45.45),
    "one gc": ({"block": "gc", "blocks": (-2,), "position": "after_add"}, None, 44.53),
    "gc r4": ({"block": "gc", "ratio": 4, "stages": (3, 4, 5)}, None, 54.40),
    "gc r8": ({"block": "gc", "ratio": 8, "stages": (3, 4, 5)}, None, 49.42),
    "gc r16": ({"block": "gc", "stages": (3, 4, 5)}, 44_400_693 + 2_521_741, 46.92),
    "gc r32": ({"block": "gc", "ratio": 32, "stages": (3, 4, 5)}, None, 45.68),
}


@pytest.mark.parametrize(("placement", "exact", "millions"), COUNTS.values(), ids=COUNTS)
@pytest.mark.slow
def test_parameters_are_those_of_the_papers_tables(placement: dict, exact: int | None, millions: float) -> None:
    with torch.device("meta"):
        model = create_model("mask_rcnn_resnet50", **{"stages": (4,), **placement} if placement else {})
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 2) == millions
    assert exact is None or count == exact


@pytest.mark.slow
@pytest.mark.parametrize("name", list_detectors())
def test_every_detector_is_built_by_name_with_blocks_at_the_sites_of_the_prefix(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=3)
    assert type(model.roi_heads) is (CascadeRoIHeads if name.startswith("cascade") else MMDetRoIHeads)
    assert any(isinstance(module, DeformableConv2d) for module in model.modules()) == name.endswith("_dcn")
    classifiers = [value for key, value in model.state_dict().items() if key.endswith("cls_score.weight")]
    assert [len(weight) for weight in classifiers] == [4] * (3 if name.startswith("cascade") else 1)
    assert bool(context_parameters(model)) == any(f"_{block}_" in name for block in ("gc", "snl", "se", "nl"))


@pytest.mark.slow
@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
@pytest.mark.parametrize("box_head", ["2fc", "4conv1fc"])
def test_it_trains_every_parameter_and_finds_things_in_images_of_any_size(conventions: str, box_head: str) -> None:
    model = detector(conventions=conventions, box_head=box_head)
    insert(model, "gc", ratio=4)
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.add_(0.05 * torch.randn(parameter.shape))
    losses = model(photographs(), targets())
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    calibrated(model)
    # torchvision's arithmetic rounds the side of a line down to no pixel at all.
    odd = [torch.rand(3, 1, 300), torch.rand(3, 211, 1)] if conventions == "mmdet" else [torch.rand(3, 17, 11)] * 2
    with torch.no_grad():
        for image, found in zip([*photographs(), *odd], model(photographs()) + model(odd), strict=True):
            height, width = image.shape[1:]
            assert found["boxes"].shape == (len(found["labels"]), 4)
            assert found["masks"].shape == (len(found["labels"]), 1, height, width)
            assert (found["labels"] >= 1).all() and (found["labels"] <= 6).all()
            assert (found["scores"].diff() <= 0).all()
            assert (found["boxes"][:, [0, 2]] <= width + 1e-3).all() and (found["boxes"] >= 0).all()


GATES = ("se", "eca", "ese", "lct", "gct", "srm", "fca", "ge")  # they do not start as the identity


@pytest.mark.parametrize("conventions", ["mmdet", "torchvision"])
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.slow
def test_under_autocast_it_finds_boxes_scores_and_masks_in_float32(conventions: str, cascade: bool) -> None:
    model = calibrated(detector(conventions=conventions, cascade=cascade))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for found in model(photographs()):
            assert len(found["boxes"])
            assert {name: found[name].dtype for name in ("boxes", "scores", "masks")} == dict.fromkeys(
                ("boxes", "scores", "masks"), torch.float32
            )


@pytest.mark.parametrize("block", [name for name in BLOCKS if name not in GATES])
@pytest.mark.slow
def test_new_addition_blocks_do_not_change_a_detector(block: str) -> None:
    model = calibrated(detector())
    with torch.no_grad():
        before = model(photographs()[:1])
        insert(model, block, blocks=(-1,))
        after = model(photographs()[:1])
    for one, other in zip(before, after, strict=True):
        assert len(one["labels"]) > 0
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_file_rebuilds_a_detector_with_its_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("mask_rcnn_gc_resnet18", num_classes=2, ratio=8)
    save_model(model, tmp_path / "detector.safetensors", class_names=("cat", "dog"))
    again = load_model(tmp_path / "detector.safetensors")
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_fixed_norms_keep_their_statistics_in_training_and_train_scale_and_shift() -> None:
    base = build_base_model("resnet18", 1)
    with torch.no_grad():
        for module in base.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
    images = torch.rand(2, 3, 64, 64)
    expected = base.eval()(images)
    statistics = {name: value.clone() for name, value in base.named_buffers()}
    set_norms(base, "eval_stats", eps=1e-5)
    output = base.train()(images)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(torch.equal(value, statistics[name]) for name, value in base.named_buffers())
    norms = [module for module in base.modules() if isinstance(module, FixedBatchNorm2d)]
    assert len(norms) == 20
    assert all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)
    set_norms(other := build_base_model("resnet18", 1), "frozen", eps=0.0)
    assert not [name for name, _ in other.named_parameters() if ".bn" in name]


def test_norms_to_be_synchronized_are_batch_norms_until_training_makes_them_so() -> None:
    model = detector(norm="sync", norm_eps=1e-3)
    norms = [module for module in model.backbone.body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert {(type(norm), norm.eps) for norm in norms} == {(nn.BatchNorm2d, 1e-3)}
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone.body)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in synchronized.modules()) == 20


@pytest.mark.parametrize("cascade", [False, True])
def test_heads_are_trained_on_the_given_number_of_rois_per_image(cascade: bool) -> None:
    model = detector(rois_per_image=7, cascade=cascade)
    heads = model.roi_heads.stages if cascade else [model.roi_heads]
    seen = [[] for _ in heads]
    for counts, stage in zip(seen, heads, strict=True):
        stage.box_head.register_forward_pre_hook(lambda _, inputs, counts=counts: counts.append(len(inputs[0])))
    model(photographs()[:1], targets()[:1])
    assert seen[0] == [7]
    assert all(0 < counts[0] <= 7 for counts in seen)


INVALID_ARGUMENTS = {
    "conventions": ({"conventions": "mmdet3"}, 'unknown conventions "mmdet3"; did you mean "mmdet"'),
    "norm": ({"norm": "frozn"}, 'unknown norm "frozn"; did you mean "frozen"'),
    "box_head": ({"box_head": "2f"}, 'unknown box_head "2f"; did you mean "2fc"'),
    "classes": ({"num_classes": 0}, "at least 1, without the background; found 0"),
    "levels": ({"anchor_sizes": (8.0, 16.0)}, "one size for each of 5 levels, found 2"),
    "sides": ({"anchor_sizes": (8.0, 16.0, 32.0, 64.0, 0.0)}, "sizes in pixels above 0, one per level; found"),
    "size": ({"image_size": (800, 600)}, "must be min_size and max_size in whole pixels, found"),
    "rois_per_image": ({"rois_per_image": 0}, "`rois_per_image` must be a whole number, at least 1; found 0"),
    "fpn_channels": ({"fpn_channels": 0}, "`fpn_channels` must be a whole number, at least 1; found 0"),
    "head_width": ({"head_width": -1}, "`head_width` must be a whole number, at least 1; found -1"),
    "eps": ({"norm_eps": -1e-5}, "`norm_eps` must be a number, at least 0; found -1e-05"),
}


@pytest.mark.parametrize(("options", "sentence"), INVALID_ARGUMENTS.values(), ids=INVALID_ARGUMENTS)
def test_an_invalid_argument_is_refused(options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        detector(**options)


def test_a_mistyped_detector_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match='did you mean "mask_rcnn_gc_resnet50"'):
        create_model("mask_rcnn_gc_resnt50")


INVALID_OPTIONS = {
    "rois": (3, 'unknown option of a detector "rois"; did you mean "rois_per_image"'),
    "norm": (None, 'unknown norm "None"; valid: eval_stats, frozen, batch, sync'),
    "box_head": ("4conv", 'unknown box_head "4conv"; did you mean "4conv1fc"'),
    "conventions": ([], r'unknown conventions "\[\]"; valid: torchvision, mmdet, mmdet1'),
    "norm_eps": ("1e-5", "`norm_eps` must be a number, at least 0; found 1e-5"),
    "image_size": (800, "`image_size` must be min_size and max_size in whole pixels, found 800"),
    "anchor_sizes": ("big", "`anchor_sizes` must be sizes in pixels above 0, one per level; found big"),
    "fpn_channels": (2.5, "`fpn_channels` must be a whole number, at least 1; found 2.5"),
    "head_width": (True, "`head_width` must be a whole number, at least 1; found True"),
    "rois_per_image": (float("nan"), "`rois_per_image` must be a whole number, at least 1; found nan"),
}


def test_the_defaults_of_the_builder_are_all_valid_options() -> None:
    given_otherwise = ("classifier", "num_classes", "cascade", "masks")
    parameters = inspect.signature(build_mask_rcnn).parameters.items()
    defaults = {name: parameter.default for name, parameter in parameters if name not in given_otherwise}
    check_detector_options(defaults)
    with pytest.raises(UserError, match=f"valid: {', '.join(defaults)}$"):
        check_detector_options({"zzz": 1})


@pytest.mark.parametrize("name", INVALID_OPTIONS)
def test_an_invalid_option_is_refused(name: str) -> None:
    value, sentence = INVALID_OPTIONS[name]
    with pytest.raises(UserError, match=sentence):
        create_model("mask_rcnn_gc_cifar_resnet20", detector={name: value})


@pytest.mark.parametrize("options", [{"norm_eps": 0}, {"anchor_sizes": [8, 9.5]}, {"image_size": [7, 7]}], ids=str)
def test_whole_numbers_and_lists_are_accepted(options: dict) -> None:
    check_detector_options(options)
