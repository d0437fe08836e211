"""The share of a task on a cluster, and one sentence where there is no cluster to connect to."""

import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

import gcnet
from free_ports import free_port
from gcnet import ray_cluster
from gcnet.errors import UserError
from gcnet.ray_cluster import Cluster, Share, check_versions, connected, reason_of


def test_without_an_address_there_is_no_cluster() -> None:
    with connected(None) as cluster:
        assert cluster is None


def test_a_task_has_a_gpu_with_the_cores_that_every_node_can_give_it() -> None:
    cluster = Cluster(((96, 8), (32, 4), (64, 0)))
    assert cluster.share("auto") == cluster.share("cuda") == Share(cpus=8, gpus=1)


def test_a_task_has_one_core_without_gpus() -> None:
    assert Cluster(((96, 8),)).share("cpu") == Cluster(((4, 0), (2, 0))).share("auto") == Share(cpus=1, gpus=0)


def test_a_device_that_the_cluster_cannot_give_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 2 nodes of the Ray cluster has a GPU"):
        Cluster(((4, 0), (2, 0))).share("cuda")
    with pytest.raises(UserError, match="Ray assigns GPUs; found cuda:1"):
        Cluster(((4, 2),)).share("cuda:1")


def test_a_cluster_whose_nodes_have_no_core_for_tasks_is_refused() -> None:
    with pytest.raises(UserError, match="none of the 2 nodes of the Ray cluster has a CPU core for tasks"):
        Cluster(((0, 0), (0, 0))).share("auto")
    assert Cluster(((0, 1),)).share("auto") == Share(cpus=0, gpus=1)


def test_without_ray_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'not installed: pip install "gcnet\[ray\]"'), connected("auto"):
        pass


def test_the_reason_of_an_error_is_the_line_that_was_raised() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    died = exceptions.RayError(
        "The actor died.\n  Traceback (most recent call last):\n  a line\nValueError: a cause\n\n"
    )
    assert reason_of(died) == "ValueError: a cause"
    assert reason_of(exceptions.RayError("A node is out of memory.\nTop 10 users")) == "A node is out of memory."


@pytest.mark.parametrize("address", ["local", "nonsense", "host:port", "", "http://host:80"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="takes auto or the HOST:PORT of a Ray cluster"), connected(address):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"), connected(address):
        pass
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"), connected("auto"):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # of its dashboard
    with pytest.raises(UserError, match="^RAY_ADDRESS takes auto or the HOST:PORT"), connected("auto"):
        pass
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for value in ("auto", ""):
        monkeypatch.setenv("RAY_ADDRESS", value)
        with pytest.raises(UserError, match="no Ray cluster runs on this machine"), connected("auto"):
            pass


def test_a_server_that_is_none_of_ray_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        address = f"127.0.0.1:{server.server_port}"
        with (
            pytest.raises(UserError, match=f"the server at {address} is not that of a Ray cluster"),
            connected(address),
        ):
            pass
        answering.join()
    monkeypatch.setattr(ray_cluster, "_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"), connected(address):
            pass


def test_a_cluster_of_another_version_is_described_and_sigterm_keeps_its_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = pytest.importorskip("ray")

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\n")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_cluster, "_require_answer", lambda _: None)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=r"cannot connect .*started with: Ray: 2\.9\.0 Python: 3\.9\.1$"):
        connected("127.0.0.1:1").__enter__()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_node_of_another_version_is_named_with_both_versions() -> None:
    own = {"gcnet": "1.2.0", "torch": "2.9.0"}
    check_versions(own, [])
    check_versions(own, [("a", dict(own))])
    with pytest.raises(UserError, match=r"need gcnet 1\.2\.0, the version of this command; found none on b$"):
        check_versions(own, [("a", own), ("b", {"gcnet": "none", "torch": "none"})])
    with pytest.raises(UserError, match=r"need torch 2\.9\.0, the version of this command; found 2\.8\.1 on b$"):
        check_versions(own, [("b", own | {"torch": "2.8.1"})])


def test_versions_are_read_on_a_node_without_gcnet() -> None:
    pickling = pytest.importorskip("ray.cloudpickle")
    sent = pickling.dumps(ray_cluster._version_reader())
    program = f"import pickle, sys; sys.modules['gcnet'] = None; print(pickle.loads({sent!r})())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == f"{ray_cluster._version_reader()() | {'gcnet': 'none'}}\n"
    assert ray_cluster._version_reader()() == {"gcnet": gcnet.__version__, "torch": torch.__version__.partition("+")[0]}
