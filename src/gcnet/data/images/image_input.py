"""An image to predict: a file, a file at a URL or in a shard, or an image in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gcnet.data.decode import FULL_DEPTH, EncodedImage, ImageError, open_image, to_upright_rgb
from gcnet.data.images.remote_reader import RemoteReader, check_image_size, read_member
from gcnet.errors import printable
from gcnet.remote_files import is_remote


class StoredFile(NamedTuple):
    """An image file at a URL or in a shard.

    Attributes:
        place: URL of the file, or path or URL of the shard.
        start: its first byte.
        size: its size in bytes.
    """

    place: str
    start: int
    size: int

    def read(self, name: str) -> EncodedImage:
        """Return the content of the file.

        Args:
            name: of the image, for messages.

        Raises:
            ImageError: it is missing, truncated or too large.
            UserError: access to it is denied.
            RemoteError: the request failed.
        """
        check_image_size(name, self.size)
        if is_remote(self.place):
            if self.start == 0:  # a file of its own: shards begin with a header
                return RemoteReader().read(name, self.place, self.size)
            return read_member(name, self.place, self.start, self.size)
        try:
            with open(self.place, "rb") as shard:
                shard.seek(self.start)
                data = shard.read(self.size)
        except OSError as error:
            raise ImageError(name, f"cannot read {printable(self.place)}: {error.strerror}") from error
        if len(data) < self.size:
            raise ImageError(name, f"{printable(self.place)} is truncated")
        return EncodedImage(name, data)


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image to predict.

    Attributes:
        name: path or URL of the file; of a sample of a shard, that of the shard and the name of the sample, as in
            "shards/val-000000.tar/000012.jpg"; "image 1", "image 2", ... for images in memory.
        content: path of the file, its place at a URL or in a shard, or the image itself.
    """

    name: str
    content: Path | StoredFile | Image.Image

    @property
    def path(self) -> Path | None:
        """Path of the file, None for an image in memory, at a URL or in a shard."""
        return self.content if isinstance(self.content, Path) else None

    @property
    def title(self) -> str:
        """Name of the file without its folders."""
        return self.name if isinstance(self.content, Image.Image) else self.name.rpartition("/")[2]

    def open(self, *, bit_depth: int = FULL_DEPTH) -> Image.Image:
        """Return the image, RGB and upright.

        Args:
            bit_depth: used bits of 16-bit images, 8 to 16.

        Raises:
            ImageError: it cannot be decoded.
        """
        if isinstance(self.content, Image.Image):
            return to_upright_rgb(self.content, self.name, bit_depth=bit_depth)
        file = self.content if isinstance(self.content, Path) else self.content.read(self.name)
        return open_image(file, bit_depth=bit_depth)
