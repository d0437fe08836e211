"""Reads the samples of a shard from the headers of its tar file: places of the images, and labels."""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gcnet.data.decode import check_text, has_image_suffix
from gcnet.errors import UserError, printable
from gcnet.remote_files import FileEntry, file_system, is_remote, remote_errors
from gcnet.text_files import describe_start

_META = re.compile(r"__[^/]*__(/|$)")  # names that WebDataset skips
_BLOCK = 65_536  # bytes that a request for a header of a remote shard reads
_END = 1 << 20  # bytes from the end of the archive in which nothing may follow, as in joined tar files
_MOST_LABEL_BYTES = 1 << 20
MOST_CLASSES = 1_000_000
_MOST_DIGITS = 11
_JSON_KEYS = ("label", "cls", "class", "class_name")
NO_LABEL, NO_IMAGE = "without a label (.cls or .json)", "without an image"
LINKS = "with links or sparse files, which are not read"


class Sample(NamedTuple):
    """An image in a shard.

    Attributes:
        name: Name of its member in the tar file, such as "000012.jpg".
        offset: First byte of the image file in the shard.
        size: Size of the image file in bytes.
        label: Class index or class name.
    """

    name: str
    offset: int
    size: int
    label: int | str


@dataclass
class ShardSamples:
    """The samples of a shard.

    Attributes:
        samples: Samples with an image and a label, in the order of the shard.
        skipped: Number of other samples by the reason.
        example: Name of a skipped sample.
    """

    samples: list[Sample] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    example: str = ""


def read_samples(file: FileEntry, *, needs_labels: bool = True) -> ShardSamples:
    """Read the samples of a shard; members with the same name up to the first dot are a sample, as in WebDataset.

    Args:
        file: The shard.
        needs_labels: Whether to read labels and skip samples without one; otherwise the label of all samples is 0.

    Returns:
        The samples, in the order of the shard.

    Raises:
        UserError: The shard is not a tar file, or is damaged.
    """
    found = ShardSamples()
    members: dict[str, tarfile.TarInfo] = {}
    links: dict[str, str] = {}  # the last one of each key, until its sample has been added
    current = None
    with _opened(file.url) as stream:
        for member in _members(file, stream):
            key, suffix = split_key(member.name)
            if not _is_stored(member):
                links[key] = member.name
                continue
            if key != current:
                _add(found, current, members, file, links, stream if needs_labels else None)
                current, members = key, {}
            if suffix in members:
                raise UserError(f"{printable(file.url)} has {printable(member.name)} twice")
            members[suffix] = member
        _add(found, current, members, file, links, stream if needs_labels else None)
    if links:
        found.skipped[LINKS] += len(links)
        found.example = found.example or next(iter(links.values()))
    return found


def _opened(url: str) -> Any:
    """Return a shard as a binary file; files of fsspec are no `typing.BinaryIO`."""
    if not is_remote(url):
        return open(url, "rb")
    with remote_errors(url):
        return file_system(url).open(url, "rb", block_size=_BLOCK, cache_type="readahead")


def _members(file: FileEntry, stream: Any) -> Iterator[tarfile.TarInfo]:
    """Yield files and links of a tar file that have a suffix, without hidden files and metadata of WebDataset."""
    place = printable(file.url)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as opened:
            archive: Any = opened
            for member in archive:
                end = member.offset_data + member.size
                if member.size < 0 or (_is_stored(member) and end > file.size):
                    raise tarfile.ReadError(f"{printable(member.name)} ends at byte {end:,} of {file.size:,}")
                base = os.path.basename(member.name)
                is_file = member.isreg() or member.islnk() or member.issym()
                if is_file and "." in base and not _is_hidden(member.name, base):
                    yield member
                archive.members = []  # which would hold all headers
            stream.seek(archive.offset)
            rest = stream.read(_END)
            if len(rest) < tarfile.BLOCKSIZE or rest[: tarfile.BLOCKSIZE].strip(b"\0"):
                raise tarfile.ReadError(f"no valid header at byte {archive.offset:,} of {file.size:,}")
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"more files follow the end of the archive at byte {archive.offset:,}")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        _check_kind(place, stream)
        raise UserError(f"{place} is damaged or truncated: {printable(str(error))}") from error


def _check_kind(place: str, stream: Any) -> None:
    """Check that a shard is not compressed, a Git LFS pointer or an HTML page."""
    stream.seek(0)
    head = stream.read(tarfile.BLOCKSIZE)
    if head:
        check_text(place, head.decode("latin-1"))
    if (kind := describe_start(head)) is not None:
        raise UserError(f"{place} is {kind}")


def _is_stored(member: tarfile.TarInfo) -> bool:
    """Return whether the bytes of a file lie behind its header."""
    return member.isreg() and not member.issparse()


def _is_hidden(name: str, base: str) -> bool:
    return base.startswith(".") or _META.match(name) is not None


def split_key(name: str) -> tuple[str, str]:
    """Return the key of a member and its suffix in lower case: the name up to the first dot, and the rest.

    Args:
        name: Such as "n01440764/10026.jpg".
    """
    folder, separator, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return f"{folder}{separator}{stem}", suffix.lower()


def _add(
    found: ShardSamples,
    key: str | None,
    members: Mapping[str, tarfile.TarInfo],
    file: FileEntry,
    links: dict[str, str],
    stream: Any,
) -> None:
    """Add a sample, or count it as skipped; without a stream labels are not read."""
    if key is None:
        return
    link = links.pop(key, None)
    images = (member for suffix, member in members.items() if "." not in suffix and has_image_suffix(f"_.{suffix}"))
    image, label = next(images, None), 0 if stream is None else _label(members, file, stream)
    if image is not None and label is not None:
        found.samples.append(Sample(image.name, image.offset_data, image.size, label))
        return
    missing = NO_IMAGE if image is None else NO_LABEL
    found.skipped[LINKS if link else missing] += 1
    found.example = found.example or link or next(iter(members.values())).name


def _label(members: Mapping[str, tarfile.TarInfo], file: FileEntry, stream: Any) -> int | str | None:
    """Return the class index or name of a sample: the text of its .cls, or an entry of its .json."""
    for suffix, read in (("cls", _of_text), ("json", _of_json)):
        member = members.get(suffix)
        if member is not None and member.size <= _MOST_LABEL_BYTES:
            stream.seek(member.offset_data)
            label = read(stream.read(member.size), f"{printable(file.url)}: {printable(member.name)}")
            if label is not None:
                return label
    return None


def _of_text(text: bytes, place: str) -> int | str | None:
    try:
        value = text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{place} must be text, a class index or name") from error
    is_number = value.isascii() and value.removeprefix("-").isdigit() and len(value) < _MOST_DIGITS
    return _checked(int(value) if is_number else value or None, place)


def _of_json(text: bytes, place: str) -> int | str | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {printable(str(error))}") from error
    values: dict[str, Any] = content if isinstance(content, dict) else {"label": content}
    label = next((values[key] for key in _JSON_KEYS if values.get(key) is not None), None)
    return _checked(label, place)


def _checked(label: Any, place: str) -> int | str | None:
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise UserError(f"{place}: the label must be a class index or name, found {printable(str(label)[:60])}")
    if isinstance(label, int) and not 0 <= label < MOST_CLASSES:
        raise UserError(f"{place}: a class index must be 0 or more and below {MOST_CLASSES:,}, found {label}")
    return label
