"""Checkpoints of timm become networks with our blocks and timm's outputs, and back without a changed bit."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import EcaModule
from torch import Tensor, nn

from gcnet.checkpoints import infer_block
from gcnet.checkpoints.network_sources import NETWORK_SOURCES
from gcnet.cli import main
from gcnet.errors import UserError
from gcnet.insertion import inserted
from gcnet.models.card import card_of
from gcnet.models.conversion import Converted, convert_weights
from gcnet.models.load import load_model
from gcnet.models.model_file import save_model

_SIDE = 97


def _network(name: str, **options: Any) -> nn.Module:
    """timm's network with random weights, also in layers that start at zero, and random statistics."""
    torch.manual_seed(7)
    model = timm.create_model(name, **options).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif key.endswith(("running_mean", "bias")) or (key.endswith("fc2.weight") and not tensor.any()):
            tensor.normal_(0.0, 0.1)
    return model


def _export(converted: Converted) -> dict[str, Tensor]:
    return NETWORK_SOURCES["timm"].to_library(converted.model.state_dict(), converted.network)


def _assert_equal(theirs: nn.Module, ours: nn.Module, tolerance: float = 1e-5) -> None:
    images = torch.randn(2, 3, _SIDE, _SIDE)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert expected.std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "block", "count"),
    [
        ("gcresnet33ts", "gc", 10),
        ("gcresnet50t", "gc", 16),
        ("gcresnext26ts", "gc", 8),
        ("gcresnext50ts", "gc", 16),
        ("seresnet50", "se", 16),
        ("seresnext26ts", "se", 8),
        ("seresnet18", "se", 8),
        ("eca_resnet33ts", "eca", 10),
        ("ecaresnet50t", "eca", 16),
        ("ecaresnetlight", "eca", 16),
    ],
)
def test_outputs_are_those_of_timm_with_our_blocks_and_back_bit_for_bit(name: str, block: str, count: int) -> None:
    theirs = _network(name)
    converted = convert_weights(theirs.state_dict())
    assert (converted.source, converted.network.architecture) == ("timm", f"plain_{name}")
    assert {each.block for each in inserted(converted.model)} == {block}
    assert sum(len(each.sites) for each in inserted(converted.model)) == count
    _assert_equal(theirs, converted.model)
    exported, original = _export(converted), theirs.state_dict()
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[key], tensor) for key, tensor in original.items())


@pytest.mark.parametrize("channels", [16, 64, 512])
def test_an_eca_block_gives_the_outputs_of_timm(channels: int) -> None:
    theirs = EcaModule(channels)
    ours = infer_block(theirs, "timm_eca", channels)
    maps = torch.randn(2, channels, 5, 7)
    torch.testing.assert_close(ours(maps), theirs(maps))


def test_other_classes_and_a_model_file_keep_outputs_and_preprocessing(tmp_path: Path) -> None:
    theirs = _network("gcresnext26ts", num_classes=7)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "checkpoint.pth")
    converted = convert_weights(tmp_path / "checkpoint.pth")
    save_model(converted.model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    _assert_equal(theirs, loaded)
    card = card_of(loaded)
    assert card.num_classes == 7
    expected = {"image_size": 288, "resize": 288, "interpolation": "bicubic", "crop_mode": "center"}
    assert card.preprocessing is not None
    assert {name: card.preprocessing[name] for name in expected} == expected
    assert tuple(card.preprocessing["mean"]) == (0.485, 0.456, 0.406)


def test_blocks_with_another_activation_stay_those_of_timm() -> None:
    theirs = _network("gc_efficientnetv2_rw_t")
    converted = convert_weights(theirs.state_dict())
    assert converted.network.architecture == "gc_efficientnetv2_rw_t"
    assert not inserted(converted.model)
    assert "mlp_scale.act of this GlobalContext is SiLU" in converted.notes[-1]
    _assert_equal(theirs, converted.model, tolerance=0.0)


@pytest.mark.slow
def test_a_checkpoint_with_a_missing_layer_is_refused() -> None:
    state = timm.create_model("gcresnext26ts").state_dict()
    del state["stages.1.0.attn.conv_attn.weight"]
    with pytest.raises(UserError, match=r"network of timm gcresnext26ts .*: it lacks stages.1.0.attn.conv_attn.weight"):
        convert_weights(state)


@pytest.mark.slow
def test_attention_of_a_converted_network_is_analyzed(tmp_path: Path, data_root: Path) -> None:
    converted = convert_weights(_network("gcresnext26ts").state_dict())
    save_model(converted.model, tmp_path / "model.safetensors")
    photo = next(iter(sorted(data_root.rglob("*.jpg"))))
    arguments = ["--image-size", "64", "--output", str(tmp_path / "maps")]
    assert main(["analyze", str(tmp_path / "model.safetensors"), str(photo), *arguments]) == 0
    assert (tmp_path / "maps" / "index.html").exists()
