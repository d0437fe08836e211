"""From a file to an RGB image, whatever the file holds: an image comes back, or one short reason why not.

Decoding is Pillow's: it raises on damaged files where other decoders end the process.
"""

import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gcnet.errors import UserError

MAX_MEGAPIXELS = 100.0

# Raster formats only: Pillow would hand others, such as EPS, to an outside program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)

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


def open_image(
    path: str | os.PathLike[str], *, max_megapixels: float = MAX_MEGAPIXELS, upright: bool = True
) -> Image.Image:
    """Decode a file to an RGB image of 8 bits, upright as its EXIF orientation says.

    Grey, palette and CMYK become RGB; 16-bit grey keeps its upper 8 bits; transparency is laid on white; of an
    animation the first frame counts.

    Arguments:
        path: a JPEG, PNG, GIF, BMP, WebP, TIFF or PPM file.
        max_megapixels: the size in the header may not exceed this (nor Pillow's own limit of 179); it is read
            before anything is decoded.
        upright: whether the image is turned as its EXIF orientation says; else it stays as it is stored.

    Raises:
        ImageError: for anything else, with a short reason.
    """
    _check_file(path)
    with warnings.catch_warnings():
        # Pillow warns of what is either decoded well enough (odd EXIF) or refused below (size).
        warnings.simplefilter("ignore")
        try:
            return _decode(path, max_megapixels, upright)
        except ImageError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly every built-in error on damaged bytes
            raise ImageError(path, _reason(error, max_megapixels)) from error


def _check_file(path: str | os.PathLike[str]) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise ImageError(path, "no such file" if missing else _first_line(error)) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
        raise ImageError(path, "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size == 0:
        raise ImageError(path, "empty file")


def _decode(path: str | os.PathLike[str], max_megapixels: float, upright: bool) -> Image.Image:
    with Image.open(Path(path), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_megapixels * 1e6:
            raise ImageError(path, f"{width}x{height} pixels, over the limit of {max_megapixels:g} megapixels")
        image.load()
        return _to_rgb(_upright(image) if upright else image, path)


def read_header(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Width and height in pixels as stored, and the EXIF orientation (1 to 8, 1 is upright), without decoding.

    Raises:
        ImageError: the file is missing, or its header is not that of an image.
    """
    _check_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(Path(path), formats=FORMATS) as image:
                return *image.size, _orientation(image)
        except Exception as error:  # Pillow's readers raise nearly every built-in error on damaged bytes
            raise ImageError(path, _reason(error, MAX_MEGAPIXELS)) from error


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


def _to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels have no agreed range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bits(image, path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image).convert("RGB")
    # A plain image of its own, without the file's handle and notes.
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _from_16_bits(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(path, "32-bit pixels have no agreed range")
    return Image.fromarray((values.astype(np.int64) >> 8).astype(np.uint8)).convert("RGB")


def _reason(error: Exception, max_megapixels: float) -> str:
    text = _first_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than the limit of {min(max_megapixels, _PILLOW_MEGAPIXELS):.0f} megapixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, PermissionError):
        return "permission denied"
    return "truncated" if "truncated" in text.lower() else f"damaged ({text})"


def _first_line(error: Exception) -> str:
    lines = (str(error) or type(error).__name__).splitlines()
    return lines[0][:100]
