"""Decoding of image files to RGB, with a short reason for every unreadable file."""

import io
import os
import stat
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from gcnet.errors import UserError

# Pillow warns about what is decoded well enough (odd EXIF) or refused below (size). `warnings.catch_warnings` for each
# image would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class EncodedImage:
    """An image file in memory, such as a member of a shard.

    Attributes:
        name: Name of the image, for messages.
        data: Content of the file.
    """

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


ImageFile = str | os.PathLike[str] | EncodedImage
"""A path of an image file, or its content."""

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
    """Check that a text file (JSON, CSV) is neither empty nor a Git LFS pointer nor an HTML page.

    Args:
        path: Path of the file, for messages.
        text: The beginning of the file, or all of it.

    Raises:
        UserError: The file is one of these.
    """
    if not text.strip():
        raise UserError(f"{path} is empty")
    if text.startswith(_LFS.decode()):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    if text[:_HEAD].lstrip().lower().startswith(_PAGES):
        raise UserError(f"{path} is an HTML page: the download failed")


def check_text_file(path: str | os.PathLike[str]) -> None:
    """Check the beginning of the text file at `path` as `check_text` does; missing files pass.

    Raises:
        UserError: The file is empty, a Git LFS pointer or an HTML page.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            head = file.read(_HEAD)
    except OSError:
        return
    check_text(path, head)


def describe_content(path: ImageFile) -> str | None:
    """Return what a file that is not an image contains, by its first bytes.

    Args:
        path: The file.

    Returns:
        A phrase with a remedy, such as "a PDF, not an image: convert its pages to PNG", or None if the content is
        unknown.
    """
    try:
        head = _read_head(path)
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


def _read_head(path: ImageFile) -> bytes:
    if isinstance(path, EncodedImage):
        return path.data[:_HEAD]
    with open(path, "rb") as file:
        return file.read(_HEAD)


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
    """An image file that cannot be read.

    Args:
        path: Path or name of the image.
        reason: Short reason, such as "truncated".
    """

    def __init__(self, path: ImageFile, reason: str) -> None:
        super().__init__(str(path), reason)  # both as arguments, so that the error can be pickled
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def has_image_suffix(name: str) -> bool:
    """Return whether `name` has the suffix of a supported image format; hidden files have not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass(frozen=True)
class Header:
    """Properties of an image, read without decoding it.

    Attributes:
        width: Stored width in pixels.
        height: Stored height in pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        mode: Pillow's mode, such as RGB, L or I;16.
    """

    width: int
    height: int
    orientation: int = 1
    mode: str = "RGB"

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels after applying the EXIF orientation."""
        return (self.height, self.width) if self.orientation in _TURNED else (self.width, self.height)

    @property
    def is_16_bit(self) -> bool:
        """Whether the pixels have 16 bits."""
        return _is_deep(self.mode)


def open_image(
    path: ImageFile,
    *,
    bit_depth: int = FULL_DEPTH,
    max_megapixels: float = MAX_MEGAPIXELS,
    upright: bool = True,
) -> Image.Image:
    """Decode a file to an 8-bit RGB image.

    Gray, palette and CMYK images are converted to RGB. 16-bit gray images keep the upper 8 of the `bit_depth` used
    bits. Transparency is blended with white. Animations give their first frame.

    Args:
        path: JPEG, PNG, GIF, BMP, WebP, TIFF or PPM file, or its content; AVIF and JPEG 2000 if Pillow supports them.
        bit_depth: Used bits of 16-bit images, 8 to 16; larger values are clipped to white.
        max_megapixels: Maximum size by the header, checked before decoding; Pillow's limit of 179 applies as well.
        upright: Whether to apply the EXIF orientation.

    Returns:
        RGB image of the stored or upright size.

    Raises:
        ImageError: The file cannot be decoded.
    """
    with _opened(path, max_megapixels) as image:
        image.load()
        rgb = _to_rgb(_upright(image) if upright else image, path, bit_depth)
        # A decoded JPEG holds its pixels and nothing of its file; other formats read frames on demand.
        return rgb.copy() if rgb is image and image.format != "JPEG" else rgb


def to_upright_rgb(image: Image.Image, name: str, *, bit_depth: int = FULL_DEPTH) -> Image.Image:
    """Convert an image in memory as `open_image` converts a file.

    Args:
        image: Image of any mode.
        name: Name of the image, for errors.
        bit_depth: Used bits of 16-bit images, 8 to 16.

    Returns:
        8-bit RGB image, upright.

    Raises:
        ImageError: The image cannot be decoded, or its pixel values have no defined range.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise nearly every built-in error on damaged bytes
        raise ImageError(name, _reason(error, name, MAX_MEGAPIXELS)) from error
    rgb = _to_rgb(_upright(image), name, bit_depth)
    return rgb.copy() if rgb is image else rgb


def read_header(path: ImageFile, *, max_megapixels: float = MAX_MEGAPIXELS) -> Header:
    """Read size, orientation and mode of an image without decoding it.

    Args:
        path: The image file.
        max_megapixels: Maximum size by the header.

    Returns:
        The header.

    Raises:
        ImageError: The file has no valid header, or the image is too large.
    """
    with _opened(path, max_megapixels) as image:
        return Header(*image.size, _orientation(image), image.mode)


def read_values(path: ImageFile, *, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Read the stored pixel values of an image, such as the palette indices of a palette image.

    Args:
        path: The image file.
        max_megapixels: Maximum size by the header.

    Returns:
        Values (H, W) or (H, W, channels) in the stored dtype.

    Raises:
        ImageError: The file cannot be decoded.
    """
    with _opened(path, max_megapixels) as image:
        return np.array(image)


def largest_value(path: ImageFile) -> int | None:
    """Return the largest pixel value of a 16-bit image, or None for other images.

    Args:
        path: The image file.

    Raises:
        ImageError: The file cannot be decoded.
    """
    with _opened(path, MAX_MEGAPIXELS) as image:
        image.load()
        return int(np.asarray(image).max()) if _is_deep(image.mode) else None


@contextmanager
def _opened(path: ImageFile, max_megapixels: float) -> Generator[Image.Image]:
    """Open an image without decoding it; every failure becomes an ImageError."""
    _check_file(path)
    try:
        source = io.BytesIO(path.data) if isinstance(path, EncodedImage) else path
        with Image.open(source, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                reason = f"{width}x{height} pixels, over the limit of {max_megapixels:g} megapixels"
                raise ImageError(path, reason)
            yield image
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every built-in error on damaged bytes
        raise ImageError(path, _reason(error, path, max_megapixels)) from error


def _check_file(path: ImageFile) -> None:
    if isinstance(path, EncodedImage):
        if not path.data:
            raise ImageError(path, "empty file")
        return
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


def _to_rgb(image: Image.Image, path: ImageFile, bit_depth: int) -> Image.Image:
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels have no defined range")
    if _is_deep(image.mode):
        return _from_16_bits(image, path, bit_depth)
    if image.mode == "La":  # with premultiplied alpha, which Pillow converts to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _from_16_bits(image: Image.Image, path: ImageFile, bit_depth: int) -> Image.Image:
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(path, "32-bit pixels have no defined range")
    upper = values.astype(np.int64) >> (bit_depth - 8)
    return Image.fromarray(upper.clip(max=255).astype(np.uint8)).convert("RGB")


def _reason(error: Exception, path: ImageFile, max_megapixels: float) -> str:
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
