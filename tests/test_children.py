"""Child processes import the script of their parent only where they should."""

import subprocess
import sys
from pathlib import Path

import pytest

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
