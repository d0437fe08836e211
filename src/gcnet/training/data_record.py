"""Record of a run's data, compared when the run is resumed."""

import csv
import gzip
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcnet.errors import UserError, printable

_LISTED = 5
_ANY_NAME = "surrogatepass"  # error handler: names may hold bytes that are no text, or lone surrogates from JSON


@dataclass(frozen=True)
class DataRecord:
    """Class names and all files of the data.

    Attributes:
        classes: names, in the order of the labels.
        digest: of the names and contents of the files, in their order.
        listing: the files as a gzipped CSV of name and content.
    """

    classes: tuple[str, ...]
    digest: str
    listing: bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of config.json; the listing is a separate file."""
        return {"classes": list(self.classes), "digest": self.digest}


def record_data(classes: Sequence[str], files: Iterable[tuple[str, str]]) -> DataRecord:
    """Record names and contents of the data; takes about 10 s and 11 MB per million files on a local disk.

    Args:
        classes: names, in the order of the labels.
        files: name below the data folder, so that the data may move, and content: bytes and label, or a digest.

    Returns:
        The record.
    """
    digest, packed = hashlib.sha256(), io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors=_ANY_NAME, newline="")
        writer = csv.writer(text, lineterminator="\n")
        for row in files:
            digest.update("\0".join((*row, "\n")).encode("utf-8", _ANY_NAME))
            writer.writerow(row)
        text.flush()
    return DataRecord(tuple(classes), digest.hexdigest(), packed.getvalue())


def compare_data(stored: Any, listing: Path, now: DataRecord) -> str | None:
    """Difference between the data and those at the start of a run.

    Args:
        stored: the entry of the run's config.json, `DataRecord.to_dict`.
        listing: the run's file with the listing.
        now: the data as they are.

    Returns:
        The difference in a few words, such as "2 files added, 1 removed"; None where there is none.

    Raises:
        UserError: the classes differ, so the outputs of the network would have other meanings.
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("classes"), list):
        raise UserError(f'{printable(listing.parent / "config.json")} is damaged: its entry "data" has no classes')
    _check_classes([str(name) for name in stored["classes"]], now.classes)
    return None if stored.get("digest") == now.digest else _difference(listing, now)


def _check_classes(before: Sequence[str], now: Sequence[str]) -> None:
    if list(before) == list(now):
        return
    known, current = set(before), set(now)
    added = [name for name in now if name not in known]
    removed = [name for name in before if name not in current]
    parts = [f"added {_listed(added)}"] if added else []
    parts += [f"removed {_listed(removed)}"] if removed else []
    change = "; ".join(parts) or "in another order"
    raise UserError(
        f"the classes of the data changed since the run started ({change}), but a resumed run needs the same classes: "
        "start a new run with `weights` of this one for other classes"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return printable(", ".join(names[:_LISTED])) + more


def _difference(listing: Path, now: DataRecord) -> str:
    try:
        before = _unpack(listing.read_bytes())
    except (OSError, EOFError, ValueError, csv.Error):  # damaged or gone; the digest alone shows the change
        return "in an unknown way, because the listing of the run cannot be read"
    after = _unpack(now.listing)
    counts = {
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "changed": sum(content != after[name] for name, content in before.items() if name in after),
    }
    parts = [f"{count:,} {word}" for word, count in counts.items() if count]
    return f"files {', '.join(parts)}" if parts else "files in another order"


def _unpack(listing: bytes) -> dict[str, str]:
    text = gzip.decompress(listing).decode("utf-8", _ANY_NAME)
    return {name: content for name, content in csv.reader(io.StringIO(text, newline=""))}
