"""Shards written by Python's tarfile, as other tools write them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image


def image_bytes(value: int = 0, kind: str = "PNG") -> bytes:
    """An image of 7 x 5 pixels of a gray value."""
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5), (value, value, value)).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes], **options: object) -> Path:
    """Write a tar file of members with these names and contents, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
