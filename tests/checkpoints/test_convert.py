"""Our blocks with the weights of mmcv's, timm's and torchvision's: same outputs, same gradients, nothing guessed."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from mmcv.cnn.bricks.context_block import ContextBlock as MmcvContextBlock
from mmcv.cnn.bricks.non_local import NonLocal1d, NonLocal2d, NonLocal3d
from timm.layers import GlobalContext, SEModule
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from gcnet.blocks import build_block
from gcnet.checkpoints import convert_block, infer_block
from gcnet.errors import UserError
from random_weights import randomize
from tolerances import assert_equal_within

SIDES = {1: (13,), 2: (5, 7), 3: (3, 5, 7)}
MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


class MmcvConcatenation:
    """mmcv's concatenation divides the output of its ReLU in place, which PyTorch refuses to differentiate."""

    def concatenation(self, theta_x: Tensor, phi_x: Tensor) -> Tensor:
        keys = phi_x.size(3)
        pairs = torch.cat([theta_x.repeat(1, 1, 1, keys), phi_x.repeat(1, 1, theta_x.size(2), 1)], dim=1)
        return self.concat_project(pairs).squeeze(1) / keys


class Differentiable1d(MmcvConcatenation, NonLocal1d):
    pass


class Differentiable2d(MmcvConcatenation, NonLocal2d):
    pass


class Differentiable3d(MmcvConcatenation, NonLocal3d):
    pass


NON_LOCAL = {1: Differentiable1d, 2: Differentiable2d, 3: Differentiable3d}


@dataclass(frozen=True)
class Case:
    """A block of another library, ours with its weights, and what the keys do not say."""

    name: str
    source: str
    theirs: Callable[[], nn.Module]
    ours: str
    options: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    channels: int = 46
    dims: int = 2
    training: bool = False


def context_cases() -> list[Case]:
    cases = []
    for pooling, our_pooling in (("att", "attention"), ("avg", "average")):
        for fusion, types in (
            ("add", ("channel_add",)),
            ("scale", ("channel_mul",)),
            ("both", ("channel_add", "channel_mul")),
        ):
            cases.append(
                Case(
                    f"mmcv-{pooling}-{fusion}",
                    "mmcv_context",
                    lambda pooling=pooling, types=types: MmcvContextBlock(46, 1 / 4, pooling, types),
                    "gc",
                    {"ratio": 4, "pooling": our_pooling, "fusion": fusion},
                )
            )
            flags = {"use_attn": pooling == "att", "fuse_add": fusion != "scale", "fuse_scale": fusion != "add"}
            cases.append(
                Case(
                    f"timm-{pooling}-{fusion}",
                    "timm_global_context",
                    lambda flags=flags: GlobalContext(46, rd_channels=11, **flags),
                    "gc",
                    {"ratio": 4, "pooling": our_pooling, "fusion": fusion, "norm_eps": 1e-6},
                )
            )
    return cases


def squeeze_excitation_cases() -> list[Case]:
    return [
        Case("timm-se", "timm_se", lambda: SEModule(46, rd_channels=11), "se", {"ratio": 4}),
        Case("timm-se-own-width", "timm_se", lambda: SEModule(46), "se", {"ratio": 46 / 8}),
        Case("torchvision-se", "torchvision_se", lambda: SqueezeExcitation(46, 11), "se", {"ratio": 4}),
    ]


def non_local_cases() -> list[Case]:
    cases = []
    for dims, kind in NON_LOCAL.items():
        norm = {"type": f"BN{dims}d" if dims != 2 else "BN"}
        for mode in MODES:
            asked = {"mode": mode} if mode in ("embedded_gaussian", "dot_product") else {}
            for sub_sample in (False, True):
                for normalized in (False, True):
                    for scaled in (True, False) if mode == "embedded_gaussian" else (True,):
                        settings = {"mode": mode, "sub_sample": sub_sample, "use_scale": scaled, "reduction": 3}
                        if normalized:
                            settings["norm_cfg"] = norm
                        options = {"reduction": 3, "sub_sample": sub_sample}
                        options |= {"normalization": "batch"} if normalized else {}
                        options |= {"use_scale": scaled} if mode == "embedded_gaussian" else {}
                        words = [f"mmcv-{dims}d-{mode}"]
                        words += ["sub_sampled"] * sub_sample + ["norm"] * normalized + ["unscaled"] * (not scaled)
                        cases.append(
                            Case(
                                "-".join(words),
                                "mmcv_non_local",
                                lambda kind=kind, settings=settings: kind(23, **settings),
                                f"nl_{mode}",
                                options,
                                asked | ({"use_scale": False} if not scaled else {}),
                                channels=23,
                                dims=dims,
                                training=normalized and dims == 2,
                            )
                        )
    return cases


CASES = context_cases() + squeeze_excitation_cases() + non_local_cases()
FIRST = {case.source: case for case in reversed(CASES)}


def by_name(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def run(module: nn.Module, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient with respect to the input; the parameters keep theirs."""
    x = x.clone().requires_grad_()
    output = module(x)
    (output * direction).sum().backward()
    assert x.grad is not None
    return output.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@by_name(CASES)
def test_block_with_copied_weights_has_their_outputs_and_all_their_gradients(case: Case, dtype: torch.dtype) -> None:
    theirs = randomize(case.theirs()).to(dtype).train(case.training)
    ours = infer_block(theirs.state_dict(), case.source, case.channels, **case.asked).train(case.training)
    x = torch.randn(2, case.channels, *SIDES[case.dims], dtype=dtype)
    direction = torch.randn_like(x)

    expected, expected_gradient = run(theirs, x, direction)
    output, gradient = run(ours, x, direction)

    assert_equal_within(output, expected, dtype, "outputs")
    assert_equal_within(gradient, expected_gradient, dtype, "gradients of the input")
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    buffers = dict(theirs.named_buffers())
    wanted = convert_block(gradients | buffers, case.source)
    # Some gradients are zero but for rounding (a bias before a softmax or a batch norm), so the largest sets the scale.
    largest = max(1.0, *(gradient.abs().max().item() for gradient in gradients.values()))
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        if name == "add.transform.0.bias":
            continue  # mmcv has no bias before its batch norm.
        assert_equal_within(parameter.grad, wanted[name], dtype, f"gradients of {name}", scale=largest)
    for name, buffer in ours.named_buffers():
        assert_equal_within(buffer, wanted[name], dtype, name)


@by_name(CASES)
def test_inferred_block_is_the_named_block_with_the_source_s_options(case: Case) -> None:
    inferred = infer_block(case.theirs().state_dict(), case.source, case.channels, **case.asked)
    built = build_block(case.ours, channels=case.channels, dims=case.dims, **case.options)
    assert repr(inferred) == repr(built)


@by_name(CASES)
def test_converted_weights_load_strictly_into_the_named_block(case: Case) -> None:
    built = build_block(case.ours, channels=case.channels, dims=case.dims, **case.options)
    built.load_state_dict(convert_block(case.theirs().state_dict(), case.source), strict=True)


@by_name(list(FIRST.values()))
def test_every_missing_key_is_named(case: Case) -> None:
    weights = case.theirs().state_dict()
    for key in weights:
        with pytest.raises(UserError, match=f"missing {re.escape(key)}|unknown .*; missing .*"):
            convert_block({name: tensor for name, tensor in weights.items() if name != key}, case.source)


@by_name(CASES)
def test_unknown_key_is_named(case: Case) -> None:
    weights = case.theirs().state_dict() | {"gamma": torch.zeros(1)}
    with pytest.raises(UserError, match=r"unknown gamma$"):
        convert_block(weights, case.source)


def test_unknown_and_missing_keys_are_named_together() -> None:
    weights = SqueezeExcitation(46, 11).state_dict()
    weights["fc1.wieght"] = weights.pop("fc1.weight")
    with pytest.raises(UserError, match=r"torchvision_se: unknown fc1\.wieght; missing fc1\.weight$"):
        convert_block(weights, "torchvision_se")


def test_squeeze_excitation_with_a_norm_or_without_biases_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown bn\.bias, bn\.num_batches_tracked"):
        convert_block(SEModule(46, norm_layer=nn.BatchNorm2d).state_dict(), "timm_se")
    with pytest.raises(UserError, match=r"missing fc1\.bias, fc2\.bias$"):
        convert_block(SEModule(46, bias=False).state_dict(), "timm_se")


def test_keys_of_a_sub_sampled_and_of_a_plain_block_do_not_mix() -> None:
    weights = NonLocal2d(23, sub_sample=True).state_dict()
    weights["phi.conv.weight"] = weights.pop("phi.0.conv.weight")
    weights["phi.conv.bias"] = weights.pop("phi.0.conv.bias")
    with pytest.raises(UserError, match=r"unknown .*; missing "):
        convert_block(weights, "mmcv_non_local")


def test_unknown_source_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='unknown source "mmcv_contxt"; did you mean "mmcv_context"'):
        convert_block({}, "mmcv_contxt")


@by_name(list(FIRST.values()))
def test_kernel_larger_than_one_is_named_with_its_shape(case: Case) -> None:
    weights = case.theirs().state_dict()
    key = next(key for key, tensor in weights.items() if key.endswith("weight") and tensor.dim() >= 3)
    weights[key] = torch.zeros(*weights[key].shape[:-1], 3)
    with pytest.raises(UserError, match=f'"{re.escape(key)}" of {case.source} weights must have shape'):
        convert_block(weights, case.source)


@pytest.mark.parametrize(
    ("source", "key", "shape"),
    [
        ("mmcv_context", "channel_add_conv.1.weight", (11,)),
        ("mmcv_context", "channel_add_conv.0.bias", (11, 1)),
        ("timm_global_context", "mlp_scale.norm.weight", (11, 1, 1)),
        ("mmcv_non_local", "concat_project.conv.weight", (2, 7, 1, 1)),
        ("mmcv_non_local", "conv_out.bn.num_batches_tracked", (1,)),
    ],
)
def test_vector_or_score_of_another_shape_is_refused(source: str, key: str, shape: tuple[int, ...]) -> None:
    theirs = {
        "mmcv_context": lambda: MmcvContextBlock(46, 1 / 4),
        "timm_global_context": lambda: GlobalContext(46, rd_channels=11),
        "mmcv_non_local": lambda: NonLocal2d(23, mode="concatenation", norm_cfg={"type": "BN"}),
    }[source]()
    with pytest.raises(UserError, match=re.escape(f"found {shape}")):
        convert_block(theirs.state_dict() | {key: torch.zeros(shape)}, source)


@by_name(list(FIRST.values()))
def test_weights_of_another_number_of_channels_are_refused_with_both_shapes(case: Case) -> None:
    with pytest.raises(UserError, match=r"has shape \(.*\), which does not fit a block of 29 channels"):
        infer_block(case.theirs().state_dict(), case.source, 29, **case.asked)


def test_mode_that_the_keys_leave_open_is_asked_for() -> None:
    weights = NonLocal2d(23, mode="dot_product").state_dict()
    with pytest.raises(UserError, match="both modes embedded_gaussian and dot_product: give `mode`"):
        infer_block(weights, "mmcv_non_local", 23)


def test_mode_that_contradicts_the_keys_is_refused() -> None:
    weights = NonLocal2d(23, mode="gaussian").state_dict()
    with pytest.raises(UserError, match="`mode=dot_product` contradicts the keys, which fit gaussian"):
        infer_block(weights, "mmcv_non_local", 23, mode="dot_product")
    with pytest.raises(UserError, match='unknown mode "gausian"; did you mean "gaussian"'):
        infer_block(weights, "mmcv_non_local", 23, mode="gausian")


def test_scaling_is_asked_for_only_where_it_acts() -> None:
    with pytest.raises(UserError, match="`use_scale` needs mode embedded_gaussian, found dot_product"):
        infer_block(NonLocal2d(23).state_dict(), "mmcv_non_local", 23, mode="dot_product", use_scale=True)
    with pytest.raises(UserError, match="are options of mmcv_non_local weights, found timm_se"):
        infer_block(SEModule(46).state_dict(), "timm_se", 46, use_scale=True)


def test_bottleneck_of_one_channel_is_refused_as_in_a_block_of_ours() -> None:
    with pytest.raises(UserError, match="LayerNorm of one is constant"):
        infer_block(MmcvContextBlock(46, 1 / 46).state_dict(), "mmcv_context", 46)


def test_narrow_bottleneck_that_the_weights_decided_warns_no_one() -> None:
    infer_block(MmcvContextBlock(46, 1 / 16).state_dict(), "mmcv_context", 46)


def test_conversion_leaves_the_source_s_weights_as_they_are() -> None:
    theirs = randomize(NonLocal2d(23, norm_cfg={"type": "BN"}))
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    ours = infer_block(theirs.state_dict(), "mmcv_non_local", 23, mode="embedded_gaussian")
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (SEModule(32, rd_channels=8), "timm_se"),
        (SqueezeExcitation(32, 8), "torchvision_se"),
        (GlobalContext(32, rd_channels=8), "timm_global_context"),
        (MmcvContextBlock(32, 0.25), "mmcv_context"),
    ],
)
def test_a_block_itself_is_converted_where_it_computes_the_same(module: nn.Module, source: str) -> None:
    x = torch.randn(2, 32, 5, 7)
    block = infer_block(randomize(module).eval(), source, 32).eval()
    assert_equal_within(block(x), module(x), torch.float32)


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        (SEModule(32, gate_layer="hard_sigmoid"), "timm_se", "gate of this SEModule is Hardsigmoid"),
        (SEModule(32, act_layer=nn.SiLU), "timm_se", "act of this SEModule is SiLU"),
        (SEModule(32, add_maxpool=True), "timm_se", "adds max pooling"),
        (GlobalContext(32, act_layer=nn.GELU), "timm_global_context", "mlp_scale.act of this GlobalContext is GELU"),
        (GlobalContext(32, gate_layer="hard_sigmoid"), "timm_global_context", "gate of this GlobalContext is Hards"),
        (SqueezeExcitation(32, 8, scale_activation=nn.Hardsigmoid), "torchvision_se", "scale_activation of this"),
    ],
)
def test_a_block_with_another_gate_or_activation_is_refused(module: nn.Module, source: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        convert_block(module, source)
