"""Checkpoints of other libraries become networks of this package, and back without a changed bit."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gcnet
from checkpoint_layouts import layout
from gcnet.checkpoints.coco_classes import COCO_CLASSES, COCO_IDS
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.insertion import insertion_records
from gcnet.models.card import card_of
from gcnet.models.conversion import Converted, convert_weights

SMALL = "mmdet/faster_rcnn_r34_3_classes"


def exported(converted: Converted) -> dict[str, Tensor]:
    return NETWORK_SOURCES[converted.source].export(converted.model.state_dict(), converted.network)


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)


def test_a_small_detector_of_mmdet_converts_and_its_round_trip_is_bit_equal() -> None:
    converted = convert_weights(layout(SMALL).checkpoint())
    assert converted.source == "mmdet"
    assert converted.network.architecture == "faster_rcnn_resnet34"
    assert card_of(converted.model).class_names == ("class 0", "class 1", "class 2")
    assert_same_bits(exported(converted), layout(SMALL).tensors())


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
    assert_same_bits(exported(converted), layout(f"mmdet/{name}").tensors())


def test_rows_of_classes_move_behind_the_background_which_mmdet_has_last() -> None:
    theirs, ours = layout(SMALL).tensors(), convert_weights(layout(SMALL).checkpoint()).model.state_dict()
    classifier, boxes = theirs["roi_head.bbox_head.fc_cls.bias"], theirs["roi_head.bbox_head.fc_reg.bias"]
    assert ours["roi_heads.box_predictor.cls_score.bias"].tolist() == [classifier[row].item() for row in (3, 0, 1, 2)]
    assert ours["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 0, 0, 0, *boxes.tolist()]


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
    assert card.detector == {"conventions": "mmdet"}
    sha256 = hashlib.sha256((tmp_path / "epoch_12.pth").read_bytes()).hexdigest()
    origin = {"source": "mmdet", "license": "Apache-2.0", "file": "epoch_12.pth", "sha256": sha256}
    assert card.provenance == origin
