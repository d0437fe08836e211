"""Models by name: parameter counts to the unit, names, weights of several origins, and clear refusals."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import gcnet
from gcnet.blocks import list_blocks
from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insertion_records
from gcnet.models.create import create_model
from gcnet.models.model_file import save_model
from gcnet.models.registry import list_models

RESNET50 = 25_557_032


def gc(channels: int, ratio: int) -> int:
    width = channels // ratio
    return 2 * channels * width + 2 * channels + 3 * width + 1


def se(channels: int) -> int:
    return 2 * channels * (channels // 16) + channels // 16 + channels


C3_TO_C5 = [512] * 4 + [1024] * 6 + [2048] * 3
PARAMETERS = {
    "resnet50": RESNET50,
    "gc_resnet50": RESNET50 + sum(gc(channels, 16) for channels in C3_TO_C5),
    "snl_resnet50": RESNET50 + sum(channels**2 + 2 * channels + 1 for channels in C3_TO_C5),
    "se_resnet50": RESNET50 + sum(se(channels) for channels in [256] * 3 + C3_TO_C5),
    "nl_resnet50": RESNET50 + 2_099_712,
    "cifar_resnet20": 269_722,
    "cifar_resnet56": 853_018,
    "gc_cifar_resnet20": 269_722 + 3 * sum(gc(channels, 4) for channels in (16, 32, 64)),
    # Published: a filter of 5, 5, 5 and 7 channels in every block of c2 to c5 (arXiv 1910.03151, eq. 12).
    "eca_resnet50": RESNET50 + 3 * 5 + 4 * 5 + 6 * 5 + 3 * 7,
    "gct_resnet50": RESNET50,
    "grn_resnet50": RESNET50 + sum(2 * channels for channels in C3_TO_C5),
    "gc_eca_resnet50": RESNET50 + 14_420,
    "gc_affine_resnet50": RESNET50 + 3 * sum(C3_TO_C5) + 13,
    "dnl_resnet50": RESNET50 + 2_099_712 + 1024 + 1,
    "nl_gaussian_resnet50": RESNET50 + 2 * 1024 * 512 + 512 + 1024,
    "eca_cifar_resnet20": 269_722 + 9 * 3,
}
MILLIONS = {"resnet50": 25.56, "nl_resnet50": 27.66, "gc_resnet50": 28.08, "se_resnet50": 28.09}
BEFORE_LAST_OF_C4 = {"stages": (4,), "blocks": (-2,), "position": "after_add"}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_formulas(name: str) -> None:
    with torch.device("meta"):
        found = count(create_model(name))
    assert found == PARAMETERS[name]
    if name in MILLIONS:
        assert round(found / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize(("block", "millions"), [("snl", 26.61), ("gc", 25.69)])
def test_one_block_at_the_papers_place_counts_as_published(block: str, millions: float) -> None:
    with torch.device("meta"):
        model = create_model("resnet50", block=block, **BEFORE_LAST_OF_C4)
    assert round(count(model) / 1e6, 2) == millions


@pytest.mark.parametrize("name", list_models())
@pytest.mark.slow
def test_every_listed_model_runs(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=7)
        logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("block", list_blocks())
@pytest.mark.slow
def test_every_block_s_name_is_a_prefix_of_classifiers_and_detectors(block: str) -> None:
    with torch.device("meta"):
        model = create_model(f"{block}_scenes_resnet")
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 6)
        assert insertion_records(model)[0]["block"] == block
        detector = create_model(f"mask_rcnn_{block}_resnet18", num_classes=3)
        assert insertion_records(detector)[0]["block"] == block


def test_resnext101_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert count(create_model("resnext101_32x4d")) == count(timm.create_model("resnext101_32x4d"))


def test_other_classifiers_come_by_their_own_name_and_take_blocks() -> None:
    assert type(create_model("resnet10t", num_classes=3)).__module__ == "timm.models.resnet"
    assert type(create_model("torchvision/squeezenet1_1")).__module__.startswith("torchvision")
    model = create_model("timm/resnet18", num_classes=3, block="gc", ratio=8, stages=(5,))
    assert len(context_parameters(model)) == 2 * 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "runs/first/best.pth"}, "there is no model file runs/first/best.pth"),
        ({"name": "resnt50"}, 'unknown model "resnt50"; did you mean "resnet50"'),
        ({"name": "gc_resnet50", "block": "se"}, "already contains a block"),
        ({"name": "resnet18", "stages": (3,)}, "stages: no effect without a block"),
        ({"name": "resnet18", "fusion": "add"}, "fusion: no effect without a block"),
        ({"name": "resnet18", "weights": "nowhere.pth"}, "there is no weights file nowhere.pth"),
        ({"name": "gc_resnet18", "detector": {}}, '"resnet18" is a classifier; did you mean "mask_rcnn_resnet18"'),
        (
            {"name": "mask_rcnn_resnet18", "detector": {"rois": 3}},
            'a detector "rois"; did you mean "rois_per_image"',
        ),
        ({"name": "mask_rcnn_resnet18", "detector": {"cascade": True}}, 'unknown option of a detector "cascade"'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_usage_errors_are_one_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        create_model(**arguments)


def test_pretrained_weights_without_internet_fail_at_once_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[object] = []
    waits: list[float] = []

    def unreachable(address: object, *_: object, **__: object) -> None:
        attempts.append(address)
        raise OSError("no route to base")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(UserError, match="give `weights=FILE`"):
        create_model("resnet18", weights="pretrained", download=True)
    assert (len(attempts), waits) == (1, [])  # other libraries retry for most of a minute


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped-and-parallel"])
def test_published_weights_of_the_plain_network_load_with_and_without_blocks(tmp_path: Path, wrapped: bool) -> None:
    torch.manual_seed(0)
    base = torchvision.models.resnet18(num_classes=7).eval()
    state = base.state_dict()
    if wrapped:
        state = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(state, tmp_path / "base.pth")
    images = torch.randn(2, 3, 37, 41)
    for name in ("resnet18", "gc_resnet18"):
        model = create_model(name, num_classes=7, weights=tmp_path / "base.pth").eval()
        assert torch.equal(model(images), base(images))


def test_weights_with_blocks_load_into_the_network_with_these_blocks_alone(tmp_path: Path) -> None:
    model = create_model("gc_cifar_resnet20").eval()
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.normal_(std=0.1)
    save_model(model, tmp_path / "gc.safetensors")
    images = torch.randn(2, 3, 11, 13)
    loaded = create_model("gc_cifar_resnet20", weights=tmp_path / "gc.safetensors").eval()
    assert torch.equal(loaded(images), model(images))
    with pytest.raises(UserError, match=r"hold the unknown layer1\.0\.context"):
        create_model("cifar_resnet20", weights=tmp_path / "gc.safetensors")
    with pytest.raises(UserError, match="do not fit"):
        create_model("se_cifar_resnet20", weights=tmp_path / "gc.safetensors")


def test_a_classifier_for_other_classes_is_initialized_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = create_model("cifar_resnet20", num_classes=10)
    save_model(base, tmp_path / "ten.safetensors")
    with caplog.at_level(logging.WARNING):
        model = create_model("gc_cifar_resnet20", num_classes=3, weights=tmp_path / "ten.safetensors")
    assert "classifier initialized anew (linear): 10 outputs in the weights, 3 in the network" in caplog.text
    assert torch.equal(model.conv1.weight, base.conv1.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "correct"), [("cifar_resnet20", 1846), ("cifar_resnet56", 1882)])
@pytest.mark.parametrize("prefix", ["", "gc_"])
def test_the_pretrained_cifar_networks_score_as_published_with_and_without_new_blocks(
    data_root: Path, name: str, correct: int, prefix: str
) -> None:
    from gcnet.data.images.open import open_data
    from gcnet.data.settings import DataSettings
    from gcnet.data.transforms import build_eval_transform

    file = next((data_root / "weights-resnet-cifar10").glob(f"{name.removeprefix('cifar_')}-*.th"))
    model = create_model(prefix + name, weights=file).eval()
    splits = open_data(DataSettings(data=str(data_root / "cifar10")), seed=0)
    transform = build_eval_transform(splits.preprocessing)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(splits.val), 250):
            indices = range(start, min(start + 250, len(splits.val)))
            batch = torch.stack([transform(splits.val.read(index)) for index in indices])
            labels = torch.tensor([splits.val.label(index) for index in indices])
            right += int((model(batch).argmax(1) == labels).sum())
    assert right == correct


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("weights.safetensors", "is a file: give `weights=weights.safetensors` beside the name of its network"),
        ("weights.txt", "weights.txt is a file: give `weights=weights.txt`"),
        ("run", "run is a folder; did you mean `gcnet.resume.run.` or `weights=run/weights/best.safetensors`"),
        ("other", "other is a folder$"),
        ("weight.safetensors", 'there is no model file weight.safetensors; did you mean "weights.safetensors"'),
        ("resnet50.pth", "there is no model file resnet50.pth"),
        ("resnet50.a1_in2k", 'timm has no weights "a1_in2k" of resnet50; did you mean "resnet50.a1_in1k"'),
        ("gc-resnet50", 'did you mean "gc_resnet50"'),
        ("Mask-RCNN_ResNet50", 'did you mean "mask_rcnn_resnet50"'),
        ("nl_mobilenet_v2", "`model=mobilenet_v2` with `block=nl_embedded_gaussian`"),
        ("nl_dot_product_vit_b_16", "`model=vit_b_16` with `block=nl_dot_product`"),
        ("maskrcnn_resnet50_fpn", 'model for detection.*did you mean "mask_rcnn_resnet50"'),
        ("torchvision/fcn_resnet50", "model for segmentation"),
        ("hf_hub:timm/resnet18.a1_in1k", 'did you mean "resnet18"'),
        ("runs/resnet50", 'there is no model file runs/resnet50; did you mean "resnet50"'),
        ("timm/resnt50", 'unknown model "resnt50"; did you mean "resnet50"'),
        ("x" * 5000, "unknown model"),
    ],
)
def test_unknown_network_names_get_a_suggestion(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("weights.safetensors", "weights.txt", "run/weights/best.safetensors", "other/file"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    with pytest.raises(UserError, match=sentence):
        create_model(name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": None}, "`name` must be the name of a network"),
        ({"name": "cifar_resnet20", "num_classes": 0}, "`num_classes` must be a whole number, at least 1; found 0"),
        ({"name": "cifar_resnet20", "num_classes": "10"}, "must be a whole number, at least 1; found '10'"),
        ({"name": "cifar_resnet20", "pretrained": True}, "`weights=pretrained` loads published weights"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_arguments_of_the_wrong_kind_get_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        gcnet.create_model(**arguments)


@pytest.mark.parametrize("call", [gcnet.inserted, gcnet.remove, lambda model: gcnet.insert(model, "gc")])
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_name_instead_of_a_network_is_one_sentence(call: Callable[[Any], object]) -> None:
    with pytest.raises(UserError, match=r'must be an nn.Module, .* found "resnet18"'):
        call("resnet18")
