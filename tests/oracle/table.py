"""Rows of the comparison with the original code, and the tables of docs/original-code.md."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from oracle.original_code import ROOT

CSV = ROOT / "docs" / "results" / "original_code.csv"
PAGE = ROOT / "docs" / "original-code.md"


class Row(NamedTuple):
    """The largest difference of one stage of one model."""

    model: str
    original: str
    stage: str
    largest_difference: str


class Table(NamedTuple):
    """A table of the page: a row per model, a column per stage."""

    name: str
    columns: Mapping[str, str]
    """Title of each stage."""


TABLES = (
    Table(
        "stages",
        {
            "C2 to C5": "C2 to C5",
            "P2 to P6": "P2 to P6",
            "RPN head": "RPN head",
            "proposals": "proposals missing",
            "pooled RoIs": "pooled RoIs",
            "box head": "box head",
            "detections": "boxes, px",
            "mask head": "mask head",
            "pasted masks": "mask pixels",
        },
    ),
    Table(
        "whole",
        {
            "input": "input",
            "whole: proposals": "proposals missing",
            "whole: detections": "detections missing",
            "whole: order": "out of order",
            "whole: boxes": "boxes, px",
            "whole: scores": "scores",
            "whole: masks": "mask pixels",
        },
    ),
    Table(
        "losses",
        {"losses": "losses", "gradients of maps": "gradients of maps", "gradients of weights": "gradients of weights"},
    ),
    Table("networks", {"outputs": "outputs"}),
)


def detector_rows(model: str, stages: Mapping[str, float], whole: Mapping[str, float]) -> list[Row]:
    """Rows of a detector, from the results of `DetectorStages`.

    Args:
        model: name of the config.
        stages: results of the single stages.
        whole: results of the run from the image file.
    """
    values = {name: _number(stages[name]) for name in ("C2 to C5", "P2 to P6", "RPN head", "box head", "mask head")}
    values |= {
        "proposals": f"{stages['proposals missing']} of {stages['proposals']}",
        "pooled RoIs": _number(max(stages["pooled RoIs"], stages["pooled RoIs of masks"])),
        "detections": _number(stages["boxes"]),
        "pasted masks": _share(stages),
        "input": _number(whole["input"]),
        "whole: proposals": f"{whole['proposals missing']} of {whole['proposals']}",
        "whole: detections": f"{whole['detections missing']} of {whole['detections']}",
        "whole: order": str(whole["detections out of order"]),
        "whole: boxes": _number(whole["boxes"]),
        "whole: scores": _number(whole["scores"]),
        "whole: masks": _share(whole),
    }
    return [Row(model, "mmdet 3.3.0", stage, value) for stage, value in values.items()]


def loss_rows(model: str, differences: Mapping[str, float]) -> list[Row]:
    """Rows of the losses of a detector, from `DetectorLosses.differences`."""
    losses = {name: value for name, value in differences.items() if "loss" in name}
    gradients = {name: losses.pop(name) for name in list(losses) if name.endswith(", gradient")}
    values = {
        "losses": max(losses.values()),
        "gradients of maps": max(gradients.values()),
        "gradients of weights": differences["weights"],
    }
    return [Row(model, "mmdet 3.3.0", stage, _number(value)) for stage, value in values.items()]


def network_rows(name: str, differences: Mapping[str, float]) -> list[Row]:
    """Row of a network of `NETWORKS`, from `compare_network`."""
    versions = {"mmpretrain": "mmpretrain 1.2.0", "mmseg": "mmsegmentation 1.2.2", "mmaction": "mmaction2 1.2.0"}
    value = _number(max(differences.values()))
    return [Row(name.rsplit("/", 1)[1], versions[name.split("/", 1)[0]], "outputs", value)]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def _share(found: Mapping[str, float]) -> str:
    return f"{found['mask pixels that differ']} of {found['mask pixels']:,}"


def read_rows() -> list[Row]:
    """The recorded rows."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def record(rows: Sequence[Row]) -> None:
    """Replace the recorded rows of the same model and stage, and write the tables into the page."""
    merged = {row[:3]: row for row in [*read_rows(), *rows]}
    ordered = sorted(merged.values(), key=lambda row: (row.original, row.model))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(ordered)
    CSV.write_text(text.getvalue())
    PAGE.write_text(with_tables(PAGE.read_text(), ordered))


def with_tables(page: str, rows: Iterable[Row]) -> str:
    """The page, with a table of `rows` in place of the lines of a table after each mark `<!-- NAME -->`."""
    rows = list(rows)
    for table in TABLES:
        pattern = rf"(<!-- {table.name} -->\n)(\|.*\n)*"
        page = re.sub(pattern, lambda found, table=table: found[1] + _markdown(table, rows), page)
    return page


def _markdown(table: Table, rows: list[Row]) -> str:
    cells = {row[:3]: row.largest_difference for row in rows}
    models = dict.fromkeys(row[:2] for row in rows if row.stage in table.columns)
    lines = [["model", "original", *table.columns.values()], ["---"] * (len(table.columns) + 2)]
    lines += [[*names, *(cells.get((*names, stage), "") for stage in table.columns)] for names in models]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
