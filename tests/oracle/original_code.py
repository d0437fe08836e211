"""The original code in a process of its own, and the files through which tensors are exchanged."""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".oracle" / "bin" / "python"
"""Python of the environment that `make oracle` makes."""


class OriginalCode:
    """A process with mmdet, mmsegmentation, mmaction2 and mmpretrain; use it as a context manager."""

    def __init__(self) -> None:
        command = [PYTHON, Path(__file__).parent / "original"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.kill()  # the end of its input is not seen if a process forked meanwhile holds the pipe open
        self.process.wait()

    def __call__(self, function: str, **arguments: Any) -> Any:
        """Call `module.function` of the folder `original` with arguments that JSON can hold, paths included.

        Raises:
            RuntimeError: the call failed; with its traceback.
        """
        print(
            json.dumps({"function": function, "arguments": arguments}, default=str), file=self.process.stdin, flush=True
        )
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]
