"""The results of a comparison as plain data, and their JSON form."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gcnet.analysis.statistics import PairedDifference, Spread, paired_difference, spread
from gcnet.errors import UserError

SCHEMA = 1
MAIN, CONTROL = "main", "control"
BASELINE = "none"


@dataclass(frozen=True)
class CurvePoint:
    """State of a run after an epoch: mean training loss, and top-1 on the validation images (a fraction)."""

    epoch: float
    train_loss: float
    top1: float | None


@dataclass(frozen=True)
class Run:
    """One training: `setting` is `main` or `control`; `top1` is a fraction, of the last epoch's weights."""

    setting: str
    block: str
    seed: int
    top1: float
    images: int
    skipped: int
    seconds: float
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Cost:
    """What the network with one block costs.

    FLOPs are of one image, a multiply-add counted as two; seconds are of one call on a batch; `peak_memory` is bytes a
    training step takes beyond the built model, None where it could not be measured. `analytic_flops` is what the
    formula of the block gives for its places, None for a block without a formula.
    """

    places: int
    parameters: int
    added_parameters: int
    flops: int
    added_flops: int
    analytic_flops: int | None
    forward_minimum: float
    forward_median: float
    step_minimum: float
    step_median: float
    peak_memory: int | None


@dataclass(frozen=True)
class Picture:
    """A validation image as base64 PNG, and the name of its class."""

    label: str
    png: str


@dataclass(frozen=True)
class Comparison:
    """Everything that was measured, and under which circumstances.

    `about` and `environment` are what a reader needs to judge the numbers: data, model, recipe; device, versions.
    `timing` says on which batch and with how many repetitions the times were taken.
    """

    model: str
    data: str
    control_data: str | None
    blocks: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    costs: Mapping[str, Cost]
    about: Mapping[str, str]
    environment: Mapping[str, str]
    timing: Mapping[str, int]
    created: str
    pictures: tuple[Picture, ...] = ()

    def of(self, block: str, setting: str = MAIN) -> list[Run]:
        """The runs of a block in a setting, in the order of their seeds."""
        found = [run for run in self.runs if run.block == block and run.setting == setting]
        return sorted(found, key=lambda run: run.seed)

    def tested(self, setting: str = MAIN) -> list[str]:
        """The blocks that were trained in a setting, in the order asked for."""
        return [block for block in self.blocks if self.of(block, setting)]

    def accuracy(self, block: str, setting: str = MAIN) -> Spread:
        """Top-1 as a fraction: mean and spread over seeds."""
        return spread([run.top1 for run in self.of(block, setting)])

    def difference(self, block: str, setting: str = MAIN) -> PairedDifference | None:
        """Top-1 of `block` minus that of no block, seed by seed; None for no block itself, or where it did not run."""
        reference = self.of(BASELINE, setting)
        if block == BASELINE or not reference:
            return None
        return paired_difference([run.top1 for run in self.of(block, setting)], [run.top1 for run in reference])


def to_json(comparison: Comparison) -> str:
    """All results as JSON text, with derived accuracies and differences beside the runs for programs that plot them."""
    summary = {
        setting: {block: _summary(comparison, block, setting) for block in comparison.tested(setting)}
        for setting in (MAIN, CONTROL)
    }
    return json.dumps({"schema": SCHEMA, **asdict(comparison), "summary": summary}, indent=2) + "\n"


def read_results(path: Path) -> Comparison:
    """Read what `to_json` wrote.

    Raises:
        UserError: the file is missing, is not JSON of a comparison, or was written in another layout.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("schema") != SCHEMA:
            raise UserError(f"{path} was written in another layout than this version reads (expected schema {SCHEMA})")
        found.pop("summary")
        return _comparison(found)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} does not hold the results of a comparison") from error


def _comparison(found: dict[str, Any]) -> Comparison:
    read: dict[str, Any] = dict(found)
    read["runs"] = tuple(run_from_dict(run) for run in found["runs"])
    read["blocks"], read["seeds"] = tuple(found["blocks"]), tuple(found["seeds"])
    read["costs"] = {block: Cost(**cost) for block, cost in found["costs"].items()}
    read["pictures"] = tuple(Picture(**picture) for picture in found["pictures"])
    return Comparison(**read)


def run_from_dict(found: Mapping[str, Any]) -> Run:
    """A run from its `dataclasses.asdict`."""
    read: dict[str, Any] = dict(found)
    read["curve"] = tuple(CurvePoint(**point) for point in found["curve"])
    return Run(**read)


def _summary(comparison: Comparison, block: str, setting: str) -> dict[str, Any]:
    difference = comparison.difference(block, setting)
    return {
        "top1": asdict(comparison.accuracy(block, setting)),
        "difference_to_none": None if difference is None else asdict(difference),
    }
