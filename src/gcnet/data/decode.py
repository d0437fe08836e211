"""Decodes image files to RGB; unreadable ones give one short reason."""

import os
import stat
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from gcnet.errors import UserError

_HEAD = 512
_PAGES = ("<!doctype html", "<html")
_LFS = b"version https://git-lfs.github.com/spec"
_TEXT_STARTS: Mapping[bytes, str] = {
    b"<!doctype html": "an HTML page, not an image: the download failed",
    b"<html": "an HTML page, not an image: the download failed",
    b"<svg": "an SVG drawing, not a raster image: convert it to PNG",
    b"<?xml": "XML, not an image",
    b"%pdf": "a PDF, not an image: convert its pages to PNG",
    b"{": "JSON or text, not an image",
}
_BYTE_STARTS: Mapping[bytes, str] = {
    b"PK\x03\x04": "a ZIP archive, not an image: unpack it",
    b"\x1f\x8b": "a gzip archive, not an image: unpack it",
    b"Rar!": "a RAR archive, not an image: unpack it",
    b"\x93NUMPY": "a NumPy array, not an image: save it as PNG",
    b"\x89HDF": "an HDF5 file, not an image",
    b"\x1aE\xdf\xa3": "a video (Matroska), not an image: extract its frames",
}
_BRANDS: Mapping[bytes, str] = {
    b"hei": "a HEIC image, which is not supported: convert it to JPEG",
    b"hev": "a HEIC image, which is not supported: convert it to JPEG",
    b"mif": "a HEIF image, which is not supported: convert it to JPEG",
    b"avi": "an AVIF image, which this installation of Pillow does not read: update Pillow, or convert it to JPEG",
}


def check_text(path: str | os.PathLike[str], text: str) -> None:
    """Refuse what often stands where a file of data (JSON, CSV) is expected: nothing, a Git LFS pointer, a web page.

    Args:
        path: of the file.
        text: its beginning, or all of it.

    Raises:
        UserError: naming what it is.
    """
    if not text.strip():
        raise UserError(f"{path} is empty")
    if text.startswith(_LFS.decode()):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    if text[:_HEAD].lstrip().lower().startswith(_PAGES):
        raise UserError(f"{path} is an HTML page: the download failed")


def check_text_file(path: str | os.PathLike[str]) -> None:
    """`check_text` of a file, by its beginning; whether there is one is not checked.

    Raises:
        UserError: as `check_text`.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            head = file.read(_HEAD)
    except OSError:
        return
    check_text(path, head)


def describe_content(path: str | os.PathLike[str]) -> str | None:
    """Why a file is not an image, in a few words; None where its first bytes tell nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if head.startswith(_LFS):
        return "a Git LFS pointer, not an image: run git lfs pull"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:11], "a video (MP4), not an image: extract its frames")
    if not head.strip(b"\x00"):
        return "only zero bytes, not an image: the copy or download is incomplete"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    starts = [(head, _BYTE_STARTS), (text, _TEXT_STARTS)]
    return next((reason for data, known in starts for start, reason in known.items() if data.startswith(start)), None)


MAX_MEGAPIXELS = 100.0

_OPTIONAL = (("avif", "AVIF", (".avif",)), ("jpg_2000", "JPEG2000", (".jp2", ".j2k", ".jpx")))
_BUILT = [(kind, suffixes) for feature, kind, suffixes in _OPTIONAL if features.check(feature)]

# Raster formats only: Pillow would hand others, such as EPS, to an outside program.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", *(kind for kind, _ in _BUILT))
IMAGE_SUFFIXES = frozenset(
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
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


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
    def is_16_bit(self) -> bool:
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
    """The stored pixels of an image: palette indices of a palette image.

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
            with Image.open(Path(path), formats=IMAGE_FORMATS) as image:
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
        return describe_content(path) or "not an image of a known format"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, PermissionError):
        return "permission denied"
    return "truncated" if "truncated" in text.lower() else f"damaged ({text})"


def _first_line(error: Exception) -> str:
    lines = (str(error) or type(error).__name__).splitlines()
    return lines[0][:100]
