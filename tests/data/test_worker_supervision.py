"""Data-loader workers of a process that is killed."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

_PROGRAM = """
import multiprocessing, time
from gcnet.data.worker_supervision import WorkerWatch

def work(watch, number):
    watch.begin(number)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    watch = WorkerWatch(None, 2)
    children = [context.Process(target=work, args=(watch, number)) for number in range(2)]
    for child in children:
        child.start()
    while 0 in list(watch._pids):
        time.sleep(0.01)
    print(*watch._pids, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the process table of Linux")
def test_workers_of_a_fork_server_end_where_their_process_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
    assert len(pids) == 2
    left = set(pids)
    until = time.monotonic() + 60
    while left and time.monotonic() < until:
        left = {pid for pid in left if Path(f"/proc/{pid}").exists()}
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    assert not left
