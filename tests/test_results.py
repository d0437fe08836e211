"""The tables and figures of measured results are those of the results that lie beside them."""

import csv
from pathlib import Path

import pytest

from benchmarks.perfect_masks import perfect_results
from gcnet.analysis.statistics import paired_difference, spread, wilson_interval
from gcnet.blocks import BLOCKS
from gcnet.comparison.results import read_results
from gcnet.comparison.summary import conclusion, control_rows, headings, table_rows
from gcnet.data.coco.open import open_coco
from gcnet.data.settings import DataSettings
from gcnet.experiments.reproduce import Measured, find_tables
from gcnet.experiments.scales import series_of
from gcnet.experiments.text import measured_text
from gcnet.tasks.detection.coco_metrics import evaluate_detections
from gcnet.text_files import markdown_table

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = sorted((DOCS / "results").glob("*.json"))
PAGE = (DOCS / "results.md").read_text()
PAGES = {
    "scenes": "results",
    "scenes-detection": "results",
    "cifar10-finetune": "results",
    "cifar10-scratch": "results",
    "imagenette": "results",
    "cifar10-blocks": "blocks",
    "imagenette-blocks": "blocks",
    "gates": "blocks",
    "paper-small": "reproduce",
}
"""The page of each comparison: docs/results.md has all columns, docs/blocks.md those of the scores."""
EIGHT = (25, 30, 34, 36, 42, 64, 72, 73)  # images of COCO


def page_of(path: Path) -> str:
    return (DOCS / f"{PAGES[path.stem]}.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_tables_are_those_of_the_results(path: Path) -> None:
    comparison, page = read_results(path), page_of(path)
    titles = headings(comparison.scores)
    if PAGES[path.stem] == "results":
        assert markdown_table(titles, table_rows(comparison)) in page
        assert conclusion(comparison) in page
    elif PAGES[path.stem] == "blocks":
        assert markdown_table(titles[:4], [row[:4] for row in table_rows(comparison)]) in page
    if comparison.tested("control"):
        assert markdown_table(titles[:3], control_rows(comparison)) in page


def test_the_papers_tables_at_small_scale_are_those_of_the_runs() -> None:
    comparison = read_results(DOCS / "results" / "paper-small.json")
    tables = find_tables(("design", "pooling-fusion"))
    (series,) = series_of(tables, small=True)
    found = {row: Measured(comparison, name) for row, name in series.names.items()}
    page = (DOCS / "reproduce.md").read_text()
    for name, table in tables.items():
        assert measured_text(name, table, found, small=True) in page


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_real_results_are_of_three_seeds_and_hold_no_images(path: Path) -> None:
    comparison = read_results(path)
    assert len(comparison.seeds) == 3
    assert comparison.pictures == ()
    assert all(len(comparison.of(block)) == 3 for block in comparison.blocks)


def test_there_are_no_results_without_a_page_and_no_page_without_results() -> None:
    assert {path.stem for path in FILES} == set(PAGES)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_result_has_its_figure_on_its_page(path: Path) -> None:
    assert path.with_suffix(".png").exists()
    assert f"(results/{path.stem}.png)" in page_of(path)


def test_the_table_of_nuclei_is_that_of_its_runs() -> None:
    columns = ("mask_ap", "mask_ap50", "box_ap", "box_ap50")
    with (ROOT / "docs" / "results" / "nuclei256.csv").open() as file:
        last = {(row["block"], row["seed"]): row for row in csv.DictReader(file) if row["step"] == "500"}
    values = {
        (block, column): [100 * float(last[block, seed][column]) for seed in sorted({seed for _, seed in last})]
        for block in ("none", "gc")
        for column in columns
    }
    for block in ("none", "gc"):
        found = [spread(values[block, column]) for column in columns]
        cells = [f"{one.mean:.1f} ± {one.deviation:.1f}" for one in found]
        assert f"| {block:<5} | {' | '.join(cells)} |" in PAGE
    masks, boxes = (paired_difference(values["gc", column], values["none", column]) for column in ("mask_ap", "box_ap"))
    assert f"{masks.difference:+.1f} ± {masks.half_width:.1f} points of mask AP" in PAGE
    assert f"{boxes.difference:+.1f} ± {boxes.half_width:.1f} of box AP" in PAGE


def test_the_table_of_eight_overfitted_coco_images_is_that_of_its_run(data_root: Path) -> None:
    with (DOCS / "results" / "coco-eight.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    images = open_coco(DataSettings(str(data_root / "coco-mini")))[0].images
    eight = [index for index in range(len(images)) if images.image_id(index) in EIGHT]
    results = perfect_results(images.subset(eight))
    perfect = evaluate_detections(images.content, results, kind="segm", image_ids=EIGHT).numbers
    section = PAGE.partition("## Overfitting eight images of COCO")[2]
    for name, ap, ap50 in (
        ("boxes", float(last["box_ap"]), float(last["box_ap50"])),
        ("masks", float(last["mask_ap"]), float(last["mask_ap50"])),
        (
            "masks of a perfect detector with 28 x 28 cells (`benchmarks/perfect_masks.py`)",
            perfect["AP"],
            perfect["AP50"],
        ),
    ):
        assert f"| {name} | {100 * ap:.1f} | {100 * ap50:.1f} |" in section
    assert float(last["box_ap"]) > 0.9
    assert float(last["mask_ap"]) > 0.9 * perfect["AP"]


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
    assert f"for 800 images: {100 * low:.1f} to {100 * high:.1f} %" in " ".join(page.split())


def test_the_query_independence_of_the_non_local_blocks_is_as_measured() -> None:
    with (DOCS / "results" / "non-local-statistics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["block"] for row in rows] == [block for block in BLOCKS if block.startswith("nl_")]
    page = (DOCS / "reproduce.md").read_text()
    for row in rows:
        distances = [row[name] for name in ("input", "output", "attention", "divergence")]
        cells = [f"{float(value):.3f}" if value else "-" for value in distances]
        assert f"| {row['block']:<20} | {100 * float(row['top1']):.1f} % | {' | '.join(cells)} |" in page
