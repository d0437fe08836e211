"""One step at a time, against bare torch and arithmetic done by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from gcnet.training.losses import NonFiniteLoss
from training.toy import ToyTask, bits, tiny_network, toy_trainer


def take(trainer, steps):
    batches = trainer.task.batches(trainer.step, torch.device("cpu"))
    return [trainer.train_step(next(batches)) for _ in range(steps)]


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw"])
def test_the_trainer_takes_the_same_steps_as_a_bare_torch_loop(name):
    options = {"nesterov": True} if name == "nesterov" else {"optimizer": name}
    trainer = toy_trainer(steps=13, lr=0.03, weight_decay=0.02, **options)
    take(trainer, 13)

    network, task = tiny_network(), ToyTask()
    if name == "adamw":
        optimizer = AdamW(network.parameters(), lr=0.03, weight_decay=0.02)
    else:
        optimizer = SGD(network.parameters(), 0.03, 0.9, weight_decay=0.02, nesterov=name == "nesterov")
    scheduler = CosineAnnealingLR(optimizer, T_max=13)
    for step in range(13):
        batch = task.whole_batch(step)
        optimizer.zero_grad()
        functional.mse_loss(network(batch.inputs), batch.targets).backward()
        optimizer.step()
        scheduler.step()
    for own, bare in zip(trainer.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(own, bare, rtol=1e-5, atol=1e-6)


def test_micro_batches_of_unequal_size_give_the_gradient_of_the_whole_batch():
    task = ToyTask(batch_size=12)
    task.dropped = {0: [1], 1: [0, 7], 2: list(range(10))}
    whole, parts = toy_trainer(task), toy_trainer(task, grad_accumulation=4)
    losses = [outcome.loss_sums["squares"] for outcome in take(whole, 5)]
    assert losses == pytest.approx([outcome.loss_sums["squares"] for outcome in take(parts, 5)], rel=1e-5)
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_step_reports_the_sum_of_the_losses_over_its_images():
    trainer = toy_trainer()
    with torch.no_grad():
        batch = trainer.task.whole_batch(0)
        expected = float(((trainer.network(batch.inputs) - batch.targets) ** 2).sum())
    outcome = take(trainer, 1)[0]
    assert outcome.images == outcome.own_images == 12
    assert outcome.loss_sums == {"squares": pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize("grad_accumulation", [1, 4])
def test_a_loss_that_is_not_finite_stops_before_any_weight_changes_and_names_the_images(grad_accumulation):
    trainer = toy_trainer(ToyTask(poison=2), grad_accumulation=grad_accumulation)
    take(trainer, 2)
    before = bits(trainer.network)
    with pytest.raises(
        NonFiniteLoss, match=r"the loss is not a number in step 3; images of the batch: .*2/5"
    ) as raised:
        take(trainer, 1)
    assert bits(trainer.network) == before
    assert trainer.step == 2
    assert raised.value.step == 2
    # The images of the micro-batch that is to blame, not of the whole step.
    assert raised.value.names == [f"2/{index}" for index in (range(12) if grad_accumulation == 1 else range(3, 6))]


def test_an_infinite_loss_is_called_infinite():
    trainer = toy_trainer(network=nn.Linear(3, 1))
    with torch.no_grad():
        trainer.network.weight.fill_(1e30)
    with pytest.raises(NonFiniteLoss, match="the loss is infinite in step 1"):
        take(trainer, 1)


def test_weights_that_are_not_finite_are_refused():
    trainer = toy_trainer()
    trainer.check_weights()
    with torch.no_grad():
        trainer.network[0].weight[1, 2] = math.inf
    with pytest.raises(NonFiniteLoss, match="a weight"):
        trainer.check_weights()


def test_a_batch_without_readable_images_only_counts_the_step():
    task = ToyTask()
    task.dropped = {1: list(range(12))}
    trainer = toy_trainer(task, weight_decay=0.5)
    take(trainer, 1)
    before = bits(trainer.network)
    batches = task.batches(1, torch.device("cpu"))
    assert trainer.train_step(next(batches)).images == 0
    assert trainer.step == 2
    assert bits(trainer.network) == before


def test_gradients_are_clipped_to_the_stated_norm():
    network = nn.Linear(3, 1)
    trainer = toy_trainer(
        network=network, clip_grad_norm=0.5, momentum=0.0, weight_decay=0.0, lr=1.0, schedule="constant"
    )
    before = torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])
    with torch.no_grad():
        network.bias += 100
        before[-1] += 100
    take(trainer, 1)
    after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.5, rel=1e-4)


def test_the_average_follows_the_weights_by_its_formula():
    trainer = toy_trainer(ema_decay=0.8, network=nn.Linear(3, 1))
    expected = None
    for count in range(9):
        take(trainer, 1)
        now = trainer.network.weight.detach().double()
        decay = min(0.8, (1 + count) / (10 + count))
        expected = now if expected is None else decay * expected + (1 - decay) * now
    assert trainer.trained is not trainer.network
    torch.testing.assert_close(trainer.trained.weight.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_average_of_a_pruned_network_is_that_of_its_weights():
    layer = prune.l1_unstructured(nn.Linear(3, 1), "weight", amount=0.34)
    trainer = toy_trainer(ema_decay=0.8, network=layer)
    take(trainer, 1)
    first = layer.weight_orig.detach().clone()
    take(trainer, 1)
    x = torch.randn(5, 3)
    expected = (2 / 11 * first + 9 / 11 * layer.weight_orig) * layer.weight_mask
    assert int((layer.weight_mask == 0).sum()) == 1
    bias = trainer.trained.bias
    torch.testing.assert_close(trainer.trained(x), x @ expected.T + bias, rtol=1e-5, atol=1e-6)


def test_the_average_takes_statistics_along_and_stays_in_evaluation_mode():
    trainer = toy_trainer(ema_decay=0.5, network=tiny_network(batch_norm=True))
    take(trainer, 5)
    norm, averaged = trainer.network[1], trainer.trained[1]
    assert int(averaged.num_batches_tracked) == int(norm.num_batches_tracked) == 5
    assert not torch.equal(averaged.running_mean, norm.running_mean)
    assert not averaged.training
    assert not any(parameter.requires_grad for parameter in trainer.trained.parameters())


def test_frozen_norms_keep_their_statistics():
    network = tiny_network(batch_norm=True)
    before = network[1].running_mean.clone()
    trainer = toy_trainer(network=network, freeze_bn_stats=True)
    take(trainer, 3)
    assert torch.equal(network[1].running_mean, before)
    assert network.training


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_float32_weights(precision):
    trainer = toy_trainer(precision=precision, lr=0.02)
    outcomes = take(trainer, 30)
    assert outcomes[-1].loss_sums["squares"] < outcomes[0].loss_sums["squares"] / 2
    assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())
    assert trainer.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_compiled_steps_are_those_of_eager_mode_and_resume_to_the_same_bits():
    def build(*, compile):
        return toy_trainer(network=tiny_network(batch_norm=True), compile=compile, ema_decay=0.9)

    eager, whole, first = build(compile=False), build(compile=True), build(compile=True)
    losses = [[outcome.loss_sums["squares"] for outcome in take(trainer, 3)] for trainer in (eager, whole)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for trained, expected in zip(whole.trained.parameters(), eager.trained.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-5)
    assert list(whole.state()["network"]) == list(eager.state()["network"])

    take(first, 2)
    resumed = build(compile=True)
    resumed.load_state(first.state())
    take(resumed, 1)
    assert bits(resumed.network) == bits(whole.network)
    assert bits(resumed.trained) == bits(whole.trained)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_compiled_steps_have_the_same_bits_after_an_evaluation_of_another_batch_size():
    def train(*, evaluates):
        torch.compiler.reset()
        trainer = toy_trainer(network=tiny_network(batch_norm=True), compile=True)
        if evaluates:
            with torch.no_grad():
                trainer.network.eval()(torch.randn(5, 3))
        take(trainer, 2)
        return bits(trainer.network)

    assert train(evaluates=True) == train(evaluates=False)


VARIANTS = {
    "plain": {},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "average": {"ema_decay": 0.9},
    "accumulation and clipping": {"grad_accumulation": 3, "clip_grad_norm": 1.0},
    "step schedule": {"schedule": "step", "milestones": (0.2, 0.4)},
    "fp16": {"precision": "fp16"},
    "nothing decayed but weights": {"decay_all": False},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_trainer_restored_from_its_state_takes_the_same_steps_to_the_bit(options):
    def build():
        return toy_trainer(network=tiny_network(batch_norm=True), **options)

    whole = build()
    take(whole, 23)
    first = build()
    take(first, 11)
    second = build()
    second.load_state(first.state())
    take(second, 12)
    assert second.step == 23
    assert bits(whole.network) == bits(second.network)
    assert bits(whole.trained) == bits(second.trained)
