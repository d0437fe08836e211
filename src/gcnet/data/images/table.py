"""Labeled images listed in a CSV."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from gcnet.data.decode import check_text
from gcnet.data.images.file_names import FileNames
from gcnet.data.images.folders import label_classes
from gcnet.data.images.image_root import ImageRoot, RemoteImageRoot
from gcnet.data.images.remote_images import RemoteImages
from gcnet.data.images.sources import FileImages
from gcnet.data.places import kept_listings, local_file
from gcnet.data.splits import SPLIT_NAMES, split_named
from gcnet.errors import UserError, printable
from gcnet.remote_files import is_remote

_REQUIRED = ("path", "label")
_DELIMITERS = (",", ";", "\t", "|")
_LISTED = 5


class Row(NamedTuple):
    """A row of the CSV.

    Attributes:
        line: Line number in the file, from 1.
        path: Path of the image.
        label: Class name.
        split: Name of the split, or None without such a column.
    """

    line: int
    path: str
    label: str
    split: str | None


class CsvImages(FileImages):
    """Images of a CSV with the columns path, label and optionally split.

    Args:
        table: The CSV; its first line names the columns.
        root: Folder of the images (default: that of the CSV).
        split: Split to take, a key of `SPLIT_NAMES`; None takes all rows.
        classes: Class names in the order of the labels (default: the sorted labels of the rows).

    Raises:
        UserError: Columns or rows are missing, a path has two labels or lies outside of `root`, or `classes` lacks a
            label.
    """

    def __init__(
        self,
        table: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        images = ImageRoot(Path(table).parent if root is None else Path(root), Path(table).parent)
        found = _labeled(table, images, split, classes)
        super().__init__(images.root, found.names, found.labels, found.classes, notes=found.notes)


@kept_listings()
def remote_csv_images(
    table: str | os.PathLike[str], root: str, *, split: str | None = None, classes: Sequence[str] | None = None
) -> RemoteImages:
    """Return the images of a CSV that are in a folder at a URL.

    Args:
        table: Path or URL of the CSV.
        root: URL of the folder.
        split: As for `CsvImages`.
        classes: As for `CsvImages`.

    Raises:
        UserError: As for `CsvImages`, or the URL cannot be read.
    """
    images = RemoteImageRoot(root)
    found = _labeled(table, images, split, classes)
    return RemoteImages(
        images.root,
        FileNames.packed(found.names),
        sizes=np.array([images.sizes.get(name, -1) for name in found.names], dtype=np.int64),
        labels=np.array(found.labels, dtype=np.int32),
        classes=found.classes,
        notes=found.notes,
    )


class _Labeled(NamedTuple):
    """Images of a CSV: paths below the image folder, labels as indices into the classes, and notes."""

    names: list[str]
    labels: list[int]
    classes: Sequence[str]
    notes: list[str]


def _labeled(
    table: str | os.PathLike[str],
    images: ImageRoot | RemoteImageRoot,
    split: str | None,
    classes: Sequence[str] | None,
) -> _Labeled:
    rows, unused = _rows_of_split(table, split)
    listed, notes = _listed(table, rows, images)
    own = sorted({row.label for row in rows})
    label_of, repaired = label_classes(own, classes, table)
    notes = [*repaired, *([note] if (note := _unused_note(table, unused)) else []), *notes]
    labels = [label_of[row.label] for row in listed.values()]
    return _Labeled(list(listed), labels, own if classes is None else classes, notes)


def read_splits(table: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the splits with rows in `table`, keys of `SPLIT_NAMES`; empty without a column split.

    Raises:
        UserError: The column has no known split.
    """
    rows = read_rows(table)
    if rows[0].split is None:
        return ()
    named = {split_named(row.split or "") for row in rows}
    if named == {None}:
        raise UserError(f'{table}: the column "split" must be train, val or test, found {_shown(rows)}')
    return tuple(split for split in SPLIT_NAMES if split in named)


def read_rows(table: str | os.PathLike[str]) -> list[Row]:
    """Return all rows of the CSV at the path or URL `table`.

    Raises:
        UserError: The file is not a CSV in UTF-8, lacks the columns path and label, has an empty value, or has no rows.
    """
    try:
        # Names of files need not be text: bytes that are not UTF-8 pass through, as in the file system.
        with open(local_file(Path(table)), newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            content = file.read()
        if content.strip():
            check_text(table, content)
        if "\0" in content:
            raise UserError(f"{table}: cannot be read as a CSV in UTF-8: it contains zero bytes, as in UTF-16")
        start = len(content) - len(content.lstrip("\r\n"))
        skipped = len(content[:start].splitlines())
        lines = io.StringIO(content[start:], newline="")
        reader = csv.DictReader(lines, skipinitialspace=True, delimiter=_delimiter(content[start:]))
        columns = [_column(name) for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        _check_columns(table, columns)
        rows = [_row(table, skipped + reader.line_num, columns, row) for row in reader]
    except (OSError, csv.Error) as error:
        raise UserError(f"{table}: cannot be read as a CSV in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{table}: expected a row per image, found column names only")
    return rows


def _delimiter(content: str) -> str:
    """Return the first delimiter of `_DELIMITERS` for which the first line names path and label."""
    first = content.splitlines()[:1]
    for delimiter in _DELIMITERS:
        for names in csv.reader(first, skipinitialspace=True, delimiter=delimiter):
            if {_column(name) for name in names}.issuperset(_REQUIRED):
                return delimiter
    return _DELIMITERS[0]


def _column(name: str) -> str:
    """Return the name of a column, in lower case for known columns."""
    name = name.strip()
    return name.lower() if name.lower() in (*_REQUIRED, "split") else name


def _rows_of_split(table: str | os.PathLike[str], split: str | None) -> tuple[list[Row], Counter[str]]:
    """Return the rows of a split, or all rows for None, and the number of rows by unknown split."""
    rows = read_rows(table)
    if split is None:
        return rows, Counter()
    if rows[0].split is None:
        raise UserError(f'{table}: expected a column "split" with train and val, found none')
    taken = [row for row in rows if split_named(row.split or "") == split]
    if not taken:
        raise UserError(f'{table}: no row has the split "{split}", found {_shown(rows)}')
    return taken, Counter(row.split for row in rows if row.split and split_named(row.split) is None)


def _shown(rows: Sequence[Row]) -> str:
    names = sorted({printable(row.split or "") for row in rows})
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _unused_note(table: object, others: Counter[str]) -> str | None:
    if not others:
        return None
    counts = ", ".join(f'{count:,} "{printable(name)}"' for name, count in others.most_common(_LISTED))
    return f"{table}: rows of unknown splits are not used: {counts}"


def _check_columns(table: str | os.PathLike[str], columns: list[str]) -> None:
    for name in _REQUIRED:
        if name not in columns:
            names = printable(", ".join(columns)) or "an empty file"
            raise UserError(f"{table}: the first line must name the columns path, label (and split), found {names}")
        if columns.count(name) > 1:
            raise UserError(
                f'{table}: the first line must name each column once, found "{name}" {columns.count(name)} times'
            )


def _row(table: object, line: int, columns: list[str], row: dict[str, str | None]) -> Row:
    values = {name: (row[name] or "").strip() for name in (*_REQUIRED, "split") if name in columns}
    for name, value in values.items():
        if not value:
            raise UserError(f"{table}, line {line}: {name} is empty")
    return Row(line, values["path"], values["label"], values.get("split"))


def _listed(
    table: object, rows: Sequence[Row], images: ImageRoot | RemoteImageRoot
) -> tuple[dict[str, Row], list[str]]:
    """Return the row of each file, and notes on skipped or repaired rows, a sentence each."""
    names, note = images.below([row.path for row in rows])
    listed: dict[str, Row] = {}
    for row in rows:
        place = f"{table}, line {row.line}"
        name = names.get(row.path)
        if name is None:
            raise UserError(
                f'{place}: "{printable(row.path)}" lies outside of the image folder {images.root}; `images` takes the '
                "folder of the images"
            )
        first = listed.setdefault(name, row)
        if first.label != row.label:
            raise UserError(
                f'{place}: "{printable(row.path)}" is already listed as "{printable(first.label)}" instead of '
                f'"{printable(row.label)}", see {table}, line {first.line}'
            )
    if not images.has_some(list(listed)):
        raise UserError(
            f"{table}: none of its {len(listed):,} images is in the folder {images.root}, such as "
            f"{printable(next(iter(listed)))}; `images` must be the folder of the images"
        )
    notes = [f"{table}: {note}"] if note else []
    if len(listed) < len(rows):
        notes.append(f"{table}: {len(rows) - len(listed):,} of {len(rows):,} rows are repeated and skipped")
    return listed, notes


class CsvLayout:
    """Layout of a CSV with the columns path, label and, for several splits, split.

    Args:
        data: Path or URL of the CSV.
        images: Folder of the images, a path or URL (default: the folder of the CSV).
    """

    expected: ClassVar[str] = "a .csv file"
    takes_images: ClassVar[bool] = True

    def __init__(self, data: str, images: str | None = None) -> None:
        self.path, self.images = data, images

    @staticmethod
    def matches(data: str) -> bool:
        """Return whether `data` is a CSV file, or the URL of one."""
        return data.lower().endswith(".csv") and (is_remote(data) or os.path.isfile(data))

    def splits(self) -> tuple[str, ...]:
        """Return the splits with rows, keys of `SPLIT_NAMES`."""
        return read_splits(self.path)

    def class_names(self, split: str | None) -> list[str]:
        """Return the sorted labels of `split`; None stands for all rows."""
        return sorted({row.label for row in _rows_of_split(self.path, split)[0]})

    def open(self, split: str | None, classes: Sequence[str] | None = None) -> CsvImages | RemoteImages:
        """Return the labeled images of a split.

        Args:
            split: A split of `splits`; None takes all rows.
            classes: Known class names, in the order of the labels (default: the sorted labels of the rows).
        """
        root = os.path.dirname(self.path) if self.images is None else self.images
        if is_remote(root):
            return remote_csv_images(self.path, root, split=split, classes=classes)
        return CsvImages(self.path, root=self.images, split=split, classes=classes)

    def check_unsplit(self) -> None:
        """Accept any rows without a split."""

    def unused_notes(self) -> list[str]:
        """Return no notes: `CsvImages` notes rows of unknown splits."""
        return []

    def unused_hint(self) -> str:
        """Return the number of rows of unknown splits, for the end of an error message."""
        counts = Counter(row.split for row in read_rows(self.path) if row.split and split_named(row.split) is None)
        note = _unused_note(self.path, counts)
        return f"; {note}" if note else ""

    def split_hint(self) -> str:
        """Return no hint."""
        return ""
