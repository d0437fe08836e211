"""The sentences for names and paths that do not exist."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gcnet.errors import UserError, nearest, nearest_path, out_of_memory, printable, raise_if_out_of_memory, unknown


def test_the_nearest_name_is_proposed_whatever_its_case() -> None:
    assert nearest("GCC", ("se", "gc", "snl")) == '; did you mean "gc"?'
    assert nearest("xyz", ("se", "gc", "snl")) == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sdg", "sgd"),
        ("epoch", "epochs"),
        ("augment", "rand-augment"),
        ("weights-path", "weights"),
        ("rect", ""),
        ("loss", ""),
        ("dropout", ""),
        ("config-file", ""),
    ],
)
def test_only_typos_and_parts_of_names_get_a_suggestion(name: str, expected: str) -> None:
    valid = ("epochs", "preset", "blocks", "root", "long-side", "rand-augment", "weights", "sgd")
    assert nearest(name, valid) == (f'; did you mean "{expected}"?' if expected else "")


def test_a_name_of_another_tool_suggests_the_name_here() -> None:
    assert nearest("Senet", ("se", "ese"), {"senet": "se"}) == '; did you mean "se"?'
    assert nearest("senet", ("gc",), {"senet": "se"}) == ""


def test_an_unknown_name_is_reported_with_the_nearest_and_valid_names() -> None:
    error = unknown("block", "gcc", ("none", "gc", "se"))
    assert isinstance(error, UserError)
    assert str(error) == 'unknown block "gcc"; did you mean "gc"? valid: none, gc, se'
    assert str(unknown("block", "xyz", ("gc",))) == 'unknown block "xyz"; valid: gc'
    assert str(unknown("block", "xyz", ())) == 'unknown block "xyz"; valid: none'


def test_a_long_list_of_valid_names_is_cut_and_counted() -> None:
    names = [f"net{index}" for index in range(23)]
    assert str(unknown("model", "qqq", names, listed=2)) == 'unknown model "qqq"; valid: net0, net1, ... (23 in total)'
    assert str(unknown("model", "met7", names, listed=2)) == 'unknown model "met7"; did you mean "net7"?'


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/first/bets.safetensors", "runs/first/best.safetensors"),
        ("runs/frist/best.safetensors", "runs/first/best.safetensors"),
        ("rusn", "runs"),
    ],
)
def test_a_mistyped_path_suggests_its_neighbor(
    path: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "runs" / "first" / "best.safetensors"
    place.parent.mkdir(parents=True)
    place.touch()
    assert nearest_path(tmp_path / path) == f'; did you mean "{tmp_path / expected}"?'
    monkeypatch.chdir(tmp_path)
    assert nearest_path(path) == f'; did you mean "{expected}"?'


def test_the_suffix_does_not_make_names_of_files_similar(tmp_path: Path) -> None:
    (tmp_path / "det.safetensors").touch()
    assert nearest_path(tmp_path / "nothere.safetensors") == ""
    assert nearest_path(tmp_path / "dets.safetensors") == f'; did you mean "{tmp_path / "det.safetensors"}"?'
    assert nearest_path(tmp_path / "det.safetensor") == f'; did you mean "{tmp_path / "det.safetensors"}"?'


def test_a_path_unlike_its_neighbors_gets_no_suggestion(tmp_path: Path) -> None:
    assert nearest_path(tmp_path / "xyz") == ""
    (tmp_path / "runs").mkdir()
    assert nearest_path(tmp_path / "qqq" / "xyz") == ""


def test_a_link_to_a_missing_file_is_not_suggested_for_itself(tmp_path: Path) -> None:
    (tmp_path / "best.pth").symlink_to("nowhere")
    assert nearest_path(tmp_path / "best.pth") == ""


def test_a_name_of_a_million_letters_is_cut_off() -> None:
    assert printable("x" * 1_000_000) == "x" * 4000 + "... (1,000,000 letters)"
    assert printable("x" * 4000) == "x" * 4000


def test_only_paths_that_exist_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "run.sh").touch()
    assert nearest_path(tmp_path / "runs" / "nothing") == ""
    (tmp_path / "run").mkdir()
    assert nearest_path(tmp_path / "runs" / "nothing") == ""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 805306368 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "out of memory: could not allocate 768 MiB",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ..."),
            "the GPU is out of memory: could not allocate 2.50 GiB",
        ),
        (RuntimeError("CUDA error: out of memory"), "the GPU is out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 393216 bytes"),
            "out of memory",
        ),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (ImportError("libtorch_cuda.so: failed to map segment from shared object"), "out of memory"),
        (ImportError("libtorch_cuda.so: cannot open shared object file"), None),
        (RuntimeError("could not create a primitive"), "out of memory"),
        (RuntimeError("could not create a primitive descriptor for a convolution"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("Cannot allocate memory"), None),
        (KeyError("memory"), None),
    ],
)
def test_missing_memory_is_recognized_and_nothing_else_is(error: Exception, sentence: str | None) -> None:
    assert out_of_memory(error) == sentence


def test_missing_memory_is_raised_in_the_place_of_an_error_that_it_caused() -> None:
    other, memory = ValueError("damaged"), MemoryError()
    raise_if_out_of_memory(other)
    other.__cause__ = ValueError("unreadable")
    raise_if_out_of_memory(other)
    other.__cause__.__cause__ = memory
    with pytest.raises(MemoryError) as raised:
        raise_if_out_of_memory(other)
    assert raised.value is memory


def test_the_real_errors_of_numpy_and_pytorch_are_recognized() -> None:
    for allocate in (lambda: np.empty(2**58), lambda: torch.empty(2**58)):
        with pytest.raises((MemoryError, RuntimeError)) as raised:
            allocate()
        assert (out_of_memory(raised.value) or "").startswith("out of memory")
