"""A stand-in for a training on a node of a Ray cluster, which imports this module."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from gcnet.comparison import workers
from gcnet.comparison.cluster_runs import train_on_node
from gcnet.comparison.plan import Training
from gcnet.comparison.runs import RunContext
from gcnet.comparison.workers import TrainingFailure

_SECONDS = 60


def train_on_pretended_gpu(training: Training, context: RunContext, folder: Path) -> TrainingFailure | None:
    """`train_on_node` as if PyTorch could use any GPU; in the place of the training, `write_visible_gpu` runs."""
    workers._worker_main = write_visible_gpu
    torch.cuda.is_available = lambda: True
    return train_on_node(training, context, folder)


def write_visible_gpu(sender: Connection, training: Training, context: RunContext, log: Path) -> None:  # noqa: ARG001
    """Write the GPU that the process sees into its log, and wait for the log of another training."""
    log.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "unset"))
    until = time.monotonic() + _SECONDS
    while len(list(log.parent.glob("*.log"))) < context.jobs and time.monotonic() < until:
        time.sleep(0.1)
