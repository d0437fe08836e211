"""Modules that are fused or quantized with their blocks, and encoders with padded tokens."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization

from gcnet.errors import UserError
from gcnet.insertion import context_parameters, insert, inserted, remove
from insertion.networks import randomize

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Quantizable(nn.Module):
    """Convolutions, norms and activations in the form that eager quantization asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.norm, self.act = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.last, self.relu = nn.Conv2d(16, 16, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(self.quant(x))))
        return self.dequant(self.relu(self.last(x)))


@pytest.fixture
def model() -> nn.Module:
    model = Quantizable().eval()
    insert(model, "gc", at=["act", "relu"], ratio=4, example_input=(3, 9, 11))
    return randomize(model)


def test_a_block_on_the_last_of_fused_modules_goes_with_them(model: nn.Module) -> None:
    x = torch.randn(2, 3, 9, 11)
    expected = model(x)
    names = [name.partition(".context.")[2] for name, _ in context_parameters(model)]
    fused = quantization.fuse_modules(model, [["conv", "norm", "act"], ["last", "relu"]])
    assert [site.name for site in inserted(fused)[0].sites] == ["conv.1", "last.1"]
    assert [name.partition(".context.")[2] for name, _ in context_parameters(fused)] == names
    torch.testing.assert_close(fused(x), expected)
    for again in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        torch.testing.assert_close(again(x), expected)
        randomize(again)
        assert not torch.allclose(again(x), expected)
    torch.testing.assert_close(fused(x), expected)
    remove(fused)
    assert inserted(fused) == () and not any(module._forward_hooks for module in fused.modules())


@pytest.mark.parametrize("training", [False, True])
def test_a_quantized_network_runs_its_blocks_in_floating_point(training: bool) -> None:
    """The result is that of the float network but for the steps of eight bits."""
    torch.manual_seed(0)
    model = Quantizable().train(training)
    insert(model, "gc", at=["act", "relu"], ratio=4, example_input=(3, 9, 11))
    x = torch.randn(8, 3, 9, 11)
    model.train()(x)  # Statistics of the norms.
    randomize(model.eval())
    expected, groups = model(x), [["conv", "norm", "act"], ["last", "relu"]]
    if training:
        fused = quantization.fuse_modules_qat(model.train(), groups)
        fused.qconfig = quantization.get_default_qat_qconfig("x86")
        prepared = quantization.prepare_qat(fused)
        for module in prepared.modules():
            if hasattr(module, "freeze_bn_stats"):
                module.freeze_bn_stats()
        prepared(x)
        prepared.eval()
    else:
        fused = quantization.fuse_modules(model, groups)
        fused.qconfig = quantization.get_default_qconfig("x86")
        prepared = quantization.prepare(fused)
        prepared(x)
    converted = quantization.convert(prepared)
    assert "quantized" in type(converted.conv).__module__
    assert len(inserted(converted)[0].sites) == 2
    found = converted(x)
    without = copy.deepcopy(converted)
    remove(without)
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean() + 0.05
    assert (without(x) - found).abs().mean() > (found - expected).abs().mean()


def encoder() -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 3)


def test_an_encoder_with_padded_tokens_equals_its_output_in_training() -> None:
    model, x = encoder(), torch.randn(2, 7, 32)
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    nested = model.use_nested_tensor
    insert(model, "gc", example_input=x)
    randomize(model)
    expected = model.train()(x, src_key_padding_mask=padding)
    with torch.no_grad():
        found = model.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found, expected)
    remove(model)
    assert model.use_nested_tensor == nested
    assert not [name for name in vars(model) if "context" in name]


def test_an_encoder_that_is_run_with_padding_at_insertion() -> None:
    model = encoder()
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    example = {"src": torch.zeros(2, 7, 32), "src_key_padding_mask": padding}
    assert len(insert(model, "gc", example_input=example).sites) == 3


def test_nested_tensors_are_refused_in_one_sentence() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    insert(model, "se", at="0", ratio=2, example_input=torch.zeros(2, 5, 8))
    with pytest.raises(UserError, match="do not take nested tensors"):
        model(torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)]))
