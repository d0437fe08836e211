"""Every command runs on tiny sizes, and its rows have all that a reader needs."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.blocks_page import BEGIN, END, replace_table
from benchmarks.cases import BENCHMARKS
from benchmarks.report import means_table
from benchmarks.rows import COLUMNS, NETWORK_COLUMNS, Circumstances, Row, append_rows
from benchmarks.settings import RESULTS, BenchmarkSettings
from benchmarks.shapes import QUICK
from gcnet.errors import UserError

ROOT = Path(__file__).parent.parent.parent
WHERE = Circumstances("2026-01-01T00:00+00:00", "abc1234", "cpu", "Linux", 1, "torch 2")
OPTIONAL = {"peak_bytes", "saved_bytes", "against", "ratio_of_minima", "median_of_ratios"}


def made_up(shape: str, ratio: float, against: str = "mmcv") -> Row:
    return Row(
        *("gc_forward", "forward", shape, "contiguous", "float32", "gc"),
        *(3, 1.0, 1.1, 1.2, 1.3, None, None, 4, against, ratio, ratio),
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "compiled"])  # which takes minutes
def test_a_benchmark_runs_and_its_rows_are_whole(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.csv"
    assert main(["--only", name, "--quick", "--no-memory", "--threads", "1", "--output", str(output)]) == 0
    rows = rows_of(output)
    assert {row["benchmark"] for row in rows} == {name}
    for row in rows:
        assert tuple(row) == COLUMNS
        assert all(value for column, value in row.items() if column not in OPTIONAL)
        times = [float(row[f"{part}_ms"]) for part in ("minimum", "lower_quartile", "median", "upper_quartile")]
        assert times[0] > 0 and times == sorted(times)
        assert bool(row["against"]) == bool(row["ratio_of_minima"]) == bool(row["median_of_ratios"])
        assert bool(row["saved_bytes"]) == (row["task"] == "forward_backward")
    printed = capsys.readouterr().out
    assert "threads: 1" in printed and f"## {name}" in printed
    assert all(row["contestant"] in printed for row in rows)


def test_ratios_are_of_the_times_beside_them(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    main(["--only", "gc_forward", "--quick", "--no-memory", "--threads", "1", "--output", str(output)])
    rows = [row for row in rows_of(output) if row["shape"] == "2x64x5x7" and row["layout"] == "contiguous"]
    minimum = {row["contestant"]: float(row["minimum_ms"]) for row in rows}
    assert set(minimum) == {"gc", "mmcv", "timm", "copy"}
    assert [row["against"] for row in rows if row["contestant"] == "gc"] == ["mmcv", "timm", "copy"]
    for row in rows:
        if row["against"]:
            ratio = minimum[row["contestant"]] / minimum[row["against"]]
            assert float(row["ratio_of_minima"]) == pytest.approx(ratio, rel=1e-3)


@pytest.mark.slow
def test_positions_are_written_as_rows_and_a_figure(tmp_path: Path) -> None:
    output = tmp_path / "positions.csv"
    options = ["--only", "gc,nl_dot_product", "--quick", "--threads", "1"]
    for _ in range(2):  # the second run replaces what the first has written
        assert main(["positions", *options, "--output", str(output)]) == 0
    rows = rows_of(output)
    assert [row["contestant"] for row in rows] == ["gc", "nl_dot_product"] * len(QUICK.doubling)
    assert all(int(row["peak_bytes"]) >= 0 for row in rows)
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.width > picture.height > 400


@pytest.mark.slow
def test_blocks_are_counted_and_timed_against_the_plain_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "blocks.csv"
    options = ["--only", "eca,gc", "--quick", "--threads", "1", "--seconds", "0"]
    for _ in range(2):  # the second run replaces what the first has written
        assert main(["blocks", *options, "--output", str(output)]) == 0
    rows = rows_of(output)
    assert [row["contestant"] for row in rows[1::2]] == ["eca", "eca", "gc", "gc", "gc, heads=4", "gc, heads=4"]
    for plain, block in zip(rows[::2], rows[1::2], strict=True):
        assert tuple(plain) == NETWORK_COLUMNS and plain["contestant"] == block["against"] == "resnet18"
        ratio = float(block["minimum_ms"]) / float(plain["minimum_ms"])
        assert float(block["ratio_of_minima"]) == pytest.approx(ratio, rel=1e-3)
    added = {row["contestant"]: int(row["parameters"]) - int(rows[0]["parameters"]) for row in rows}
    # Six residual blocks of 128, 256 and 512 channels. ECA's filter has 5 weights in each. With P = C / 16 channels in
    # the bottleneck, gc has C + 1 for the logits, 2 C P + P + C for the two layers, and 2 P for the norm.
    assert added["eca"] == 6 * 5
    assert added["gc"] == 2 * sum(2 * c + 1 + 2 * c * c // 16 + 3 * c // 16 for c in (128, 256, 512))
    assert "| gc, heads=4 |" in capsys.readouterr().out


def test_a_table_goes_between_the_marks_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    replace_table(page, "new")
    assert page.read_text() == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    page.write_text("before\nafter\n")
    with pytest.raises(UserError, match="must have the lines"):
        replace_table(page, "new")
    assert page.read_text() == "before\nafter\n"


def test_rows_are_appended_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "results" / "rows.csv"
    append_rows(path, [made_up("1", 0.5)], WHERE)
    append_rows(path, [made_up("2", 0.25)], WHERE)
    rows = rows_of(path)
    assert [row["shape"] for row in rows] == ["1", "2"]
    assert (rows[0]["commit"], rows[0]["peak_bytes"], rows[1]["ratio_of_minima"]) == ("abc1234", "", "0.25")


def test_a_file_of_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has other columns"):
        append_rows(path, [made_up("1", 0.5)], WHERE)
    assert path.read_text() == "a,b\n1,2\n"


def test_the_committed_rows_have_the_current_columns() -> None:
    assert not RESULTS.exists() or all(tuple(row) == COLUMNS for row in rows_of(RESULTS))


def test_means_over_shapes_are_geometric() -> None:
    table = means_table([made_up("1", 0.5), made_up("2", 2.0), made_up("3", 8.0), made_up("4", 1.0, against="timm")])
    (line,) = table.splitlines()[2:]
    assert [cell.strip() for cell in line.split("|")[3:-1]] == ["gc", "mmcv", "3", "2.000", "2.000"]
    assert means_table([made_up("1", 0.5), made_up("2", math.nan, against="")]) == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "gc_foward"], 'unknown benchmark "gc_foward"; did you mean "gc_forward"?'),
        (["positions", "--only", "gcc"], 'unknown block "gcc"; did you mean "gc"?'),
        (["blocks", "--only", "gcc"], 'unknown block "gcc"; did you mean "gc"?'),
        (["--threads", "0"], "--threads must be at least 1, found 0"),
        (["--repetitions", "2"], "--repetitions must be at least 3, found 2"),
        (["positions", "--no-memory"], "--no-memory goes with table"),
        (["table", "--thread", "1"], 'unknown flag "--thread"; did you mean "--threads"?'),
        (["tables"], 'unknown what "tables"; did you mean "table"?'),
        (["--quick", "--only"], "--only takes a value, found nothing"),
    ],
)
def test_a_usage_error_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and not captured.out


def test_quick_rows_are_not_written_to_the_results_by_default() -> None:
    assert BenchmarkSettings(quick=True).csv is None
    assert BenchmarkSettings().csv == RESULTS
    assert BenchmarkSettings(what="positions").csv == ROOT / "docs" / "results" / "cost-vs-positions.csv"
    assert BenchmarkSettings(what="blocks").csv == ROOT / "docs" / "results" / "blocks-resnet50.csv"


def test_help_answers_without_reading_torch_and_names_every_benchmark() -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"}
    command = [sys.executable, "-X", "importtime", "-m", "benchmarks", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert all(name in done.stdout for name in BENCHMARKS)
    assert " torch\n" not in done.stderr and " numpy\n" not in done.stderr


def test_the_page_names_every_benchmark() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert all(f"`{name}`" in page for name in BENCHMARKS)
