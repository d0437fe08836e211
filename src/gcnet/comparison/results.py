"""Results of a comparison as plain data, and their JSON form."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gcnet.analysis.statistics import PairedDifference, Spread, paired_difference, spread, wilson_interval
from gcnet.errors import UserError
from gcnet.renamed import FORMAT_VERSION, format_version, is_old, upgraded_costs, upgraded_metrics
from gcnet.tasks.registry import TASKS, task_of
from gcnet.tasks.scores import Score

MAIN, CONTROL = "main", "control"
BASELINE = "none"


@dataclass(frozen=True)
class CurvePoint:
    """State of a run at an evaluation.

    Attributes:
        epoch: passes over the training images.
        train_loss: mean training loss since the last evaluation.
        scores: by column, from 0 to 1, on the validation images.
    """

    epoch: float
    train_loss: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """Result of one training.

    Attributes:
        setting: `MAIN` or `CONTROL`.
        block: its name.
        seed: of the training.
        scores: by column, from 0 to 1, of the last weights.
        images: number of evaluated images.
        skipped: number of images that could not be read.
        seconds: training time.
        curve: evaluations during training.
    """

    setting: str
    block: str
    seed: int
    scores: Mapping[str, float]
    images: int
    skipped: int
    seconds: float
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Cost:
    """Costs of the network with one block.

    Attributes:
        sites: number of inserted blocks.
        parameters: of the network.
        added_parameters: of the inserted blocks.
        flops: of one image; a multiply-add counts as two.
        added_flops: of the inserted blocks, counted.
        analytic_flops: of the inserted blocks, by the block's formula; None for a block without one.
        forward_seconds_min: shortest forward pass of a batch.
        forward_seconds_median: median forward pass of a batch.
        step_seconds_min: shortest training step of a batch.
        step_seconds_median: median training step of a batch.
        peak_memory_bytes: memory of a training step beyond the model; None where it could not be measured.
    """

    sites: int
    parameters: int
    added_parameters: int
    flops: int
    added_flops: int
    analytic_flops: int | None
    forward_seconds_min: float
    forward_seconds_median: float
    step_seconds_min: float
    step_seconds_median: float
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Picture:
    """Validation image of the report.

    Attributes:
        label: name of its class.
        png: base64 PNG.
    """

    label: str
    png: str


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison and its conditions.

    Attributes:
        model: network without blocks.
        data: name of the data set.
        control_data: data of the control setting, or None.
        blocks: names, in order.
        seeds: in order.
        runs: of all blocks, seeds and settings.
        costs: by block.
        about: data, model and recipe in words.
        environment: device and versions in words.
        timing: batch size and repetitions of the times.
        created: date and time.
        pictures: sample of the validation images.
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

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of its networks; the first decides, the others are shown in addition."""
        return task_of(self.model).scores(self.model)

    @property
    def score(self) -> Score:
        """The score that decides."""
        return self.scores[0]

    def of(self, block: str, setting: str = MAIN) -> list[Run]:
        """Return the runs of a `block` in a `setting`, in the order of their seeds.

        Args:
            block: its name.
            setting: `MAIN` or `CONTROL`.
        """
        runs = [run for run in self.runs if run.block == block and run.setting == setting]
        return sorted(runs, key=lambda run: run.seed)

    def tested(self, setting: str = MAIN) -> list[str]:
        """Return the blocks trained in a `setting`, in order."""
        return [block for block in self.blocks if self.of(block, setting)]

    def values(self, block: str, setting: str = MAIN, *, score: Score | None = None) -> list[float]:
        """Return a score of each run of a block, from 0 to 1, in the order of the seeds.

        Args:
            block: its name.
            setting: `MAIN` or `CONTROL`.
            score: default: the first.
        """
        column = (score or self.score).column
        return [run.scores[column] for run in self.of(block, setting)]

    def result(self, block: str, setting: str = MAIN, *, score: Score | None = None) -> Spread:
        """Return mean and spread of a score over seeds, from 0 to 1.

        Args:
            block: its name.
            setting: `MAIN` or `CONTROL`.
            score: default: the first.
        """
        return spread(self.values(block, setting, score=score))

    def difference(self, block: str, setting: str = MAIN) -> PairedDifference | None:
        """Return the paired difference of the first score to the baseline.

        Args:
            block: its name.
            setting: `MAIN` or `CONTROL`.

        Returns:
            The difference over seeds, None for the baseline or if it was not trained.
        """
        reference = self.values(BASELINE, setting)
        if block == BASELINE or not reference:
            return None
        return paired_difference(self.values(block, setting), reference)

    def image_interval(self, block: str, setting: str = MAIN) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the first run of a block, for the number of validation images.

        Args:
            block: its name.
            setting: `MAIN` or `CONTROL`.
        """
        first = self.of(block, setting)[0]
        return wilson_interval(round(first.scores[self.score.column] * first.images), first.images)


def to_json(comparison: Comparison) -> str:
    """Return the results of `comparison` as JSON text, with derived scores and differences.

    Runs and points of their curves have each score under its column, such as `top1_fraction` or `bbox_AP_fraction`.
    """
    summary = {
        setting: {block: _summary(comparison, block, setting) for block in comparison.tested(setting)}
        for setting in (MAIN, CONTROL)
    }
    content = asdict(comparison) | {"runs": [run_to_dict(run) for run in comparison.runs], "summary": summary}
    return json.dumps({"format_version": FORMAT_VERSION, **content}, indent=2) + "\n"


def read_results(path: Path) -> Comparison:
    """Read results.json of this or an earlier version from `path`.

    Returns:
        The comparison.

    Raises:
        UserError: the file is missing, of another kind, or of a newer version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        format_version(content, path)
        content = upgraded_costs(content) if is_old(content) else content
        skipped = ("format_version", "schema", "summary")
        return _comparison({name: value for name, value in content.items() if name not in skipped})
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} does not hold the results of a comparison") from error


def _comparison(content: dict[str, Any]) -> Comparison:
    read: dict[str, Any] = dict(content)
    read["runs"] = tuple(run_from_dict(run) for run in content["runs"])
    read["blocks"], read["seeds"] = tuple(content["blocks"]), tuple(content["seeds"])
    read["costs"] = {block: Cost(**cost) for block, cost in content["costs"].items()}
    read["pictures"] = tuple(Picture(**picture) for picture in content["pictures"])
    comparison = Comparison(**read)
    for run in comparison.runs:
        _require_scores(run.scores, comparison.scores)
        for point in run.curve:
            _require_scores(point.scores, comparison.scores[:1])
    return comparison


def _require_scores(scores: Mapping[str, float], wanted: Sequence[Score]) -> None:
    for score in wanted:
        if score.column not in scores:
            raise KeyError(score.column)


def run_to_dict(run: Run) -> dict[str, Any]:
    """Return `run` as JSON values, with its scores as entries of their own."""
    return _flat(asdict(run)) | {"curve": [_flat(asdict(point)) for point in run.curve]}


def run_from_dict(stored: Mapping[str, Any]) -> Run:
    """Return the run that `run_to_dict` wrote as `stored`, in this or an earlier version."""
    read = _nested(stored)
    read["curve"] = tuple(CurvePoint(**_nested(point)) for point in stored["curve"])
    return Run(**read)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= value if name == "scores" else {name: value}
    return flat


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    read = upgraded_metrics(values)
    scores = {column: read[column] for column in _columns() if column in read}
    return {name: value for name, value in read.items() if name not in scores} | {"scores": scores}


def _summary(comparison: Comparison, block: str, setting: str) -> dict[str, Any]:
    difference = comparison.difference(block, setting)
    results = {score.column: asdict(comparison.result(block, setting, score=score)) for score in comparison.scores}
    return results | {
        "difference_to_none_fraction": None if difference is None else asdict(difference),
    }


def _columns() -> tuple[str, ...]:
    """The columns of the scores of all tasks."""
    return tuple(score.column for task in TASKS.values() for score in task.all_scores)
