"""Checkpoints of other libraries become networks of this package, and back without a changed bit."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50

import gcnet
from checkpoint_layouts import layout
from gcnet.checkpoints.coco_classes import COCO_CLASSES, COCO_IDS
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.checkpoints.published_files import find_published_file
from gcnet.errors import UserError
from gcnet.insertion import insertion_records
from gcnet.models.card import card_of
from gcnet.models.conversion import Converted, convert_weights

SMALL = "mmdet/faster_rcnn_r18_3_classes"


def library_tensors(converted: Converted) -> dict[str, Tensor]:
    return NETWORK_SOURCES[converted.source].to_library(converted.model.state_dict(), converted.network)


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)


def test_a_small_detector_of_mmdet_converts_and_its_round_trip_is_bit_equal() -> None:
    converted = convert_weights(layout(SMALL).checkpoint())
    assert converted.source == "mmdet"
    assert converted.network.architecture == "faster_rcnn_resnet18"
    assert card_of(converted.model).class_names == ("class 0", "class 1", "class 2")
    assert_same_bits(library_tensors(converted), layout(SMALL).tensors())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture", "insertion", "options"),
    [
        (
            "mask_rcnn_r50_r16",
            "mask_rcnn_resnet50",
            {"block": "gc", "ratio": 16, "stages": [3, 4, 5], "position": "after_norm"},
            {},
        ),
        (
            "mask_rcnn_r50_syncbn_r4",
            "mask_rcnn_resnet50",
            {"block": "gc", "ratio": 4, "stages": [3, 4, 5], "position": "after_norm"},
            {"norm": "sync"},
        ),
        ("mask_rcnn_x101_syncbn", "mask_rcnn_resnext101_32x4d", None, {"norm": "sync"}),
        (
            "cascade_x101_dcn_r4",
            "cascade_mask_rcnn_resnext101_32x4d_dcn",
            {"block": "gc", "ratio": 4, "stages": [3, 4, 5], "position": "after_norm"},
            {"norm": "sync"},
        ),
        (
            "mask_rcnn_r50_4conv1fc",
            "mask_rcnn_resnet50",
            {"block": "gc", "ratio": 16, "stages": [3, 4, 5], "position": "after_norm"},
            {"box_head": "4conv1fc"},
        ),
        (
            "mask_rcnn_r50_after_conv2",
            "mask_rcnn_resnet50",
            {
                "block": "gc",
                "ratio": 8,
                "stages": [3, 5],
                "position": "after_conv2",
                "options": {"pooling": "average", "fusion": "both"},
            },
            {},
        ),
    ],
)
def test_detectors_of_mmdet_convert_and_their_round_trip_is_bit_equal(
    name: str, architecture: str, insertion: dict | None, options: dict
) -> None:
    converted = convert_weights(layout(f"mmdet/{name}").checkpoint())
    assert converted.network.architecture == architecture
    assert card_of(converted.model).detector == {"conventions": "mmdet"} | options
    records = insertion_records(converted.model)
    expected = [] if insertion is None else [insertion]
    assert [{key: record[key] for key in insertion or {}} for record in records] == expected
    assert_same_bits(library_tensors(converted), layout(f"mmdet/{name}").tensors())


def test_mmdet1_has_the_background_first_as_ours_and_its_round_trip_is_bit_equal() -> None:
    theirs = first_version(layout(SMALL).tensors(), classes=3)
    converted = convert_weights({"state_dict": theirs, "meta": {"CLASSES": ("a", "b", "c")}})
    assert converted.source == "mmdet1"
    assert converted.network.detector == {"conventions": "mmdet1", "fpn_channels": 16, "head_width": 32}
    ours = converted.model.state_dict()
    assert torch.equal(ours["roi_heads.box_predictor.cls_score.weight"], theirs["bbox_head.fc_cls.weight"])
    assert torch.equal(ours["roi_heads.box_predictor.bbox_pred.bias"], theirs["bbox_head.fc_reg.bias"])
    assert_same_bits(library_tensors(converted), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("offsets", ["conv2_offset", "conv2.conv_offset"])
def test_a_cascade_of_mmdet1_converts_with_either_name_of_its_offsets(offsets: str) -> None:
    theirs = first_version(layout("mmdet/cascade_x101_dcn_r4").tensors(), classes=80, offsets=offsets)
    converted = convert_weights(theirs)
    assert converted.network.architecture == "cascade_mask_rcnn_resnext101_32x4d_dcn"
    assert_same_bits(library_tensors(converted), theirs)


def first_version(tensors: dict[str, Tensor], *, classes: int, offsets: str = "conv2.conv_offset") -> dict[str, Tensor]:
    """The layout of mmdet 1.x: heads without roi_head, and rows for the background in all class layers."""
    renamed = {
        name.removeprefix("roi_head.").replace("conv2.conv_offset", offsets): value for name, value in tensors.items()
    }
    for name, value in renamed.items():
        if "fc_reg" in name and len(value) == 4 * classes:
            renamed[name] = torch.randn(4 * (classes + 1), *value.shape[1:])
        if "conv_logits" in name:
            renamed[name] = torch.randn(classes + 1, *value.shape[1:])
    return renamed


@pytest.mark.slow
def test_non_local_blocks_of_mmdet_convert_by_the_mode_in_the_configuration() -> None:
    converted = convert_weights(layout("mmdet/mask_rcnn_r50_non_local").checkpoint())
    (record,) = insertion_records(converted.model)
    assert (record["block"], record["options"]) == ("nl_dot_product", {"reduction": 2, "sub_sample": True})
    assert [site["name"] for site in record["places"]] == [f"backbone.body.layer3.{index}" for index in range(6)]
    assert_same_bits(library_tensors(converted), layout("mmdet/mask_rcnn_r50_non_local").tensors())


@pytest.mark.slow
def test_squeeze_excitation_networks_of_mmpretrain_convert_and_their_round_trip_is_bit_equal() -> None:
    converted = convert_weights(layout("mmpretrain/seresnet50").checkpoint())
    (record,) = insertion_records(converted.model)
    assert (converted.source, converted.network.architecture) == ("mmpretrain", "resnet50")
    assert (record["block"], record["ratio"], record["stages"]) == ("se", 16, [2, 3, 4, 5])
    own = {name: value.shape for name, value in gcnet.create_model("se_resnet50").state_dict().items()}
    assert {name: value.shape for name, value in converted.model.state_dict().items()} == own
    card = card_of(converted.model)
    assert card.class_names is not None and card.class_names[0].startswith("tench")
    assert card.preprocessing == {"image_size": 224, "resize": 256, "interpolation": "bilinear"}
    assert_same_bits(library_tensors(converted), layout("mmpretrain/seresnet50").tensors())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture", "block", "places"),
    [
        ("tsm_r50_nl_dot_product", "tsm_resnet50", "nl_dot_product", "layer2.0 layer2.2 layer3.0 layer3.2 layer3.4"),
        (
            "slowonly_r50_nl_embedded_gaussian",
            "slowonly_resnet50",
            "nl_embedded_gaussian",
            "layer2.0 layer2.2 layer3.0 layer3.2 layer3.4",
        ),
        ("i3d_r50_nl_gaussian", "i3d_resnet50", "nl_gaussian", "layer2.1 layer2.3 layer3.1 layer3.3 layer3.5"),
    ],
)
def test_networks_for_clips_of_mmaction_convert_and_their_round_trip_is_bit_equal(
    name: str, architecture: str, block: str, places: str, tmp_path: Path
) -> None:
    converted = convert_weights(layout(f"mmaction/{name}").checkpoint())
    (record,) = insertion_records(converted.model)
    assert (converted.source, converted.network.architecture, record["block"]) == ("mmaction", architecture, block)
    assert [site["name"] for site in record["places"]] == places.split()
    assert record["options"] == {"reduction": 2, "sub_sample": True, "normalization": "batch"}
    assert_same_bits(library_tensors(converted), layout(f"mmaction/{name}").tensors())
    gcnet.save_model(converted.model, tmp_path / "model.safetensors")
    clip = torch.randn(1, 3, 8, 33, 33)
    with torch.no_grad():
        logits = gcnet.load_model(tmp_path / "model.safetensors")(clip)
        assert torch.equal(logits, converted.model(clip))
    assert logits.shape == (1, 400) and logits.isfinite().all()


@pytest.mark.slow
def test_plain_networks_of_mmpretrain_compute_what_torchvision_computes() -> None:
    theirs = layout("mmpretrain/resnet50").tensors()
    model = convert_weights(theirs).model
    other = resnet50()
    other.load_state_dict({name.split(".", 1)[1]: value for name, value in theirs.items()})
    images = torch.randn(2, 3, 37, 53)
    with torch.no_grad():
        assert torch.equal(model(images), other.eval()(images))


@pytest.mark.slow
def test_segmentation_networks_convert_their_backbone_and_say_so(tmp_path: Path) -> None:
    theirs = layout("mmseg/gcnet_r50_d8").tensors()
    converted = convert_weights(layout("mmseg/gcnet_r50_d8").checkpoint())
    assert "auxiliary_head and decode_head are not converted" in str(converted)
    backbone = {name: value for name, value in theirs.items() if name.startswith("backbone.")}
    own = {name: value for name, value in converted.model.state_dict().items() if not name.startswith("fc.")}
    assert_same_bits(NETWORK_SOURCES["mmseg"].to_library(own, converted.network), backbone)
    gcnet.save_model(converted.model, tmp_path / "backbone.safetensors")
    model = gcnet.load_model(tmp_path / "backbone.safetensors")
    assert model.forward_features(torch.randn(1, 3, 65, 97)).shape == (1, 2048, 9, 13)  # stride 8


def test_rows_of_classes_move_behind_the_background_which_mmdet_has_last() -> None:
    theirs, ours = layout(SMALL).tensors(), convert_weights(layout(SMALL).checkpoint()).model.state_dict()
    classifier, boxes = theirs["roi_head.bbox_head.fc_cls.bias"], theirs["roi_head.bbox_head.fc_reg.bias"]
    assert ours["roi_heads.box_predictor.cls_score.bias"].tolist() == [classifier[row].item() for row in (3, 0, 1, 2)]
    assert ours["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *boxes.tolist()]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda tensors: {"model": {f"module.{name}": value for name, value in tensors.items()}, "optimizer": {}},
        lambda tensors: {"model_state": {f"_orig_mod.{name}": value for name, value in tensors.items()}},
        lambda tensors: {"state_dict": {f"model.{name}": value for name, value in tensors.items()}, "epoch": 3},
        lambda tensors: {"state_dict": {f"model._orig_mod.{name}": value for name, value in tensors.items()}},
        lambda tensors: {"epoch": 3, "net": {"state_dict": tensors}},
    ],
    ids=["parallel", "compiled", "lightning", "compiled lightning", "nested"],
)
def test_entries_and_prefixes_around_the_weights_are_removed(wrapped: Callable[[dict[str, Tensor]], Any]) -> None:
    theirs = layout(SMALL).tensors()
    assert_same_bits(library_tensors(convert_weights(wrapped(theirs))), theirs)


def test_the_moving_average_is_converted_on_request_only() -> None:
    weights, average = layout(SMALL).tensors(1), layout(SMALL).tensors(2)
    content = {"state_dict": weights, "state_dict_ema": average}
    assert_same_bits(library_tensors(convert_weights(content)), weights)
    assert_same_bits(library_tensors(convert_weights(content, ema=True)), average)
    with pytest.raises(UserError, match="no moving average"):
        convert_weights({"state_dict": weights}, ema=True)


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        ("faster_rcnn_r18_fpn_1x.pth", []),
        ("faster_rcnn_r18_fpn_r16_gcb_c3-c5_1x.pth", ["blocks of ratio 16, but its weights have no blocks"]),
        ("cascade_rcnn_r18.pth", ["a cascade, but its weights have no cascade"]),
        (
            "faster_rcnn_x101_32x4d_dconv_c3-c5.pth",
            ["ResNeXt-101, but its weights have ResNet-18", "deformable convolutions, but its weights have no"],
        ),
    ],
)
def test_a_file_name_that_contradicts_the_weights_is_reported(
    name: str, sentences: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(layout(SMALL).checkpoint(), tmp_path / name)
    convert_weights(tmp_path / name)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == len(sentences)
    assert all(sentence in message for sentence, message in zip(sentences, messages, strict=True))


def test_a_published_file_keeps_its_name_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(layout(SMALL).checkpoint(), tmp_path / "weights.pth")
    published = find_published_file("mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    same = replace(published, url=f"https://example.com/weights-{digest[:8]}.pth")
    monkeypatch.setattr("gcnet.models.conversion.published_files", lambda: (same,))
    converted = convert_weights(tmp_path / "weights.pth")
    assert "published as: mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco" in str(converted)
    provenance = card_of(converted.model).provenance or {}
    assert provenance["name"] == "mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco"
    assert provenance["scores"] == {"box AP": 39.9, "mask AP": 36.0}
    assert provenance["license"] == "Apache-2.0"


def test_a_model_file_keeps_classes_ids_options_and_origin(tmp_path: Path) -> None:
    content = layout(SMALL).checkpoint()
    head = content["state_dict"]
    for name, rows in (("fc_cls", 81), ("fc_reg", 320)):
        for part in ("weight", "bias"):
            shape = head[f"roi_head.bbox_head.{name}.{part}"].shape
            head[f"roi_head.bbox_head.{name}.{part}"] = torch.randn(rows, *shape[1:])
    content["meta"]["dataset_meta"]["classes"] = COCO_CLASSES
    torch.save(content, tmp_path / "epoch_12.pth")
    gcnet.save_model(gcnet.convert_checkpoint(tmp_path / "epoch_12.pth"), tmp_path / "model.safetensors")
    card = card_of(gcnet.load_model(tmp_path / "model.safetensors"))
    assert card.class_names == COCO_CLASSES
    assert card.category_ids == COCO_IDS
    assert len(COCO_CLASSES) == len(COCO_IDS) == 80 and (COCO_IDS[0], COCO_IDS[-1]) == (1, 90)
    assert card.detector == {"conventions": "mmdet", "fpn_channels": 16, "head_width": 32}
    sha256 = hashlib.sha256((tmp_path / "epoch_12.pth").read_bytes()).hexdigest()
    assert card.provenance == {"source": "mmdet", "file": "epoch_12.pth", "sha256": sha256}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_in_float32_are_refused(value: float) -> None:
    tensors = {name: tensor.double() for name, tensor in layout(SMALL).tensors().items()}
    tensors["backbone.conv1.weight"].view(-1)[:3] = value
    tensors["neck.fpn_convs.0.conv.bias"][1] = value
    with pytest.raises(UserError, match=r"has 4 NaN or infinite values, in \S+ and 1 more tensors; take"):
        convert_weights({"state_dict": tensors}, "mmdet")


def test_rounded_weights_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    tensors = {name: tensor.double() for name, tensor in layout(SMALL).tensors().items()}
    converted = convert_weights({"state_dict": tensors}, "mmdet")
    assert "rounded" not in caplog.text  # float32 has these values
    tensors["backbone.conv1.weight"] = tensors["backbone.conv1.weight"] + 1e-12
    rounded = convert_weights({"state_dict": tensors}, "mmdet")
    assert f"1 of {len(tensors)} tensors are float64 and are rounded to float32, such as backbone.conv1.weight" in (
        caplog.text
    )
    own, other = converted.model.state_dict(), rounded.model.state_dict()
    assert all(torch.allclose(own[name], other[name]) for name in own)


def test_a_download_of_a_file_is_refused(tmp_path: Path) -> None:
    torch.save(layout(SMALL).checkpoint(), tmp_path / "file.pth")
    for checkpoint in (str(tmp_path / "file.pth"), tmp_path / "file.pth", layout(SMALL).checkpoint()):
        with pytest.raises(UserError, match="`download` belongs to a model on the Hub, .* or a published checkpoint"):
            gcnet.convert_checkpoint(checkpoint, download=True)
