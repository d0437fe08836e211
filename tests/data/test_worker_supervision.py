"""Data-loader workers and their parent process."""

import gc
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from gcnet.data.dataset import ClassificationDataset
from gcnet.data.images.folders import FolderImages
from gcnet.data.loader import build_loader
from gcnet.data.sampler import EvaluationSampler
from gcnet.data.settings import Preprocessing
from gcnet.data.transforms import build_eval_transform

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


class Garbage:
    """An object in a reference cycle, whose end is written to a file, with the process."""

    def __init__(self, file: Path) -> None:
        self.file, self.itself = file, self

    def __del__(self) -> None:
        with self.file.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork workers")
def test_workers_do_not_collect_garbage_of_their_parent(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "images" / name / "0.png")

    class Collecting(FolderImages):
        def read(self, index: int) -> Image.Image:
            gc.collect()
            return super().read(index)

    ended = tmp_path / "ended"
    images = ClassificationDataset(Collecting(tmp_path / "images"), build_eval_transform(Preprocessing(9)))
    gc.disable()
    try:
        Garbage(ended)
        (batch,) = build_loader(images, EvaluationSampler(2, batch_size=2), 1)
    finally:
        gc.enable()
    assert len(batch) == 2 and not ended.exists()
    gc.collect()
    assert ended.read_text() == f"{os.getpid()}\n"
    assert gc.get_freeze_count() == 0
