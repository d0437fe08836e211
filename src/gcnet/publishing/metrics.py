"""Metrics of a model card: of an evaluation, of a training run, or as published."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.analysis.statistics import wilson_interval
from gcnet.data.settings import BUILT_IN
from gcnet.errors import UserError, printable
from gcnet.models.card import ModelCard
from gcnet.storage import StorageError, read_json
from gcnet.tasks.base import Task
from gcnet.training.run_folder import RunFolder


@dataclass(frozen=True)
class CardMetric:
    """A metric of a model card.

    Attributes:
        name: such as "top-1 accuracy".
        key: such as "accuracy", for the metadata of the Hub.
        value: fraction from 0 to 1.
        is_share: whether it is a fraction of the images, shown in %; average precision is shown from 0 to 100.
        data: name of the data.
        images: number of images; None if unknown.
        interval: 95% interval as fractions; None if unknown.
        source: where the number is from, for the note below the table.
    """

    name: str
    key: str
    value: float
    is_share: bool
    data: str
    images: int | None
    interval: tuple[float, float] | None
    source: str


def card_metrics(task: Task, card: ModelCard, *, run: Path | None, results: Path | None) -> tuple[CardMetric, ...]:
    """Return the metrics of a model.

    Args:
        task: of the model.
        card: metadata of its file.
        run: its run folder, or None.
        results: results.json of `gcnet.evaluate`, or None.

    Returns:
        Those of `results`; else those of the run's best evaluation; else the published scores of a converted
        checkpoint; else nothing.

    Raises:
        UserError: `results` are not of this kind of model, or of other classes.
    """
    if results is not None:
        return _of_results(task, card, results)
    if run is not None:
        return _of_run(task, card, run)
    return _published(card)


def _of_results(task: Task, card: ModelCard, path: Path) -> tuple[CardMetric, ...]:
    try:
        content = read_json(path)
    except StorageError as error:
        raise UserError(f"`results`: {error}") from error
    content = content if isinstance(content, dict) else {}
    if not any(isinstance(content.get(score.column), float) for score in task.all_scores):
        raise UserError(f"`results` takes results.json of gcnet evaluate for a {task.noun}, found {printable(path)}")
    classes = content.get("classes")
    if isinstance(classes, list) and card.class_names is not None and tuple(classes) != card.class_names:
        raise UserError(f"`results`: {printable(path)} is of other classes than the model")
    return _of_values(task, content, str(content.get("data", "")), "gcnet evaluate")


def _of_run(task: Task, card: ModelCard, run: Path) -> tuple[CardMetric, ...]:
    metric = task.scores(card.architecture or "")[0].column
    rows = [row for row in RunFolder(run).evaluations() if isinstance(row.get(metric), float)]
    if not rows:
        return ()
    best = max(rows, key=lambda row: row[metric])
    source = f"the best of {len(rows)} evaluations during training, on the images by which the weights were selected"
    return _of_values(task, best, run_data(run), source)


def _of_values(task: Task, values: Mapping[str, Any], data: str, source: str) -> tuple[CardMetric, ...]:
    images = values.get("images")
    count = images if isinstance(images, int) and images > 0 else None
    metrics = []
    for score in task.all_scores:
        value = values.get(score.column)
        if not isinstance(value, float):
            continue
        interval = None
        if score.is_share and count is not None:
            interval = wilson_interval(round(value * count), count)
        key = "accuracy" if score.is_share else score.column.removesuffix("_fraction")
        metrics.append(CardMetric(score.label, key, value, score.is_share, data_name(data), count, interval, source))
    return tuple(metrics)


def _published(card: ModelCard) -> tuple[CardMetric, ...]:
    origin = card.provenance or {}
    scores = origin.get("scores")
    if not isinstance(scores, Mapping):
        return ()
    source = f"published ({origin.get('scores_from', 'source unknown')}), not measured here"
    data = str(origin.get("dataset", ""))
    return tuple(
        CardMetric(name, name.replace(" ", "_"), float(value) / 100, "AP" not in name, data, None, None, source)
        for name, value in scores.items()
    )


def run_data(run: Path) -> str:
    """Return `data` of a run's settings; "" if it cannot be read."""
    return str(run_settings(run).get("data", {}).get("data", ""))


def run_settings(run: Path) -> dict[str, Any]:
    """Return the settings in config.json of a `run`; empty if they cannot be read."""
    try:
        return dict(json.loads((run / "config.json").read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def data_name(data: str) -> str:
    """Return the name of `data` without folders, which are of the user's machine."""
    if data in BUILT_IN:
        return f"{data} (generated)" if data.startswith("scenes") else data
    return Path(data).name


def describe_metrics(metrics: Sequence[CardMetric]) -> list[tuple[str, ...]]:
    """Return the table cells of `metrics`: name, value, 95% interval, number of images, data."""
    return [
        (
            metric.name,
            f"{metric.value:.2%}" if metric.is_share else f"{100 * metric.value:.1f}",
            "-" if metric.interval is None else f"{metric.interval[0]:.2%} to {metric.interval[1]:.2%}",
            "-" if metric.images is None else f"{metric.images:,}",
            metric.data or "-",
        )
        for metric in metrics
    ]
