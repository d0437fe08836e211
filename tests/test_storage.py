"""Files survive errors and a full disk; locks exclude other processes."""

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gcnet import storage
from gcnet.storage import StorageError, check_output_file, link_or_copy, read_json, write_atomic


def fails(error: int) -> Any:
    """A function that fails as the system call would."""

    def call(*_arguments: Any, **_options: Any) -> None:
        raise OSError(error, os.strerror(error))

    return call


def run_script(script: str, *arguments: str) -> str:
    """Run Python source in a process of its own; its standard output."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_new_file_replaces_the_old_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_files_and_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read .*nowhere: No such file or directory"):
        read_json(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot read .*: it is a folder and not a file"):
        read_json(tmp_path)
    with pytest.raises(StorageError, match="cannot write .*file: No such file or directory"):
        write_atomic(tmp_path / "no" / "file", b"")
    write_atomic(tmp_path / "file", b"")
    with pytest.raises(StorageError, match="cannot write .*file/file: Not a directory"):
        write_atomic(tmp_path / "file" / "file", b"")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_at_any_step_leaves_the_old_file_and_nothing_beside_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(storage.os, step, fails(errno.EIO))
    with pytest.raises(StorageError, match="cannot write .*file: Input/output error"):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_message_of_a_full_disk_has_path_needed_and_free_space(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(storage.os, "fsync", fails(error))
    free = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _path: free)
    with pytest.raises(StorageError, match=r"file: the disk is full \(needed 10,000 bytes, free 4,096\)"):
        write_atomic(tmp_path / "file", bytes(10_000))
    assert (tmp_path / "file").read_bytes() == b"old"


def can_mount() -> bool:
    """Whether this user may mount a small disk in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk in a namespace")
def test_disk_that_is_really_full_keeps_the_old_file(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from gcnet.storage import StorageError, write_atomic
        path = Path({str(tmp_path)!r}) / "file"
        write_atomic(path, b"old" * 1000)
        try:
            write_atomic(path, bytes(1_000_000))
        except StorageError as error:
            print(error)
        assert path.read_bytes() == b"old" * 1000
        assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    """
    shell = f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}" && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", shell, "sh"]
    result = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "the disk is full (needed 1,000,000 bytes, free 2" in result.stdout


def test_a_lock_excludes_other_processes_and_ends_with_its_own(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from gcnet.storage import LockedError, locked
        try:
            with locked(Path(sys.argv[1])):
                print("free")
        except LockedError as error:
            print(error.owner["process"])
    """
    with storage.locked(tmp_path / "lock"):
        assert run_script(script, str(tmp_path / "lock")) == f"{os.getpid()}\n"
        with pytest.raises(storage.LockedError):
            storage.locked(tmp_path / "lock").__enter__()
    assert run_script(script, str(tmp_path / "lock")) == "free\n"


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        from pathlib import Path
        from gcnet.storage import locked
        with locked(Path(sys.argv[1])):
            if os.fork() == 0:
                os.close(1), os.close(2)
                time.sleep(20)
            print("held", flush=True)
            os._exit(0)
    """
    assert run_script(script, str(tmp_path / "lock")) == "held\n"
    with storage.locked(tmp_path / "lock"):
        pass


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"
    storage.append_line(path, "one")

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:3])

    monkeypatch.setattr(storage, "open", lambda path, mode, **_: Full(path, mode), raising=False)
    with pytest.raises(StorageError, match="the disk is full"):
        storage.append_line(path, "another line")
    monkeypatch.undo()
    assert path.read_text() == "one\n"


def test_a_full_disk_speaks_of_an_old_file_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(storage.os, "fsync", fails(errno.ENOSPC))
    with pytest.raises(StorageError, match="the old file is unchanged"):
        write_atomic(tmp_path / "old", b"new")
    with pytest.raises(StorageError) as raised:
        write_atomic(tmp_path / "new", b"new")
    assert "old file" not in str(raised.value)


def test_a_device_is_written_into_and_stays_a_device() -> None:
    master, slave = os.openpty()
    device = Path(os.ttyname(slave))
    check_output_file(device)
    write_atomic(device, b"text\n")
    assert os.read(master, 100).replace(b"\r", b"") == b"text\n"
    assert stat.S_ISCHR(device.stat().st_mode)
    os.close(master)
    os.close(slave)


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_output_file(pipe)
    write_atomic(pipe, b"text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_full_device_is_reported_and_stays() -> None:
    device = Path("/dev/full")
    if not (device.exists() and stat.S_ISCHR(device.stat().st_mode)):
        pytest.skip("needs /dev/full")
    with pytest.raises(StorageError, match="cannot write /dev/full: No space left on device"):
        write_atomic(device, b"text")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_the_file_of_a_symbolic_link_is_written_and_the_link_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "folder" / "file", tmp_path / "link"
    file.parent.mkdir()
    file.write_bytes(b"old")
    link.symlink_to(file)
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert os.listdir(file.parent) == ["file"]


def test_a_linked_file_keeps_its_content_when_the_other_name_is_written(tmp_path: Path) -> None:
    last, best = tmp_path / "last", tmp_path / "best"
    write_atomic(last, b"one")
    write_atomic(best, b"older")
    link_or_copy(last, best)
    assert best.samefile(last)
    write_atomic(last, b"two")
    assert best.read_bytes() == b"one"
    assert sorted(os.listdir(tmp_path)) == ["best", "last"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_a_file_is_copied_where_hard_links_are_not_possible(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, best = tmp_path / "last", tmp_path / "best"
    write_atomic(last, b"one")
    monkeypatch.setattr(storage.os, "link", fails(error))
    link_or_copy(last, best)
    assert best.read_bytes() == b"one" and not best.samefile(last)
    assert sorted(os.listdir(tmp_path)) == ["best", "last"]
