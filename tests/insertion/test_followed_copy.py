"""`FollowedCopy`: made once, and again after every change of the network that it can see."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import gcnet
from gcnet.insertion import insert
from gcnet.insertion.followed_copy import FollowedCopy, has_foreign_hooks


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)).eval()


@torch.no_grad()
def _fill(model: nn.Sequential) -> None:
    model[0].get_parameter("weight").fill_(0.25)


@torch.no_grad()
def _new_statistics(model: nn.Sequential) -> None:
    model[1].get_buffer("running_mean").add_(1)


def _load(model: nn.Sequential) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def _replace_parameter(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.ones(16, 3, 1, 1))


def _replace_module(model: nn.Sequential) -> None:
    model[0] = nn.Conv2d(3, 16, 1)


def _insert(model: nn.Sequential) -> None:
    insert(model, "gc", at=["0"], ratio=4)


def _convert(model: nn.Sequential) -> None:
    model.double()


def _hook(model: nn.Sequential) -> None:
    model[0].register_forward_hook(lambda *_: None)


CHANGES = [_fill, _new_statistics, _load, _replace_parameter, _replace_module, _insert, _convert, _hook]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_copy_is_made_again_after_a_change(change: Callable[[nn.Sequential], None]) -> None:
    model = network()
    copies = FollowedCopy(model, gcnet.fuse)
    first = copies()
    assert copies() is first
    change(model)
    second = copies()
    assert second is not first
    assert copies() is second


def test_threads_share_one_copy() -> None:
    copies = FollowedCopy(network(), gcnet.fuse)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: copies(), range(32)))
    assert len(set(map(id, made))) == 1


def test_blocks_are_no_foreign_hooks_and_all_others_are() -> None:
    model = network()
    insert(model, "gc", at=["0"], ratio=4)
    assert not has_foreign_hooks(model)
    handle = model[0].register_forward_pre_hook(lambda *_: None)
    assert has_foreign_hooks(model)
    handle.remove()
    model[0].forward = torch.neg  # ty: ignore[invalid-assignment]
    assert has_foreign_hooks(model)
