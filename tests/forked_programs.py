"""Python programs and `gcnet` commands in processes forked from one that has imported torch and gcnet already.

The imports take seconds in every process, which tests of many commands would otherwise spend again and again. A forked
process has the arguments, folder, environment and standard streams of its caller, and ends as any Python process does.
"""

import atexit
import gc
import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_LIBRARIES = ("matplotlib.pyplot", "torch._dynamo", "torch.export", "torch.onnx", "onnxscript")
_CLIENT = """#!{python} -IS
import sys
sys.path.append({folder!r})
from forked_programs import call
sys.exit(call({address!r}, ["gcnet", *sys.argv[1:]]))
"""


@contextmanager
def forking_process() -> Iterator[Path]:
    """Start a process that forks one for each program, and end it.

    Yields:
        A folder with its `socket`, and a program `gcnet` that runs in a forked process.
    """
    with tempfile.TemporaryDirectory() as name:  # the path of a socket must be short
        folder = Path(name)
        client = folder / "gcnet"
        client.write_text(
            _CLIENT.format(python=sys.executable, folder=str(Path(__file__).parent), address=str(folder / "socket"))
        )
        client.chmod(0o755)
        command = [sys.executable, "-P", __file__, str(folder / "socket")]
        single = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, cwd=folder, env=single, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        ) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == b"ready\n"
                yield folder
            finally:
                process.kill()


def run_python(folder: Path, code: str, *, cwd: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Run code as `python -W error -c CODE` does.

    Args:
        folder: of `forking_process`.
        code: of the program.
        cwd: its current folder.
        env: its environment variables.

    Returns:
        The exit code, and what was printed.
    """
    with tempfile.TemporaryFile() as output, open(os.devnull) as nothing:
        streams = nothing.fileno(), output.fileno(), output.fileno()
        status = call(str(folder / "socket"), ["-c", code], folder=str(cwd), environment=env, streams=streams)
        output.seek(0)
        return status, output.read().decode()


def call(
    address: str,
    arguments: Sequence[str],
    *,
    folder: str | None = None,
    environment: Mapping[str, str] | None = None,
    streams: Sequence[int] = (0, 1, 2),
) -> int:
    """Run a program in a forked process.

    Args:
        address: file of the socket of the process that forks.
        arguments: "gcnet" and the words of its command; or "-c" and the code of a program, whose warnings are errors.
        folder: current folder of the program (default: that of this process).
        environment: its variables (default: those of this process).
        streams: descriptors of its standard input, output and error.

    Returns:
        The exit code.
    """
    request = {
        "arguments": list(arguments),
        "folder": folder or os.getcwd(),
        "environment": dict(os.environ if environment is None else environment),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"streams"], list(streams))
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        return int(connection.recv(16) or b"1")


def _serve(address: str) -> Callable[[], int]:
    """Fork for each request, and return in the forked process only: with the program to run."""
    for name in _LIBRARIES:
        import_module(name)
    for module in pkgutil.walk_packages(import_module("gcnet").__path__, "gcnet."):
        if not module.name.startswith("gcnet.demo") and not module.name.endswith("__main__"):
            import_module(module.name)
    assert len(os.listdir("/proc/self/task")) == 1, "a forked process would wait for a thread that it does not have"
    gc.freeze()  # so that the memory stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        connection = listener.accept()[0]
        while os.fork():
            connection.close()
            connection = listener.accept()[0]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection:
        _, streams, _, _ = socket.recv_fds(connection, len(b"streams"), 3)
        request = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
        if child := os.fork():
            connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
            os._exit(0)
    return _program(request, streams)


def _program(request: Mapping[str, Any], streams: Sequence[int]) -> Callable[[], int]:
    """Take over the arguments, folder, environment and streams of a request, and return its program."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    kind, *words = request["arguments"]
    if kind == "gcnet":
        from gcnet.__main__ import main

        sys.argv = ["gcnet", *words]
        return main
    sys.argv, sys.warnoptions = ["-c"], ["error"]
    sys.path.insert(0, "")
    module = sys.modules["__main__"] = ModuleType("__main__")

    def run() -> int:
        warnings.simplefilter("error")
        exec(compile(words[0], "<string>", "exec"), module.__dict__)
        return 0

    return run


def _main(address: str) -> None:
    """Serve; in a forked process, run its program and end it after all exit functions, without clearing its memory."""
    code = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # as the first one, which is called last
    code = _serve(address)()


if __name__ == "__main__":
    _main(sys.argv[1])
