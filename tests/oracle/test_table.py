"""docs/original-code.md has the recorded rows of every model that is compared."""

from oracle.networks import NETWORKS
from oracle.table import PAGE, TABLES, Row, read_rows, with_tables
from oracle.test_detector_losses import CONFIGS as LOSS_CONFIGS
from oracle.test_detectors import CONFIGS


def test_the_page_has_the_recorded_rows() -> None:
    page = PAGE.read_text()
    assert with_tables(page, read_rows()) == page


def test_a_table_is_replaced_and_the_rest_of_the_page_kept() -> None:
    page = "\n".join(f"text\n\n<!-- {table.name} -->\n| old |\n\nmore" for table in TABLES)
    changed = with_tables(page, [Row("net", "mmseg 1", "outputs", "0")])
    assert "old" not in changed and "| net | mmseg 1 | 0 |" in changed
    assert changed.count("text") == changed.count("more") == len(TABLES)


def test_every_model_is_recorded() -> None:
    names = {row.model for row in read_rows()}
    assert names == {*CONFIGS, *LOSS_CONFIGS, *(name.rsplit("/", 1)[1] for name in NETWORKS)}
