"""The tables and figures of measured results are those of the results that lie beside them."""

import csv
from pathlib import Path

import pytest

from gcnet.analysis.statistics import paired_difference, spread, wilson_interval
from gcnet.report.results import Comparison, read_results
from gcnet.report.summary import HEADINGS, control_rows, headings, markdown_table, reading, table_rows

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "docs" / "results").glob("*.json"))
PAGE = (ROOT / "docs" / "results.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def comparison(request: pytest.FixtureRequest) -> Comparison:
    return read_results(request.param)


def test_there_are_results_of_generated_and_of_real_images() -> None:
    assert {path.stem for path in FILES} == {
        "scenes",
        "scenes-detection",
        "cifar10-finetune",
        "cifar10-scratch",
        "imagenette",
    }


def test_the_tables_are_those_of_the_results(comparison: Comparison) -> None:
    titles = headings(comparison.scores)
    assert markdown_table(titles, table_rows(comparison)) in PAGE
    if titles == HEADINGS:
        assert markdown_table(titles[:3], [row[:3] for row in table_rows(comparison)]) in README
    if comparison.tested("control"):
        assert markdown_table(titles[:3], control_rows(comparison)) in PAGE
    assert reading(comparison) in PAGE


def test_real_results_are_of_three_seeds_and_hold_no_images(comparison: Comparison) -> None:
    assert len(comparison.seeds) == 3
    assert comparison.pictures == ()
    assert all(len(comparison.of(block)) == 3 for block in comparison.blocks)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_result_has_its_figure_on_the_page(path: Path) -> None:
    assert path.with_suffix(".png").exists()
    assert f"(results/{path.stem}.png)" in PAGE


def test_the_table_of_nuclei_is_that_of_its_runs() -> None:
    columns = ("mask_ap", "mask_ap50", "box_ap", "box_ap50")
    with (ROOT / "docs" / "results" / "nuclei256.csv").open() as file:
        last = {(row["block"], row["seed"]): row for row in csv.DictReader(file) if row["step"] == "500"}
    values = {
        (block, column): [100 * float(last[block, seed][column]) for seed in ("0", "1", "2")]
        for block in ("none", "gc")
        for column in columns
    }
    for block in ("none", "gc"):
        found = [spread(values[block, column]) for column in columns]
        cells = [f"{one.mean:.1f} ± {one.deviation:.1f}" for one in found]
        assert f"| {block:<5} | {' | '.join(cells)} |" in PAGE
    masks, boxes = (paired_difference(values["gc", column], values["none", column]) for column in ("mask_ap", "box_ap"))
    assert f"+{masks.difference:.1f} ± {masks.half_width:.1f} points of mask AP" in PAGE
    assert f"+{boxes.difference:.1f} ± {boxes.half_width:.1f} of box AP" in PAGE


def test_the_table_of_fine_tuning_is_that_of_its_runs() -> None:
    page = (ROOT / "docs" / "fine-tuning.md").read_text()
    with (ROOT / "docs" / "results" / "fine-tuning.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["images"], row["steps"]) for row in rows} == {("800", "124")}
    top1: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        assert float(row["top1"]) == int(row["correct"]) / int(row["images"])
        top1.setdefault(row["run"], []).append(100 * float(row["top1"]))
    assert set(top1) == {"before", "classifier", "blocks", "all"}
    for run, values in top1.items():
        assert len(values) == 3
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {run} "))
        *_, accuracy, difference = (cell.strip() for cell in line.strip("|").split("|"))
        found = spread(values)
        assert accuracy == f"{found.mean:.1f} ± {found.deviation:.1f}"
        against = paired_difference(values, top1["classifier"])
        wanted = f"{against.difference:+.1f} ± {against.half_width:.1f}" if run in ("blocks", "all") else ""
        assert difference == wanted
    low, high = wilson_interval(round(8 * spread(top1["classifier"]).mean), 800)
    assert f"{100 * low:.1f} to {100 * high:.1f} % open" in page
