"""`gcnet.reproduce`: trains the rows of tables, one comparison per network."""

from dataclasses import dataclass, replace
from pathlib import Path

from gcnet.arguments import plain_arguments
from gcnet.comparison.cluster_runs import check_launcher, train_first
from gcnet.comparison.experiment import run_comparison
from gcnet.comparison.plan import Training
from gcnet.comparison.results import BASELINE, MAIN, Comparison
from gcnet.comparison.runs import Stopped
from gcnet.comparison.settings import CompareSettings
from gcnet.errors import UserError, unknown
from gcnet.experiments.rows import PaperTable
from gcnet.experiments.scales import SMALL_RATIO, Series, series_of
from gcnet.experiments.settings import ReproduceSettings
from gcnet.experiments.tables import TABLES
from gcnet.models.pretrained import FIRST_VERSION, PRETRAINED
from gcnet.models.registry import is_detector
from gcnet.ray_cluster import connected
from gcnet.tasks.registry import task_of
from gcnet.training.network_settings import NetworkSettings
from gcnet.training.progress import Reporter, Silent
from gcnet.training.run_folder import RunFolder
from gcnet.training.settings import OutputSettings, TrainSettings
from gcnet.workflows.resume import resume
from gcnet.workflows.train import run_training


@dataclass(frozen=True)
class Measured:
    """Trained network of a row.

    Attributes:
        comparison: that trained it.
        name: of the network in the comparison.
    """

    comparison: Comparison
    name: str


def find_tables(names: tuple[str, ...]) -> dict[str, PaperTable]:
    """Return the tables called `names`; "all" returns every table.

    Raises:
        UserError: an unknown table.
    """
    for name in names:
        if name not in TABLES and name != "all":
            raise unknown("table", name, [*TABLES, "all"])
    return dict(TABLES) if "all" in names else {name: TABLES[name] for name in names}


def train_tables(settings: ReproduceSettings, *, reporter: Reporter | None = None) -> dict[tuple[str, str], Measured]:
    """Train every row of the tables over the seeds. Repeat the call to resume.

    Args:
        settings: tables, scale and data.
        reporter: of the progress.

    Returns:
        Trained networks by table and label; at small scale without rows that have no small counterpart.

    Raises:
        UserError: an unknown table, or settings that do not fit its networks.
        Stopped: a signal was received.
    """
    check_launcher(settings.cluster)
    small = settings.scale == "small"
    series = series_of(find_tables(settings.table), small=small)
    if settings.weights not in (None, "pretrained") and len(series) > 1:
        models = ", ".join(part.model for part in series)
        raise UserError(
            f"`weights` takes one file, but these tables have several networks: {models}; run one table at a time"
        )
    detector = next((part.model for part in series if is_detector(part.model)), None)
    if not small and settings.weights is None and detector is not None:
        raise UserError(
            f"`scale=full` of {detector} starts from a trained backbone: give `weights=FILE`, or `weights=pretrained`"
        )
    for part in series:  # before the first stage, which takes days
        comparison_settings(settings, part)
    trained = {}
    for part in series:
        if not small and settings.weights is None:
            settings = replace(settings, weights=str(train_plain(settings, part.model, reporter=reporter)))
        comparison = run_comparison(part.variants, settings=comparison_settings(settings, part), reporter=reporter)
        trained |= {row: Measured(comparison, name) for row, name in part.names.items()}
    return trained


def train_plain(settings: ReproduceSettings, model: str, *, reporter: Reporter | None = None) -> Path:
    """Train the network without blocks: the first stage of the paper on ImageNet, 120 epochs. Repeat to resume.

    With `cluster`, it is a task of a Ray cluster, resumed on another node if its node dies.

    Args:
        settings: data, machine and changes of the recipe.
        model: name of the network.
        reporter: of the progress.

    Returns:
        The model file of the last evaluation.

    Raises:
        UserError: settings that do not fit the network.
        Stopped: a signal was received.
    """
    folder = tables_folder(settings) / f"{model}-plain"
    plain = TrainSettings(
        network=NetworkSettings(model=model),
        data=settings.data,
        recipe=replace(settings.recipe, preset="scratch"),
        machine=settings.machine,
        output=OutputSettings(output=str(folder)),
    )
    with connected(settings.cluster) as cluster:
        if cluster is not None:
            share = cluster.share(settings.machine.device)
            training = Training(MAIN, BASELINE, settings.machine.seed, plain, folder=folder.name)
            train_first(training, folder.parent, share, reporter or Silent())
            return RunFolder(folder).last
    result = resume(folder, reporter=reporter) if folder.exists() else run_training(plain, reporter=reporter)
    if result.stopped:
        raise Stopped(result.stopped)
    return result.last_weights


def tables_folder(settings: ReproduceSettings) -> Path:
    """Return the output folder of `settings`."""
    return Path(settings.output or f"runs/reproduce-{'-'.join(settings.table)}-{settings.scale}")


def comparison_settings(settings: ReproduceSettings, series: Series) -> CompareSettings:
    """Build the settings of the comparison that trains a series.

    Args:
        settings: of the reproduction.
        series: rows on one network.

    Returns:
        The published protocol, or at small scale the fine-tuning of a small network.
    """
    task, small = task_of(series.model), settings.scale == "small"
    task.check_data_name(settings.data.data)
    preset = task.preset[settings.weights is not None]
    recipe = settings.recipe if settings.recipe.preset else replace(settings.recipe, preset=preset)
    # The paper and mmdet start from the weights that torchvision published first; its later ones are more accurate.
    weights = FIRST_VERSION if settings.weights == PRETRAINED else settings.weights
    return CompareSettings(
        seeds=settings.seeds or (3 if small else 1),
        model=series.model,
        ratio=SMALL_RATIO if small else 16,
        control=False,
        data=settings.data,
        recipe=recipe,
        machine=settings.machine,
        given=settings.given,
        jobs=settings.jobs,
        cluster=settings.cluster,
        output=str(tables_folder(settings) / series.model),
        **task.start_from(weights),
    )


@plain_arguments(ReproduceSettings)
def reproduce(settings: ReproduceSettings, *, reporter: Reporter | None = None) -> dict[tuple[str, str], Measured]:
    """Train the rows of the paper's tables, with the published networks or with small ones.

    Repeat the call to resume. Rows without a counterpart in small networks are missing at small scale.
    `gcnet.experiments.tables.TABLES` has the tables, `gcnet.experiments.text.count_table` counts their costs.

    Args:
        reporter: of the progress (default: none).

    Returns:
        Trained networks, by the name of the table and the label of the row.

    Raises:
        UserError: an unknown table, or settings that do not fit its networks.
        Stopped: a signal was received.
    """
    return train_tables(settings, reporter=reporter)
