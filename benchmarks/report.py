"""The rows as tables to read: every measurement, and the geometric means of the ratios over shapes."""

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from benchmarks.rows import Circumstances, Row
from gcnet.text_files import markdown_table

_HEADINGS = (
    "task",
    "shape",
    "layout",
    "contestant",
    "minimum (ms)",
    "quartiles (ms)",
    "median (ms)",
    "peak (MB)",
    "peak / input",
    "saved / input",
    "against",
    "ratio of minima",
    "median of ratios",
)
_MEANS = ("task", "layout", "contestant", "against", "shapes", "ratio of minima", "median of ratios")


def circumstances_text(where: Circumstances) -> str:
    """When, where and with what, in two lines."""
    machine = f"{where.date}, {where.device}, {where.system}, threads: {where.threads}"
    return f"{machine}\ngcnet {where.commit}, {where.versions}"


def measurements_table(rows: Sequence[Row]) -> str:
    """Every row of a case; a contestant that is compared with several has a line for each of them."""
    return markdown_table(_HEADINGS, [_cells(row) for row in rows], right=_HEADINGS[4:10] + _HEADINGS[11:])


def means_table(rows: Sequence[Row]) -> str:
    """The geometric means over shapes of each comparison's ratios; empty where none was made on several shapes."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.against:
            groups.setdefault((row.task, row.layout, row.contestant, row.against), []).append(row)
    lines = [
        [
            *words,
            str(len(group)),
            _mean(row.ratio_of_minima for row in group),
            _mean(row.median_of_ratios for row in group),
        ]
        for words, group in groups.items()
        if len(group) > 1
    ]
    return markdown_table(_MEANS, lines, right=_MEANS[4:]) if lines else ""


def _mean(ratios: Iterable[float | None]) -> str:
    return f"{geometric_mean(ratio for ratio in ratios if ratio is not None):.3f}"


def _cells(row: Row) -> list[str]:
    return [
        row.task,
        row.shape,
        row.layout if row.dtype == "float32" else f"{row.layout}, {row.dtype}",
        row.contestant,
        f"{row.minimum_ms:.4g}",
        f"{row.lower_quartile_ms:.4g} to {row.upper_quartile_ms:.4g}",
        f"{row.median_ms:.4g}",
        _optional(row.peak_bytes, 1e6, 1),
        _optional(row.peak_bytes, row.input_bytes, 2),
        _optional(row.saved_bytes, row.input_bytes, 3),
        row.against,
        _optional(row.ratio_of_minima, 1, 3),
        _optional(row.median_of_ratios, 1, 3),
    ]


def _optional(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"
