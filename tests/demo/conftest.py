"""Model files, and one server for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.demo_server import DemoServer, served, write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: dict[str, Path]) -> Iterator[DemoServer]:
    """A server with two classifiers and small limits of uploads."""
    limits = ("--max-bytes", 200_000, "--max-pixels", 1_000_000)
    with served(models["gc"], models["nl"], *limits) as running:
        yield running
