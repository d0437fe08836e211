"""Memory and time of saving and loading the checkpoint of a Mask R-CNN with AdamW and moving average, as JSON.

A process of its own, since its memory is measured: `python checkpoint_figures.py MODEL FOLDER`.
"""

import ctypes
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW

from gcnet.models.create import create_model
from gcnet.training.checkpoint import CheckpointSaver, load_state, save_state


def anonymous_memory() -> int:
    """Bytes of this process that are not those of a file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def peak_memory(work: Callable[[], Any]) -> int:
    """Bytes by which the memory grows at most; takes longer than the work alone."""
    ctypes.CDLL(None).malloc_trim(0)
    before = highest = anonymous_memory()
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.005):
            highest = max(highest, anonymous_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        kept = work()
        highest = max(highest, anonymous_memory())
        del kept
    finally:
        ended.set()
        watching.join()
    return highest - before


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time and CPU time of this process."""
    began, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - processor


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def training_state(model: str) -> dict[str, Any]:
    """The state of a network, of its moving average, and of AdamW after a step."""
    torch.manual_seed(0)
    network = create_model(model, num_classes=80)
    optimizer = AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "average": average}


def main(model: str, folder: Path) -> dict[str, Any]:
    """Save and load in the process, then save in a thread while the state changes."""
    torch.set_num_threads(1)
    state, path = training_state(model), folder / "checkpoint"
    save_state(folder / "first", {"x": torch.ones(3)})
    load_state(folder / "first")
    figures: dict[str, Any] = {"save_memory": peak_memory(lambda: save_state(path, state))}
    figures |= {"file": path.stat().st_size, "load_memory": peak_memory(lambda: load_state(path))}
    figures |= {"load_seconds": seconds(lambda: load_state(path))}
    saver, digest = CheckpointSaver(path, in_thread=True), file_digest(path)

    def save_and_wait() -> None:
        saver.save(state)
        saver.wait()

    figures["thread_memory"] = peak_memory(save_and_wait)
    for turn in range(3):
        figures[f"save_seconds_{turn}"] = seconds(lambda: save_state(path, state))
        figures[f"blocked_seconds_{turn}"] = seconds(lambda: saver.save(state))
        figures[f"rest_seconds_{turn}"] = seconds(saver.wait)
    saver.save(state)
    for tensor in state["network"].values():
        tensor.zero_()
    saver.wait()
    saver.close()
    return figures | {"thread_file_is_equal": file_digest(path) == digest}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
