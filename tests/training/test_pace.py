import time
from collections.abc import Iterator

import pytest
import torch

from gcnet.training.pace import Pace


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def slow_batches(clock: Clock, seconds: float) -> Iterator[int]:
    number = 0
    while True:
        clock.now += seconds
        yield number
        number += 1


def test_a_row_has_the_speed_and_the_share_of_waiting_since_the_last_row(clock: Clock) -> None:
    pace, batches = Pace(torch.device("cpu")), slow_batches(clock, 3.0)
    for wait, work in ((3.0, 1.0), (3.0, 9.0)):
        pace.next_batch(batches)
        clock.now += work
        seconds = wait + work
        expected = {"images_per_second": 60 / seconds, "data_wait_fraction": wait / seconds}
        assert pace.row(60) == pytest.approx(expected, abs=1e-4)


def test_the_time_of_an_evaluation_does_not_count(clock: Clock) -> None:
    pace = Pace(torch.device("cpu"))
    clock.now += 2.0
    with pace.paused():
        clock.now += 500.0
    assert pace.row(60) == {"images_per_second": 30.0, "data_wait_fraction": 0.0}
    assert pace.describe_step(60) == "30 images/s"


@pytest.mark.parametrize(("wait", "expected"), [(0.05, "10 images/s"), (0.5, "10 images/s  50% waiting for data")])
def test_waiting_for_data_is_shown_from_a_tenth_of_the_time_on(wait: float, expected: str, clock: Clock) -> None:
    pace, batches = Pace(torch.device("cpu")), slow_batches(clock, wait)
    for _ in range(5):
        pace.next_batch(batches)
        clock.now += 1.0 - wait
        shown = pace.describe_step(10)
    assert shown == expected
