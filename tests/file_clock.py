"""The clock of a file system, which may count in steps of milliseconds."""

from pathlib import Path


def wait_for_clock(folder: Path) -> None:
    """Wait until a change has a later time than all files and folders in `folder` have."""
    latest = max(path.lstat().st_ctime_ns for path in folder.rglob("*"))
    changed = folder.parent / "changed"
    while not changed.exists() or changed.stat().st_ctime_ns <= latest:
        changed.touch()
    changed.unlink()
