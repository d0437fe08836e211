"""Uploaded images, checked before they are decoded, and example images."""

import logging
import os
from pathlib import Path
from typing import Any

from gcnet.data.decode import ImageError, read_header
from gcnet.data.images.listing import find_images
from gcnet.data.images.sources import evenly_spread
from gcnet.data.scenes import Scenes
from gcnet.demo.settings import DemoSettings
from gcnet.errors import UserError, no_folder, printable

EXAMPLES = 12
"""Maximum number of example images."""
NO_UPLOAD = (
    "there is no such upload: the server opens neither URLs nor other files, and keeps uploads for ten minutes; "
    "upload the image again"
)
_SCENES, _SCENE_SIZE = 6, 128
_logger = logging.getLogger(__name__)


class Uploads:
    """The folder of uploaded images, and the limits of an image.

    Args:
        folder: the only folder of which files are opened.
        settings: of the page, with the limits.
    """

    def __init__(self, folder: Path, settings: DemoSettings) -> None:
        self._folder = os.path.realpath(folder)
        self._max_bytes, self._max_pixels = settings.max_bytes, settings.max_pixels

    def has(self, path: Any) -> bool:
        """Whether `path`, as given by a client, is a file of the folder."""
        if not isinstance(path, str) or "\0" in path:
            return False
        real = os.path.realpath(path)
        return real.startswith(self._folder + os.sep) and os.path.isfile(real)

    def check(self, path: Any) -> Path:
        """Return the path of an uploaded image after a check of its size and header.

        Args:
            path: as given by a client.

        Raises:
            UserError: there is no such upload, it is too large, or it is not an image.
        """
        if not self.has(path):
            raise UserError(NO_UPLOAD)
        real = Path(os.path.realpath(path))
        self.check_limits(real)
        return real

    def check_limits(self, path: Path) -> None:
        """Check the size and the header of an image file.

        Args:
            path: image file.

        Raises:
            UserError: it is too large, or it is not an image.
        """
        name, size = printable(path.name), os.path.getsize(path)
        if size > self._max_bytes:
            raise UserError(f"{name}: {size:,} bytes, over the limit of {self._max_bytes:,} bytes")
        try:
            read_header(path, max_megapixels=self._max_pixels / 1e6)
        except ImageError as error:
            raise UserError(f"{name}: {error.reason}") from error


def check_examples(examples: Path | None) -> None:
    """Check that `examples` is a folder, before the models are loaded.

    Raises:
        UserError: it is not.
    """
    if examples is not None and not examples.is_dir():
        raise UserError(f"`examples` takes a folder, but {no_folder(examples)}")


def example_images(examples: Path | None, uploads: Uploads, folder: Path) -> list[Path]:
    """Return example images: some of a folder, or generated scenes.

    Args:
        examples: folder of images, or None for generated scenes.
        uploads: with the limits of an image.
        folder: where generated scenes are written.

    Raises:
        UserError: no image of `examples` is within the limits.
    """
    if examples is None:
        scenes = Scenes(_SCENES, size=_SCENE_SIZE, distance=40, split="val")
        paths = [folder / f"scene-{index + 1}.png" for index in range(_SCENES)]
        for index, path in enumerate(paths):
            scenes.read(index).save(path)
        return paths
    paths = []
    for path in evenly_spread(find_images([examples], note=_logger.warning), EXAMPLES):
        try:
            uploads.check_limits(path)
        except UserError as error:
            _logger.warning("example skipped: %s", error)
        else:
            paths.append(path)
    if not paths:
        raise UserError(f"`examples`: {printable(examples)} has no image within the limits of uploads")
    return paths
