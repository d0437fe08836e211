"""A Ray cluster of two nodes on this machine, started by `ray start` as on two machines."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from free_ports import free_port

SMALL = ("--num-cpus", "1", "--object-store-memory", "100000000", "--node-ip-address", "127.0.0.1")
# Ray notices the death of a node within seconds instead of half a minute. Its workers have the priority of other
# processes, beside which they would wait for minutes on a busy machine, and the memory of these ends no task.
QUICK = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}


@dataclass
class Nodes:
    """The address of the cluster, and the processes of its two nodes."""

    address: str
    head: subprocess.Popen[bytes]
    second: subprocess.Popen[bytes]

    def kill_second(self) -> None:
        """Kill the second node without a warning, as a power failure does; its workers end by themselves."""
        os.kill(_raylet(self.second.pid), signal.SIGKILL)

    def kill_worker(self, title: bytes) -> bool:
        """Kill the worker, of either node, of a task whose title begins so; returns whether there was one."""
        return _signal_worker([*_workers(self.head, title), *_workers(self.second, title)], signal.SIGKILL)

    def signal_head(self, title: bytes, number: signal.Signals) -> bool:
        """Send a signal to the worker of a task of the first node in the same way."""
        return _signal_worker(_workers(self.head, title), number)

    def second_runs(self, title: bytes) -> bool:
        """Whether a worker of the second node runs a task whose title begins so."""
        return _workers(self.second, title) != []


def _workers(node: subprocess.Popen[bytes], title: bytes) -> list[int]:
    """The workers of a node that run tasks whose titles begin so."""
    found = []
    for child in _children(_raylet(node.pid)):
        with suppress(OSError):
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith(title):
                found.append(child)
    return found


def _signal_worker(workers: list[int], number: signal.Signals) -> bool:
    """Send a signal to the first of these workers; returns whether there is one."""
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, number)
            return True
    return False


def _raylet(node: int) -> int:
    for child in _children(node):
        if b"raylet" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
            return child
    raise AssertionError("the node has no raylet")


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


def _start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Run `ray start --block`, with the paths of this process, so that its workers import the same code."""
    environment = os.environ | QUICK | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        environment.pop(name, None)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *SMALL]
    with (folder / f"{arguments[0].strip('-')}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, *arguments], stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder
        )


@contextmanager
def two_nodes(folder: Path) -> Iterator[Nodes]:
    """Start two nodes of one CPU each, the second as if it had two GPUs, and stop them at the end."""
    address = f"127.0.0.1:{free_port()}"
    head = _start(folder, "--head", "--port", address.partition(":")[2], "--include-dashboard", "false")
    started = [head]
    try:
        _wait_for(folder / "head.log", head)
        second = _start(folder, "--address", address, "--num-gpus", "2")
        started.append(second)
        _wait_for(folder / "address.log", second)
        yield Nodes(address, head, second)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(started):
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(log: Path, process: subprocess.Popen[bytes], *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while b"Ray runtime started" not in log.read_bytes():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
