"""Where blocks go: what `at` may say, the defaults of families, and a sentence for what cannot be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from gcnet.errors import UserError
from gcnet.insertion import insert, inserted
from gcnet.models.backbones.cifar_resnet import CifarResNet
from insertion.networks import create, images, plain


def names(model: nn.Module) -> list[str]:
    return [site.name for insertion in inserted(model) for site in insertion.sites]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("layer3.*", ["layer3.0", "layer3.1", "layer3.2"]),
        (["layer1.2", "layer3.?"], ["layer1.2", "layer3.0", "layer3.1", "layer3.2"]),
        ("layer2", ["layer2.2"]),
        ("*.conv2", [f"layer{stage}.{index}.conv2" for stage in (1, 2, 3) for index in (0, 1, 2)]),
        ("BasicBlock", [f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1, 2)]),
        ((nn.Linear, "layer1.0"), None),
        ("c2", ["layer2.0", "layer2.1", "layer2.2"]),
        (["c1", "layer3.2"], ["layer1.0", "layer1.1", "layer1.2", "layer3.2"]),
    ],
    ids=str,
)
def test_at_takes_patterns_types_and_stages(at: Any, expected: list[str] | None) -> None:
    model = CifarResNet(20)
    if expected is None:
        with pytest.raises(UserError, match=r"linear returns torch.float32 of shape \(2, 10\)"):
            insert(model, "gc", at=at)
    else:
        assert [site.name for site in insert(model, "gc", at=at).sites] == expected
        assert names(model) == expected


def test_named_sites_are_outputs_and_stages_use_the_position_of_the_paper() -> None:
    for at, given, position in (
        ("layer1.0", None, None),
        ("c1", None, "after_norm"),
        ("layer1.0", "after_add", "after_add"),
    ):
        assert insert(CifarResNet(20), "gc", at=at, position=given).position == position


def test_a_block_on_the_output_of_a_residual_block_is_the_same_as_after_add() -> None:
    torch.manual_seed(0)
    named = CifarResNet(20).eval()
    positioned = CifarResNet(20).eval()
    positioned.load_state_dict(named.state_dict())
    insert(named, "snl", at="layer2.*")
    insert(positioned, "snl", stages=(2,), position="after_add")
    with torch.no_grad():
        for (_, first), (_, second) in zip(named.named_parameters(), positioned.named_parameters(), strict=True):
            second.copy_(first.normal_(std=0.1))
    x = torch.randn(2, 3, 17, 19)
    torch.testing.assert_close(named(x), positioned(x))


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None)


ELEVEN = [f"blocks.{index}" for index in range(11)]
DEFAULTS: dict[str, tuple[Callable[[], nn.Module], list[str], int]] = {
    "timm vgg": (_timm("vgg11_bn"), ["features.13", "features.20", "features.27"], 3),
    "torchvision vgg": (_torchvision("vgg11"), ["features.9", "features.14", "features.19"], 3),
    "timm densenet": (_timm("densenet121"), [f"features.transition{index}.conv" for index in (1, 2, 3)], 3),
    "torchvision densenet": (_torchvision("densenet121"), [f"features.transition{n}.conv" for n in (1, 2, 3)], 3),
    "timm convnext": (_timm("convnext_atto"), ["stages.1.blocks.0", "stages.1.blocks.1"], 10),
    "timm convnext 2": (_timm("convnextv2_atto"), ["stages.1.blocks.0", "stages.1.blocks.1"], 10),
    "torchvision convnext": (_torchvision("convnext_tiny"), ["features.3.0", "features.3.1"], 15),
    "timm efficientnet": (_timm("efficientnet_b0"), ["blocks.2.0", "blocks.2.1"], 13),
    "torchvision efficientnet": (_torchvision("efficientnet_b0"), ["features.3.0", "features.3.1"], 13),
    "torchvision mobilenet 2": (_torchvision("mobilenet_v2"), ["features.4", "features.5"], 14),
    "torchvision mobilenet 3": (_torchvision("mobilenet_v3_small"), ["features.2", "features.3"], 10),
    "timm mobilenet 3": (_timm("mobilenetv3_small_050"), ["blocks.1.0", "blocks.1.1"], 10),
    "timm regnet": (_timm("regnetx_002"), ["s2.b1", "s3.b1"], 12),
    "timm swin": (_timm("swin_tiny_patch4_window7_224"), ["layers.1.blocks.0", "layers.1.blocks.1"], 10),
    "torchvision swin": (_torchvision("swin_t"), ["features.3.0", "features.3.1"], 10),
    # Behind the last block only the class token is read.
    "timm vit": (_timm("vit_tiny_patch16_224"), ELEVEN, 11),
    "timm deit": (_timm("deit_tiny_distilled_patch16_224"), ELEVEN, 11),
    "timm vit that reads all tokens": (
        lambda: timm.create_model("vit_tiny_patch16_224", global_pool="avg"),
        [*ELEVEN, "blocks.11"],
        12,
    ),
    "torchvision vit": (_torchvision("vit_b_32"), ["encoder.layers.encoder_layer_0"], 11),
    "torchvision video": (_torchvision("r3d_18"), ["layer2.0", "layer2.1"], 6),
    "wide resnet": (_torchvision("wide_resnet50_2"), ["layer2.0", "layer2.1"], 13),
    "1-D": (lambda: plain(1), ["2", "6", "10"], 3),
}


@pytest.mark.parametrize("family", DEFAULTS)
@pytest.mark.slow
def test_the_default_of_every_family(family: str) -> None:
    build, first, count = DEFAULTS[family]
    with torch.device("meta"):
        model = build()
        sites = insert(model, "gc").sites
    assert [site.name for site in sites][: len(first)] == first
    assert len(sites) == count == len(names(model))


def test_the_result_lists_the_insertion_sites() -> None:
    model = create("swin")
    described = str(insert(model, "gc", at=["layers.1.blocks.*", "patch_embed"], ratio=4))
    assert described == (
        "gc with ratio 4 on the output of 3 modules: patch_embed (channels-last map of 16 channels); "
        "layers.1.blocks: 0, 1 (channels-last map of 32 channels); "
        f"{(2 * 16 * 4 + 2 * 16 + 3 * 4 + 1) + 2 * (2 * 32 * 8 + 2 * 32 + 3 * 8 + 1):,} parameters added"
    )
    assert str(inserted(model)[0]) == described
    assert "tokens of 64 channels" in str(insert(create("vit"), "se"))


class Strange(nn.Module):
    """Modules that cannot take a block, one of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.parts = nn.ModuleList([nn.Conv2d(8, 8, 1)])
        self.shared = nn.ReLU()
        self.idle = nn.Conv2d(8, 8, 1)
        self.taken = nn.Conv2d(8, 8, 1)
        self.taken.context = 3
        self.pair = Pair()
        self.runner = Runner()
        self.scripted = torch.jit.trace(nn.Conv2d(8, 8, 1), torch.zeros(1, 8, 5, 5))
        self.narrow = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.taken(self.parts[0](self.norm(self.shared(self.first(x)))))
        return self.shared(self.narrow(self.scripted(self.runner(self.pair(x)["map"])))).mean((2, 3))


def no_module(channels: int) -> None:
    """A builder that lacks its return."""
    nn.Conv2d(channels, channels, 1)


class Wider(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels + 1, 1)


class Failing(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Any) -> Tensor:
        return x.undefined()


class Pair(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": x, "mask": x}


class Runner(nn.Module):
    """Runs whatever children it has."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"at": "frist"}, r'no module name matches "frist"; did you mean "first"'),
        ({"at": nn.Conv3d}, "no module in the network is a Conv3d \\(at\\); it has BatchNorm2d, Conv2d"),
        ({"at": "Conv2D"}, 'no module name matches "Conv2D"; did you mean "Conv2d"'),
        ({"at": []}, "at least one module"),
        ({"at": "first", "stages": (3,)}, "cannot be combined with `stages` or `blocks`"),
        ({"at": "norm"}, "norm.1 cannot take a block: it is a BatchNorm2d"),
        ({"at": nn.BatchNorm2d}, "norm.1 cannot take a block: it is a BatchNorm2d"),
        ({"at": "parts"}, 'parts cannot take a block: it is a ModuleList.*such as "parts.0"'),
        ({"at": "idle"}, "idle is not called"),
        ({"at": "taken"}, "taken already has a `context`"),
        ({"at": "pair"}, "pair returns a dict: use another module"),
        ({"at": "shared"}, "shared returns several in one run"),
        ({"at": "runner"}, "calls the children of runner itself"),
        ({"at": "scripted"}, "it is TorchScript"),
        ({"at": "first", "position": "after_norm"}, "`position` needs a residual block"),
        (
            {"at": "first", "example_input": (7, 9, 9)},
            r"failed on \(2, 7, 9, 9\) and \(7, 9, 9\).*use another `example_input`",
        ),
        ({"stages": (3,)}, "`stages` and `blocks` need known stages"),
        ({"at": "narrow", "block": "nope"}, 'unknown block "nope"'),
        ({"at": "first", "block": no_module}, "a builder must return a module, but no_module returned None"),
        (
            {"at": "first", "block": Wider},
            r"must keep the shape .* at first it returns \(2, 9, 13, 17\) for \(2, 8, 13",
        ),
        ({"at": "first", "block": Failing}, "runs without the blocks and fails with them: AttributeError: .*undefined"),
        ({"at": "narrow", "layout": "NHWC"}, 'unknown layout "NHWC"; valid: channels_first'),
        ({"at": "narrow", "example_input": "3x32x32"}, "`example_input` must be a tensor, .*; found '3x32x32'"),
        ({"at": "narrow", "example_input": np.zeros((1, 3, 9, 9))}, "found a numpy array of shape"),
        ({"at": "narrow", "ratio": 1000}, "`ratio` must be at most the channels"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_arguments_are_refused_and_leave_the_model_unchanged(arguments: dict, sentence: str) -> None:
    model = Strange()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    arguments = {"block": "gc", "example_input": (3, 13, 17)} | arguments
    with pytest.raises(UserError, match=sentence):
        insert(model, **arguments)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert inserted(model) == ()
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_compiled_and_sharded_networks_are_refused() -> None:
    model = plain()
    for wrapped, sentence in (
        (torch.jit.trace(model.eval(), torch.zeros(1, 3, 16, 16)), "before torch.jit"),
        (torch.compile(model), "before torch.compile"),
    ):
        with pytest.raises(UserError, match=sentence):
            insert(wrapped, "gc", at="*2", example_input=(3, 16, 16))


def test_positions_before_the_batch_and_modules_without_a_shape_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    with pytest.raises(UserError, match="the first axis must be the batch"):
        insert(encoder, "gc", example_input=torch.zeros(10, 2, 32))
    with pytest.raises(UserError, match="0 has lazy parameters"):
        insert(nn.Sequential(nn.LazyConv2d(32, 3), nn.ReLU()), "gc")


def test_a_shape_that_changes_between_calls_is_refused_when_it_does() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    insert(model, "gc", at="0", example_input=torch.zeros(2, 8, 5, 5), ratio=2)
    model(torch.zeros(2, 8, 9, 3))
    for shape in ((2, 6, 5, 5), (2, 8, 5)):
        with pytest.raises(UserError, match=r"inserted for outputs of shape \(N, 8, H, W\), found shape \(2, "):
            model(torch.zeros(shape))


def test_a_second_insertion_goes_elsewhere_and_both_are_listed() -> None:
    model = create("vit")
    insert(model, "gc", at="blocks.1", example_input=images("vit"))
    with pytest.raises(UserError, match=r"blocks\.1 already has a context block"):
        insert(model, "se", at="blocks.*", example_input=images("vit"))
    insert(model, "se", at="blocks.0", example_input=images("vit"))
    assert [(insertion.block, [site.name for site in insertion.sites]) for insertion in inserted(model)] == [
        ("gc", ["blocks.1"]),
        ("se", ["blocks.0"]),
    ]


def test_inserted_blocks_are_not_insertion_sites() -> None:
    model = create("2-D")
    insert(model, "se", at="2", example_input=images("2-D"))
    for at in ("2.context*", nn.Identity, "Branch"):
        with pytest.raises(UserError, match="no module"):
            insert(model, "gc", at=at, example_input=images("2-D"))
