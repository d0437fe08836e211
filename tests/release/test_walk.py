"""The first steps of a new user, as in docs/walk.md."""

import os
import re
from pathlib import Path
from shutil import which

import pytest

from release.walk import ROOT, WalkSettings, walk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.skipif(
    which("chromium") is None and not os.environ.get("GCNET_REQUIRE_DATA"),
    reason="needs Debian's Chromium: apt-get install chromium",
)
def test_a_new_user_predicts_exports_opens_the_page_and_writes_a_card(tmp_path: Path) -> None:
    for library in ("gradio", "onnx", "onnxruntime", "onnxscript", "playwright"):
        pytest.importorskip(library)
    steps = walk(WalkSettings(), tmp_path)
    page = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| ([^|]+?) \| +[\d.]+ s \|", page, re.MULTILINE)
    assert list(steps.seconds) == documented
    assert (tmp_path / "screenshot.png").stat().st_size > 10_000
    assert (steps.user / "card" / "README.md").is_file()
