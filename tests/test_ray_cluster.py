"""The share of a task on a cluster, and one sentence where there is no cluster to connect to."""

import sys
from pathlib import Path

import pytest

from gcnet.errors import UserError
from gcnet.ray_cluster import Cluster, Share, connected
from ray_nodes import free_port


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


def test_without_ray_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'not installed: pip install "gcnet\[ray\]"'), connected("auto"):
        pass


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
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(UserError, match="no Ray cluster runs on this machine"), connected("auto"):
        pass
