"""The default sites of many architectures: identity at the start, gradients everywhere, and everything taken back."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from gcnet.insertion import context_parameters, insert, inserted, remove

BLOCKS = ("gc", "se", "nl_embedded_gaussian")
# Softmax is the same for logits that differ by a constant: the bias of the one key of `gc`, and of the keys of `nl`.
CANCELLED = ("context.key.bias",)

# Name and side of the image; small where the architecture allows.
TIMM_SMALL = """
resnet10t resnet18 seresnet18 skresnet18 resnext26ts seresnext26ts ecaresnet26t resnet26d res2net50_14w_8s
resnest14d resnetv2_18 resnet32ts gcresnet33ts regnetx_002 regnety_002 regnetz_005 densenet121 convnext_atto
convnext_zepto_rms convnextv2_atto efficientnet_lite0 efficientnet_b0 tf_efficientnet_b0 efficientnetv2_rw_t
mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 mnasnet_small semnasnet_075 fbnetc_100 spnasnet_100
hardcorenas_a tinynet_e lcnet_035 mixnet_s rexnet_100 ghostnet_050 ghostnetv2_100 repvgg_a0 mobileone_s0 vovnet39a
ese_vovnet19b_dw dla34 dla46_c darknet17 cspresnet50 selecsls42 poolformer_s12 fasternet_t0 starnet_s050
inception_next_atto edgenext_xx_small mobilevit_xxs mobilevitv2_050 fastvit_t8 efficientvit_b0 repvit_m0_9
hgnetv2_b0 mambaout_femto pvt_v2_b0 test_resnet test_byobnet test_nfnet
"""
TIMM = {
    **dict.fromkeys(TIMM_SMALL.split(), 96),
    "vgg11": 64,
    "vit_tiny_patch16_224": 224,
    "vit_small_patch32_224": 224,
    "deit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "mixer_s32_224": 224,
    "pit_ti_224": 224,
    "xcit_nano_12_p16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_cr_tiny_ns_224": 224,
    "test_vit": 160,
}
TORCHVISION_SMALL = """
resnet18 resnet50 resnext50_32x4d densenet121 regnet_x_400mf regnet_y_400mf regnet_x_800mf
regnet_y_800mf efficientnet_b0 efficientnet_b1 efficientnet_v2_s mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
mnasnet0_5 mnasnet0_75 shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 convnext_tiny swin_t
swin_v2_t vgg11 alexnet googlenet
"""
TORCHVISION = {
    **dict.fromkeys(TORCHVISION_SMALL.split(), 96),
    "inception_v3": 128,
}
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18")


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=3)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    more = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=3, **more)


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"timm {name}": (_timm(name), (3, side, side)) for name, side in TIMM.items()},
    **{f"torchvision {name}": (_torchvision(name), (3, side, side)) for name, side in TORCHVISION.items()},
    "torchvision vit": (lambda: torchvision.models.VisionTransformer(64, 16, 3, 3, 48, 96, num_classes=3), (3, 64, 64)),
    **{f"video {name}": (_torchvision(name), (3, 4, 32, 32)) for name in VIDEO},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LayerNorm over:UserWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("blocks", [BLOCKS[:1], pytest.param(BLOCKS[1:], marks=pytest.mark.scale)], ids=" ".join)
def test_a_block_starts_as_the_identity_learns_everywhere_and_comes_out_again(
    name: str, blocks: tuple[str, ...]
) -> None:
    build, shape = ARCHITECTURES[name]
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    model = _settled(build(), x)
    names = list(model.state_dict())
    with torch.no_grad():
        before = model(x)
    for block in blocks:
        insertion = insert(model, block, example_input=x)
        assert insertion.sites and [key for key in model.state_dict() if ".context." not in key] == names
        if block != "se":
            with torch.no_grad():
                assert torch.equal(model(x), before), insertion
        _randomize(model)
        output = model(x)
        assert output.isfinite().all() and not torch.equal(output, before)
        output.square().sum().backward()
        for key, parameter in context_parameters(model):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            assert key.endswith(CANCELLED) or parameter.grad.any(), f"{key}: {insertion}"
        remove(model)
        assert list(model.state_dict()) == names and inserted(model) == ()
    with torch.no_grad():
        assert torch.equal(model(x), before)


def _settled(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The network as if trained: what it begins with at zero moved away, norms with the statistics of `x`, frozen."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("weight") and not parameter.any():
                parameter.uniform_(0.5, 1)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # The statistics become the mean of those seen.
        model.train()(x)
    return model.eval().requires_grad_(False)


def _randomize(model: nn.Module) -> None:
    """Move the last layers from zero; on large maps of untrained networks, keep softmax and ReLU from saturating."""
    with torch.no_grad():
        for key, parameter in context_parameters(model):
            if key.endswith("reduce.bias"):
                parameter.add_(1)
            if key.endswith(("key.weight", "query.weight")):
                parameter.mul_(1e-3)
            if not parameter.any():
                parameter.normal_(std=0.1)
