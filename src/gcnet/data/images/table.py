"""Labeled images listed in a CSV."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from gcnet.data.coco.paths import resolve_paths
from gcnet.data.decode import check_text
from gcnet.data.images.folders import label_classes
from gcnet.data.images.sources import FileImages
from gcnet.data.splits import SPLIT_NAMES, split_named
from gcnet.errors import UserError, no_folder, printable


class ImageRoot:
    """The image folder of a CSV.

    Paths are relative to this folder or to that of the CSV, or absolute, and must be inside the image folder; symbolic
    links may lead out of it. Paths of other systems and machines (backslashes, URL encoding, leading folders, URLs,
    letter case) are repaired if they match a single file.

    Args:
        root: Folder of the images.
        beside: Folder of the CSV.

    Raises:
        UserError: The image folder does not exist.
    """

    def __init__(self, root: Path, beside: Path) -> None:
        if not root.is_dir():
            raise UserError(f"`images` takes a folder, and {no_folder(root)}")
        self.root = root
        self._bases = list(dict.fromkeys((os.path.abspath(root), os.path.abspath(beside))))
        self._real = os.path.realpath(root)

    def below(self, paths: Sequence[str]) -> tuple[dict[str, str], str | None]:
        """Resolve paths to paths relative to the image folder.

        Paths outside of the folder are omitted. If some files exist, paths without a file are kept, as missing images.

        Args:
            paths: Paths as written in the CSV.

        Returns:
            Relative path by path of the CSV, and a note on repaired paths, or None.
        """
        names = {path: name for path in paths if (name := self._below(path)) is not None}
        missing = [path for path in paths if not self._exists(path, names.get(path))]
        resolved = resolve_paths(self._bases[0], missing)
        strays = [path for path in missing if path not in names and path not in resolved.files]
        if len(strays) < len(paths):
            names |= {path: _without_start(path) for path in strays}
        return {**names, **resolved.files}, resolved.note()

    def _exists(self, path: str, name: str | None) -> bool:
        """Return whether a path of the CSV is a file, inside or outside of the folder."""
        if name is not None:
            return os.path.lexists(os.path.join(self._bases[0], name))
        return any(os.path.lexists(os.path.normpath(os.path.join(base, path))) for base in self._bases)

    def _below(self, path: str) -> str | None:
        """Return the path relative to the image folder, or None if it lies outside."""
        inside = [self._inside(os.path.join(base, path)) for base in self._bases]
        names = list(dict.fromkeys(name for name in inside if name is not None))
        if len(names) < 2:
            return next(iter(names), None)
        return next((name for name in names if os.path.lexists(os.path.join(self._bases[0], name))), names[0])

    def _inside(self, path: str) -> str | None:
        normal = os.path.normpath(path)
        for root in (self._bases[0], self._real):
            start = os.path.join(root, "")
            if normal.startswith(start):
                return normal[len(start) :]
        return None


def _without_start(path: str) -> str:
    """Return a path without leading folders such as .. or /."""
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


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
        rows, unused = _rows_of_split(table, split)
        images = ImageRoot(Path(table).parent if root is None else Path(root), Path(table).parent)
        listed, notes = _listed(table, rows, images)
        labels_found = sorted({row.label for row in rows})
        label_of, repaired = label_classes(labels_found, classes, table)
        notes = [*repaired, *([note] if (note := _unused_note(table, unused)) else []), *notes]
        labels = [label_of[row.label] for row in listed.values()]
        super().__init__(images.root, list(listed), labels, labels_found if classes is None else classes, notes=notes)


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
    """Return all rows of the CSV `table`.

    Raises:
        UserError: The file is not a CSV in UTF-8, lacks the columns path and label, has an empty value, or has no rows.
    """
    try:
        # Names of files need not be text: bytes that are not UTF-8 pass through, as in the file system.
        with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
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


def _listed(table: object, rows: Sequence[Row], images: ImageRoot) -> tuple[dict[str, Row], list[str]]:
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
    _require_some(table, list(listed), images.root)
    notes = [f"{table}: {note}"] if note else []
    if len(listed) < len(rows):
        notes.append(f"{table}: {len(rows) - len(listed):,} of {len(rows):,} rows are repeated and skipped")
    return listed, notes


def _require_some(table: object, files: Sequence[str], root: Path) -> None:
    if not any((root / name).exists() for name in files):
        raise UserError(
            f"{table}: none of its {len(files):,} images is in the folder {root}, such as {printable(files[0])}; "
            "`images` must be the folder of the images"
        )


class CsvLayout:
    """Layout of a CSV with the columns path, label and, for several splits, split.

    Args:
        data: The CSV.
        images: Folder of the images (default: the folder of the CSV).
    """

    expected: ClassVar[str] = "a .csv file"
    takes_images: ClassVar[bool] = True

    def __init__(self, data: str, images: str | None = None) -> None:
        self.path, self.images = Path(data), images

    @staticmethod
    def matches(data: str) -> bool:
        """Return whether `data` is a CSV file."""
        return os.path.isfile(data) and data.lower().endswith(".csv")

    def splits(self) -> tuple[str, ...]:
        """Return the splits with rows, keys of `SPLIT_NAMES`."""
        return read_splits(self.path)

    def class_names(self, split: str | None) -> list[str]:
        """Return the sorted labels of `split`; None stands for all rows."""
        return sorted({row.label for row in _rows_of_split(self.path, split)[0]})

    def open(self, split: str | None, classes: Sequence[str] | None = None) -> CsvImages:
        """Return the labeled images of a split.

        Args:
            split: A split of `splits`; None takes all rows.
            classes: Known class names, in the order of the labels (default: the sorted labels of the rows).
        """
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
