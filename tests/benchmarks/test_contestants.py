"""What is compared computes the same: the peers' blocks with copied weights, and the calls that are timed."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cases import BENCHMARKS, blocks, positions
from benchmarks.contestants import Contestant, Copy
from benchmarks.peers import build_mmcv_context, build_mmcv_non_local, build_timm_context
from benchmarks.shapes import QUICK, REAL, doublings
from benchmarks.tasks import forward_backward_call, saved_bytes
from gcnet.analysis.timing import Precision
from gcnet.blocks import build_block, list_blocks
from gcnet.checkpoints import convert_block
from gcnet.insertion import inserted
from random_weights import randomize
from tolerances import assert_equal_within

CHANNELS = 64
MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def build_ours(name: str, **options: float) -> nn.Module:
    return build_block(name, channels=CHANNELS, **options)


PEERS = {
    "mmcv": (build_mmcv_context(CHANNELS), "mmcv_context", build_ours("gc")),
    "timm": (build_timm_context(CHANNELS), "timm_global_context", build_ours("gc", norm_eps=1e-6)),
} | {
    f"mmcv_{mode}": (build_mmcv_non_local(CHANNELS, mode), "mmcv_non_local", build_ours(f"nl_{mode}")) for mode in MODES
}


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_with_the_same_weights_computes_the_same(peer: str) -> None:
    reference, source, ours = PEERS[peer]
    randomize(reference).double()
    ours.double().load_state_dict(convert_block(reference.state_dict(), source))
    x = torch.randn(2, CHANNELS, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.equal(reference(x), x)
        assert_equal_within(ours(x), reference(x), torch.float64)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "loader"])  # it compares whole pipelines
def test_contestants_have_distinct_names_and_are_measured_with_their_baselines(name: str) -> None:
    for case in BENCHMARKS[name](REAL):
        names = [contestant.name for contestant in case.contestants]
        assert len(set(names)) == len(names)
        assert all(other in names for contestant in case.contestants for other in contestant.against)


def test_every_block_is_measured_against_positions() -> None:
    for case in positions(QUICK, list_blocks()):
        assert [contestant.name for contestant in case.contestants] == list_blocks()
        assert len({contestant.shape for contestant in case.contestants}) == 1


def test_every_block_is_measured_at_the_same_sites_against_the_plain_network() -> None:
    cases = blocks(QUICK, list_blocks())
    assert {case.contestants[1].name.partition(",")[0] for case in cases} == set(list_blocks())
    with torch.device("meta"):
        found = [inserted(case.contestants[1].build())[0] for case in cases[::2]]
    for insertion in found:
        assert [site.name for site in insertion.sites] == [f"layer{stage}.{i}" for stage in (2, 3, 4) for i in (0, 1)]
    assert all(case.contestants[1].against == (case.contestants[0].name,) == ("resnet18",) for case in cases)


def test_positions_double() -> None:
    assert [height * width for *_, height, width in doublings((1, 5, 3, 7), 3)] == [21, 42, 84, 168]


def test_nothing_is_timed_with_the_zeros_of_a_new_block() -> None:
    for case in BENCHMARKS["gc_forward"](QUICK)[:1]:
        for contestant in case.contestants[:3]:
            module, x = contestant.prepare()
            with torch.no_grad():
                assert not torch.equal(module(x), x)


def test_a_copy_is_equal_and_elsewhere() -> None:
    x = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)
    y = Copy()(x)
    assert torch.equal(y, x) and y.data_ptr() != x.data_ptr()
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_forward_and_backward_gives_every_gradient() -> None:
    module, x = nn.Conv2d(3, 3, 1), torch.randn(2, 3, 5, 7)
    found = forward_backward_call(module, x)()
    assert isinstance(found, tuple)
    assert [gradient.shape for gradient in found] == [x.shape, module.weight.shape, (3,)]
    assert module.weight.grad is None


class Square(nn.Module):
    """`y = w x x`, which needs w x, x and x x for its gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(1, 3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * (x * x)


def test_saved_bytes_are_those_of_every_storage_once_without_the_parameters() -> None:
    x = torch.randn(1, 3, 5, 7)
    size = 4 * x.numel()
    assert saved_bytes(nn.Sigmoid(), x) == size
    assert saved_bytes(Square(), x) == 2 * size, "x, twice, and its square; not w"
    assert saved_bytes(Copy(), x) == 0


def test_a_contestant_is_arranged_as_its_numerics_say() -> None:
    module, x = Contestant("conv", lambda: nn.Conv2d(3, 5, 3), (2, 3, 5, 7)).prepare()
    assert x.shape == (2, 3, 5, 7)
    saved = saved_bytes(module, x, Precision(torch.bfloat16, channels_last=True))
    assert saved == 2 * (x.numel() + 5 * 3 * 3 * 3), "map and weight, both in half precision"
