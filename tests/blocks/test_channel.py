"""The gates by channel: equal to timm's with copied weights, else to their formula as a loop, in float64."""

import math

import pytest
import torch
from timm.layers import EcaModule, EffectiveSEModule
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

from gcnet.blocks import build_block
from random_weights import randomize
from tolerances import assert_equal_within

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
every_dims = pytest.mark.parametrize("dims", [1, 2, 3], ids=["1d", "2d", "3d"])


def block_and_map(name: str, *, channels: int = 6, dims: int = 2, **options: object) -> tuple[nn.Module, Tensor]:
    """A block with random weights, and a map whose channels differ in mean and spread."""
    block = randomize(build_block(name, channels=channels, dims=dims, **options)).double().eval()
    x = torch.randn(2, channels, *SIDES[dims], dtype=torch.float64)
    scale = torch.linspace(0.5, 2, channels, dtype=torch.float64).view(-1, *[1] * dims)
    return block, scale * x + scale


def scaled(x: Tensor, gate: Tensor) -> Tensor:
    """The map times a gate (N, C)."""
    return x * gate.view(*x.shape[:2], *[1] * (x.dim() - 2))


@pytest.mark.parametrize("channels", [8, 16, 64, 128, 256, 512, 1024, 2048])
def test_eca_equals_timm_s(channels: int) -> None:
    ours, x = block_and_map("eca", channels=channels)
    reference = EcaModule(channels=channels).double()
    reference.load_state_dict({"conv.weight": ours.state_dict()["scale.transform.weight"].view(1, 1, -1)})
    assert_equal_within(ours(x), reference(x), torch.float64)


@every_dims
def test_eca_filters_the_means_along_the_channels(dims: int) -> None:
    block, x = block_and_map("eca", dims=dims, kernel_size=5)
    weight, mean = block.get_parameter("scale.transform.weight"), x.flatten(2).mean(2)
    logits = torch.zeros_like(mean)
    for c in range(6):
        for offset in range(-2, 3):
            if 0 <= c + offset < 6:
                logits[:, c] += weight[offset + 2] * mean[:, c + offset]
    assert_equal_within(block(x), scaled(x, logits.sigmoid()), torch.float64)


def test_ese_equals_timm_s() -> None:
    ours, x = block_and_map("ese")
    with torch.no_grad():
        ours.get_parameter("scale.transform.weight").mul_(5)  # into the flat parts of the gate as well
    reference = EffectiveSEModule(6).double()
    state = {f"fc.{name}": ours.state_dict()[f"scale.transform.{name}"] for name in ("weight", "bias")}
    reference.load_state_dict({"fc.weight": state["fc.weight"].view(6, 6, 1, 1), "fc.bias": state["fc.bias"]})
    assert_equal_within(ours(x), reference(x), torch.float64)
    gates = (reference(x) / x)[:, :, 0, 0]
    assert gates.eq(0).any() or gates.eq(1).any()


def test_grn_equals_timm_s() -> None:
    ours, x = block_and_map("grn")
    reference = GlobalResponseNorm(6, channels_last=False).double()
    state = ours.state_dict()
    reference.load_state_dict({"weight": state["scale.transform.weight"], "bias": state["scale.fusion.bias"]})
    assert_equal_within(ours(x), reference(x), torch.float64)


@every_dims
def test_grn_weighs_a_channel_by_its_norm_over_the_mean_norm(dims: int) -> None:
    block, x = block_and_map("grn", dims=dims)
    norms = x.flatten(2).square().sum(2).sqrt()
    response = norms / (norms.sum(1, keepdim=True) / 6 + 1e-6)
    weight, bias = block.get_parameter("scale.transform.weight"), block.get_parameter("scale.fusion.bias")
    expected = scaled(x, 1 + weight * response) + bias.view(-1, *[1] * dims)
    assert_equal_within(block(x), expected, torch.float64)


@every_dims
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_lct_normalizes_the_means_within_each_group(groups: int, dims: int) -> None:
    block, x = block_and_map("lct", dims=dims, groups=groups)
    mean, size = x.flatten(2).mean(2), 6 // groups
    weight, bias = block.get_parameter("scale.transform.1.weight"), block.get_parameter("scale.transform.1.bias")
    gate = torch.zeros_like(mean)
    for n in range(2):
        for c in range(6):
            group = [mean[n, d].item() for d in range(c // size * size, c // size * size + size)]
            center = sum(group) / size
            spread = math.sqrt(sum((value - center) ** 2 for value in group) / size + 1e-5)
            gate[n, c] = torch.sigmoid(weight[c] * (mean[n, c] - center) / spread + bias[c])
    assert_equal_within(block(x), scaled(x, gate), torch.float64)


@every_dims
@pytest.mark.parametrize("learned", [False, True])
def test_gct_scales_channels_by_a_gaussian_of_their_standardized_mean(learned: bool, dims: int) -> None:
    block, x = block_and_map("gct", dims=dims, learned=learned)
    mean = x.flatten(2).mean(2)
    deviation = 2.0
    if learned:
        deviation = 1 + 3 / (1 + math.exp(-block.get_parameter("scale.transform.1.theta").item()))
    gate = torch.zeros_like(mean)
    for n in range(2):
        center = sum(mean[n].tolist()) / 6
        variance = sum((value - center) ** 2 for value in mean[n].tolist()) / 6
        for c in range(6):
            z = (mean[n, c].item() - center) / math.sqrt(variance + 1e-5)
            gate[n, c] = math.exp(-(z**2) / (2 * deviation**2))
    assert_equal_within(block(x), scaled(x, gate), torch.float64)


@every_dims
def test_gated_gct_is_its_formula_in_the_paper(dims: int) -> None:
    block, x = block_and_map("gated_gct", dims=dims)
    alpha, gamma, beta = (block.get_parameter(f"scale.transform.{name}") for name in ("alpha", "gamma", "beta"))
    embedding = alpha * (x.flatten(2).square().sum(2) + 1e-5).sqrt()
    # sqrt(C) e / ||e||, with the epsilon of the authors' code inside the mean.
    normalized = embedding / (embedding.square().sum(1, keepdim=True) / 6 + 1e-5).sqrt()
    expected = x + scaled(x, torch.tanh(gamma * normalized + beta))
    assert_equal_within(block(x), expected, torch.float64)


@every_dims
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_srm_weighs_mean_and_deviation_channel_by_channel(training: bool, dims: int) -> None:
    block, x = block_and_map("srm", dims=dims)
    norm = nn.BatchNorm1d(6).double().train(training)
    state = block.state_dict()
    norm.load_state_dict({key: state[f"scale.transform.norm.{key}"] for key in norm.state_dict()})
    flat, weight = x.flatten(2), block.get_parameter("scale.transform.weight")
    style = torch.zeros(2, 6, dtype=torch.float64)
    for n in range(2):
        for c in range(6):
            values = flat[n, c].tolist()
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
            style[n, c] = weight[0, c] * mean + weight[1, c] * deviation
    assert_equal_within(block.train(training)(x), scaled(x, norm(style).sigmoid()), torch.float64)


@pytest.mark.parametrize(
    ("name", "gate"),
    [("ese", None), ("lct", 1 / (1 + math.exp(-1))), ("srm", 0.5), ("eca", None), ("gct", None)],
)
def test_published_starts(name: str, gate: float | None) -> None:
    block = build_block(name, channels=16).double()
    x = torch.rand(3, 16, 5, 7, dtype=torch.float64) + 0.5
    found = (block(x) / x)[:, :, 0, 0]
    assert found.gt(0).all() and found.le(1).all()
    if gate is None:
        assert found.std() > 0
    else:
        assert_equal_within(found, torch.full_like(found, gate), torch.float64)


def test_gates_of_the_identity_start_lie_between_zero_and_two() -> None:
    for name in ("se", "eca", "ese", "lct", "srm", "fca"):
        block, x = block_and_map(name, channels=16, identity_init=True)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(9)
        gate = block(x) / x
        assert gate.ge(0).all() and gate.le(2).all() and gate.max() > 1, name


def test_ese_learns_nothing_beyond_three_even_from_the_identity() -> None:
    block = build_block("ese", channels=2, identity_init=True).double()
    with torch.no_grad():
        block.get_parameter("scale.transform.bias").copy_(torch.tensor([3.5, -3.5]))
    x = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    output = block(x)
    assert output[0, :, 0, 0].tolist() == [2.0, 0.0]
    output.sum().backward()
    assert not block.get_parameter("scale.transform.bias").grad.any()


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 1), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (4096, 7)]
)
def test_the_filter_has_the_odd_length_of_the_formula(channels: int, size: int) -> None:
    with torch.device("meta"):
        assert build_block("eca", channels=channels).get_parameter("scale.transform.weight").shape == (size,)
