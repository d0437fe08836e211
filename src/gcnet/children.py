"""Child processes: their signals, their end with the parent, and whether they import its script."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from gcnet.errors import Failure

T = TypeVar("T")

FROM_TERMINAL = ("SIGINT", "SIGHUP")


@contextmanager
def signals_blocked(*names: str) -> Generator[None]:
    """Start children with signals blocked, which they inherit; the parent receives pending ones on exit.

    Ctrl-C and a closed terminal signal all processes of a command: the parent handles them for its children.

    Args:
        *names: names of the signals, such as `FROM_TERMINAL`; unknown names are skipped.
    """
    numbers = {getattr(signal, name) for name in names if hasattr(signal, name)}
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_main_module() -> Generator[None]:
    """Start children by "spawn" that do not import the script of this process.

    The import would run a script without `if __name__ == "__main__":` again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def collector_frozen() -> Generator[None]:
    """Fork children whose garbage collector leaves the objects of this process alone.

    A child does not have the threads for which a destructor, such as that of a session of onnxruntime, would wait
    forever. Pages of these objects also stay shared.
    """
    is_own = gc.get_freeze_count() == 0
    if is_own:
        gc.freeze()
    try:
        yield
    finally:
        if is_own:
            gc.unfreeze()


def available_cores() -> int:
    """Return the number of CPU cores of this process: those it may run on, shared with other processes of torchrun."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def is_importing_main() -> bool:
    """Whether this process is a child that is importing the script of its parent."""
    return bool(getattr(multiprocessing.current_process(), "_inheriting", False))


def end_with_parent(number: int) -> None:
    """Send this process, started by multiprocessing, a signal when its parent has ended.

    Args:
        number: signal number.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), number)

    threading.Thread(target=follow, daemon=True).start()


def run_in_child(name: str, work: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a new process that ends with it, so that its memory is free again.

    Args:
        name: of the work, for messages, such as "reading a.json".
        work: function of a module.
        arguments: its arguments; they and the result are pickled.

    Returns:
        Its result.

    Raises:
        Failure: the process ended without a result, for example for lack of memory.
        Exception: what the function raised.
    """
    # A forked process has imported everything; as a data-loader worker, it must not use a GPU.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, work, arguments))
    with signals_blocked("SIGTERM", *FROM_TERMINAL), without_main_module():
        process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise Failure(f"{name} failed: its process ended ({_describe_end(process.exitcode)})") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result


def _send_result(sender: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with_parent(signal.SIGKILL)
    try:
        outcome = work(*arguments), None
    except Exception as error:
        outcome = None, error
    sender.send(outcome)


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit status {code}"
