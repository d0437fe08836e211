"""Labeled images that are files at URLs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64, Integer

from gcnet.data.decode import EncodedImage
from gcnet.data.images.file_names import FileNames
from gcnet.data.images.remote_reader import RemoteReader
from gcnet.data.images.sources import StoredImages


class RemoteImages(StoredImages):
    """Image files below a URL, each read by one request.

    Args:
        root: URL of the class folders.
        names: Paths relative to `root`.
        sizes: Size of each file in bytes; -1 for a file that is missing.
        labels: Class of each image, an index into `classes`.
        classes: Names of the classes.
        notes: What was skipped or repaired, a sentence each.
    """

    def __init__(
        self,
        root: str,
        names: FileNames,
        *,
        sizes: Int64[np.ndarray, " images"],
        labels: Int32[np.ndarray, " images"],
        classes: Sequence[str],
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self.names, self.classes, self.notes = root, names, tuple(classes), tuple(notes)
        self._sizes, self._labels = sizes, labels
        self._reader = RemoteReader()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def identity(self) -> list[Integer[np.ndarray, " n"]]:
        return [*self.names.arrays(), self._sizes, self._labels]

    def file(self, index: int) -> None:  # noqa: ARG002 (no file on this machine)
        return None

    def file_size(self, index: int) -> int | None:
        size = int(self._sizes[index])
        return None if size < 0 else size

    def prefetch(self, indices: Sequence[int]) -> None:
        self._reader.prefetch([(self._url(index), self.file_size(index) or 0) for index in indices])

    def encoded(self, index: int) -> EncodedImage:
        return self._reader.read(self.names[index], self._url(index), self.file_size(index))

    def _url(self, index: int) -> str:
        return f"{self.root}/{self.names[index]}"
