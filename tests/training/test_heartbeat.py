"""Two gloo processes of which one fails, is killed or stopped: both end, and one message has the rank and the cause."""

import os
import re
import signal
import time

import pytest

from gcnet.errors import RankFailure, UserError
from gcnet.training.heartbeat import is_lost_connection, one_line
from training import faults
from training.photos import call_as_two, exit_codes, write_photos

PATIENCE = 200  # on a busy machine


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def outcome(processes, folder):
    """Exit codes, and the lines of both processes on their errors, without warnings."""
    codes = exit_codes(processes, PATIENCE)
    lines = [line for rank in range(2) for line in (folder / f"{rank}.err").read_text().splitlines()]
    return codes, [line for line in lines if line.startswith(("gcnet:", "Traceback", "(raised")) or "Error: " in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "rank"),
    [
        ("step", 0),
        ("step", 1),
        ("loader", 0),
        ("loader", 1),
        ("evaluation", 0),
        ("evaluation", 1),
        ("figures", 0),
        ("saving", 0),
    ],
)
def test_an_exception_in_one_process_ends_both_with_its_traceback_and_rank(place, rank, photos, tmp_path):
    processes = call_as_two(faults.train, tmp_path, photos, place, rank)
    codes, lines = outcome(processes, tmp_path)
    assert codes == ([1, 4] if rank == 0 else [4, 1])
    assert lines == ["Traceback (most recent call last):", "RuntimeError: broken part", f"(raised by rank {rank})"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rank", "code", "line"),
    [
        ("usage", 1, 2, "gcnet: rank 1: the --batch-size is odd"),
        ("disk", 0, 1, "gcnet: rank 0: cannot write checkpoint.safetensors: the disk is full"),
        ("stop", 1, 130, "gcnet: interrupted"),
    ],
)
def test_a_failure_of_one_process_is_reported_once_with_its_rank(kind, rank, code, line, photos, tmp_path):
    place = "saving" if kind == "disk" else "step"
    codes, lines = outcome(call_as_two(faults.train, tmp_path, photos, place, rank, kind), tmp_path)
    assert codes == ([code, 4] if rank == 0 else [4, code])
    assert lines == [line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "rank", "beat"),
    [
        (signal.SIGKILL, 0, 1.0),
        (signal.SIGKILL, 1, 1.0),
        (signal.SIGSTOP, 0, 0.25),
        (signal.SIGSTOP, 1, 0.25),
        pytest.param(signal.SIGSTOP, 1, 1.0, marks=pytest.mark.scale),  # as outside of tests: a minute
    ],
)
def test_a_killed_or_stopped_process_ends_the_other_with_one_sentence(number, rank, beat, photos, tmp_path):
    processes = call_as_two(faults.train, tmp_path, photos, "", -1, "", beat)
    until = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "checkpoint.safetensors").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(processes[rank].pid, number)
    processes[1 - rank].join(PATIENCE)
    assert processes[1 - rank].exitcode is not None
    processes[rank].kill()
    codes, lines = outcome(processes, tmp_path)
    assert codes[1 - rank] == 4
    ends = {signal.SIGKILL: "ended without a message; it may have been killed", signal.SIGSTOP: "has not responded for"}
    (line,) = lines
    assert re.match(rf"gcnet: .*rank {rank} \(process {processes[rank].pid} on ", line)
    assert ends[number] in line


def test_causes_are_one_line():
    assert one_line(UserError("a\nb")) == "a b"
    assert one_line(ValueError("a")) == "ValueError: a"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(KeyboardInterrupt()) == "interrupted"
    assert one_line(MemoryError()).startswith("out of memory")


def test_only_errors_of_gloo_and_nccl_are_lost_connections():
    assert is_lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:5] Connection closed by peer [::1]:5"))
    assert is_lost_connection(RuntimeError("NCCL communicator was aborted on rank 1"))
    assert not is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_connection(RankFailure(1, "rank 1 failed: Connection closed by peer"))
