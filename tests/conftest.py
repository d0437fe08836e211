"""What every test shares: one thread, fixed seeds, checked shapes, no network, and the real images if any.

Only pytest and jaxtyping are needed besides the libraries of gcnet: `pytest -m cuda` must run in a fresh clone on any
machine with a GPU. What else is missing there (`OPTIONAL`) switches off what needs it.
"""

import importlib
import ipaddress
import os
import random
import socket
import threading
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

OPTIONAL = {
    *("beartype", "faster_coco_eval", "hypothesis", "matplotlib", "mmcv", "huggingface_hub", "pycocotools", "yapf"),
    *("onnx", "onnxruntime", "onnxscript", "openvino"),
    *("braceexpand", "fsspec", "moto", "s3fs", "webdataset"),
    *("gradio", "gradio_client", "griffe", "markdown_it", "nbclient", "nbformat", "playwright", "zensical"),
    *("pyarrow", "ray"),
}
MISSING = {name for name in OPTIONAL if find_spec(name) is None}
# Files of slow tests that take minutes, the longest first: where they start first, several workers end together.
LONGEST = (
    *("docs/test_code_blocks.py", "insertion/test_architectures.py", "tasks/detection/test_export.py"),
    *("oracle/test_detectors.py", "training/test_heartbeat.py", "cli/test_random_commands.py"),
    *("training/test_restarts.py", "workflows/test_export.py", "exporters/test_onnx_file.py"),
    *("comparison/test_cluster_runs.py", "docs/test_deploy_detector.py", "release/test_walk.py"),
)

# For the processes that tests start, too. An option of pytest-timeout in pyproject.toml would be an error without it.
os.environ.setdefault("PYTEST_TIMEOUT", "600")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# PyTorch reads it once in a process, at the first matrix product on a GPU, which no deterministic test may come after.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.set_num_threads(1)

if "beartype" not in MISSING:
    # Before anything imports gcnet: from here on every annotated shape and type is checked at each call.
    jaxtyping.install_import_hook("gcnet", "shape_checks.check")

if "hypothesis" not in MISSING:
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
    settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Have yapf, which mmcv imports, cache its grammar once: several workers at once would spoil the file."""
    if not hasattr(config, "workerinput") and "yapf" not in MISSING:
        importlib.import_module("yapf.yapflib.yapf_api")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the longest files first; skip the tests marked scale unless the marker is asked for: they take minutes."""
    folder = Path(__file__).parent
    places = {folder / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    wanted = "scale" in config.getoption("markexpr")
    for item in items:
        if item.get_closest_marker("scale"):
            skip = pytest.mark.skip(reason="takes minutes: run it with make test-scale")
            item.add_marker(pytest.mark.timeout(3600) if wanted else skip)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Skip a file or folder of tests that imports an optional library that is missing; never so in CI."""
    report = yield
    if report.failed and not os.environ.get("GCNET_REQUIRE_DATA"):
        error: BaseException | None = report.call.excinfo.value
        while error is not None and getattr(error, "name", None) not in MISSING:
            error = error.__cause__ or error.__context__
        if isinstance(error, ImportError):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: needs {error.name}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Skip, in the same way, a test that meets the missing library only while it runs."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, ImportError) and error.name in MISSING and not os.environ.get("GCNET_REQUIRE_DATA"):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: needs {error.name}")
    return report


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state; a test that needs a seed of its own takes this one."""
    value = 20190425
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Threads of gcnet end with their test: pytest would report their errors in another one."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if getattr(getattr(thread, "_target", None), "__module__", "").startswith("gcnet"):
            thread.join(10)
            assert not thread.is_alive(), f"the thread {thread.name} goes on after the test"


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Shape checks off, for `torch.compile(fullgraph=True)`, which cannot trace them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.compiler.reset()
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch.compiler.reset()


@pytest.fixture
def s3() -> Iterator[str]:
    """The URL of an empty bucket on an S3 server of this machine."""
    from s3_server import s3_server

    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real images and published weights that GCNET_DATA names; CI refuses to go without it."""
    place = os.environ.get("GCNET_DATA")
    if place is None and not os.environ.get("GCNET_REQUIRE_DATA"):
        pytest.skip("needs real images: set GCNET_DATA to their folder")
    if place is None or not Path(place).is_dir():
        pytest.fail(f"GCNET_DATA must name the folder of the real images, found {place!r}")
    return Path(place)


def _is_local(host: object) -> bool:
    """Whether a connection to `host` stays on this machine."""
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every address but this machine's own; processes that a test starts find a proxy that answers nothing."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise OSError(f"tests use no network: connection to {address[0]} refused")
        connect(self, address)

    def guarded_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_local(host):
            raise socket.gaierror(f"tests use no network: look-up of {host} refused")
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        yield
