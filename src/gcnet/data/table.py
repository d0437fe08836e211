"""Images listed in a CSV of path, label and split."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gcnet.data.decode import open_image
from gcnet.data.images import check_known, size_on_disk
from gcnet.errors import UserError, nearest

COLUMNS = ("path", "label", "split")

Row = tuple[str, dict[str, str]]  # place ("FILE, line N") and the row by column name


class CsvImages:
    """Images listed in a CSV with the columns path, label and, where it has several parts, split.

    Arguments:
        table: the CSV; its first line names the columns.
        root: folder that the paths are relative to and may not leave (default: the CSV's own).
        split: take the rows of this split; None takes all rows.
        classes: known class names, in the order of the labels (default: the sorted labels of the rows taken).

    Raises:
        UserError: for missing columns or rows, a path listed twice or outside `root`, or a label that `classes` lacks.
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root) if root is not None else Path(table).parent
        rows = _rows_of_split(table, split)
        self._files = _checked_paths(rows, os.path.realpath(self.root))
        labels = [row["label"] for _, row in rows]
        found = sorted(set(labels))
        check_known(found, classes, table)
        self.classes = tuple(found if classes is None else classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._labels = [numbers[label] for label in labels]

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The path below the root."""
        return self._files[index]

    def label(self, index: int) -> int:
        """Index into `classes`."""
        return self._labels[index]

    def read(self, index: int) -> Image.Image:
        """Decode the file; raises ImageError."""
        return open_image(self.root / self._files[index])

    def file_size(self, index: int) -> int | None:
        """Bytes of the file; None where it is missing."""
        return size_on_disk(f"{self.root}/{self._files[index]}")


def has_split_column(table: str | os.PathLike[str]) -> bool:
    """Whether a CSV says which rows are for training and which for validation."""
    return "split" in _read_rows(table)[0][1]


def _rows_of_split(table: str | os.PathLike[str], split: str | None) -> list[Row]:
    rows = _read_rows(table)
    if split is None:
        return rows
    if "split" not in rows[0][1]:
        raise UserError(f'{table}: expected a column "split" with train and val, found none')
    taken = [(place, row) for place, row in rows if row["split"] == split]
    if not taken:
        names = sorted({row["split"] for _, row in rows})
        raise UserError(f'{table}: no row has the split "{split}", found {", ".join(names)}{nearest(split, names)}')
    return taken


def _read_rows(table: str | os.PathLike[str]) -> list[Row]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            _check_columns(table, columns)
            rows = [_row(table, reader.line_num, columns, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as a CSV in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{table}: expected a row for each image, found only the names of the columns")
    return rows


def _check_columns(table: str | os.PathLike[str], columns: list[str]) -> None:
    for name in ("path", "label"):
        if name not in columns:
            found = ", ".join(columns) or "an empty file"
            raise UserError(f"{table}: the first line must name the columns path, label (and split), found {found}")


def _row(table: object, line: int, columns: list[str], row: dict[str, str | None]) -> Row:
    place = f"{table}, line {line}"
    values = {name: (row[name] or "").strip() for name in COLUMNS if name in columns}
    for name, value in values.items():
        if not value:
            raise UserError(f"{place}: {name} is empty")
    return place, values


def _checked_paths(rows: list[Row], base: str) -> list[str]:
    first_places: dict[str, str] = {}
    for place, row in rows:
        path = os.path.realpath(os.path.join(base, row["path"]))
        name = os.path.relpath(path, base)
        if name.split(os.sep)[0] == os.pardir:
            raise UserError(f'{place}: "{row["path"]}" lies outside the image folder {base}')
        if name in first_places:
            raise UserError(f'{place}: "{row["path"]}" is listed already, see {first_places[name]}')
        first_places[name] = place
    return list(first_places)
