"""Files that are no images, or harmful ones."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(width: int = 61, height: int = 47) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_bomb(side: int = 30_000) -> bytes:
    """A small PNG whose header declares `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


REFUSED: dict[str, tuple[bytes, str]] = {
    "bomb.png": (png_bomb(), "more pixels than the limit"),
    "large.png": (png_bomb(12_000), "12000x12000 pixels, over the limit of 1 megapixels"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "an SVG drawing"),
    "page.png": (b"<!doctype html><script>alert(1)</script>", "an HTML page"),
    "empty.jpg": (b"", "empty file"),
    "noise.jpg": (b"\x01\x02noise" * 100, "not an image of a known format"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    "truncated.jpg": (encoded(photo(200, 200), "JPEG")[:2000], "truncated"),
    "float.tif": (encoded(Image.fromarray(np.ones((9, 9), dtype=np.float32)), "TIFF"), "floating-point"),
}
"""Content of each file, and a part of the reason why it is refused."""

READABLE: dict[str, bytes] = {
    "animation.gif": encoded(photo(), "GIF", save_all=True, append_images=[Image.new("RGB", (61, 47))]),
    "cmyk.jpg": encoded(photo().convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)), "PNG"),
    "transparent.png": encoded(photo().convert("RGBA"), "PNG"),
}
"""Content of unusual images."""
