"""Child processes: whether they import the script of their parent, and their results."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gcnet.children import run_in_child
from gcnet.errors import Failure, UserError

SCRIPT = """
import multiprocessing, sys
from contextlib import nullcontext
from gcnet.children import is_importing_main, without_main_module

print("imported by a child" if is_importing_main() else "run")
if not is_importing_main():
    with {context}:
        child = multiprocessing.get_context("spawn").Process(target=print, args=("child",))
        child.start()
    child.join()
    print(sys.modules["__main__"].__file__)
"""


@pytest.mark.parametrize(
    ("context", "lines"),
    [
        ("without_main_module()", ["run", "child", "script.py"]),
        ("nullcontext()", ["run", "imported by a child", "child", "script.py"]),
    ],
)
def test_a_child_imports_the_script_unless_it_is_hidden(tmp_path: Path, context: str, lines: list[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(context=context))
    done = subprocess.run([sys.executable, "-u", script], capture_output=True, text=True, check=True)
    assert done.stdout.replace(f"{tmp_path}/", "").splitlines() == lines


def work(value: int) -> int:
    if value < 0:
        raise UserError(f"{value} is negative")
    if value == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return value + 1


def test_the_result_of_a_child_process_is_returned() -> None:
    assert run_in_child("counting", work, 6) == 7


def test_an_error_of_a_child_process_is_raised() -> None:
    with pytest.raises(UserError, match="-3 is negative"):
        run_in_child("counting", work, -3)


def test_a_killed_child_process_is_reported() -> None:
    with pytest.raises(Failure, match=r"^counting failed: its process ended \(SIGKILL, perhaps out of memory\)$"):
        run_in_child("counting", work, 0)
