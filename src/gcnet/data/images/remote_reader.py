"""Image files at URLs, each read by one request; those of a batch are requested at the same time."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from gcnet.data.decode import EncodedImage, ImageError
from gcnet.errors import UserError, printable
from gcnet.remote_files import read_ranges, read_remote

LARGEST_IMAGE_FILE = 2**30
"""Bytes of the largest image file that is read: 100 megapixels in 16 bits have 0.6 GB."""

_NO_FILE = "no such file"


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
            files: URL and size in bytes of each, as listed.
        """
        urls = {url: size for url, size in files if 0 < size <= self._largest}
        ranges = [(url, 0, size + 1) for url, size in urls.items()]
        self._fetched = dict(zip(urls, read_ranges(ranges), strict=True))

    def read(self, name: str, url: str, size: int | None) -> EncodedImage:
        """Return the content of a file, also if it was replaced by one of another size since it was listed.

        Args:
            name: Name of the image, for messages.
            url: URL of the file.
            size: Its size in bytes as listed; None for a missing file.

        Raises:
            ImageError: There is no such file, or it is too large.
            UserError: Access to it is denied.
            RemoteError: The request failed.
        """
        if size is None:
            raise ImageError(name, _NO_FILE)
        check_image_size(name, size, self._largest)
        data = self._fetched.pop(url, None)
        with _missing_files(name):
            if data is None:
                data = read_remote(url, 0, size + 1) if size else b""
            if len(data) > size:
                data = read_remote(url, 0, self._largest + 1)
        check_image_size(name, len(data), self._largest)
        return EncodedImage(name, data)


def check_image_size(name: str, size: int, largest: int = LARGEST_IMAGE_FILE) -> None:
    """Check that an image file is not too large to be read into memory.

    Args:
        name: Name of the image, for messages.
        size: Size of the file in bytes.
        largest: Largest size in bytes.

    Raises:
        ImageError: It is larger.
    """
    if size > largest:
        raise ImageError(name, f"{size:,} bytes, over the limit of {largest:,}")


def read_member(name: str, url: str, start: int, size: int) -> EncodedImage:
    """Return the content of an image file in a shard.

    Args:
        name: Name of the image, for messages.
        url: URL of the shard.
        start: First byte of the file.
        size: Its size in bytes.

    Raises:
        ImageError: There is no such shard, or it is too short.
        UserError: Access to it is denied.
        RemoteError: The request failed.
    """
    with _missing_files(name):
        data = read_remote(url, start, start + size) if size else b""
    if len(data) < size:
        raise ImageError(name, f"{printable(url)} is truncated")
    return EncodedImage(name, data)


@contextmanager
def _missing_files(name: str) -> Generator[None]:
    """Raise ImageError for a file that is not there."""
    try:
        yield
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ImageError(name, _NO_FILE) from error
        raise
