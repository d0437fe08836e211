"""`gcnet.compare` with parallel trainings in scripts, with and without `if __name__ == "__main__":`."""

import subprocess
import sys
from pathlib import Path

import pytest

from comparison.small import write_images

ARGUMENTS = 'model="cifar_resnet20", data="images", steps=1, batch_size=9, lr=0.05, device="cpu", jobs=2, output="out"'
OWN_BLOCK = "from torch import nn\ndef scaled(channels):\n    return nn.Conv2d(channels, channels, 1)\n"


def run_script(folder: Path, text: str) -> "subprocess.CompletedProcess[str]":
    write_images(folder / "images")
    (folder / "script.py").write_text(text)
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_script_without_a_main_guard_compares_named_blocks(tmp_path: Path) -> None:
    done = run_script(tmp_path, f'import gcnet\nprint(gcnet.compare(blocks="none,gc", {ARGUMENTS}).blocks)\n')
    assert done.returncode == 0, done.stderr
    assert done.stdout == "('none', 'gc')\n"


@pytest.mark.slow
def test_an_own_block_without_a_main_guard_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    done = run_script(tmp_path, f'import gcnet\n{OWN_BLOCK}gcnet.compare(variants=["none", scaled], {ARGUMENTS})\n')
    assert done.returncode == 1
    assert 'UserError: the script must call gcnet.compare under `if __name__ == "__main__":`' in done.stderr
    assert done.stderr.count("Traceback") == 1
