"""Names of built-in data in a directory with a folder of the same name."""

import json
from pathlib import Path

import pytest

from gcnet.cli import main

_SMALL = ("--limit-train", "4", "--limit-val", "2", "--batch-size", "2", "--steps", "1", "--no-plots")


@pytest.mark.slow
def test_scenes_are_generated_in_a_directory_with_a_folder_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scenes"
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_val2017.json").write_text(
        json.dumps({"images": [], "annotations": [], "categories": []})
    )
    run = ["--model", "cifar_resnet20", "--output", "scenes/run"]
    assert main(["train", "--data", "scenes", *run, *_SMALL]) == 0
    note = "--data scenes is the built-in data set; --data ./scenes is the folder of this name"
    assert note in capsys.readouterr().out
    assert main(["evaluate", "scenes/run", "--data", "scenes", "--limit", "2"]) == 0
    assert note in capsys.readouterr().err
    assert main(["evaluate", "scenes/run", "--data", "./scenes"]) == 2
    assert "./scenes is for detectors, in COCO's format" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_may_be_written_to_a_folder_named_like_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compare = ["compare", "--blocks", "none,se", "--seeds", "1", "--model", "cifar_resnet20", "--no-control"]
    assert main([*compare, "--data", "scenes", "--output", str(tmp_path / "scenes"), *_SMALL[:-1]]) == 0, (
        capsys.readouterr().err
    )
    assert (tmp_path / "scenes" / "results.json").is_file()
