"""`gcnet.resume`: resumes a run from its last checkpoint."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gcnet.data.settings import DataSettings
from gcnet.devices import choose_device
from gcnet.errors import UserError, printable, unknown
from gcnet.renamed import FORMAT_VERSION, changed_names, is_old, new_name, renamed
from gcnet.training.checkpoint import load_state
from gcnet.training.data_record import compare_data, record_data
from gcnet.training.distributed import processes_joined
from gcnet.training.progress import Reporter
from gcnet.training.run_folder import RunFolder, open_folder, write_json
from gcnet.training.task import TrainingTask
from gcnet.training.trainer import Trainer
from gcnet.workflows.train import BuildModel, RunResult, assembled, drive, only_writer

_MOVABLE = ("data", "val", "images", "download_dir")
_PLACES = ("data", "val", "images")


def resume(
    folder: str | Path,
    *,
    workers: int | None = None,
    device: str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    moved: Mapping[str, str] = MappingProxyType({}),
    build_model: BuildModel | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Resume a run from its last checkpoint, to the same bits as if it had never stopped.

    A run that was killed before its first checkpoint starts again in its folder; a finished one only gives its result.

    Args:
        folder: of the run.
        workers: another number of loading processes; it changes no bit.
        device: another device; it may change bits.
        epochs: another length in epochs, at least what is done already; the learning rate then follows the schedule of
            the new length from here on, so that the bits are not those of a run of that length from the start.
        steps: another length in steps, likewise.
        moved: where the data are now, by setting: data, val, images, download_dir. They must be the same data.
        build_model: as given to `gcnet.train`.
        reporter: of the progress (default: a bar on a terminal, lines elsewhere).

    Returns:
        The result of the whole run.

    Raises:
        UserError: there is no run, another process trains in it, it needs `build_model`, or its classes changed.
        StorageError: a damaged checkpoint.
    """
    found, settings, config = open_folder(folder)
    if config.get("own_network") and build_model is None:
        raise UserError(f"{folder} trains a network of your own: resume it in Python, resume(folder, build_model=...)")
    if workers is not None:
        settings = replace(settings, data=replace(settings.data, workers=workers))
    if device is not None:
        settings = replace(settings, machine=replace(settings.machine, device=device))
    for name in moved:
        if name not in _MOVABLE:
            raise renamed(name, new) if (new := new_name(name)) in _MOVABLE else unknown("setting", name, _MOVABLE)
    if moved:
        settings = replace(settings, data=replace(settings.data, **moved)).with_absolute_paths()
    _require_data(settings.data)
    if epochs is not None or steps is not None:
        settings = replace(settings, recipe=replace(settings.recipe, epochs=epochs, steps=steps))
    with processes_joined(choose_device(settings.machine.device)) as processes, only_writer(found, processes):
        state = load_state(found.checkpoint) if os.path.lexists(found.checkpoint) else None
        with assembled(settings, build_model, resumed=state is not None) as (trainer, task):
            _check_length(trainer, state)
            recipe = settings.recipe.with_steps(task.steps_per_epoch)
            changed = replace(settings, recipe=recipe)
            note = processes.by_first(lambda: _check_data(found, config, task, moved))
            notes = [*([note] if note else []), *_renamed_settings(config)]
            if processes.first:
                found.clean()
                if moved or epochs is not None or steps is not None or is_old(config):
                    version = {"format_version": FORMAT_VERSION}
                    write_json(found.config, config | version | {"settings": changed.to_dict()})
            return drive(trainer, found, changed, reporter, state=state, resumed=True, notes=notes)


def _renamed_settings(config: Mapping[str, Any]) -> list[str]:
    """The note on a run of an earlier version: its settings with another name in this version."""
    names = changed_names(config["settings"]) if is_old(config) else []
    if not names:
        return []
    return [f"the run was started by an earlier version; config.json now has new names: {', '.join(names)}"]


def _require_data(data: DataSettings) -> None:
    """Refuse data that are no longer where the run had them.

    Raises:
        UserError: naming the flag that takes the new place.
    """
    for name in _PLACES:
        path = getattr(data, name)
        if path is not None and os.path.isabs(path) and not os.path.exists(path):
            raise UserError(
                f"the run needs {printable(path)}, and nothing is there; where the data moved, give the new place as "
                f"`{name}` beside `resume`"
            )


def _check_length(trainer: Trainer, state: Mapping[str, Any] | None) -> None:
    done, total = state["trainer"]["step"] if state else 0, trainer.schedule.total
    if total < done:
        raise UserError(f"the run has done {done} steps already, so it cannot be shortened to {total}")


def _check_data(
    folder: RunFolder, config: Mapping[str, Any], task: TrainingTask, moved: Mapping[str, str]
) -> str | None:
    """What to tell of data that changed since the run started.

    Raises:
        UserError: the classes changed, or the data that `moved` names are others.
    """
    if "data" not in config:  # a run of an earlier version
        return "the run has no record of its data, so they cannot be compared" if moved else None
    difference = compare_data(config["data"], folder.data, record_data(task.classes, task.files()))
    if difference is None:
        return None
    if moved:
        flags = " ".join(f"`{name}={printable(value)}`" for name, value in moved.items())
        raise UserError(
            f"{flags} beside `resume` is for data that moved, and these are not those of the run: {difference}"
        )
    return f"the data changed since the run started: {difference}; the run continues, with a different result"
