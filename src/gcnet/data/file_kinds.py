"""What a file is that Pillow does not read, by its first bytes: a reason that says what to do about it."""

import os
from collections.abc import Mapping

_HEAD = 512
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
