"""Checks of labeled images before training: unreadable, repeated, leaked and mislabeled images."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from gcnet.data.decode import EncodedImage, ImageError, open_image, read_header
from gcnet.data.images.shards import ShardImages
from gcnet.data.images.sources import CachedImages, ImageSource, StoredImages, SubsetImages
from gcnet.errors import printable
from gcnet.remote_files import is_remote


def shared_notes(train: ImageSource, val: ImageSource) -> list[str]:
    """Describe files and shards that are in both splits, or files that are in training under several labels.

    They are compared by path, after following symbolic links.

    Args:
        train: Training images.
        val: Validation images.

    Returns:
        A sentence per finding.
    """
    if _have_distinct_files(train, val):
        return []
    if shards := _shared_shards(train, val):
        return [
            f"the validation data hold {len(shards):,} of the training shards, such as {printable(shards[0])}: "
            "accuracy will be overestimated"
        ]
    paths = _resolved(train)
    labels: dict[str, int] = {}
    for path, label in zip(paths, train.all_labels().tolist(), strict=False):  # no path of images in memory
        labels[path] = label if labels.get(path, label) == label else _SEVERAL
    shared = [val.name(index) for index, path in enumerate(_resolved(val)) if path in labels]
    several = [train.name(index) for index, path in enumerate(paths) if labels[path] == _SEVERAL]
    notes = []
    if shared:
        notes.append(
            f"{len(shared):,} of {len(val):,} validation images are also training images, such as {shared[0]}: "
            "accuracy will be overestimated"
        )
    if several:
        notes.append(f"{len(several):,} training images are files with several labels, such as {several[0]}")
    return notes


_SEVERAL = -1  # in place of a label


def _have_distinct_files(*sources: ImageSource) -> bool:
    """Return whether the images are all different files because their folders are, which is quick to check."""
    folders: list[str] = []
    for source in sources:
        files = source.file_images()
        if files is None or files.folders is None:
            return False
        folders += [os.path.realpath(files.root / folder) for folder in files.folders]
    return len(set(folders)) == len(folders)


def _shared_shards(train: ImageSource, val: ImageSource) -> list[str]:
    """Return the sorted shards in both splits; none if they hold different images of the same shards."""
    indexes = [source.index for source in map(_all_images, (train, val)) if isinstance(source, ShardImages)]
    if len(indexes) < 2 or indexes[0] is indexes[1]:
        return []
    first, second = (
        {shard if is_remote(shard) else os.path.realpath(shard) for shard in index.shards} for index in indexes
    )
    return sorted(first & second)


def _all_images(source: ImageSource) -> ImageSource:
    while isinstance(source, SubsetImages | CachedImages):
        source = source.source
    return source


def _resolved(source: ImageSource) -> list[str]:
    """Return the path of each image file with symbolic links resolved."""
    files = [source.file(index) for index in range(len(source))]
    folders: dict[str, str] = {}
    return [_resolve(str(file), folders) for file in files if file is not None]


def _resolve(file: str, folders: dict[str, str]) -> str:
    """Resolve like `os.path.realpath`, with every folder resolved once."""
    folder, name = os.path.split(file)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    path = os.path.join(folders[folder], name)
    return os.path.realpath(path) if os.path.islink(path) else path


IMAGE_ISSUE_KINDS: Mapping[str, str] = {
    "unreadable image": "skipped in training",
    "single class": "no training possible",
    "class without images": "not evaluated",
    "class without training images": "not trained",
    "image in several splits": "accuracy is overestimated",
    "image with several labels": "labels are contradictory",
    "repeated image": "has a higher weight",
}
"""Kinds of issues, with their consequences."""


@dataclass(frozen=True)
class ImageIssue:
    """An issue of an image or class.

    Attributes:
        kind: A key of `IMAGE_ISSUE_KINDS`.
        place: Split with image or class, such as "train/cat/a.jpg".
        details: What was found there.
    """

    kind: str
    place: str
    details: str

    def __str__(self) -> str:
        return f"{self.place}: {self.details}"


@dataclass(frozen=True)
class SplitReport:
    """Statistics of the images of a split.

    Attributes:
        images: Number of images.
        per_class: Number of images by class.
        sizes: Width and height in pixels of each readable image, upright.
        modes: Number of readable images by Pillow's mode, such as RGB, L or I;16.
        notes: What was skipped or repaired when the split was opened, a sentence each.
    """

    images: int
    per_class: Mapping[str, int]
    sizes: Sequence[tuple[int, int]]
    modes: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImagesReport:
    """Result of `check_images`.

    Attributes:
        splits: Statistics by split.
        issues: Issues, in the order of `IMAGE_ISSUE_KINDS`.
    """

    splits: Mapping[str, SplitReport]
    issues: tuple[ImageIssue, ...]


@dataclass(frozen=True)
class _Look:
    """Upright size and mode of a file, or why it cannot be read, and a digest of its bytes."""

    size: tuple[int, int] | None
    mode: str
    reason: str
    digest: bytes | None


def check_images(
    splits: Mapping[str, StoredImages], *, workers: int = 1, progress: Callable[[int], None] = lambda _: None
) -> ImagesReport:
    """Decode every image and compare the bytes of all files.

    Args:
        splits: Images of each split, such as train and val, with the same classes.
        workers: Number of threads that decode images.
        progress: Called with the number of images checked since the last call.

    Returns:
        Statistics and issues.
    """
    reports: dict[str, SplitReport] = {}
    issues: list[ImageIssue] = []
    places: dict[bytes, list[tuple[str, int]]] = {}
    for name, images in splits.items():
        files = []
        with ThreadPoolExecutor(workers) as pool:
            for file in pool.map(partial(_look, images), range(len(images))):
                files.append(file)
                progress(1)
        for index, file in enumerate(files):
            if file.size is None:
                issues.append(ImageIssue("unreadable image", _place(name, images, index), file.reason))
            if file.digest is not None:
                places.setdefault(file.digest, []).append((name, index))
        reports[name] = _report(images, files)
    issues += _missing_classes(reports)
    for copies in places.values():
        if len(copies) > 1:
            issues.append(_repetition(copies, splits))
    order = list(IMAGE_ISSUE_KINDS)
    return ImagesReport(reports, tuple(sorted(issues, key=lambda issue: order.index(issue.kind))))


def _look(images: StoredImages, index: int) -> _Look:
    try:
        file = images.encoded(index)
        size, mode = open_image(file).size, read_header(file).mode
        data = file.data if isinstance(file, EncodedImage) else file.read_bytes()
        return _Look(size, mode, "", hashlib.sha256(data).digest())
    except ImageError as error:
        return _Look(None, "", error.reason, None)


def _report(images: StoredImages, files: Sequence[_Look]) -> SplitReport:
    counts = Counter(images.label(index) for index in range(len(images)))
    return SplitReport(
        images=len(images),
        per_class={name: counts[label] for label, name in enumerate(images.classes)},
        sizes=[file.size for file in files if file.size is not None],
        modes=dict(Counter(file.mode for file in files if file.size is not None).most_common()),
        notes=images.notes,
    )


def _missing_classes(reports: Mapping[str, SplitReport]) -> list[ImageIssue]:
    train = reports.get("train")
    names = next(iter(reports.values())).per_class
    issues = [ImageIssue("single class", "data", f'"{name}" alone') for name in names if len(names) == 1]
    for name, report in reports.items():
        for label, count in report.per_class.items():
            if not count:
                kind = "class without training images" if report is train else "class without images"
                issues.append(ImageIssue(kind, f"{name}/{label}", "no images"))
    return issues


def _repetition(copies: Sequence[tuple[str, int]], splits: Mapping[str, StoredImages]) -> ImageIssue:
    """Return the most serious issue of files with the same bytes."""
    labels = {splits[name].label(index) for name, index in copies}
    kind = "repeated image"
    if len({name for name, _ in copies}) > 1:
        kind = "image in several splits"
    if len(labels) > 1:
        kind = "image with several labels"
    first, *others = (_place(name, splits[name], index) for name, index in copies)
    return ImageIssue(kind, first, f"the same bytes as {', '.join(others)}")


def _place(split: str, images: StoredImages, index: int) -> str:
    return f"{split}/{images.name(index)}"
