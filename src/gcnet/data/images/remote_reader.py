"""Image files at URLs, each read by one request; those of a batch are requested at the same time."""

from collections.abc import Sequence

from gcnet.data.decode import EncodedImage, ImageError
from gcnet.errors import UserError
from gcnet.remote_files import read_ranges, read_remote

LARGEST_IMAGE_FILE = 2**30
"""Bytes of the largest image file that is read: 100 megapixels in 16 bits have 0.6 GB."""


class RemoteReader:
    """Reads image files at URLs into memory.

    Args:
        largest: Size in bytes of the largest file that is read.
    """

    def __init__(self, *, largest: int = LARGEST_IMAGE_FILE) -> None:
        self._largest = largest
        self._fetched: dict[str, bytes | None] = {}

    def prefetch(self, files: Sequence[tuple[str, int]]) -> None:
        """Request the files that are read next at the same time.

        Args:
            files: URL and size in bytes of each.
        """
        urls = {url: size for url, size in files if 0 < size <= self._largest}
        ranges = [(url, 0, size) for url, size in urls.items()]
        self._fetched = dict(zip(urls, read_ranges(ranges), strict=True))

    def read(self, name: str, url: str, size: int | None, *, start: int = 0) -> EncodedImage:
        """Return the content of a file.

        Args:
            name: Name of the image, for messages.
            url: URL of the file.
            size: Its size in bytes; None for a missing file.
            start: First byte, for a file in a shard.

        Raises:
            ImageError: There is no such file, or it is too large.
            UserError: Access to it is denied.
            RemoteError: The request failed.
        """
        if size is None:
            raise ImageError(name, "no such file")
        if size > self._largest:
            raise ImageError(name, f"{size:,} bytes, over the limit of {self._largest:,}")
        data = self._fetched.pop(url, None)
        try:
            if data is None:
                data = read_remote(url, start, start + size) if size else b""
            return EncodedImage(name, data)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise ImageError(name, "no such file") from error
            raise
