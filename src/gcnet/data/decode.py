"""From a file to an RGB image, whatever the file holds: an image comes back, or one short reason why not.

Decoding is Pillow's: it raises on damaged files where other decoders end the process.
"""

import os
import stat
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from gcnet.data.file_kinds import explain_content
from gcnet.errors import UserError

MAX_MEGAPIXELS = 100.0

_OPTIONAL = (("avif", "AVIF", (".avif",)), ("jpg_2000", "JPEG2000", (".jp2", ".j2k", ".jpx")))
_BUILT = [(kind, suffixes) for feature, kind, suffixes in _OPTIONAL if features.check(feature)]

# Raster formats only: Pillow would hand others, such as EPS, to an outside program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", *(kind for kind, _ in _BUILT))
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
) | {suffix for _, suffixes in _BUILT for suffix in suffixes}
FULL_DEPTH = 16

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_BACKGROUND = (255, 255, 255, 255)
_PILLOW_MEGAPIXELS = 2 * 1024**3 / 4 / 3 / 1e6  # Pillow itself refuses twice its `MAX_IMAGE_PIXELS`


class ImageError(UserError):
    """A file that does not yield an image; `path` and `reason` say which and why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        """Keep both as arguments, so that the error can be pickled from a worker."""
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def has_image_suffix(name: str) -> bool:
    """Whether a file's name says that it is an image; hidden files (a leading dot) never do."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


@dataclass(frozen=True)
class Header:
    """What a file says of its image before anything is decoded.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        mode: Pillow's name of its pixels, such as RGB, L or I;16.
    """

    width: int
    height: int
    orientation: int = 1
    mode: str = "RGB"

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels of the upright image."""
        return (self.height, self.width) if self.orientation in _TURNED else (self.width, self.height)

    @property
    def is_deep(self) -> bool:
        """Whether its values have 16 bits."""
        return _is_deep(self.mode)


def open_image(
    path: str | os.PathLike[str],
    *,
    bit_depth: int = FULL_DEPTH,
    max_megapixels: float = MAX_MEGAPIXELS,
    upright: bool = True,
) -> Image.Image:
    """Decode a file to an RGB image of 8 bits, upright as its EXIF orientation says.

    Gray, palette and CMYK become RGB; of 16-bit gray the upper 8 of the `bit_depth` bits in use are kept; transparency
    is blended with white; of an animation the first frame is taken.

    Args:
        path: a JPEG, PNG, GIF, BMP, WebP, TIFF or PPM file, and AVIF or JPEG 2000 where Pillow reads them.
        bit_depth: bits in use of 16-bit images, 8 to 16; larger values become white.
        max_megapixels: the size in the header may not exceed this (nor Pillow's own limit of 179); it is read
            before anything is decoded.
        upright: whether the image is turned as its EXIF orientation says; else it stays as it is stored.

    Raises:
        ImageError: for anything else, with a short reason.
    """
    with _opened(path, max_megapixels) as image:
        image.load()
        return _to_rgb(_upright(image) if upright else image, path, bit_depth)


def read_header(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> Header:
    """Size, orientation and depth of an image without decoding it.

    Raises:
        ImageError: as `open_image`, for what the header shows.
    """
    with _opened(path, max_megapixels) as image:
        return Header(*image.size, _orientation(image), image.mode)


def read_values(path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """The pixels of an image as they are stored: of a palette image the numbers of the colors.

    Args:
        path: as for `open_image`.
        max_megapixels: as for `open_image`.

    Raises:
        ImageError: as `open_image`.
    """
    with _opened(path, max_megapixels) as image:
        return np.array(image)


def largest_value(path: str | os.PathLike[str]) -> int | None:
    """The largest value of a 16-bit image; None for other images.

    Raises:
        ImageError: as `open_image`.
    """
    with _opened(path, MAX_MEGAPIXELS) as image:
        image.load()
        return int(np.asarray(image).max()) if _is_deep(image.mode) else None


@contextmanager
def _opened(path: str | os.PathLike[str], max_megapixels: float) -> Generator[Image.Image]:
    """The image, not yet decoded; whatever goes wrong with it becomes an ImageError."""
    _check_file(path)
    with warnings.catch_warnings():
        # Pillow warns of what is either decoded well enough (odd EXIF) or refused below (size).
        warnings.simplefilter("ignore")
        try:
            with Image.open(Path(path), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_megapixels * 1e6:
                    reason = f"{width}x{height} pixels, over the limit of {max_megapixels:g} megapixels"
                    raise ImageError(path, reason)
                yield image
        except ImageError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly every built-in error on damaged bytes
            raise ImageError(path, _reason(error, path, max_megapixels)) from error


def _check_file(path: str | os.PathLike[str]) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise ImageError(path, _missing(path, error)) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
        raise ImageError(path, "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size == 0:
        raise ImageError(path, "empty file")


def _missing(path: str | os.PathLike[str], error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "a symbolic link to a missing file" if os.path.islink(path) else "no such file"
    text = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
    return text[0].lower() + text[1:]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels are whole; only the note on how they are turned cannot be read
        return 1
    return value if value in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    except Exception:  # the pixels are whole; the tags that are to be rewritten are damaged
        return image


def _is_deep(mode: str) -> bool:
    return mode == "I" or mode.startswith("I;16")


def _to_rgb(image: Image.Image, path: str | os.PathLike[str], bit_depth: int) -> Image.Image:
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels have no agreed range")
    if _is_deep(image.mode):
        return _from_16_bits(image, path, bit_depth)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image).convert("RGB")
    # A plain image of its own, without the file's handle and notes.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _from_16_bits(image: Image.Image, path: str | os.PathLike[str], bit_depth: int) -> Image.Image:
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(path, "32-bit pixels have no agreed range")
    upper = values.astype(np.int64) >> (bit_depth - 8)
    return Image.fromarray(upper.clip(max=255).astype(np.uint8)).convert("RGB")


def _reason(error: Exception, path: str | os.PathLike[str], max_megapixels: float) -> str:
    text = _first_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {min(max_megapixels, _PILLOW_MEGAPIXELS):.0f} megapixels"
    if isinstance(error, UnidentifiedImageError):
        return explain_content(path) or "not an image of a known format"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, PermissionError):
        return "permission denied"
    return "truncated" if "truncated" in text.lower() else f"damaged ({text})"


def _first_line(error: Exception) -> str:
    lines = (str(error) or type(error).__name__).splitlines()
    return lines[0][:100]
