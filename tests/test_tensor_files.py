"""Tensor files keep every bit, survive a kill, and are refused after any change."""

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gcnet.storage import StorageError
from gcnet.tensor_files import Snapshot, TensorFile, load_tensors, save_tensors

METADATA = {"epoch": 3, "names": ["a", 'quote " and "sha256":"'], "nested": {"none": None, "number": 0.1}}


def run_script(script: str, *arguments: str) -> str:
    """Run Python source in a process of its own; its standard output."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def mixed_tensors() -> dict[str, torch.Tensor]:
    """Tensors of every dtype of safetensors, strided, shared, empty and scalar."""
    weight = torch.randn(5, 7)
    dtypes = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {f"é {name}": (9 * weight).to(getattr(torch, name)) for name in dtypes}
    strided = {"row": weight[:, 1], "channels_last": torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)}
    complex_ = {"complex": torch.randn(3, dtype=torch.complex64), "float8": weight.to(torch.float8_e4m3fn)}
    return tensors | strided | complex_ | {"shared": weight, "empty": torch.zeros(0, 3), "scalar": torch.tensor(3.5)}


def bytes_by_the_library(tensors: dict[str, torch.Tensor]) -> bytes:
    """The file as safetensors writes it, with the SHA-256 of its bytes in the place of 64 zeros."""
    stored = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    blank = safetensors.torch.save(stored, {"gcnet": json.dumps({"sha256": "0" * 64, "content": METADATA})})
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def test_file_has_the_bytes_that_the_library_writes_and_its_digest(tmp_path: Path) -> None:
    tensors = mixed_tensors()
    save_tensors(tmp_path / "weights", tensors, METADATA)
    assert (tmp_path / "weights").read_bytes() == bytes_by_the_library(tensors)


def test_snapshot_is_written_as_the_tensors_were_when_it_was_taken(tmp_path: Path) -> None:
    tensors = mixed_tensors()
    expected = bytes_by_the_library(tensors)
    snapshot = Snapshot()
    for earlier in ({}, tensors | {"more": torch.ones(100)}, {"less": torch.ones(1)}, tensors):
        snapshot.take(TensorFile(earlier, METADATA))
    for tensor in tensors.values():
        tensor.zero_()
    snapshot.write(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == expected
    assert TensorFile(tensors, METADATA).size == len(expected)


def test_dtype_that_safetensors_cannot_store_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    save_tensors(tmp_path / "weights", {"weight": torch.zeros(2)}, {})
    before = (tmp_path / "weights").read_bytes()
    with pytest.raises(TypeError, match="wave: safetensors files hold no torch.complex128"):
        save_tensors(tmp_path / "weights", {"wave": torch.zeros(2, dtype=torch.complex128)}, {})
    assert (tmp_path / "weights").read_bytes() == before


def test_loaded_tensors_keep_their_values_when_the_file_is_replaced_and_may_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_tensors(path, {"weight": torch.ones(1000)}, {})
    loaded = load_tensors(path)[0]["weight"]
    save_tensors(path, {"weight": torch.zeros(10)}, {})
    assert loaded.eq(1).all()
    loaded[0] = 5
    assert load_tensors(path)[0]["weight"].eq(0).all()


def test_tensors_are_written_into_a_pipe(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        import torch
        from gcnet.tensor_files import save_tensors
        save_tensors(Path("/dev/stdout"), {"weight": torch.arange(1000)}, {})
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    written = subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True).stdout
    (tmp_path / "weights").write_bytes(written)
    assert load_tensors(tmp_path / "weights")[0]["weight"].tolist() == list(range(1000))


MEMORY = """
    import ctypes, sys, threading, time
    from pathlib import Path
    import torch
    from gcnet.tensor_files import Snapshot, TensorFile, load_tensors, save_tensors

    def private():  # bytes that are not those of a file
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

    def peak(work):
        ctypes.CDLL(None).malloc_trim(0)
        before, highest, done = private(), [0], threading.Event()
        def watch():
            while not done.wait(0.002):
                highest[0] = max(highest[0], private())
        thread = threading.Thread(target=watch)
        thread.start()
        kept = work()
        highest[0] = max(highest[0], private())
        done.set(), thread.join()
        return (highest[0] - before) / size

    torch.set_num_threads(1)
    path, layout = Path(sys.argv[1]) / "file", getattr(torch, sys.argv[2])
    tensors = {str(index): torch.ones(8, 16, 128, 128).to(memory_format=layout) for index in range(40)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    save_tensors(path, {"warm": torch.ones(3)}, {}), load_tensors(path)
    print(peak(lambda: save_tensors(path, tensors, {})))
    print(peak(lambda: load_tensors(path)))
    snapshot = Snapshot()
    print(peak(lambda: (snapshot.take(TensorFile(tensors, {})), snapshot.write(path))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_saving_and_loading_take_little_memory_and_a_snapshot_that_of_the_file(tmp_path: Path, layout: str) -> None:
    saved, loaded, snapshot = map(float, run_script(MEMORY, str(tmp_path), layout).split())
    assert saved < 0.15, "of 335 MB, in tensors of 8 MB"
    assert loaded < 0.1
    assert 0.8 < snapshot < 1.2


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


@pytest.mark.parametrize("how", ["save_tensors", "snapshot"])
def test_file_of_a_process_killed_while_saving_is_whole_and_no_older_than_its_last_save(
    tmp_path: Path, how: str
) -> None:
    script = """
        import json, os, random, signal, sys, time
        from pathlib import Path
        import torch
        from concurrent.futures import ThreadPoolExecutor
        from gcnet.tensor_files import Snapshot, TensorFile, load_tensors, save_tensors

        torch.set_num_threads(1)
        path = Path(sys.argv[1]) / "weights"
        random.seed(11)

        def save(version):
            tensors, metadata = {"weight": torch.full((200_000,), float(version))}, {"version": version}
            if sys.argv[2] == "save_tensors":
                save_tensors(path, tensors, metadata)
            else:
                with ThreadPoolExecutor(1) as thread:
                    snapshot = Snapshot()
                    snapshot.take(TensorFile(tensors, metadata))
                    writing = thread.submit(snapshot.write, path)
                    tensors["weight"].zero_()
                    writing.result()

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
    counts = json.loads(run_script(script, str(tmp_path), how))
    assert counts["kills"] == 20
    assert counts["during"] > 0, "no kill came while a file was being written"
