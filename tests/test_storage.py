"""Files survive a kill and a full disk, and any bit that changed is refused."""

import errno
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gcnet import storage
from gcnet.storage import StorageError, check_output_file, load_tensors, save_tensors, write_atomic

METADATA = {"epoch": 3, "names": ["a", 'quote " and "sha256":"'], "nested": {"none": None, "number": 0.1}}


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


def test_tensors_and_metadata_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "float64": torch.randn(2, 3, dtype=torch.float64),
        "bf16": torch.randn(5).bfloat16(),
        "fp16": torch.randn(5).half(),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(11, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "sha256": torch.zeros(2),
        "strided": torch.randn(4, 6)[::2, ::3],
        "channels_last": torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last),
    }
    save_tensors(tmp_path / "weights", tensors, METADATA)
    loaded, metadata = load_tensors(tmp_path / "weights")
    assert metadata == METADATA
    assert list(loaded) and set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].nan_to_num(9), tensor.nan_to_num(9)), name


def test_tensors_that_share_memory_are_stored_each(tmp_path: Path) -> None:
    weight = torch.randn(3, 5)
    tensors = {"a": weight, "b": weight, "row": weight[1], "parameter": torch.nn.Parameter(weight)}
    save_tensors(tmp_path / "weights", tensors, {})
    loaded, _ = load_tensors(tmp_path / "weights")
    assert torch.equal(loaded["a"], weight) and torch.equal(loaded["b"], weight)
    assert torch.equal(loaded["row"], weight[1]) and torch.equal(loaded["parameter"], weight)


def test_file_is_plain_safetensors_for_everyone_else(tmp_path: Path) -> None:
    weight = torch.randn(3, 5)
    save_tensors(tmp_path / "weights", {"weight": weight}, METADATA)
    assert torch.equal(safetensors.torch.load_file(tmp_path / "weights")["weight"], weight)


def test_new_file_replaces_the_old_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_flipped_bit_at_any_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_tensors(path, {"weight": torch.randn(5), "count": torch.tensor(3)}, {"epoch": 3})
    data = path.read_bytes()
    assert len(data) < 1000
    for place in range(len(data)):
        for bit in range(8) if place < 8 else (place % 8, (place + 5) % 8):  # All of the header's length.
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(StorageError, match="is damaged|is not a file written by gcnet"):
                load_tensors(path)


def test_cut_or_lengthened_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_tensors(path, {"weight": torch.randn(5)}, {})
    data = path.read_bytes()
    for damaged in [data[:length] for length in range(len(data))] + [data + b"\0", data + data]:
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="is damaged|is not a file written by gcnet"):
            load_tensors(path)


def test_file_of_another_origin_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "reference")
    with pytest.raises(StorageError, match="reference is not a file written by gcnet: its header holds no checksum"):
        load_tensors(tmp_path / "reference")


def test_missing_files_and_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read .*nowhere: No such file or directory"):
        load_tensors(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot read .*: it is a folder and not a file"):
        load_tensors(tmp_path)
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


def test_file_of_a_process_killed_while_saving_is_whole_and_no_older_than_its_last_save(tmp_path: Path) -> None:
    script = """
        import json, os, random, signal, sys, time
        from pathlib import Path
        import torch
        from gcnet.storage import load_tensors, save_tensors

        torch.set_num_threads(1)
        path = Path(sys.argv[1]) / "weights"
        random.seed(11)

        def save(version):
            save_tensors(path, {"weight": torch.full((200_000,), float(version))}, {"version": version})

        save(0)
        versions = []
        for _ in range(20):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                for version in range(versions[-1] + 1 if versions else 1, 10**6):
                    save(version)
                    os.write(writer, b".")
            os.read(reader, 1)
            time.sleep(random.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(writer)
            saved = 1
            while chunk := os.read(reader, 65536):
                saved += len(chunk)
            os.close(reader)
            tensors, metadata = load_tensors(path)
            assert tensors["weight"].eq(metadata["version"]).all()
            before = versions[-1] if versions else 0
            assert before + saved <= metadata["version"] <= before + saved + 1, (before, saved, metadata)
            versions.append(metadata["version"])
        print(json.dumps({"kills": len(versions), "during": len(os.listdir(path.parent)) - 1}))
    """
    counts = json.loads(run_script(script, str(tmp_path)))
    assert counts["kills"] == 20
    assert counts["during"] > 0, "no kill came while a file was being written"


def test_a_lock_excludes_other_processes_and_ends_with_its_own(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from gcnet.storage import LockedError, locked
        try:
            with locked(Path(sys.argv[1])):
                print("free")
        except LockedError as error:
            print(error.owner)
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
