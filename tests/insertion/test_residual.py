"""Insertion into residual blocks: the right sites and numbers, and nothing lost with copies and conversions."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from timm.utils.model import freeze_batch_norm_2d
from torch import nn

from gcnet.blocks import build_block, list_blocks
from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insert, insertion_records
from gcnet.insertion.residual_blocks.position import Positioned
from gcnet.models.backbones.cifar_resnet import CifarResNet

BASE_MODELS = {
    "torchvision basic": lambda: torchvision.models.resnet18(num_classes=7),
    "torchvision bottleneck": lambda: torchvision.models.resnet50(num_classes=7),
    "timm basic": lambda: timm.create_model("resnet10t", num_classes=7, zero_init_last=False),
    "timm bottleneck": lambda: timm.create_model("resnet26", num_classes=7, zero_init_last=False),
    "timm resnext": lambda: timm.create_model("resnext50_32x4d", num_classes=7, zero_init_last=False),
    "timm with attention": lambda: timm.create_model("seresnet50", num_classes=7, zero_init_last=False),
    "cifar": lambda: CifarResNet(20, 7),
}
POSITIONS = [
    (base, position)
    for base in BASE_MODELS
    for position in ("after_norm", "after_add", "after_conv2")
    if position != "after_conv2" or base not in ("torchvision basic", "timm basic", "cifar")
]


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 37, 41, generator=torch.Generator().manual_seed(seed))


def randomize(model: nn.Module) -> nn.Module:
    """Move every inserted block away from its start, at which the last layers are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in context_parameters(model):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@pytest.fixture(params=BASE_MODELS)
def base(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return BASE_MODELS[request.param]().eval()


def test_a_new_addition_block_changes_neither_output_nor_parameter_names(base: nn.Module) -> None:
    before, names = base(images()), set(base.state_dict())
    insert(base, "gc", ratio=4)
    assert torch.equal(base(images()), before)
    added = set(base.state_dict()) - names
    assert names < set(base.state_dict())
    assert all(".context." in name for name in added)


def test_trained_blocks_change_the_output_and_all_receive_gradients(base: nn.Module) -> None:
    before = base(images())
    insert(base, "gc", ratio=4)
    output = randomize(base)(images())
    assert not torch.allclose(output, before, atol=1e-4)
    output.square().sum().backward()
    for name, parameter in context_parameters(base):
        if not name.endswith("context.key.bias"):  # softmax cancels a constant
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("name", "position"), POSITIONS, ids=lambda value: value.replace(" ", "-"))
@pytest.mark.slow
def test_the_block_acts_at_its_position(name: str, position: str) -> None:
    """Judged by another mechanism: the plain network with the same block appended to the module before the position."""
    torch.manual_seed(0)
    plain = BASE_MODELS[name]().eval()
    inserted = copy.deepcopy(plain)
    insert(inserted, "se", ratio=4, blocks=(-1,), position=position)
    randomize(inserted)
    for path, module in list(inserted.named_modules()):
        if isinstance(module, Positioned):
            _append(plain, path, module.context, position)
    torch.testing.assert_close(inserted(images()), plain(images()), rtol=1e-5, atol=1e-5)


def _append(plain: nn.Module, path: str, context: nn.Module, position: str) -> None:
    residual = plain.get_submodule(path)
    if position == "after_add":
        plain.set_submodule(path, nn.Sequential(residual, context))
        return
    bottleneck = hasattr(residual, "conv3")
    if position == "after_conv2":  # the network's ReLU after it changes nothing: a gate keeps signs
        residual.bn2 = nn.Sequential(residual.bn2, nn.ReLU(), context)
    elif getattr(residual, "se", None) is not None:
        residual.se = nn.Sequential(residual.se, context)
    else:
        norm = "bn3" if bottleneck else "bn2"
        setattr(residual, norm, nn.Sequential(getattr(residual, norm), context))


def test_stages_are_counted_as_in_the_paper_and_block_indices_from_the_end() -> None:
    model = torchvision.models.resnet50()
    result = insert(model, "gc", stages=(4,), blocks=(-2,), position="after_add")
    assert [(site.name, site.channels) for site in result.sites] == [("layer3.4", 1024)]
    assert result.parameters == 2 * 1024 * 64 + 2 * 1024 + 3 * 64 + 1


def test_the_default_is_every_block_of_c3_to_c5_and_all_stages_with_ratio_4_of_a_cifar_network() -> None:
    sites = insert(torchvision.models.resnet50(), "gc").sites
    assert [site.name.split(".")[0] for site in sites] == ["layer2"] * 4 + ["layer3"] * 6 + ["layer4"] * 3
    model = CifarResNet(20)
    assert len(insert(model, "gc").sites) == 9
    assert model.layer1[0].context.add.transform.reduce.weight.shape == (4, 16)


def test_the_summary_has_block_sites_channels_and_parameters() -> None:
    text = str(insert(CifarResNet(20), "gc", stages=(3,)))
    assert text == (
        "gc after_norm in 3 residual blocks: layer3 blocks 0, 1, 2 (64 channels); "
        f"{3 * (2 * 64 * 16 + 2 * 64 + 3 * 16 + 1):,} parameters added"
    )


def test_a_custom_builder_is_inserted_and_recorded() -> None:
    def build_shift(channels: int, amount: float = 1.0) -> nn.Module:
        return nn.BatchNorm2d(channels, eps=amount)

    model = CifarResNet(20)
    result = insert(model, build_shift, blocks=(0,), amount=0.5)
    assert len(result.sites) == 3
    assert model.layer2[0].context.eps == 0.5
    assert insertion_records(model)[0]["custom"] is True


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"block": "gcc"}, 'unknown block "gcc"; did you mean "gc"'),
        ({"block": "gc", "rato": 4}, 'no option "rato"; did you mean "ratio"'),
        ({"block": "snl", "ratio": 4}, 'block "snl" takes no option "ratio"'),
        ({"block": "gc", "stages": (4,)}, "`stages` must be among 1, 2, 3"),
        ({"block": "gc", "blocks": (3,)}, "`blocks` must be indices from 0 to 2 in stage 1, found 3"),
        ({"block": "gc", "position": "after_nrm"}, 'did you mean "after_norm"'),
        ({"block": "gc", "position": "after_conv2"}, "for bottlenecks"),
        ({"block": "gc", "blocks": ()}, "at least one residual block"),
        ({"block": "gc", "ratio": 1000}, "`ratio` must be at most the channels"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_usage_errors_are_one_sentence_and_leave_the_model_unchanged(arguments: dict, sentence: str) -> None:
    model = CifarResNet(20)
    names = list(model.state_dict())
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        insert(model, **arguments)
    assert list(model.state_dict()) == names
    assert insertion_records(model) == []


def test_a_second_block_at_the_same_site_is_refused() -> None:
    model = CifarResNet(20)
    insert(model, "gc", stages=(3,))
    with pytest.raises(UserError, match=r"layer3\.0 already has a context block"):
        insert(model, "se")
    insert(model, "se", stages=(1,))
    assert len(insertion_records(model)) == 2


def test_blocks_have_the_dtype_and_mode_of_the_network() -> None:
    model = CifarResNet(20).double().eval()
    insert(model, "nl_embedded_gaussian", normalization="batch")
    assert not model.layer1[0].context.training
    assert {parameter.dtype for _, parameter in context_parameters(model)} == {torch.float64}


@pytest.mark.slow
def test_copies_and_pickles_carry_the_blocks(base: nn.Module) -> None:
    insert(base, "gc", ratio=4)
    output = randomize(base)(images())
    assert torch.equal(copy.deepcopy(base)(images()), output)
    assert torch.equal(pickle.loads(pickle.dumps(base))(images()), output)  # noqa: S301


def test_blocks_still_run_after_norms_were_converted_or_frozen() -> None:
    for convert, create in (
        (nn.SyncBatchNorm.convert_sync_batchnorm, BASE_MODELS["torchvision basic"]),
        (nn.SyncBatchNorm.convert_sync_batchnorm, BASE_MODELS["timm basic"]),
        (freeze_batch_norm_2d, BASE_MODELS["timm basic"]),
        (freeze_batch_norm_2d, BASE_MODELS["torchvision bottleneck"]),
    ):
        torch.manual_seed(0)
        plain = create().eval()
        model = copy.deepcopy(plain)
        insert(model, "gc", ratio=4)
        output = randomize(model)(images())
        assert not torch.allclose(output, plain(images()), atol=1e-4)
        torch.testing.assert_close(convert(model).eval()(images()), output, rtol=1e-5, atol=1e-5)


def test_initialization_by_the_network_keeps_the_identity() -> None:
    """torchvision's loop over modules, timm's `init_weights`, and a blanket `reset_parameters`."""
    model = BASE_MODELS["timm basic"]().eval()
    insert(model, "nl_embedded_gaussian", normalization="batch")
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    _assert_blocks_are_identities(model)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    _assert_blocks_are_identities(model)


def _assert_blocks_are_identities(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Positioned):
            x = torch.randn(2, module.context.channels, 5, 3)
            assert torch.equal(module.context(x), x)


def test_a_published_block_gives_the_same_network_as_building_it_in_by_hand() -> None:
    """The block inserted is the block that `build_block` makes."""
    model = CifarResNet(20)
    insert(model, "gc", ratio=4, fusion="both")
    twin = build_block("gc", channels=16, ratio=4, fusion="both")
    assert model.layer1[0].context.state_dict().keys() == twin.state_dict().keys()


@pytest.mark.parametrize("block", list_blocks())
@pytest.mark.slow
def test_every_block_goes_into_a_network_with_its_defaults(block: str) -> None:
    model = torchvision.models.resnet18(num_classes=3).eval()
    report = insert(model, block)
    assert len(report.sites) == 6
    assert report.parameters == sum(parameter.numel() for _, parameter in context_parameters(model))
    assert model(torch.randn(2, 3, 65, 67)).isfinite().all()
    small = CifarResNet(20, 7)
    insert(small, block)
    small(torch.randn(2, 3, 11, 13)).sum().backward()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("block", ["gc", "nl_embedded_gaussian"])
def test_the_result_compiles_without_graph_breaks_and_exports_with_free_sizes(block: str) -> None:
    model = CifarResNet(20, 7).eval()
    insert(model, block, blocks=(-1,))
    randomize(model)
    output = model(images())
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(images()), output, rtol=1e-4, atol=1e-4)
    batch = torch.export.Dim("batch", min=1, max=512)
    # From 5 pixels up no map has a side of one, which torch.export would make a case of its own.
    height, width = (torch.export.Dim(name, min=5, max=512) for name in ("height", "width"))
    sizes = ({0: batch, 2: height, 3: width},)
    exported = torch.export.export(model, (torch.randn(9, 3, 32, 48),), dynamic_shapes=sizes).module()
    torch.testing.assert_close(exported(images()), output, rtol=1e-4, atol=1e-4)
