"""Outputs that cannot be written are found before the work, by every command; and memory that is missing."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from gcnet.cli import COMMANDS, main
from gcnet.storage import StorageError, check_output_file, check_output_folder

WRITING = {
    "train": ["--data", "nowhere"],
    "evaluate": ["--model", "nowhere.safetensors"],
    "predict": ["nowhere.jpg", "--model", "nowhere.safetensors"],
    "analyze": ["nowhere.safetensors", "nowhere.jpg"],
    "compare": ["--data", "nowhere"],
    "cost": ["nowhere.safetensors"],
    "check-data": ["nowhere.json"],
}


@pytest.mark.parametrize("command", WRITING)
def test_a_file_in_the_place_of_the_output_folder_is_found_before_anything_else(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert command in COMMANDS
    code = main([command, *WRITING[command], "--output", str(tmp_path / "file" / "deeper")])
    complaint = capsys.readouterr().err
    assert code == 2
    assert complaint == f"gcnet: --output: cannot create the folder {tmp_path}/file/deeper: a file has this name\n"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "flag", "name"),
    [("simplify", "--output", "new.safetensors"), ("predict", "--json", "new.json"), ("check-data", "--fix", "f.json")],
)
def test_a_folder_that_cannot_be_made_is_found_before_anything_else(
    command: str, flag: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"simplify": ["nowhere.safetensors", "--data", "nowhere"]} | WRITING
    assert main([command, *words[command], flag, f"/proc/none/{name}"]) == 1
    assert capsys.readouterr().err.startswith(f"gcnet: {flag}: cannot write into /proc/none")


def test_the_check_leaves_nothing_behind_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    check_output_folder(tmp_path / "a" / "b" / "c")
    check_output_file(tmp_path / "d" / "e.json")
    check_output_file(tmp_path / "old.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


def test_a_name_that_is_too_long_is_found(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="File name too long"):
        check_output_folder(tmp_path / ("x" * 300))
    with pytest.raises(StorageError, match="File name too long"):
        check_output_file(tmp_path / ("x" * 300))


def test_missing_memory_is_one_sentence_that_names_the_flags_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gcnet.cli import evaluate, train

    def exhaust(_settings: SimpleNamespace) -> int:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes.")

    for module in (train, evaluate):
        monkeypatch.setattr(module, "run", exhaust)
    assert main(["train"]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("gcnet: out of memory: could not allocate 1,024 MiB; ")
    assert all(flag in complaint for flag in ("--batch-size", "--grad-accumulation", "--image-size", "--min-size"))
    assert main(["evaluate", "--model", "a.safetensors"]) == 1
    complaint = capsys.readouterr().err
    assert "--batch-size" in complaint and "--grad-accumulation" not in complaint
