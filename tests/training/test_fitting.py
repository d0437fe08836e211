"""Sizes by trial: sizes of tensors whose bytes are known."""

import json
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from gcnet.errors import OutOfMemory
from gcnet.training import fitting as fitting
from gcnet.training.distributed import ALONE, processes_joined
from gcnet.training.fitting import largest_that_fits
from gcnet.training.free_memory import free_memory
from training.photos import call_as_two, fast_start

CPU = torch.device("cpu")
MIB = 2**20


def fill(mebibytes: int) -> torch.Tensor:
    return torch.ones(mebibytes * MIB, dtype=torch.uint8)


def call_alone(work: Callable[..., None], *arguments: Any) -> None:
    """Call in a new process, since a heap that large tests left behind can hold a tensor without growing."""
    process = fast_start().Process(target=work, args=arguments)
    process.start()
    process.join(100)
    process.kill()
    assert process.exitcode == 0


def find_largest(free: int, size: int) -> None:
    tried = []

    def run(mebibytes: int) -> None:
        tried.append(mebibytes)
        fill(mebibytes)

    fitting.free_memory = lambda: free * MIB
    assert largest_that_fits([512, 256, 128, 64, 16, 4, 1], run, CPU, ALONE) == size
    assert max(tried) == size  # none that would end the process
    assert len(tried) <= 6


def find_jump() -> None:
    """Memory that grows with the square of the size: the largest expected size is too large when it is measured."""
    fitting.free_memory = lambda: 300 * MIB
    tried = []

    def run(size: int) -> None:
        tried.append(size)
        fill(size * size)

    assert largest_that_fits([24, 20, 16, 12, 2], run, CPU, ALONE) == 16
    assert tried == [2, 2, 24, 20, 16]


def measure_own_limit(kind: int, name: str) -> None:
    """300 MiB are left by `ulimit`, of which a tenth is for other things."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    most = int(status[name].split()[0]) * 1024 + 300 * MIB
    resource.setrlimit(kind, (most, most))
    assert 260 * MIB < (free_memory() or 0) < 280 * MIB  # 270, were the process not to grow or shrink meanwhile


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")])
def test_free_memory_is_at_most_what_limits_of_the_process_leave(kind: int, name: str) -> None:
    call_alone(measure_own_limit, kind, name)


@pytest.mark.slow
@pytest.mark.parametrize(("free", "size"), [(2000, 512), (450, 256), (200, 128), (40, 16), (2, 1)])
def test_on_a_cpu_the_largest_size_that_fits_is_found_without_trying_larger_ones(free: int, size: int) -> None:
    call_alone(find_largest, free, size)


@pytest.mark.slow
def test_a_size_that_needs_more_than_expected_is_not_chosen() -> None:
    call_alone(find_jump)


@pytest.mark.parametrize(("device", "order"), [("cuda", [4, 2, 1]), ("cpu", [1, 1, 4, 2])])
def test_errors_other_than_missing_memory_and_that_of_the_smallest_size_are_raised(
    device: str, order: list[int]
) -> None:
    """On devices where missing memory is an error, the largest is first."""
    tried = []

    def fail(above: int, size: int) -> None:
        tried.append(size)
        if size > above:
            raise OutOfMemory("too large")

    def find(above: int) -> int:
        return largest_that_fits([4, 2, 1], partial(fail, above), torch.device(device), ALONE)

    assert find(4) == 4
    tried.clear()
    assert find(1) == 1
    assert tried == order
    with pytest.raises(OutOfMemory, match="too large"):
        find(0)
    with pytest.raises(ValueError, match="no number"):
        largest_that_fits([4, 2], Mock(side_effect=ValueError("no number")), torch.device(device), ALONE)


def find(folder: Path) -> None:
    """In the second process only 100 MiB are free."""
    with processes_joined(CPU) as processes:
        fitting.free_memory = lambda: (100 if processes.rank else 2000) * MIB
        size = largest_that_fits([512, 64], fill, CPU, processes)
        (folder / f"{processes.rank}.json").write_text(json.dumps(size))


@pytest.mark.slow
def test_processes_agree_on_what_fits_in_all_of_them(tmp_path: Path) -> None:
    for process in call_as_two(find, tmp_path):
        process.join(100)
        process.kill()
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [64, 64]


def machine(root: Path, available: int, group: str) -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal:  99999 kB\nMemAvailable:  {available // 1024} kB\n")
    (root / "proc" / "self" / "cgroup").write_text(group)
    return root


def write_group(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_free_memory_is_that_of_the_machine_less_a_tenth_shared_by_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(tmp_path, 1000 * MIB, "0::/\n")
    assert free_memory(root) == 900 * MIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert free_memory(root) == 300 * MIB
    assert free_memory(tmp_path / "no Linux") is None


def test_free_memory_is_at_most_what_a_container_leaves(tmp_path: Path) -> None:
    root = machine(tmp_path, 1000 * MIB, "0::/job/step\n")
    write_group(root / "sys/fs/cgroup/other", {"memory.max": 1, "memory.current": 1})
    write_group(root / "sys/fs/cgroup/job/step", {"memory.max": "max", "memory.current": 1})
    write_group(
        root / "sys/fs/cgroup/job",
        {
            "memory.max": 300 * MIB,
            "memory.current": 250 * MIB,
            "memory.stat": f"anon 1\ninactive_file {50 * MIB}",
        },
    )
    assert free_memory(root) == 90 * MIB  # 0.9 x (300 - 250 + 50)


def test_free_memory_knows_control_groups_of_version_1(tmp_path: Path) -> None:
    root = machine(tmp_path, 1000 * MIB, "4:cpu,memory:/docker/x\n0::/\n")
    top = root / "sys/fs/cgroup/memory"  # in the container, where the group is the top
    files = {"memory.stat": "inactive_file 7\ntotal_inactive_file 0"}
    write_group(top, {"memory.limit_in_bytes": 200 * MIB, "memory.usage_in_bytes": 100 * MIB, **files})
    assert free_memory(root) == 90 * MIB
