"""Connection to an existing Ray cluster; this package never starts one."""

import os
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.errors import UserError, printable

_ADDRESS = re.compile(r"(?:ray://)?([\w.-]+|\[[\da-fA-F:]+\]):(\d{1,5})")
_SECONDS = 10.0


@dataclass(frozen=True)
class Share:
    """Resources of a task on a cluster.

    Attributes:
        cpus: number of CPU cores.
        gpus: number of GPUs, 0 or 1.
    """

    cpus: int
    gpus: int


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
            UserError: the device has a number, or the cluster has no GPU for "cuda".
        """
        with_gpus = [(cpus, gpus) for cpus, gpus in self.nodes if gpus]
        if device not in ("auto", "cuda", "cpu"):
            raise UserError(f"with `cluster`, `device` must be auto, cpu or cuda: Ray assigns GPUs; found {device}")
        if device == "cuda" and not with_gpus:
            raise UserError(f"`device=cuda`: none of the {len(self.nodes)} nodes of the Ray cluster has a GPU")
        if device == "cpu" or not with_gpus:
            return Share(1, 0)
        return Share(min(cpus // gpus for cpus, gpus in with_gpus), 1)

    def count(self, share: Share) -> int:
        """Return how many tasks of a share run at a time, at least 1."""
        return max(sum(gpus if share.gpus else cpus // max(share.cpus, 1) for cpus, gpus in self.nodes), 1)


def reason_of(error: BaseException) -> str:
    """Return one line on an error of Ray: of a task the line that its code raised, else the first line.

    Args:
        error: a `ray.exceptions.RayError`.
    """
    cause = getattr(error, "cause", None)
    while cause is not None and cause.__cause__ is not None:  # of Ray Data
        cause = cause.__cause__
    lines = str(error if cause is None else cause).strip().split("\n")
    return printable(lines[0 if cause is None else -1])


@contextmanager
def connected(address: str | None) -> Generator[Cluster | None]:
    """Connect to a Ray cluster that is running; an existing connection of this process is used unchanged.

    Args:
        address: HOST:PORT of its head node; "auto" for the cluster of RAY_ADDRESS or of this machine; None for none.

    Yields:
        The nodes of the cluster, None for no address.

    Raises:
        UserError: Ray is not installed, or no cluster answers at the address.
    """
    if address is None:
        yield None
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError('`cluster` requires Ray, which is not installed: pip install "gcnet[ray]"') from None
    is_own = not ray.is_initialized()
    if is_own:
        _connect(ray, address)
    try:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield Cluster(tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in resources))
    finally:
        if is_own:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    place = _local_address() if address == "auto" else address
    _require_answer(place)
    try:
        ray.init(address=place, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = printable(str(error).strip().split("\n")[0])
        raise UserError(f"`cluster={address}`: cannot connect to a running Ray cluster: {reason}") from error


def _local_address() -> str:
    """The address in RAY_ADDRESS, or that of the cluster that was started last on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return address
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        return file.read_text().strip()
    except OSError:
        raise UserError(
            "`cluster=auto`: no Ray cluster runs on this machine, and RAY_ADDRESS is not set; give HOST:PORT"
        ) from None


def _require_answer(address: str) -> None:
    """Check that a server listens at the address: Ray would wait for minutes."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f'`cluster` takes auto or the HOST:PORT of a Ray cluster, found "{printable(address)}"')
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"`cluster`: no Ray cluster answers at {address} ({error}); start it with ray start") from error
