"""The original code, if `make oracle` has installed it, and an image file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracle.detector_stages import small_image
from oracle.original_code import PYTHON, OriginalCode


@pytest.fixture(scope="session")
def original_code() -> Iterator[OriginalCode]:
    """The process of the original code; in CI its absence is a failure."""
    if not PYTHON.exists():
        (pytest.fail if os.environ.get("GCNET_REQUIRE_DATA") else pytest.skip)("needs the original code: make oracle")
    with OriginalCode() as process:
        yield process


@pytest.fixture(scope="session")
def generated_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an image of 320 x 200 pixels with textured shapes."""
    return small_image(tmp_path_factory.mktemp("images") / "scene.png")


@pytest.fixture(scope="session")
def photo(data_root: Path) -> Path:
    """A photo of 640 x 426 pixels."""
    return data_root / "coco-mini" / "val2017" / "000000000139.jpg"
