"""What tests call in two processes of torchrun: a comparison of tiny networks."""

import json
import os
from pathlib import Path

import torch

import gcnet.comparison.measure
from comparison.small import Listener
from gcnet.comparison.experiment import run_comparison
from gcnet.comparison.runs import Stopped
from gcnet.comparison.settings import CompareSettings
from gcnet.errors import UserError


def compare_as_rank(settings: CompareSettings, folder: Path, blocked: Path | None = None) -> None:
    """Compare, with costs that are measured quickly, and write the lines of the reporter, the last one the error.

    A folder at `blocked`, made before the trainings begin, makes the training of this run folder fail.
    """
    torch.set_num_threads(1)
    gcnet.comparison.measure.training_step_peak_memory = lambda *_, **__: 4_000_000
    gcnet.comparison.measure.REPETITIONS = 2

    def block(line: str) -> None:
        if blocked is not None and line.startswith("measuring"):
            blocked.mkdir(parents=True)

    listener = Listener(block)
    try:
        run_comparison(settings=settings, reporter=listener)
    except (UserError, Stopped) as error:
        listener.log(f"{type(error).__name__}: {error}")
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(listener.lines))
