"""Runs of a torchrun job that restarts its processes: the same command continues the run folder that it made before."""

import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcnet.storage import StorageError, read_json
from gcnet.training.remote_run import remote_run
from gcnet.training.settings import TrainSettings

_NO_NAME = "none"  # the default of torchrun's --rdzv-id
_trainings: Counter[str] = Counter()  # of this process, by settings


def describe_job(settings: TrainSettings) -> dict[str, str] | None:
    """Return the identity of the next training of this process, for config.json; None without torchrun.

    It is made of the job, the settings, and the number of the training among those with the same settings in the
    script. A job without `--rdzv-id` is identified by its torchrun process.

    Args:
        settings: as given, before defaults are filled in.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    if name == _NO_NAME:
        name = f"{_NO_NAME} on {socket.gethostname()}: process {os.getppid()} started at {_start_of(os.getppid())}"
    digest = hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode()).hexdigest()
    _trainings[digest] += 1
    return {"name": name, "settings": digest, "training": str(_trainings[digest])}


def folder_of_job(settings: TrainSettings, name: str, job: Mapping[str, str]) -> Path | str | None:
    """Return the run folder, or its URL, that an earlier start of a job made with the same settings; None for none.

    Args:
        settings: as given, with the path or URL of the run folder.
        name: of the run folder in runs/ if `settings` have no path.
        job: as returned by `describe_job`.

    Raises:
        UserError: the URL cannot be accessed.
    """
    output, remote = settings.output.output, remote_run(settings.output.output)
    if remote is not None:
        own = _job_of(remote.path / "config.json") == job or _job_in(remote.published_config()) == job
        return remote.url if own else None
    candidates = [Path(output)] if output else [Path("runs") / name, *Path("runs").glob(f"{name}-*")]
    folders = [folder for folder in candidates if _job_of(folder / "config.json") == job]
    return max(folders, key=lambda folder: (folder / "config.json").stat().st_mtime, default=None)


def _job_of(config: Path) -> Any:
    try:
        return _job_in(read_json(config))
    except StorageError:
        return None


def _job_in(config: Any) -> Any:
    return config.get("job") if isinstance(config, dict) else None


def _start_of(process: int) -> str:
    """When a process started, in ticks since the start of the machine; empty on systems without /proc."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
