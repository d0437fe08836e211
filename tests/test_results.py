"""The tables and figures of measured results are those of the results that lie beside them."""

from pathlib import Path

import pytest

from gcnet.report.results import Comparison, read_results
from gcnet.report.summary import HEADINGS, control_rows, markdown_table, reading, table_rows

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "docs" / "results").glob("*.json"))
PAGE = (ROOT / "docs" / "results.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def comparison(request: pytest.FixtureRequest) -> Comparison:
    return read_results(request.param)


def test_there_are_results_of_generated_and_of_real_images() -> None:
    assert {path.stem for path in FILES} == {"scenes", "cifar10-finetune", "cifar10-scratch", "imagenette"}


def test_the_tables_are_those_of_the_results(comparison: Comparison) -> None:
    assert markdown_table(HEADINGS, table_rows(comparison)) in PAGE
    assert markdown_table(HEADINGS[:3], [row[:3] for row in table_rows(comparison)]) in README
    if comparison.tested("control"):
        assert markdown_table(HEADINGS[:3], control_rows(comparison)) in PAGE
    assert reading(comparison) in PAGE


def test_real_results_are_of_three_seeds_and_hold_no_images(comparison: Comparison) -> None:
    assert len(comparison.seeds) == 3
    assert comparison.pictures == ()
    assert all(len(comparison.of(block)) == 3 for block in comparison.blocks)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_result_has_its_figure_on_the_page(path: Path) -> None:
    assert path.with_suffix(".png").exists()
    assert f"(results/{path.stem}.png)" in PAGE
