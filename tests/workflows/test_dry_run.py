"""What a dry run measures, on a task small enough to be followed."""

import pytest
import torch

from gcnet.workflows.dry_run import _time_forward
from training.toy import ToyTask, toy_trainer


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_an_evaluation_is_timed_in_the_precision_of_the_run(precision, dtype):
    task, seen = ToyTask(), []
    task.forward = lambda network, batch: seen.append(network(batch.inputs).dtype)
    assert _time_forward(toy_trainer(task, precision=precision), task.whole_batch(0)) > 0
    assert seen == [dtype]


def test_a_batch_without_readable_images_takes_no_time():
    task = ToyTask()
    task.dropped = {0: list(range(12))}
    assert _time_forward(toy_trainer(task), next(task.batches(0, torch.device("cpu")))) == 0
