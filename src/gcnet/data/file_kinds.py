"""What a file is that Pillow does not read, by its first bytes: a reason that says what to do about it."""

import os
from collections.abc import Mapping

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


def explain_content(path: str | os.PathLike[str]) -> str | None:
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
