"""`gcnet.resume`: resumes a run from its last checkpoint."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gcnet.arguments import plain_arguments
from gcnet.data.settings import DataSettings, is_pattern
from gcnet.devices import choose_device
from gcnet.errors import UserError, printable
from gcnet.models.registry import is_detector
from gcnet.renamed import FORMAT_VERSION, changed_names, is_old
from gcnet.training.checkpoint import load_state
from gcnet.training.data_record import compare_data, record_data
from gcnet.training.distributed import Processes, processes_joined
from gcnet.training.progress import Reporter
from gcnet.training.remote_run import remote_run
from gcnet.training.run_folder import RunFolder, open_folder, write_json
from gcnet.training.settings import ResumeSettings, TrainSettings
from gcnet.training.task import TrainingTask
from gcnet.training.trainer import Trainer
from gcnet.workflows.run import BuildModel, RunResult, assembled, drive, only_writer

_PATHS = ("data", "val", "images")


@plain_arguments(ResumeSettings)
def resume(
    settings: ResumeSettings, *, build_model: BuildModel | None = None, reporter: Reporter | None = None
) -> RunResult:
    """Resume a run from its last checkpoint, with the same bits as without the interruption.

    A run without a checkpoint starts again in its folder; for a finished one, its result is returned.

    Args:
        build_model: as given to `gcnet.train`.
        reporter: of the progress (default: a bar on a terminal, lines elsewhere).

    Returns:
        The result of the whole run.

    Raises:
        UserError: there is no run, another process trains in it, it needs `build_model`, or its classes changed.
        StorageError: a damaged checkpoint.
    """
    remote = remote_run(settings.folder)
    if remote is not None:
        remote.take_over = settings.take_over
        remote.fetch()
    elif settings.take_over:
        raise UserError(f"`take_over` is for runs at URLs, found the folder {printable(settings.folder)}")
    folder, stored, config = open_folder(settings.folder if remote is None else remote.path, remote)
    if config.get("own_network") and build_model is None:
        raise UserError(f"{folder.place} trains a network of your own: resume it in Python, with `build_model`")
    chosen = settings.applied(stored)
    _require_data(chosen.data)
    with processes_joined(choose_device(chosen.machine.device)) as processes, only_writer(folder, processes):
        chosen, config = processes.from_first((chosen, config))  # another machine may have older copies
        state = _load_checkpoint(folder, processes)
        with assembled(chosen, build_model, resumed=state is not None) as (trainer, task):
            _check_length(trainer, state)
            chosen = replace(chosen, recipe=chosen.recipe.with_steps(task.steps_per_epoch))
            note = processes.by_first(lambda: _check_data(folder, config, task, settings.moved()))
            notes = [*([note] if note else []), *_renamed_settings(config), *_changed_losses(config, chosen)]
            if processes.first:
                folder.clean()
                if settings.moved() or settings.has_length or is_old(config):
                    version = {"format_version": FORMAT_VERSION}
                    write_json(folder.config, config | version | {"settings": chosen.to_dict()})
            return drive(trainer, folder, chosen, reporter, state=state, resumed=True, notes=notes)


def _load_checkpoint(folder: RunFolder, processes: Processes) -> dict[str, Any] | None:
    """The state of the checkpoint, None if there is none; the same in all processes.

    Of a run at a URL, the local folder of the first process may have later steps than were published, which other
    machines get now.
    """

    def load() -> dict[str, Any] | None:
        return load_state(folder.checkpoint) if os.path.lexists(folder.checkpoint) else None

    def describe() -> str:
        return f"a checkpoint of step {state['trainer']['step']:,}" if state else "no checkpoint"

    state = load()
    if folder.remote is not None and len(set(processes.gather(describe()))) > 1:
        processes.by_first(folder.publish)
        if not processes.first:
            folder.remote.fetch()
        state = load()
    processes.require_same(describe)
    return state


def _renamed_settings(config: Mapping[str, Any]) -> list[str]:
    """The note on a run of an earlier version: its settings with another name in this version."""
    names = changed_names(config["settings"]) if is_old(config) else []
    if not names:
        return []
    return [f"the run was started by an earlier version; config.json now has new names: {', '.join(names)}"]


def _changed_losses(config: Mapping[str, Any], settings: TrainSettings) -> list[str]:
    """The note on a detector whose losses another version computed."""
    if not is_old(config) or settings.detector.conventions != "mmdet" or not is_detector(settings.network.model):
        return []
    return [
        "the run was started by a version with other losses of `conventions=mmdet`; from here on they are mmdet's "
        "(docs/detection.md)"
    ]


def _require_data(data: DataSettings) -> None:
    """Check that the data are at their paths.

    Raises:
        UserError: with the argument that takes the new path.
    """
    for name in _PATHS:
        path = getattr(data, name)
        if path is not None and os.path.isabs(path) and not (is_pattern(path) or os.path.exists(path)):
            raise UserError(
                f"the run needs {printable(path)}, which does not exist: if the data moved, give the new `{name}`"
            )


def _check_length(trainer: Trainer, state: Mapping[str, Any] | None) -> None:
    done, total = state["trainer"]["step"] if state else 0, trainer.schedule.total
    if total < done:
        raise UserError(f"the run has done {done} steps already, so it cannot be shortened to {total}")


def _check_data(
    folder: RunFolder, config: Mapping[str, Any], task: TrainingTask, moved: Mapping[str, str]
) -> str | None:
    """A note on data that changed since the run started.

    Raises:
        UserError: the classes changed, or the data of `moved` are not those of the run.
    """
    if "data" not in config:  # a run of an earlier version
        return "the run has no record of its data, so they cannot be compared" if moved else None
    difference = compare_data(config["data"], folder.data, record_data(task.classes, task.files()))
    if difference is None:
        return None
    if moved:
        paths = " ".join(f"`{name}={printable(value)}`" for name, value in moved.items())
        raise UserError(f"{paths} must be the data of the run at a new path, but they differ: {difference}")
    return f"the data changed since the run started: {difference}; the run continues, with a different result"
