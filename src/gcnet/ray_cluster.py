"""Connection to an existing Ray cluster; this package never starts one."""

import importlib.metadata
import importlib.util
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.errors import Failure, UserError, printable

RETRIES = 3
"""How often a task is repeated whose node or process dies."""
_ADDRESS = re.compile(r"(?:ray://)?([\w.-]+|\[[\da-fA-F:]+\]):(\d{1,5})")
_SECONDS = 10.0
_VERSION_SECONDS = 60.0  # for the answer of a node, which first starts a process
# The first bytes of an HTTP/2 connection (RFC 9113): both sides send a frame SETTINGS, whose fourth byte is its type.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@dataclass(frozen=True)
class Share:
    """Resources of a task on a cluster.

    Attributes:
        cpus: number of CPU cores.
        gpus: number of GPUs, 0 or 1.
    """

    cpus: int
    gpus: int

    def __str__(self) -> str:
        """Return it in words, such as "1 GPU and 8 CPU cores"."""
        cores = f"{self.cpus} CPU core{'s' * (self.cpus != 1)}"
        return f"{self.gpus} GPU and {cores}" if self.gpus else cores


@dataclass(frozen=True)
class Cluster:
    """CPU cores and GPUs of the nodes of a cluster.

    Attributes:
        nodes: number of CPU cores and of GPUs of each node.
    """

    nodes: tuple[tuple[int, int], ...]

    def share(self, device: str) -> Share:
        """Return the resources of one training or predictor: a core, or a GPU with its share of the cores of a node.

        Args:
            device: "auto" (a GPU if the cluster has any), "cuda" or "cpu".

        Raises:
            UserError: the device has a number, or the cluster has no GPU for "cuda", or no core.
        """
        with_gpus = [(cpus, gpus) for cpus, gpus in self.nodes if gpus]
        if device not in ("auto", "cuda", "cpu"):
            raise UserError(f"with `cluster`, `device` must be auto, cpu or cuda: Ray assigns GPUs; found {device}")
        if device == "cuda" and not with_gpus:
            raise UserError(f"`device=cuda`: none of the {len(self.nodes)} nodes of the Ray cluster has a GPU")
        if device == "cpu" or not with_gpus:
            if not any(cpus for cpus, _ in self.nodes):
                raise UserError(f"none of the {len(self.nodes)} nodes of the Ray cluster has a CPU core for tasks")
            return Share(1, 0)
        return Share(min(cpus // gpus for cpus, gpus in with_gpus), 1)

    def count(self, share: Share) -> int:
        """Return how many tasks of a share run at a time, at least 1."""
        return max(sum(gpus if share.gpus else cpus // max(share.cpus, 1) for cpus, gpus in self.nodes), 1)


def reason_of(error: BaseException) -> str:
    """Return one line on an error of Ray: where it has a traceback the line that was raised, else the first line.

    Args:
        error: a `ray.exceptions.RayError`.
    """
    cause = getattr(error, "cause", None)
    while cause is not None and cause.__cause__ is not None:  # of Ray Data
        cause = cause.__cause__
    text = str(error if cause is None else cause)
    is_raised = cause is not None or "Traceback (most recent call last)" in text
    return printable(text.strip().split("\n")[-1 if is_raised else 0])


def require_assigned_gpu() -> None:
    """Check, in a task, that PyTorch can use the GPU that Ray has assigned to it: it would train on the CPU.

    Raises:
        Failure: it cannot.
    """
    import ray
    import torch

    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU")
    if gpus and not torch.cuda.is_available():
        raise Failure(
            f"Ray has assigned GPU {', '.join(gpus)} of {socket.gethostname()}, where PyTorch finds no CUDA GPU; "
            "install the driver and PyTorch with CUDA on all nodes, or use `device=cpu`"
        )


@contextmanager
def connected(address: str | None) -> Generator[Cluster | None]:
    """Connect to a Ray cluster that is running; an existing connection of this process is used unchanged.

    Args:
        address: HOST:PORT of its head node; "auto" for the cluster of RAY_ADDRESS or of this machine; None for none.

    Yields:
        The nodes of the cluster, None for no address.

    Raises:
        UserError: Ray is not installed, no cluster answers at the address, or a node has another version of gcnet or
            PyTorch.
    """
    if address is None:
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # of a task for which a node lacks memory; else forever
    try:
        import ray
    except ImportError:
        raise UserError('`cluster` requires Ray, which is not installed: pip install "gcnet[ray]"') from None
    is_own = not ray.is_initialized()
    if is_own:
        _connect(ray, address)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        resources = [node["Resources"] for node in nodes]
        check_versions(_version_reader()(), _versions_of([node for node in nodes if node["Resources"].get("CPU")]))
        yield Cluster(tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in resources))
    finally:
        if is_own:
            ray.shutdown()


def _version_reader() -> Callable[[], dict[str, str]]:
    """A function that returns the versions of gcnet and PyTorch, "none" for one that is not installed.

    Ray sends a lambda as a whole, so that it also runs where gcnet is missing or of another version. PyTorch's version
    is without the kind of its build, such as +cpu.
    """
    find, load, distributions = importlib.util.find_spec, importlib.import_module, importlib.metadata.distributions
    return lambda: {
        "gcnet": load("gcnet.version").__version__ if find("gcnet") else "none",
        "torch": next((found.version for found in distributions(name="torch")), "none").partition("+")[0],
    }


def _versions_of(nodes: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """Host name and versions of nodes of `ray.nodes()`, without those that do not answer."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(_version_reader())
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    answers = [task.options(scheduling_strategy=place).remote() for place in places]
    if answers:
        ray.wait(answers, num_returns=len(answers), timeout=_VERSION_SECONDS)
    found = []
    for node, answer in zip(nodes, answers, strict=True):
        with suppress(RayError):  # also of a node that has died meanwhile
            found.append((node["NodeManagerHostname"], ray.get(answer, timeout=0)))
    return found


def check_versions(own: Mapping[str, str], found: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    """Check that all nodes have the versions of this process: others give other results, or fail later.

    Args:
        own: version by package of this process.
        found: host name of each node, and its versions, "none" of a missing package.

    Raises:
        UserError: a node has another version.
    """
    for host, versions in found:
        for package, version in own.items():
            if versions[package] != version:
                raise UserError(
                    f"all nodes of the Ray cluster need {package} {version}, the version of this command; found "
                    f"{printable(versions[package])} on {printable(host)}"
                )


def _connect(ray: Any, address: str) -> None:
    place = _local_address() if address == "auto" else address
    _require_answer(place)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=place, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"`cluster={address}`: cannot connect to a running Ray cluster: {reason}") from error
    finally:
        if threading.current_thread() is threading.main_thread():  # where Ray replaces the handler for good
            signal.signal(signal.SIGTERM, on_sigterm)


def _local_address() -> str:
    """The address in RAY_ADDRESS, or that of the cluster that was started last on this machine."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address not in ("", "auto"):
        _parse(address, "RAY_ADDRESS")
        return address
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        return file.read_text().strip()
    except OSError:
        raise UserError(
            "`cluster=auto`: no Ray cluster runs on this machine, and RAY_ADDRESS is not set; give HOST:PORT"
        ) from None


def _parse(address: str, name: str = "`cluster`") -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f'{name} takes auto or the HOST:PORT of a Ray cluster, found "{printable(address)}"')
    return match[1].strip("[]"), int(match[2])


def _require_answer(address: str) -> None:
    """Check that a server of gRPC, which is HTTP/2, listens at the address: Ray would wait for minutes."""
    place = _parse(address)
    try:
        with socket.create_connection(place, timeout=_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_PREFACE + _SETTINGS)
            answer = connection.recv(len(_SETTINGS))
    except (OSError, OverflowError) as error:
        raise UserError(f"`cluster`: no Ray cluster answers at {address} ({error}); start it with ray start") from error
    if answer[3:4] != _SETTINGS[3:4]:
        raise UserError(
            f"`cluster`: the server at {address} is not that of a Ray cluster; its head node has another port"
        )
