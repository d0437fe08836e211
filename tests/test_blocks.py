"""The named blocks: their size, keys, start, options, and what they do with any map, dtype and memory."""

import copy
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import EcaModule
from torch import Tensor, nn
from torch.export import Dim

from gcnet.blocks import BLOCKS, block_options, build_block, check_options, list_blocks
from gcnet.errors import UserError
from random_weights import randomise
from tolerances import assert_equal_within

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
NON_LOCAL = ["nl_gaussian", "nl_embedded_gaussian", "nl_dot_product", "nl_concatenation"]
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gc": ("gc", {"ratio": 4}),
    "gc scale": ("gc", {"ratio": 4, "fusion": "scale"}),
    "gc both": ("gc", {"ratio": 4, "fusion": "both"}),
    "gc average": ("gc", {"ratio": 4, "pooling": "average"}),
    "snl": ("snl", {}),
    "se": ("se", {"ratio": 4}),
}
for _name in NON_LOCAL:
    SETTINGS[_name] = (_name, {})
    SETTINGS[f"{_name} sub_sample"] = (_name, {"sub_sample": True})
    SETTINGS[f"{_name} batch"] = (_name, {"normalisation": "batch"})
SETTINGS |= {
    "gc heads": ("gc", {"ratio": 4, "heads": 2}),
    "dnl": ("dnl", {"temperature": 1.0}),
    "dnl batch": ("dnl", {"temperature": 1.0, "normalisation": "batch"}),
    "gc_slots": ("gc_slots", {"slots": 3}),
    "gc_eca": ("gc_eca", {}),
    "gc_affine": ("gc_affine", {}),
    "eca": ("eca", {}),
    "ese": ("ese", {}),
    "lct": ("lct", {"groups": 2}),
    "gct": ("gct", {}),
    "gct learned": ("gct", {"learned": True}),
    "gated_gct": ("gated_gct", {}),
    "grn": ("grn", {}),
    "srm": ("srm", {}),
    "fca": ("fca", {"ratio": 4, "frequencies": 2}),
    "ge": ("ge", {}),
    "ge global excite": ("ge", {"excite": True, "ratio": 4}),
    "ge local": ("ge", {"extent": 2}),
    "ge local excite": ("ge", {"extent": 3, "excite": True, "ratio": 4}),
    "ge depthwise": ("ge", {"extent": 4, "gather": "depthwise"}),
    "ge depthwise excite": ("ge", {"extent": 2, "gather": "depthwise", "excite": True, "ratio": 4}),
}
GATES = ["gc scale", "gc both", "se", "eca", "ese", "lct", "gct", "gct learned", "srm", "fca"]
GATES += [name for name in SETTINGS if name.startswith("ge")]
for _name in ("se", "eca", "ese", "lct", "srm", "fca", "ge local excite", "ge depthwise", "ge depthwise excite"):
    SETTINGS[f"{_name} identity"] = (SETTINGS[_name][0], SETTINGS[_name][1] | {"identity_init": True})
IDENTITY = [name for name in SETTINGS if name not in GATES]
LOCAL = [name for name in SETTINGS if name.startswith(("ge local", "ge depthwise"))]
PERMUTABLE = [name for name in SETTINGS if "sub_sample" not in name and "fca" not in name and name not in LOCAL]
QUERY_INDEPENDENT = [
    name for name in SETTINGS if name.split()[0] not in (*NON_LOCAL, "dnl", "gc_slots") and name not in LOCAL
]
WITH_BATCH_NORM = [name for name in SETTINGS if "batch" in name or "depthwise" in name or "srm" in name]

every = pytest.mark.parametrize("name", SETTINGS)
every_identity = pytest.mark.parametrize("name", IDENTITY)
every_dims = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])


def make(name: str, channels: int = 22, dims: int = 2) -> nn.Module:
    block, options = SETTINGS[name]
    return build_block(block, channels=channels, dims=dims, **options)


def parameters(block: nn.Module) -> int:
    return sum(parameter.numel() for parameter in block.parameters())


# Size and keys


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
        ("nl_gaussian", (("normalisation", "batch"),)): 2 * channels * inner + inner + 3 * channels,
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


# The start


@every_dims
@every_identity
def test_new_block_is_the_identity_bit_for_bit(name: str, dims: int) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        block, x = make(name, dims=dims).to(dtype), torch.randn(2, 22, *SIDES[dims]).to(dtype)
        for mode in (True, False):
            assert torch.equal(block.train(mode)(x), x), dtype


def torchvision_s_loop(network: nn.Module) -> None:
    """As in torchvision.models.resnet.ResNet.__init__."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.constant_(module.weight, 1)
            nn.init.constant_(module.bias, 0)


def loop_over_convolutions_and_linears_of_any_axes(network: nn.Module) -> None:
    """As in timm's and torchvision's other networks."""
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.1)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def timm_s_own(network: nn.Module) -> None:
    network.init_weights()  # ty: ignore[call-non-callable]


def reset_of_every_module(network: nn.Module) -> None:
    for module in network.modules():
        if callable(getattr(module, "reset_parameters", None)):
            module.reset_parameters()


@pytest.mark.parametrize(
    "initialise",
    [torchvision_s_loop, loop_over_convolutions_and_linears_of_any_axes, timm_s_own, reset_of_every_module],
    ids=lambda function: function.__name__,
)
def test_blocks_are_still_the_identity_after_their_host_initialised_all_its_weights(
    initialise: Callable[[nn.Module], None],
) -> None:
    host = timm.create_model("resnet10t", num_classes=3)
    host.layer1.contexts = nn.ModuleDict({name: make(name) for name in IDENTITY})
    initialise(host)
    x = torch.randn(2, 22, 5, 7)
    for name, block in host.layer1.contexts.items():
        for mode in (True, False):
            assert torch.equal(block.train(mode)(x), x), name


@pytest.mark.parametrize("name", ["gc scale", "gc both"])
def test_new_gc_with_scale_halves_the_map_as_published(name: str) -> None:
    x = torch.randn(2, 22, 5, 7)
    assert torch.equal(make(name)(x), x / 2)


@pytest.mark.parametrize("name", [f"{name} batch" for name in NON_LOCAL])
def test_normalised_block_starts_at_zero_by_gamma_alone_so_that_it_can_leave(name: str) -> None:
    state = make(name).state_dict()
    assert state["add.transform.1.weight"].eq(0).all()
    assert state["add.transform.0.weight"].ne(0).any()


@every_identity
def test_new_block_learns_from_its_start(name: str) -> None:
    block = make(name).double()
    x = torch.randn(2, 22, 5, 7, dtype=torch.float64)
    (block(x) * torch.randn_like(x)).sum().backward()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter -= 0.1 * parameter.grad
    assert (block(x) - x).abs().mean() > 1e-3


# Options


def test_layer_norm_over_one_channel_is_refused_with_the_ratio_that_would_do() -> None:
    with pytest.raises(UserError, match="LayerNorm over one is constant: 16 channels / ratio 16 leave 1; .* at most 8"):
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
            dict(name="nl_gaussian", normalisation="batchnorm"),
            'unknown normalisation "batchnorm"; did you mean "batch"',
        ),
        (dict(name="gc", ratio=0), "ratio must be above 0, found 0"),
        (dict(name="gc", ratio=-2), "ratio must be above 0, found -2"),
        (dict(name="gc", ratio=float("nan")), "ratio must be above 0, found nan"),
        (dict(name="se", ratio=128), "ratio must be at most the channels: 64 channels / ratio 128 leave none"),
        (dict(name="nl_gaussian", reduction=0), "reduction must be a whole number from 1 up, found 0"),
        (dict(name="nl_gaussian", reduction=2.5), "reduction must be a whole number from 1 up, found 2.5"),
        (dict(name="gc", heads=3), "heads must divide the channels: 64 channels, heads 3; the nearest that does is 2"),
        (dict(name="gc", heads=2, pooling="average"), "heads are of attention pooling"),
        (dict(name="gc_slots", slots=0), "slots must be a whole number from 1 up, found 0"),
        (dict(name="dnl", temperature=0), "temperature must be above 0, found 0"),
        (dict(name="eca", kernel_size=4), "kernel_size must be odd, found 4; the nearest is 5"),
        (dict(name="lct", groups=64), "must divide the channels into parts of at least 2: 64 channels, groups 64; the"),
        (dict(name="fca", frequencies=3), "frequencies must divide the channels: 64 channels, frequencies 3"),
        (dict(name="fca", frequencies=64), "frequencies must be at most 32, found 64"),
        (dict(name="fca", channels=34, frequencies=32), "34 channels, frequencies 32; the nearest that does is 17"),
        (dict(name="lct", channels=1), "1 channels, groups 8; the nearest that does is none"),
        (dict(name="fca", grid=8), "grid must be a multiple of 7, found 8; the nearest is 7"),
        (dict(name="ge", extent=-1), "extent must be a whole number from 0 up, found -1"),
        (dict(name="ge", gather="depthwise"), "extent must be a power of two from 2 up where the gather is depthwise"),
        (
            dict(name="ge", gather="depthwise", extent=6),
            "power of two from 2 up where the gather is depthwise, found 6",
        ),
        (dict(name="ge", gather="max"), 'unknown gather "max"; valid: average, depthwise'),
        (dict(name="ge", identity_init=True), "identity_init needs parameters that start at zero"),
        (dict(name="gc", dims=4), "dims must be 1, 2 or 3 spatial axes, found 4"),
        (dict(name="gc", channels=0), "channels must be at least 1, found 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("unchecked_shapes")  # Checked types would refuse some of these first.
def test_mistake_gets_one_sentence_with_the_valid_choices(call: dict[str, Any], sentence: str) -> None:
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
    assert block_options("nl_embedded_gaussian") == ("reduction", "sub_sample", "use_scale", "normalisation")


def test_builder_of_one_s_own_builds_the_block() -> None:
    assert isinstance(build_block(EcaModule, channels=16, kernel_size=5), EcaModule)
    assert isinstance(build_block(lambda channels: nn.Conv2d(channels, channels, 1), channels=16), nn.Conv2d)


def own_builder(channels: int, *, depth: int = 1, dims: int = 2) -> nn.Module:
    return nn.Sequential(*[nn.Identity() for _ in range(depth)], nn.Identity(channels, dims))


def test_builder_of_one_s_own_has_its_options_checked_too() -> None:
    assert len(build_block(own_builder, channels=16, depth=3)) == 4  # ty: ignore[invalid-argument-type]
    with pytest.raises(
        UserError, match='"own_builder" takes no option "dpth"; did you mean "depth"? its options: depth'[:40]
    ):
        build_block(own_builder, channels=16, dpth=3)


def test_builder_of_one_s_own_is_given_the_axes_if_it_takes_them() -> None:
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


# What a block does with a map


@every
def test_gradients_equal_finite_differences(name: str) -> None:
    block = randomise(make(name, channels=16)).double()
    x = torch.randn(2, 16, 2, 3, dtype=torch.float64, requires_grad=True)
    weights = dict(block.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(weights, values, strict=True)), x)

    # Statistics of batch norm move at each call in training and would differ from one difference to the next.
    block.eval()
    assert torch.autograd.gradcheck(call, (x, *weights.values()), fast_mode=True)


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2]


def expanded_batch(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape)


def channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x.mT.contiguous().mT


@pytest.mark.parametrize("layout", [strided, channels_last, expanded_batch], ids=lambda layout: layout.__name__)
@every_dims
@every
def test_memory_layout_changes_neither_values_nor_gradients(
    name: str, dims: int, layout: Callable[[Tensor], Tensor]
) -> None:
    block = randomise(make(name, dims=dims)).double()
    other = layout(torch.randn(2, 22, *SIDES[dims], dtype=torch.float64))
    plain = other.clone(memory_format=torch.contiguous_format)
    assert not other.is_contiguous()
    twin = copy.deepcopy(block)
    direction = torch.randn_like(plain)

    x, y = plain.requires_grad_(), other.detach().requires_grad_()
    expected, output = block(x), twin(y)
    (expected * direction).sum().backward()
    (output * direction).sum().backward()

    assert_equal_within(output, expected, torch.float64)
    assert x.grad is not None and y.grad is not None
    assert_equal_within(y.grad, x.grad, torch.float64, "gradients of the input")
    for (key, ours), theirs in zip(twin.named_parameters(), block.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert_equal_within(ours.grad, theirs.grad, torch.float64, f"gradients of {key}", scale=100)


@every
def test_channels_last_map_stays_channels_last(name: str) -> None:
    x = torch.randn(2, 22, 5, 7).to(memory_format=torch.channels_last)
    assert make(name)(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every
def test_output_has_the_map_s_dtype_and_is_near_float64(name: str, dtype: torch.dtype) -> None:
    block = randomise(make(name)).eval().to(dtype)
    x = torch.randn(2, 22, 5, 7).to(dtype)
    expected = copy.deepcopy(block).double()(x.double())
    output = block(x)
    assert output.dtype == dtype
    assert_equal_within(output, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every
def test_autocast_keeps_the_map_s_dtype_and_is_near_float32(name: str, dtype: torch.dtype) -> None:
    block = randomise(make(name)).eval()
    x = torch.randn(2, 22, 5, 7, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        output = block(x)
        output.sum().backward()
    assert output.dtype == torch.float32
    assert_equal_within(output, block(x), dtype)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())


@every_identity
def test_new_block_is_the_identity_under_autocast(name: str) -> None:
    x = torch.randn(2, 22, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make(name)(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gc", "gc both", "snl"])
def test_logits_of_60_over_65536_positions_stay_finite_in_half_precision_and_near_float32(
    name: str, dtype: torch.dtype
) -> None:
    block = randomise(make(name, channels=16))
    with torch.no_grad():
        weight = block.get_parameter("context.key.weight")
        weight.zero_()[0, 0] = 60
    x = torch.randn(1, 16, 256, 256)
    x[:, 0].uniform_(-1, 1)
    block, x = block.to(dtype), x.to(dtype)
    expected = copy.deepcopy(block).float()(x.float())
    assert_equal_within(block(x), expected, torch.bfloat16)


@pytest.mark.parametrize("sides", [(1, 1), (1, 97), (97, 1), (2, 3), (31, 37)], ids=str)
@pytest.mark.parametrize("samples", [1, 3])
@every
def test_odd_sizes_and_single_samples_work_forward_and_backward(
    name: str, samples: int, sides: tuple[int, int]
) -> None:
    block = randomise(make(name))
    if samples == 1 and (sides == (1, 1) or name in WITH_BATCH_NORM):
        block.eval()  # No batch statistics of one value.
    x = torch.randn(samples, 22, *sides, requires_grad=True)
    output = block(x)
    output.square().sum().backward()
    assert output.shape == x.shape and output.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())


@settings(max_examples=200)
@given(
    name=st.sampled_from(QUERY_INDEPENDENT),
    samples=st.integers(1, 3),
    height=st.integers(1, 97),
    width=st.integers(1, 97),
)
def test_query_independent_block_tells_every_position_the_same(
    name: str, samples: int, height: int, width: int
) -> None:
    block = randomise(make(name)).eval()
    x = torch.rand(samples, 22, height, width) + 0.5
    output = block(x)
    assert output.shape == x.shape
    if name in ("gc both", "grn"):
        # y = a x + b with a and b of the whole map: any three positions lie on a line.
        x, output = x.flatten(2), output.flatten(2)
        run, rise = x[..., -1:] - x[..., :1], output[..., -1:] - output[..., :1]
        assert_equal_within(rise * (x - x[..., :1]), run * (output - output[..., :1]), torch.float32)
        return
    told = output - x if name.split()[0] in ("gc", "snl", "gc_eca", "gc_affine") and name != "gc scale" else output / x
    assert_equal_within(told, told[:, :, :1, :1].expand(told.shape), torch.float32)


@settings(max_examples=100)
@given(
    name=st.sampled_from([name for name in SETTINGS if name.split()[0] in NON_LOCAL]),
    samples=st.integers(1, 3),
    height=st.integers(1, 97),
    width=st.integers(1, 13),
    transposed=st.booleans(),
)
def test_non_local_block_takes_maps_of_any_size_and_orientation(
    name: str, samples: int, height: int, width: int, transposed: bool
) -> None:
    block = randomise(make(name)).eval()
    x = torch.randn(samples, 22, height, width)
    output = block(x.mT if transposed else x)
    assert output.isfinite().all()
    assert_equal_within(output.mT if transposed else output, block(x), torch.float32)


@every_dims
@pytest.mark.parametrize("name", PERMUTABLE)
def test_permuting_positions_permutes_the_output_in_the_same_way(name: str, dims: int) -> None:
    block = randomise(make(name, dims=dims)).eval().double()
    x = torch.randn(2, 22, *SIDES[dims], dtype=torch.float64)
    order = torch.randperm(x[0, 0].numel())
    expected = block(x).flatten(2)[:, :, order]
    assert_equal_within(block(x.flatten(2)[:, :, order].view(x.shape)).flatten(2), expected, torch.float64)


@pytest.mark.parametrize("name", ["nl_embedded_gaussian", "nl_embedded_gaussian sub_sample"])
def test_embedded_gaussian_with_zero_query_adds_the_same_vector_at_every_position(name: str) -> None:
    block = randomise(make(name)).double()
    with torch.no_grad():
        block.get_parameter("context.query.weight").zero_()
        block.get_parameter("context.query.bias").zero_()
    x = torch.randn(2, 22, 5, 7, dtype=torch.float64)
    added = block(x) - x
    assert_equal_within(added, added[:, :, :1, :1].expand(added.shape), torch.float64)


def test_gc_with_constant_attention_is_gc_with_average_pooling() -> None:
    attention, average = randomise(make("gc")).double(), make("gc average").double()
    with torch.no_grad():
        attention.get_parameter("context.key.weight").zero_()
    average.load_state_dict(
        {key: tensor for key, tensor in attention.state_dict().items() if not key.startswith("context.")}
    )
    x = torch.randn(2, 22, 5, 7, dtype=torch.float64)
    assert_equal_within(attention(x), average(x), torch.float64)


@every
def test_map_of_other_channels_or_axes_is_refused(name: str) -> None:
    for shape in ((2, 21, 5, 7), (2, 22, 5), (2, 22, 3, 5, 7)):
        with pytest.raises(ValueError, match=re.escape(f"takes maps of shape (N, 22, H, W), found {shape}")):
            make(name)(torch.zeros(shape))


# Copies, files and compilers


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))], ids=["deepcopy", "pickle"]
)
@every
def test_copy_is_the_same_block_with_weights_of_its_own(name: str, duplicate: Callable[[nn.Module], nn.Module]) -> None:
    block = randomise(make(name)).eval()
    twin = duplicate(block)
    x = torch.randn(2, 22, 5, 7)
    expected = block(x)
    assert repr(twin) == repr(block)
    randomise(block)
    assert torch.equal(twin(x), expected)


@every
def test_weights_go_through_a_state_dict(name: str) -> None:
    block, twin = randomise(make(name)).eval(), make(name).eval()
    twin.load_state_dict(block.state_dict(), strict=True)
    x = torch.randn(2, 22, 5, 7)
    assert torch.equal(twin(x), block(x))


@every
def test_repr_shows_the_sizes(name: str) -> None:
    text = repr(make(name))
    assert text.startswith("ContextBlock(\n  channels=22, dims=2\n")
    with_matrix = any("reduce.weight" in key or "query.weight" in key for key in make(name).state_dict())
    assert not with_matrix or "Pointwise(22, " in text


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_conversion_to_sync_batch_norm_converts_the_norm_of_the_block(name: str) -> None:
    block = randomise(make(name)).eval()
    x = torch.randn(2, 22, 5, 7)
    expected, keys = block(x), list(block.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    norms = sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert norms == (2 if SETTINGS[name][1].get("extent") == 4 else 1)
    assert torch.equal(converted(x), expected)
    assert list(converted.state_dict()) == keys
    if name in IDENTITY:
        fresh = nn.SyncBatchNorm.convert_sync_batchnorm(make(name))
        assert torch.equal(fresh.eval()(x), x)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", [name for name in SETTINGS if "batch" not in name] + ["nl_gaussian batch"])
def test_exported_block_takes_maps_of_any_height_and_width(name: str) -> None:
    block = randomise(make(name)).eval()
    # PyTorch exports no size of one among others; halved by sub-sampling, three would be one, as would be an extent.
    smallest = 4 if "sub_sample" in name else SETTINGS[name][1].get("extent", 1) + 1
    sides = {2: Dim("height", min=smallest, max=1024), 3: Dim("width", min=smallest, max=1024)}
    program = torch.export.export(block, (torch.randn(2, 22, 6, 10),), dynamic_shapes=(sides,)).module()
    for height, width in ((smallest, smallest), (13, 7), (5, 31)):
        x = torch.randn(2, 22, height, width)
        assert_equal_within(program(x), block(x), torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", SETTINGS)
def test_block_is_traced_whole_with_the_same_values_and_gradients(name: str) -> None:
    check_compiled(make(name), backend="aot_eager")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["gc both", "nl_embedded_gaussian", "gc_slots", "fca", "ge depthwise excite"])
def test_compiled_block_has_the_same_values_and_gradients(name: str) -> None:
    check_compiled(make(name), backend="inductor")


def check_compiled(block: nn.Module, backend: str) -> None:
    """Compiled without a graph break, a block equals itself."""
    randomise(block)
    twin = copy.deepcopy(block)
    x = torch.randn(2, 22, 5, 7, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The compiler's own.
        output = torch.compile(block, fullgraph=True, backend=backend)(x)
        output.square().sum().backward()
    expected = twin(y)
    expected.square().sum().backward()
    assert_equal_within(output, expected, torch.float32)
    gradients = [tensor.grad for tensor in (x, *block.parameters())]
    wanted = [tensor.grad for tensor in (y, *twin.parameters())]
    largest = max(gradient.abs().max().item() for gradient in wanted if gradient is not None)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert ours is not None and theirs is not None
        assert_equal_within(ours, theirs, torch.float32, "gradients", scale=largest)


@pytest.mark.parametrize(("name", "options"), SETTINGS.values(), ids=SETTINGS)
def test_every_block_can_write_over_its_map(name: str, options: dict[str, Any]) -> None:
    block = randomise(build_block(name, channels=16, **options)).eval()
    x = torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        expected = block(x)
        assert torch.equal(block(x, overwrite=True), expected) and torch.equal(x, expected)
