"""The named blocks: their options, and what is said of mistakes."""

import re
from typing import Any

import pytest
import torch
from timm.layers import EcaModule
from torch import nn

from gcnet.blocks import BLOCKS, block_options, build_block, check_options, list_blocks
from gcnet.errors import UserError
from named_blocks import NON_LOCAL


def test_layer_norm_over_one_channel_is_refused_with_the_ratio_that_would_do() -> None:
    with pytest.raises(UserError, match="LayerNorm of one is constant: 16 channels / ratio 16 leave 1; .* at most 8"):
        build_block("gc", channels=16)
    with pytest.raises(UserError, match="24 channels / ratio 16 leave 1"):
        build_block("gc", channels=24)


@pytest.mark.parametrize("width", [2, 3])
def test_layer_norm_over_fewer_than_four_channels_warns(width: int) -> None:
    with pytest.warns(UserWarning, match=f"LayerNorm over {width} channels .* a ratio of {width * 4} or less"):
        build_block("gc", channels=16 * width)


def test_layer_norm_over_four_channels_warns_no_one() -> None:
    build_block("gc", channels=64)


@pytest.mark.parametrize(
    ("channels", "ratio", "width"), [(64, 16, 4), (46, 4, 11), (30, 1 / (1 / 6), 5), (49, 4.9, 10)]
)
def test_bottleneck_is_the_channels_over_the_ratio_rounded_down(channels: int, ratio: float, width: int) -> None:
    assert build_block("se", channels=channels, ratio=ratio).state_dict()["scale.transform.reduce.bias"].shape == (
        width,
    )


def test_bottleneck_of_one_channel_without_a_norm_is_allowed() -> None:
    x = torch.randn(2, 16, 5, 7)
    assert build_block("se", channels=16)(x).shape == x.shape


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (dict(name="gcc"), 'unknown block "gcc"; did you mean "gc"? valid: gc, snl, se, nl_gaussian'),
        (
            dict(name="gc", poling="average"),
            '"gc" takes no option "poling"; did you mean "pooling"? its options: ratio, ',
        ),
        (dict(name="snl", ratio=4), 'block "snl" takes no option "ratio"; its options: none'),
        (dict(name="nl_gaussian", use_scale=True), '"nl_gaussian" takes no option "use_scale"'),
        (dict(name="gc", fusion="ad"), 'unknown fusion "ad"; did you mean "add"? valid: add, scale, both'),
        (dict(name="gc", pooling=None), 'unknown pooling "None"; valid: attention, average'),
        (dict(name="gc", fusion=["add"]), "unknown fusion"),
        (
            dict(name="nl_gaussian", normalization="batchnorm"),
            'unknown normalization "batchnorm"; did you mean "batch"',
        ),
        (dict(name="gc", ratio=0), "`ratio` must be above 0, found 0"),
        (dict(name="gc", ratio=-2), "`ratio` must be above 0, found -2"),
        (dict(name="gc", ratio=float("nan")), "`ratio` must be above 0, found nan"),
        (dict(name="se", ratio=128), "`ratio` must be at most the channels: 64 channels / ratio 128 leave none"),
        (dict(name="nl_gaussian", reduction=0), "`reduction` must be a whole number, at least 1; found 0"),
        (dict(name="nl_gaussian", reduction=2.5), "`reduction` must be a whole number, at least 1; found 2.5"),
        (dict(name="gc", heads=3), "heads must divide the channels: 64 channels, heads 3; the nearest that does is 2"),
        (dict(name="gc", heads=2, pooling="average"), "heads needs attention pooling"),
        (dict(name="gc_slots", slots=0), "`slots` must be a whole number, at least 1; found 0"),
        (dict(name="dnl", temperature=0), "`temperature` must be above 0, found 0"),
        (dict(name="eca", kernel_size=4), "`kernel_size` must be odd, found 4; the nearest is 5"),
        (dict(name="lct", groups=64), "must divide the channels into parts of at least 2: 64 channels, groups 64; the"),
        (dict(name="fca", frequencies=3), "frequencies must divide the channels: 64 channels, frequencies 3"),
        (dict(name="fca", frequencies=64), "`frequencies` must be at most 32, found 64"),
        (dict(name="fca", channels=34, frequencies=32), "34 channels, frequencies 32; the nearest that does is 17"),
        (dict(name="lct", channels=1), "1 channels, groups 8; the nearest that does is none"),
        (dict(name="fca", grid=8), "`grid` must be a multiple of 7, found 8; the nearest is 7"),
        (dict(name="ge", extent=-1), "`extent` must be a whole number, at least 0; found -1"),
        (
            dict(name="ge", gather="depthwise"),
            "`extent` must be a power of two, at least 2, with a depthwise gather",
        ),
        (
            dict(name="ge", gather="depthwise", extent=6),
            "power of two, at least 2, with a depthwise gather, found 6",
        ),
        (dict(name="ge", gather="max"), 'unknown gather "max"; valid: average, depthwise'),
        (dict(name="ge", identity_init=True), "identity_init needs parameters to initialize to zero"),
        (dict(name="gc", dims=4), "`dims` must be 1, 2 or 3 spatial axes, found 4"),
        (dict(name="gc", channels=0), "`channels` must be a whole number, at least 1; found 0"),
        (dict(name="gc", channels=64.0), "`channels` must be a whole number, at least 1; found 64.0"),
        (dict(name="gc", channels="64"), "`channels` must be a whole number, at least 1; found '64'"),
        (dict(name="gc", ratio="16"), "`ratio` must be a number, found '16'"),
        (dict(name="gc", heads=None), "`heads` must be a number, found None"),
        (dict(name="gc", norm_eps="nan"), "`norm_eps` must be a number, found 'nan'"),
        (dict(name="gc", norm_eps=-1), "`norm_eps` must be 0 or more, found -1"),
        (dict(name="gc_affine", norm_eps=float("nan")), "`norm_eps` must be 0 or more, found nan"),
        (dict(name="eca", kernel_size="3"), "`kernel_size` must be a number, found '3'"),
        (dict(name="dnl", temperature="low"), "`temperature` must be a number, found 'low'"),
        (dict(name="se", identity_init="yes"), "`identity_init` must be True or False, found 'yes'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("unchecked_shapes")  # Checked types would refuse some of these first.
def test_a_usage_error_is_one_sentence_with_the_valid_choices(call: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        build_block(**{"channels": 64} | call)
    assert "\n" not in str(caught.value)


def test_blocks_are_listed_with_their_options() -> None:
    beyond = [
        "dnl",
        "gc_slots",
        "gc_eca",
        "gc_affine",
        "eca",
        "ese",
        "lct",
        "gct",
        "gated_gct",
        "grn",
        "srm",
        "fca",
        "ge",
    ]
    assert list_blocks() == ["gc", "snl", "se", *NON_LOCAL, *beyond]
    assert list(BLOCKS) == list_blocks()
    assert block_options("gc") == ("ratio", "pooling", "fusion", "heads", "norm_eps")
    assert block_options("nl_embedded_gaussian") == ("reduction", "sub_sample", "use_scale", "normalization")


def test_a_custom_builder_builds_the_block() -> None:
    assert isinstance(build_block(EcaModule, channels=16, kernel_size=5), EcaModule)
    assert isinstance(build_block(lambda channels: nn.Conv2d(channels, channels, 1), channels=16), nn.Conv2d)


def own_builder(channels: int, *, depth: int = 1, dims: int = 2) -> nn.Module:
    return nn.Sequential(*[nn.Identity() for _ in range(depth)], nn.Identity(channels, dims))


def test_options_of_a_custom_builder_are_checked() -> None:
    assert len(build_block(own_builder, channels=16, depth=3)) == 4  # ty: ignore[invalid-argument-type]
    with pytest.raises(
        UserError, match='"own_builder" takes no option "dpth"; did you mean "depth"? its options: depth'[:40]
    ):
        build_block(own_builder, channels=16, dpth=3)


def test_a_custom_builder_receives_the_axes_if_it_takes_them() -> None:
    given_dims: list[int] = []

    def builder(channels: int, dims: int) -> nn.Module:
        given_dims.append(dims)
        return nn.Identity(channels)

    build_block(builder, channels=16, dims=3)
    assert given_dims == [3]


def test_builder_that_takes_any_option_is_given_any() -> None:
    def builder(channels: int, **options: int) -> nn.Module:
        return nn.Linear(channels, options["width"])

    check_options(builder, {"width": 3})
    assert build_block(builder, channels=16, width=3).weight.shape == (3, 16)


@pytest.mark.parametrize("block", ["gc", "se", "fca"])
def test_a_ratio_as_in_mmcv_is_refused_with_its_inverse(block: str) -> None:
    with pytest.raises(UserError, match=r"`ratio` must be at least 1, found 0\.0625: .*; mmcv's ratio=1/16 is"):
        build_block(block, channels=64, ratio=1 / 16)
