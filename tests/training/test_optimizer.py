"""The learning rate over the steps, parameter groups and freezing."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from gcnet.errors import UserError
from gcnet.training.optimizer import build_optimizer, build_schedule, freeze, set_learning_rate
from gcnet.training.recipe import RecipeSettings


def rates_of(scheduler, optimizer, steps):
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def optimizer_at(rate):
    return SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def test_the_cosine_is_torchs_with_t_max_the_whole_run():
    schedule = build_schedule(RecipeSettings(preset="finetune", epochs=3), 11)
    optimizer = optimizer_at(0.02)
    expected = rates_of(CosineAnnealingLR(optimizer, T_max=33), optimizer, 33)
    assert [schedule.at(step) for step in range(33)] == pytest.approx(expected, rel=1e-9)


def test_steps_are_torchs_milestones():
    recipe = RecipeSettings(steps=30, lr=0.3, schedule="step", milestones=(0.4, 0.9), lr_gamma=0.2, warmup_epochs=0.0)
    optimizer = optimizer_at(0.3)
    expected = rates_of(MultiStepLR(optimizer, [12, 27], gamma=0.2), optimizer, 30)
    assert [build_schedule(recipe, 7).at(step) for step in range(30)] == pytest.approx(expected, rel=1e-9)


def test_the_warm_up_is_linear_and_ends_at_the_peak():
    recipe = RecipeSettings(steps=40, lr=0.4, schedule="constant", warmup_epochs=2.0)
    schedule = build_schedule(recipe, 5)
    assert [schedule.at(step) for step in range(12)] == pytest.approx(
        [0.04 * (step + 1) for step in range(10)] + [0.4] * 2
    )


def test_the_cosine_runs_over_what_the_warm_up_leaves():
    recipe = RecipeSettings(steps=40, lr=0.4, min_lr=0.1, warmup_epochs=2.0)
    optimizer = optimizer_at(0.4)
    warm = LinearLR(optimizer, start_factor=0.1, total_iters=9)
    tail = CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1)
    expected = rates_of(SequentialLR(optimizer, [warm, tail], [10]), optimizer, 40)
    assert [build_schedule(recipe, 5).at(step) for step in range(40)] == pytest.approx(expected, rel=1e-6)


def network():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 2))


def test_blocks_have_a_learning_rate_of_their_own():
    optimizer = build_optimizer(network(), RecipeSettings(block_lr_mult=10.0), ["3.weight", "3.bias"])
    set_learning_rate(optimizer, 0.03)
    rates = {parameter.shape: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[torch.Size([2, 5])] == pytest.approx(0.3)
    assert rates[torch.Size([5, 3, 3, 3])] == pytest.approx(0.03)


def test_a_block_learning_rate_without_blocks_is_refused():
    with pytest.raises(UserError, match="no inserted blocks"):
        build_optimizer(network(), RecipeSettings(block_lr_mult=10.0))


@pytest.mark.parametrize("decay_all", [True, False])
def test_norms_and_biases_decay_only_by_choice(decay_all):
    optimizer = build_optimizer(network(), RecipeSettings(weight_decay=0.25, decay_all=decay_all))
    decays = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[(2, 5)] == decays[(5, 3, 3, 3)] == 0.25
    assert decays[(5,)] == decays[(2,)] == (0.25 if decay_all else 0.0)


def test_patterns_freeze_parameters_and_nothing_else():
    model = network()
    assert freeze(model, ["0.*", "*.bias"]) == ["0.weight", "0.bias", "1.bias", "3.bias"]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["1.weight", "3.weight"]
    optimizer = build_optimizer(model, RecipeSettings())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match=r'`freeze=3.wight` matches no parameter; did you mean "3.weight"'):
        freeze(network(), ["0.*", "3.wight"])


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="leaves nothing to train: all 6 parameters"):
        freeze(network(), ["*"])


def test_the_schedule_is_finite_for_a_run_of_one_step():
    schedule = build_schedule(RecipeSettings(steps=1), 1)
    assert math.isfinite(schedule.at(0)) and schedule.at(0) == 0.1
