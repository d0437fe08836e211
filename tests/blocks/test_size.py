"""The named blocks: their parameters, and the keys and shapes of their weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gcnet.blocks import block_options, build_block
from named_blocks import SETTINGS, make, parameters


@pytest.mark.parametrize(
    ("name", "options", "channels", "expected"),
    [
        ("nl_embedded_gaussian", {}, 512, 525_568),
        ("nl_embedded_gaussian", {}, 1024, 2_099_712),
        ("nl_embedded_gaussian", {}, 2048, 8_393_728),
        ("gc", {}, 512, 33_889),
        ("gc", {}, 1024, 133_313),
        ("gc", {}, 2048, 528_769),
        ("gc", {"ratio": 4}, 512, 132_481),
        ("gc", {"ratio": 4}, 1024, 527_105),
        ("gc", {"ratio": 4}, 2048, 2_102_785),
    ],
)
def test_parameters_are_those_of_the_reference_table(
    name: str, options: dict[str, Any], channels: int, expected: int
) -> None:
    with torch.device("meta"):
        assert parameters(build_block(name, channels=channels, **options)) == expected


@pytest.mark.parametrize(("ratio", "millions"), [(4, 10.001), (8, 5.015), (16, 2.522), (32, 1.275)])
def test_gc_in_the_13_blocks_of_resnet50_c3_to_c5_has_the_parameters_of_the_reference_table(
    ratio: int, millions: float
) -> None:
    with torch.device("meta"):
        counts = {width: parameters(build_block("gc", channels=width, ratio=ratio)) for width in (512, 1024, 2048)}
    assert (4 * counts[512] + 6 * counts[1024] + 3 * counts[2048]) / 1e6 == pytest.approx(millions, abs=0.0005)


@pytest.mark.parametrize(("channels", "ratio"), [(64, 4), (46, 4), (37, 7.4)])
def test_parameters_are_those_of_the_formulas_in_the_docstrings(channels: int, ratio: float) -> None:
    width, inner, heads = int(channels / ratio), channels // 2, channels if channels % 2 else 2
    branch = 2 * channels * width + channels + 3 * width
    formulas = {
        ("gc", ()): branch + channels + 1,
        ("gc", (("pooling", "average"),)): branch,
        ("gc", (("fusion", "both"),)): 2 * branch + channels + 1,
        ("se", ()): 2 * channels * width + width + channels,
        ("snl", ()): channels**2 + 2 * channels + 1,
        ("nl_gaussian", ()): 2 * channels * inner + inner + channels,
        ("nl_embedded_gaussian", ()): 4 * channels * inner + 3 * inner + channels,
        ("nl_dot_product", ()): 4 * channels * inner + 3 * inner + channels,
        ("nl_concatenation", ()): 4 * channels * inner + 5 * inner + channels,
        ("nl_gaussian", (("normalization", "batch"),)): 2 * channels * inner + inner + 3 * channels,
        ("gc", (("heads", heads),)): branch + channels // heads + 1,
        ("dnl", ()): 4 * channels * inner + 3 * inner + 2 * channels + 1,
        ("gc_slots", (("slots", 5),)): channels**2 + 2 * 5 * channels + channels + 2 * 5,
        ("gc_eca", (("kernel_size", 7),)): channels + 7 + 1,
        ("gc_affine", ()): 3 * channels + 1,
        ("eca", (("kernel_size", 7),)): 7,
        ("ese", ()): channels**2 + channels,
        ("lct", (("groups", 1),)): 2 * channels,
        ("gct", ()): 0,
        ("gct", (("learned", True),)): 1,
        ("gated_gct", ()): 3 * channels,
        ("grn", ()): 2 * channels,
        ("srm", ()): 4 * channels,
        ("fca", (("frequencies", 1),)): 2 * channels * width + width + channels,
        ("ge", ()): 0,
        ("ge", (("excite", True),)): 2 * channels * width + width + channels,
        ("ge", (("extent", 8), ("gather", "depthwise"))): 11 * channels * 3,
        ("ge", (("extent", 2), ("gather", "depthwise"), ("excite", True))): (
            11 * channels + 2 * channels * width + width + channels
        ),
    }
    for (name, options), expected in formulas.items():
        own = {"ratio": ratio} if "ratio" in block_options(name) else {}
        assert parameters(build_block(name, channels=channels, **own, **dict(options))) == expected, name


def test_keys_and_shapes_are_the_committed_ones_which_later_versions_must_not_change() -> None:
    """Files on users' disks have these keys: add lines for a new block, never change one."""
    lines = [
        f"{name}: {key} {tuple(tensor.shape)}"
        for name in SETTINGS
        for key, tensor in make(name, channels=16).state_dict().items()
    ]
    assert lines == (Path(__file__).parent / "state_dict_keys.txt").read_text().splitlines()


@pytest.mark.parametrize("name", [name for name in SETTINGS if "depthwise" not in name])
def test_keys_and_shapes_are_the_same_for_any_number_of_axes(name: str) -> None:
    shapes = [{key: tensor.shape for key, tensor in make(name, dims=dims).state_dict().items()} for dims in (1, 2, 3)]
    assert shapes[0] == shapes[1] == shapes[2]
