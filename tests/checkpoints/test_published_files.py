"""The table of published checkpoints: complete, well formed, and with the parameters of the networks it names."""

import re
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch

from gcnet.checkpoints.published_files import (
    cached_path,
    find_published_file,
    names_published_file,
    nearest_published_file,
    published_files,
)
from gcnet.errors import UserError
from gcnet.models.create import create_model

# As many as in the README of the authors (files with a hash), and in the metafiles of the wheels.
_COUNTS = {"mmdet1": 19, "mmdet": 19, "mmseg": 16, "mmaction": 8, "timm": 31}
_PARAMETERS = {
    "mmdet1/mask_rcnn_r16_gcb_c3-c5_r50_fpn_1x": ("mask_rcnn_gc_resnet50", {}),
    "mmdet1/mask_rcnn_r4_gcb_c3-c5_r101_fpn_1x": ("mask_rcnn_gc_resnet101", {"ratio": 4}),
    "mmdet1/mask_rcnn_x101_32x4d_fpn_syncbn_1x": ("mask_rcnn_resnext101_32x4d", {}),
    "mmdet1/cascade_mask_rcnn_r16_gcb_dconv_c3-c5_x101_32x4d_fpn_syncbn_1x": (
        "cascade_mask_rcnn_gc_resnext101_32x4d_dcn",
        {},
    ),
}


def test_every_published_file_is_in_the_table() -> None:
    assert Counter(file.library for file in published_files()) == _COUNTS


def test_names_and_urls_are_unique_and_end_in_a_hash() -> None:
    files = published_files()
    assert len({file.name for file in files}) == len({file.url for file in files}) == len(files)
    for file in files:
        assert re.fullmatch(r"https://[a-z0-9.-]+/.+-[0-9a-f]{8}\.pth", file.url)
        assert file.url.endswith(f"-{file.digest}.pth")
        assert file.file_name == file.url.rpartition("/")[2]


def test_every_score_has_a_metric_and_a_source() -> None:
    for file in published_files():
        assert len(file.scores) == len(file.metrics) == 2
        assert all(0 < float(score) < 100 for score in file.scores)
        assert file.scores_from and file.dataset


def test_one_entry_is_as_in_the_metafile_of_mmdet() -> None:
    file = find_published_file("mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco")
    assert dict(zip(file.metrics, file.scores, strict=True)) == {"box AP": "39.7", "mask AP": "35.9"}
    assert file.url == (
        "https://download.openmmlab.com/mmdetection/v2.0/gcnet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco/"
        "mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco_20200515_211915-187da160.pth"
    )


@pytest.mark.parametrize(
    "text",
    [
        "mmdett/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco",
        "MMDet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco",
        "mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco",
        "mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco.pth",
        "checkpoints/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco_20200515_211915-187da160.pth",
    ],
)
def test_names_and_files_similar_to_a_published_name_suggest_it(text: str) -> None:
    assert nearest_published_file(text) == '; did you mean "mmdet/mask_rcnn_r50_fpn_r16_gcb_c3-c5_1x_coco"?'


def test_other_names_suggest_nothing() -> None:
    assert nearest_published_file("runs/first/weights/best.pth") == nearest_published_file("resnet50.pth") == ""


@pytest.mark.parametrize("name", _PARAMETERS)
def test_parameters_are_those_of_our_network(name: str) -> None:
    network, options = _PARAMETERS[name]
    with torch.device("meta"):
        model = create_model(network, **options)
    assert find_published_file(name).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["gcresnet50t.ra2_in1k", "seresnet50.a1_in1k", "eca_resnet33ts.ra2_in1k"])
def test_parameters_and_url_are_those_of_timm(name: str) -> None:
    file = find_published_file(f"timm/{name}")
    with torch.device("meta"):
        model = timm.create_model(name)
    assert file.parameters == sum(parameter.numel() for parameter in model.parameters())
    config = timm.get_pretrained_cfg(name)
    assert config is not None and file.url == config.url


def test_a_misspelled_name_gets_the_nearest_one() -> None:
    with pytest.raises(UserError, match='did you mean "mmdet/mask_rcnn_r50_fpn_r4_gcb_c3-c5_1x_coco"'):
        find_published_file("mmdet/mask_rcnn_r50_fpn_r4_gcb_c3_c5_1x_coco")


def test_an_existing_path_is_not_taken_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_published_file("mmdet/own")
    assert not names_published_file("mmdet/own.pth")
    assert not names_published_file("other/own")
    Path("mmdet").mkdir()
    Path("mmdet/own").touch()
    assert not names_published_file("mmdet/own")


def test_the_cache_is_that_of_torch_hub_or_a_folder_of_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = find_published_file("timm/gcresnet50t.ra2_in1k")
    monkeypatch.delenv("GCNET_CACHE", raising=False)
    assert cached_path(file) == Path(torch.hub.get_dir(), "checkpoints", "gcresnet50t_256-96374d1c.pth")
    monkeypatch.setenv("GCNET_CACHE", str(tmp_path))
    assert cached_path(file) == tmp_path / "gcresnet50t_256-96374d1c.pth"
