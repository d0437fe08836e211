"""Labeled images in shards: tar files in the layout of WebDataset, with random access to every image."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Int32, Integer

from gcnet.data.decode import EncodedImage, ImageError
from gcnet.data.images.folders import label_classes
from gcnet.data.images.remote_reader import LARGEST_IMAGE_FILE, check_image_size
from gcnet.data.images.shard_files import RangeReader, find_shards, is_shards, read_info, split_of_shard
from gcnet.data.images.shard_index import INDEX, ShardIndex, open_index
from gcnet.data.images.sources import StoredImages
from gcnet.data.splits import SPLIT_NAMES
from gcnet.errors import UserError, printable
from gcnet.remote_files import FileEntry, is_remote, read_ranges

_LISTED = 5


class ShardImages(StoredImages):
    """Images in shards, in the order of the shards and of the samples in them.

    Args:
        index: Names, places and labels of the images.
        labels: Class of each image, an index into `classes`.
        classes: Names of the classes.
        notes: What was skipped or repaired, a sentence each.
    """

    def __init__(
        self, index: ShardIndex, labels: Int32[np.ndarray, " images"], classes: Sequence[str], notes: Sequence[str] = ()
    ) -> None:
        self.index, self.classes, self.notes = index, tuple(classes), tuple(notes)
        self._labels, self._reader = labels, RangeReader()
        self._fetched: dict[int, bytes | None] = {}

    def __len__(self) -> int:
        return len(self.index.names)

    def name(self, index: int) -> str:
        name = self.index.names[index]
        return f"{os.path.basename(self.index.shard(index))}/{name}" if self.index.repeats_names else name

    def identity(self) -> list[Integer[np.ndarray, " n"]]:
        index = self.index
        return [*index.names.arrays(), index.ends, index.offsets, index.sizes, self._labels]

    def file(self, index: int) -> None:  # noqa: ARG002 (a member of a shard is no file of its own)
        return None

    def file_size(self, index: int) -> int:
        return int(self.index.sizes[index])

    def prefetch(self, indices: Sequence[int]) -> None:
        if is_remote(self.index.shards[0]):
            read = [index for index in indices if self.file_size(index) <= LARGEST_IMAGE_FILE]
            ranges = [(self.index.shard(index), *self._range(index)) for index in read]
            self._fetched = dict(zip(read, read_ranges(ranges), strict=True))

    def _range(self, index: int) -> tuple[int, int]:
        """Return the first byte of an image in its shard, and the byte after the last."""
        start = int(self.index.offsets[index])
        return start, start + self.file_size(index)

    def encoded(self, index: int) -> EncodedImage:
        shard, size = self.index.shard(index), self.file_size(index)
        check_image_size(self.name(index), size)
        data = self._fetched.pop(index, None)
        try:
            if data is None:
                data = self._reader.read(shard, int(self.index.offsets[index]), size)
        except OSError as error:
            raise ImageError(self.name(index), f"cannot read {printable(shard)}: {error.strerror}") from error
        if len(data) < size:
            raise ImageError(self.name(index), f"{printable(shard)} is truncated")
        return EncodedImage(self.name(index), data)


class ShardLayout:
    """Layout of shards: `{train,val}-*.tar` with KEY.jpg and KEY.cls or KEY.json.

    Splits are named by the file names or folders of the shards. Class indices are named by `_info.json` beside the
    shards, if there is one.

    Args:
        data: Pattern with braces and wildcards, folder of shards, or URL of either.
        images: Not used: the images are in the shards.
    """

    expected: ClassVar[str] = "shards (.tar)"
    takes_images: ClassVar[bool] = False

    def __init__(self, data: str, images: str | None = None) -> None:  # noqa: ARG002
        self.data = data
        self._files: dict[str | None, list[FileEntry]] = {}
        for file in find_shards(data):
            self._files.setdefault(split_of_shard(file.url), []).append(file)
        self._indexes: dict[str | None, ShardIndex] = {}

    @staticmethod
    def matches(data: str) -> bool:
        """Return whether `data` names shards."""
        return is_shards(data)

    def splits(self) -> tuple[str, ...]:
        """Return the splits with shards, keys of `SPLIT_NAMES`."""
        return tuple(split for split in SPLIT_NAMES if split in self._files)

    def class_names(self, split: str | None) -> list[str]:
        """Return the class names of `split`, without reading shards if `_info.json` has them.

        Args:
            split: A split of `splits`; None stands for all shards.
        """
        stored = self._stored_classes(split)
        return stored if stored is not None else self._own_classes(self._index(split))

    def open(self, split: str | None, classes: Sequence[str] | None = None) -> ShardImages:
        """Return the labeled images of a split.

        Args:
            split: A split of `splits`; None takes all shards.
            classes: Known class names, in the order of the labels (default: those of the split).

        Raises:
            UserError: A shard is damaged, no image has a label, or a class is unknown.
        """
        index = self._index(split)
        stored = None if index.label_names else self._stored_classes(split)
        own = self._own_classes(index) if stored is None else stored
        notes = index.notes
        if stored is None and not index.label_names and classes is not None and not set(own) <= set(classes):
            notes = (*notes, f"{printable(self.data)} has no class names: its labels are indices of the known classes")
            own = list(classes)
        if (largest := int(index.labels.max())) >= len(own):
            raise UserError(
                f"{printable(self.data)}: the label {largest} must be below the number of classes, {len(own)}"
            )
        label_of, repaired = label_classes(own, classes, printable(self.data))
        labels = np.array([label_of[name] for name in own], dtype=np.int32)[index.labels]
        return ShardImages(index, labels, own if classes is None else classes, (*notes, *repaired))

    def check_unsplit(self) -> None:
        """Accept shards without a split."""

    def unused_notes(self) -> list[str]:
        """Return a note on shards whose names mention no split."""
        return [f"{printable(self.data)}: {self._unused()}"] if None in self._files and self.splits() else []

    def unused_hint(self) -> str:
        """Return shards without a split, to end an error message."""
        return f"; {self._unused()}" if None in self._files else ""

    def split_hint(self) -> str:
        """Return the expected names, for the end of an error message."""
        return '; or use shards of both splits, such as "shards/{train,val}-*.tar"'

    def _unused(self) -> str:
        names = [printable(os.path.basename(file.url)) for file in self._files[None]]
        return f"shards without the name of a split are not used: {', '.join(names[:_LISTED])}" + (
            ", ..." if len(names) > _LISTED else ""
        )

    def _shards(self, split: str | None) -> list[FileEntry]:
        return [file for files in self._files.values() for file in files] if split is None else self._files[split]

    def _index(self, split: str | None) -> ShardIndex:
        if split not in self._indexes:
            self._indexes[split] = open_index(self._shards(split), INDEX.format(split or "all"))
        return self._indexes[split]

    def _stored_classes(self, split: str | None) -> list[str] | None:
        """Return the class names of `_info.json`, or None without them."""
        names = read_info(self._shards(split)).get("classes")
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
            raise UserError(f"{printable(self.data)}: classes of _info.json must be a list of names")
        if len(set(names)) < len(names):
            name = printable(Counter(names).most_common(1)[0][0])
            raise UserError(
                f'{printable(self.data)}: classes of _info.json must be different names, found "{name}" twice'
            )
        return names

    @staticmethod
    def _own_classes(index: ShardIndex) -> list[str]:
        """Return the names among the labels, or "0", "1", ... for numbers."""
        return list(index.label_names or map(str, range(int(index.labels.max()) + 1)))
