"""Damaged checkpoints and those of other networks: one sentence that names the problem, and no code runs."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import gcnet
from checkpoint_layouts import layout
from gcnet.checkpoints.foreign_files import read_weight_file
from gcnet.errors import UserError
from gcnet.models.conversion import convert_weights
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model

DETECTOR = "mmdet/faster_rcnn_r18_3_classes"
Tensors = dict[str, Tensor]


def drop(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.pop(name)


def put(name: str, value: Tensor) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: value})


def rename(name: str, new: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({new: tensors.pop(name)})


def transpose(name: str) -> Callable[[Tensors], Any]:
    return lambda tensors: tensors.update({name: tensors[name].T.contiguous()})


def empty(*names: str, shape: tuple[int, ...] = (2, 3)) -> Tensors:
    return {name: torch.empty(shape) for name in names}


def refused(content: Any, source: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        convert_weights(content, source)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (drop("neck.fpn_convs.2.conv.weight"), "it lacks neck.fpn_convs.2.conv.weight"),
        (drop("rpn_head.rpn_conv.bias"), "it lacks rpn_head.rpn_conv.bias"),
        (put("neck.extra.weight", torch.ones(1)), "it has the unknown neck.extra.weight"),
        (
            rename("neck.fpn_convs.2.conv.weight", "neck.fpn_conv.2.conv.weight"),
            'it lacks neck.fpn_convs.2.conv.weight (nearest: "neck.fpn_conv.2.conv.weight"); it has the unknown '
            'neck.fpn_conv.2.conv.weight (nearest: "neck.fpn_convs.2.conv.weight")',
        ),
        (
            put("neck.lateral_convs.0.conv.weight", torch.ones(16, 64, 3, 3)),
            "neck.lateral_convs.0.conv.weight of shape (16, 64, 3, 3), expected (16, 64, 1, 1)",
        ),
        (
            transpose("roi_head.bbox_head.fc_cls.weight"),
            "roi_head.bbox_head.fc_cls.weight of shape (32, 4), expected (4, 32)",
        ),
        (put("roi_head.bbox_head.fc_cls.bias", torch.tensor(1.0)), "roi_head.bbox_head.fc_cls.bias has no axes"),
        (put("roi_head.bbox_head.fc_cls.bias", torch.ones(0)), "roi_head.bbox_head.fc_cls.bias has no elements"),
        (
            put("rpn_head.rpn_reg.bias", torch.zeros(12, dtype=torch.int64)),
            "its weights must be floating-point numbers, found rpn_head.rpn_reg.bias of dtype int64",
        ),
        (drop("backbone.layer3.1.conv1.weight"), "it lacks backbone.layer3.1.conv1.weight"),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("backbone.layer3.1")],
            "whose stages have [2, 2, 1, 2] blocks of two convolutions, which is no ResNet of gcnet",
        ),
        (
            put("backbone.layer2.0.context_block.conv_mask.weight", torch.ones(1, 128, 1, 1)),
            "backbone.layer2.0.context_block has no output convolution",
        ),
        (
            put("backbone.layer4.0.conv2.conv_offset.bias", torch.ones(27)),
            "deformable convolutions with 27 channels in conv2.conv_offset",
        ),
        (put("backbone.stem.0.weight", torch.ones(1)), "a stem of three convolutions (ResNetV1c or V1d)"),
        (
            lambda tensors: tensors.update(
                {
                    name.replace("bbox_head.", "bbox_head.0."): tensors.pop(name)
                    for name in list(tensors)
                    if "bbox_head" in name
                }
            ),
            "is a Cascade R-CNN without masks",
        ),
    ],
)
def test_a_damaged_detector_of_mmdet_is_refused(damage: Callable[[Tensors], Any], expected: str) -> None:
    tensors = layout(DETECTOR).empty()
    damage(tensors)
    assert expected in refused(tensors)


def test_a_detector_with_more_classes_in_its_metadata_than_in_its_head_is_refused() -> None:
    content = {"state_dict": layout(DETECTOR).empty(), "meta": {"CLASSES": ("a", "b")}}
    assert "names 2 classes, but its box head has 3" in refused(content)


def test_a_small_file_that_describes_a_huge_network_is_refused_without_building_it() -> None:
    tensors = layout(DETECTOR).empty()
    tensors["rpn_head.rpn_conv.bias"] = torch.empty(300_000)
    tensors["roi_head.bbox_head.shared_fcs.0.bias"] = torch.empty(300_000)
    assert "expected (300000, 64, 1, 1)" in refused(tensors)


def test_strides_in_the_first_convolution_are_refused() -> None:
    meta = {"cfg": "model = dict(backbone=dict(type='ResNet', style='caffe'))"}
    assert "(style caffe)" in refused({"state_dict": layout(DETECTOR).empty(), "meta": meta})


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("gcb=dict(insert_pos=['after_1x1'])", "has blocks after the addition"),
        (
            "plugins=[dict(cfg=dict(type='ContextBlock'), position=[3])]",
            "has blocks [3], and gcnet has them after_conv3",
        ),
    ],
)
def test_lists_for_texts_in_a_configuration_are_refused(backbone: str, expected: str) -> None:
    meta = {"cfg": f"model = dict(backbone=dict({backbone}))"}
    assert expected in refused({"state_dict": layout("mmdet/mask_rcnn_r50_after_conv2").empty(), "meta": meta})


def test_numbers_too_large_in_a_configuration_are_ignored() -> None:
    cfg = f"lr = 1{'0' * 400} / 3\nmodel = dict(backbone=dict(style='caffe', depth=50 / 0))"
    assert "(style caffe)" in refused({"state_dict": layout(DETECTOR).empty(), "meta": {"cfg": cfg}})


def test_an_invalid_mode_in_a_configuration_is_refused() -> None:
    plugin = "dict(cfg=dict(type='NonLocal2d', mode=['gaussian']), position='after_conv2')"
    meta = {"cfg": f"model = dict(backbone=dict(plugins=[{plugin}]))"}
    tensors = layout("mmdet/mask_rcnn_r50_non_local").empty()
    assert "unknown mode \"['gaussian']\"; " in refused({"state_dict": tensors, "meta": meta})


def test_non_local_blocks_without_a_configuration_are_refused() -> None:
    tensors = layout("mmdet/mask_rcnn_r50_non_local").empty()
    assert "embedded_gaussian or dot_product" in refused(tensors)


def test_context_blocks_between_convolutions_without_a_configuration_are_refused() -> None:
    tensors = layout("mmdet/mask_rcnn_r50_after_conv2").empty()
    assert "the first or the second convolution" in refused(tensors)


def test_a_segmentation_network_without_its_configuration_is_refused() -> None:
    assert "which alone tells the dilation" in refused(layout("mmseg/gcnet_r50_d8").empty())


def test_networks_for_clips_with_other_strides_or_without_a_configuration_are_refused() -> None:
    network = layout("mmaction/i3d_r50_nl_gaussian")
    assert "which alone tells strides over frames" in refused(network.empty())
    cfg = network.cfg.replace("pool1_stride_t=2", "pool1_stride_t=1")
    sentence = refused({"state_dict": network.empty(), "meta": {"cfg": cfg}})
    assert "pool1_stride_t 1 in its ResNet3d, and gcnet's has 2" in sentence


def test_classifiers_with_another_stem_are_refused() -> None:
    assert "ResNetV1c or V1d" in refused(layout("mmpretrain/resnetv1d50").empty())
    assert "backbone.conv1.weight of shape (64, 3, 3, 3), expected (64, 3, 7, 7)" in refused(
        layout("mmpretrain/resnet18_cifar10").empty()
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "holds something else: nothing"),
        ([torch.ones(2)], "holds a list"),
        ({"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, 'holds something else: "optimizer", "epoch"'),
        ({"epoch": 3, "note": "text"}, 'holds something else: "epoch", "note"'),
        (empty("encoder.layer.0.attention.query.weight"), "with `source` the message names the differences"),
        (empty("bbox_head.retina_cls.weight", "backbone.conv1.weight"), "is not recognized"),
        (
            {"student": empty("a.weight"), "teacher": empty("a.weight")},
            'holds several networks, "student" and "teacher"',
        ),
        (
            empty("backbone.conv1.weight", "head.fc.weight", "decode_head.conv_seg.weight"),
            "may be a checkpoint of mmpretrain or of mmseg: give `source`",
        ),
    ],
)
def test_contents_of_no_or_several_sources_are_refused(content: Any, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert expected in refused(tmp_path / "weights.pth")


def test_an_unknown_source_and_a_wrong_one_are_refused() -> None:
    assert 'unknown source "mmdett"; did you mean "mmdet"?' in refused(layout(DETECTOR).empty(), "mmdett")
    assert "is not a whole checkpoint of mmpretrain: it lacks head.fc.bias" in refused(
        layout(DETECTOR).empty(), "mmpretrain"
    )


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


class Command:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return (os.system, (self.command,))


def test_no_code_in_a_checkpoint_runs(tmp_path: Path) -> None:
    target = tmp_path / "created"
    for attack, expected in (
        (Attack(target), "more than torch.load reads without running code"),
        (Command(f"touch {target}"), "no code from files is run"),
    ):
        torch.save({"state_dict": empty("a.weight"), "meta": {"hook": attack}}, tmp_path / "attack.pth")
        assert expected in refused(tmp_path / "attack.pth")
        assert not target.exists()


def test_a_model_file_needs_no_conversion(tmp_path: Path) -> None:
    save_model(create_model("cifar_resnet20"), tmp_path / "model.safetensors")
    assert "is a file of gcnet already" in refused(tmp_path / "model.safetensors")


def test_truncated_and_garbled_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": empty("backbone.conv1.weight", shape=(64, 64))}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    assert "damaged or truncated" in refused(tmp_path / "truncated.pth")
    save_file(empty("a"), tmp_path / "whole.safetensors")
    content = bytearray((tmp_path / "whole.safetensors").read_bytes())
    content[8:40] = b"{" + b"?" * 31
    (tmp_path / "garbled.safetensors").write_bytes(content)
    assert "damaged" in refused(tmp_path / "garbled.safetensors")
    assert "there is no weights file" in refused(tmp_path / "missing.pth")


def test_changed_bits_in_a_checkpoint_are_refused_by_its_checksums(tmp_path: Path) -> None:
    file, tensor = tmp_path / "weights.pth", torch.arange(999.0)
    torch.save({"conv1.weight": tensor, "other": torch.ones(9)}, file)
    content = bytearray(file.read_bytes())
    place = content.index(tensor.numpy().tobytes())
    content[place + 2000] ^= 1
    file.write_bytes(content)
    assert re.search(r"is damaged: 1 of the \d files in it do not match .*, such as weights/data/0$", refused(file))


def test_a_checkpoint_written_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save({"conv1.weight": torch.arange(999.0)}, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert read_weight_file(tmp_path / "weights.pth").tensors["conv1.weight"].sum() == 498501


def test_another_checkpoint_than_of_a_residual_network_has_no_stages() -> None:
    sentence = refused(empty("conv1.weight", "fc.bias"), "mmseg")
    assert sentence.endswith("is no checkpoint of mmseg: none of its keys begins with backbone.layer1.")


def test_a_published_name_that_is_not_in_the_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="gcb_c3-c5_1x_coco is not in the cache: add `download` to download it"):
        gcnet.convert_checkpoint("mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco")
