"""The environment without torch of `make runner`."""

import os
from pathlib import Path

import pytest

_PYTHON = Path(__file__).parents[2] / ".runner" / "bin" / "python"


@pytest.fixture(scope="session")
def python_without_torch() -> Path:
    """The interpreter of an environment with onnxruntime, numpy and Pillow; in CI its absence is a failure."""
    if not _PYTHON.exists():
        (pytest.fail if os.environ.get("GCNET_REQUIRE_DATA") else pytest.skip)(
            "needs onnxruntime without torch: make runner"
        )
    return _PYTHON
