"""`gcnet.compare`: measures costs, trains each block over the same seeds and data, and reports."""

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gcnet.arguments import plain_arguments
from gcnet.blocks import Builder
from gcnet.children import is_importing_main
from gcnet.comparison.cluster_runs import check_launcher
from gcnet.comparison.describe import describe_experiment, describe_machine
from gcnet.comparison.measure import MeasurementSpec, measure_costs
from gcnet.comparison.plan import Variant, Variants, check_names, plan_trainings, training_settings
from gcnet.comparison.report import sample_pictures, write_report
from gcnet.comparison.results import BASELINE, Comparison, Cost
from gcnet.comparison.runs import RunContext
from gcnet.comparison.schedule import run_all, share_machine
from gcnet.comparison.settings import CompareSettings
from gcnet.comparison.torchrun_runs import jobs_of_torchrun
from gcnet.comparison.workers import EXIT_UNGUARDED
from gcnet.devices import choose_device, visible_gpus
from gcnet.errors import UserError, printable
from gcnet.lock_owner import describe_owner
from gcnet.models.registry import is_detector
from gcnet.ray_cluster import Share, connected
from gcnet.renamed import FORMAT_VERSION, format_version, is_old, upgraded_comparison, upgraded_costs
from gcnet.storage import LockedError, StorageError, locked, read_json, write_atomic
from gcnet.tasks.registry import open_task, task_of, with_defaults
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.progress import Reporter, Silent


def run_comparison(
    blocks: Sequence[str | Builder] | Mapping[str, Variant] | None = None,
    *,
    settings: CompareSettings | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Train the same network with each block, measure accuracy (of detectors AP) and cost, and write the report.

    Repeat the call to resume an interrupted comparison. Under torchrun each process runs whole trainings, one at a
    time; if `jobs` is 1, all processes share each training.

    Args:
        blocks: names of blocks, or builders of your own (`channels -> module`); or variants by their name in the
            report, where "none" is the network without a block (default: the blocks of `settings`).
        settings: everything else (default: the demonstration on generated scenes).
        reporter: of the progress (default: none).

    Returns:
        All results, as they are in `results.json`.

    Raises:
        UserError: an unknown name, or an output folder that holds a comparison with other settings.
        Stopped: a signal ended it.
        NonFiniteLoss: a training met a loss that is not finite.
    """
    settings, variants = _with_blocks(settings or CompareSettings(), blocks)
    check_names(settings, variants)
    check_launcher(settings.cluster)
    device = choose_device(settings.machine.device)
    settings = replace(settings, machine=settings.machine.resolved(device))
    with processes_joined(device) as processes, connected(settings.cluster) as cluster:
        listener = reporter if reporter and processes.first else Silent()
        share = None if cluster is None else cluster.share(settings.machine.device)
        return _compare(settings, variants, processes, listener, share)


def _check_score(metric: str, settings: CompareSettings) -> None:
    task = task_of(settings.model)
    score = task.scores(settings.model)[0]
    if metric != score.column:
        reason = task.why_another_score(settings.model)
        raise UserError(f"{settings.model} is compared by {score.name}, but {reason}")


def _compare(
    settings: CompareSettings, variants: Variants, processes: Processes, reporter: Reporter, cluster: Share | None
) -> Comparison:
    device = str(choose_device(settings.machine.device))
    task = open_task(training_settings(settings, BASELINE, variants), Processes())
    training = with_defaults(task.settings)
    _check_score(task.metric, settings)
    steps = training.recipe.length(task.steps_per_epoch)
    training = replace(training, recipe=training.recipe.with_steps(task.steps_per_epoch))
    trainings = plan_trainings(settings, epochs=steps / task.steps_per_epoch, variants=variants)
    size = task_of(settings.model).input_size(task)
    gpus = visible_gpus(settings.machine.device)
    jobs, threads = share_machine(settings.jobs, len(trainings), device, gpus)
    measured = jobs if device == "cpu" and processes.world == 1 else 1
    if processes.world > 1:
        jobs, threads = jobs_of_torchrun(settings.jobs, processes.world), torch.get_num_threads()
    folder = processes.by_first(lambda: _open_folder(settings, variants))
    if cluster is not None:
        jobs, threads = settings.jobs or len(trainings), max(cluster.cpus, 1)
    with _only_writer(folder, processes):
        for note in task.notes():
            reporter.log(printable(note))
        spec = MeasurementSpec(len(task.classes), size, training.recipe.images_per_step, device, measured, task.flops)
        with _removed_if_new(folder, processes):
            costs, timing = processes.by_first(lambda: _costs(folder, settings, variants, spec, reporter))
        context = RunContext(settings, folder, jobs, threads, variants, steps, processes, gpus)
        runs = run_all(trainings, context, reporter, cluster)
        reporter.close()
        comparison = Comparison(
            model=settings.model,
            data=settings.data.name,
            control_data=settings.control_data if settings.control_blocks() else None,
            blocks=settings.block_names(),
            seeds=settings.seed_numbers(),
            runs=tuple(runs),
            costs=costs,
            about=describe_experiment(settings, task.describe_data(size), training, steps),
            environment=describe_machine(device, jobs, threads, settings.machine, cluster),
            timing=timing,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            pictures=sample_pictures(task_of(settings.model), task),
        )
        processes.by_first(lambda: write_report(comparison, folder))
        return comparison


@contextmanager
def _only_writer(folder: Path, processes: Processes) -> Generator[None]:
    """Have the first process hold the lock of the folder, and all fail where it cannot."""
    with ExitStack() as stack:
        try:
            processes.by_first(lambda: stack.enter_context(locked(folder / ".lock")))
        except LockedError as error:
            owner = describe_owner(error.owner)
            raise UserError(
                f"{printable(folder)} is in use by another gcnet compare ({owner}); wait until it ends, or stop it"
            ) from error
        yield


@contextmanager
def _removed_if_new(folder: Path, processes: Processes) -> Generator[None]:
    """Remove the folder of a comparison that cannot begin, such as for weights that do not fit."""
    try:
        yield
    except UserError:
        if processes.first and not any((folder / name).exists() for name in ("costs.json", "runs")):
            for name in ("compare.json", ".lock"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # where something else lies in it
                folder.rmdir()
        raise


def output_folder(settings: CompareSettings) -> Path:
    """Return the output folder of `settings`."""
    return Path(settings.output or f"runs/compare-{Path(settings.data.name).stem}")


def _with_blocks(
    settings: CompareSettings, blocks: Sequence[str | Builder] | Mapping[str, Variant] | None
) -> tuple[CompareSettings, dict[str, Variant]]:
    """The settings with the names of `blocks`, and the blocks that a name alone does not describe."""
    if blocks is None:
        return settings, {}
    if isinstance(blocks, Mapping):
        return replace(settings, blocks=",".join(blocks)), dict(blocks)
    names = [block if isinstance(block, str) else _name(block) for block in blocks]
    own = {_name(block): Variant(block) for block in blocks if not isinstance(block, str)}
    return replace(settings, blocks=",".join(names)), own


def _name(builder: Builder) -> str:
    return getattr(builder, "__name__", type(builder).__name__)


def _open_folder(settings: CompareSettings, variants: Variants) -> Path:
    """Make the output folder, or check that the comparison in it is this one."""
    folder = output_folder(settings)
    path = folder / "compare.json"
    described = {name: variant.described() for name, variant in variants.items()}
    identity = json.loads(json.dumps(settings.identity() | ({"variants": described} if described else {})))
    if path.exists():
        _refuse_changes(folder, _read_settings(path), identity)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`output` must be a new folder or that of an earlier comparison, but {folder} is neither")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {folder}: {error.strerror}") from error
    write_atomic(path, (json.dumps({"format_version": FORMAT_VERSION, **identity}, indent=2) + "\n").encode())
    return folder


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings in compare.json, in the names of this version."""
    stored = read_json(path)
    if not isinstance(stored, Mapping):
        raise StorageError(f"{printable(path)} is damaged: it holds no settings")
    format_version(stored, path)
    settings = {name: value for name, value in stored.items() if name != "format_version"}
    if is_old(stored) and _has_other_losses(settings):
        raise UserError(
            f"{printable(path.parent)} holds a comparison of detectors by a version with other losses of "
            "`conventions=mmdet`; give another `output`"
        )
    return upgraded_comparison(settings) if is_old(stored) else settings


def _has_other_losses(settings: Mapping[str, Any]) -> bool:
    """Whether a comparison of an earlier version is of detectors with mmdet's conventions."""
    detector = settings.get("detector", {})
    conventions = detector.get("conventions", detector.get("numerics", "mmdet"))
    return is_detector(str(settings.get("model"))) and conventions == "mmdet"


def _refuse_changes(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise if settings differ from the stored ones; settings that their version lacks have defaults."""
    defaults = asdict(CompareSettings())
    defaults["recipe"] = dict.fromkeys(defaults["recipe"])
    now, usual = _flat(wanted), _flat(json.loads(json.dumps(defaults)))
    before = {name: usual[name] for name in now if name in usual} | _flat(stored)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds a comparison with `{name}={before.get(name)}`, "
                f"found {now.get(name)}; give another `output`, or the same settings to resume it"
            )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _costs(
    folder: Path, settings: CompareSettings, variants: Variants, spec: MeasurementSpec, reporter: Reporter
) -> tuple[dict[str, Cost], dict[str, int]]:
    """What an earlier attempt measured, or a new measurement."""
    path = folder / "costs.json"
    if path.exists():
        stored = read_json(path)
        if not isinstance(stored, Mapping):
            raise StorageError(f"{printable(path)} is damaged; delete it to measure again")
        format_version(stored, path)
        try:
            stored = upgraded_costs(stored) if is_old(stored) else stored
            return {block: Cost(**cost) for block, cost in stored["costs"].items()}, stored["timing"]
        except (LookupError, TypeError, AttributeError) as error:
            raise StorageError(f"{printable(path)} is damaged; delete it to measure again") from error
    reporter.log("measuring parameters, FLOPs, time and memory of each block")
    costs, timing = measure_costs(settings, variants, spec, progress=reporter.advance)
    torch.cuda.empty_cache()  # trainings in processes of their own use the same GPU
    costs_by_block = {block: asdict(cost) for block, cost in costs.items()}
    content = {"format_version": FORMAT_VERSION, "costs": costs_by_block, "timing": timing}
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
    return costs, timing


@plain_arguments(CompareSettings)
def compare(
    settings: CompareSettings,
    *,
    variants: Sequence[str | Builder] | Mapping[str, Variant] | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Train the same network with each block, measure accuracy (of detectors AP) and cost, and write the report.

    Repeat the call to resume an interrupted comparison. Several trainings run in processes of their own, unless `jobs`
    is 1. A script that defines builders of `variants` is imported by them, so it must call this function under
    `if __name__ == "__main__":`; other scripts and notebooks need no such line. Under torchrun, each process runs whole
    trainings, one at a time; if `jobs` is 1, all processes share each training.

    Args:
        variants: instead of `blocks`, builders of your own (`channels -> module`) or names; or variants by their name
            in the report, where "none" is the network without a block.
        reporter: of the progress (default: none).

    Returns:
        All results, as in `results.json`.

    Raises:
        UserError: an unknown name, or an output folder that holds a comparison with other settings.
        Stopped: a signal was received.
        NonFiniteLoss: a loss was not finite.
    """
    if is_importing_main():
        sys.exit(EXIT_UNGUARDED)
    if variants is not None and "blocks" in settings.given:
        raise UserError("`blocks` and `variants` exclude each other; give one of them")
    return run_comparison(variants, settings=settings, reporter=reporter)
