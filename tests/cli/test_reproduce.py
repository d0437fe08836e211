"""`gcnet reproduce`: the tables are listed and printed, what is counted beside what is published."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gcnet.comparison.measure
from comparison.small import write_images
from gcnet.cli import main
from gcnet.experiments.tables import TABLES


def test_the_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TABLES)


@pytest.mark.slow
def test_a_table_has_counted_and_published_values_with_their_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["reproduce", "--table", "imagenet", "--cost-only"]) == 0
    output = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in output.splitlines() if "|" in line]
    assert rows[2] == ["baseline", "25.56", "-", "4.09", "-", "8.18", "-", "-"]
    assert rows[-1] == ["+all GC", "28.08", "28.08 [ECA]", "4.10", "3.87 [ECA]", "8.20", "77.70 [ECA]", "93.66 [ECA]"]
    assert "\n* [ECA] table of ECA-Net, arXiv 1910.03151" in output
    assert "[PVT]" not in output, "a source that the table does not use"
    assert "with the strides in the 1x1" in output.lower()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "takes --list, or --table NAME with --cost-only, --scale full or --scale small"),
        ("--list --table design --cost-only", "takes --list, or --table NAME"),
        ("--list --cost-only", "takes --list, or --table NAME"),
        ("--table design", "takes --list, or --table NAME"),
        ("--table design --scale small --cost-only", "takes --list, or --table NAME"),
        ("--table desing --cost-only", 'unknown table "desing"; did you mean "design"?'),
        ("--table desing --scale small", 'unknown table "desing"; did you mean "design"?'),
        ("--table design --scale full", "give --weights FILE"),
        ("--table design --scale small --seeds 0", "--seeds must be at least 1, found 0"),
        ("--table design --scale tiny", "tiny"),
    ],
)
def test_a_usage_error_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *arguments.split()]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_rows_are_trained_at_small_scale_and_an_interrupted_table_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcnet.comparison.measure, "training_step_peak_memory", lambda *_, **__: 4_000_000)
    monkeypatch.setattr(gcnet.comparison.measure, "REPETITIONS", 2)
    images, output = write_images(tmp_path / "images"), tmp_path / "out"
    command = ["reproduce", "--table", "pooling-fusion", "--scale", "small", "--data", str(images), "--seeds", "2"]
    command += ["--steps", "2", "--batch-size", "9", "--jobs", "1", "--device", "cpu", "--output", str(output)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in printed.splitlines() if "|" in line]
    labels = ["baseline", "avg+scale", "avg+add", "att+scale", "att+add"]
    assert [row[0] for row in rows[2:]] == labels
    assert rows[0][-2:] == ["published box AP", "published mask AP"]
    assert rows[-1][-2:] == ["39.4 [O]", "35.7 [O]"]
    runs = output / "cifar_resnet20" / "runs"
    assert len(list(runs.glob("main-*-seed?.json"))) == 10
    assert (output / "tables.md").read_text().strip() in printed

    (runs / "main-avg+add-seed1.json").unlink()
    shutil.rmtree(runs / "main-avg+add-seed1")
    assert main(command) == 0
    again = capsys.readouterr().out
    assert again[again.index("| network") :] == printed[printed.index("| network") :]


@pytest.mark.slow
def test_with_one_job_two_processes_under_torchrun_share_every_training_and_print_once(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images"), tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gcnet"]
    command += ["reproduce", "--table", "design", "--scale", "small", "--data", str(images), "--seeds", "1"]
    command += ["--steps", "2", "--batch-size", "8", "--jobs", "1", "--device", "cpu", "--output", str(output)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Block design, COCO") == 1
    runs = output / "cifar_resnet20" / "runs"
    assert len(list(runs.glob("main-*-seed0.json"))) == 5
    environment = json.loads((runs / "main-none-seed0" / "environment.json").read_text())
    assert environment[0]["processes"] == 2
