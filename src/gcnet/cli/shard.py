"""`gcnet shard`: writes labeled images as shards for WebDataset, timm and gcnet."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from gcnet.arguments import POSITIONAL
from gcnet.errors import UserError

SUMMARY = "write labeled images as shards: tar files in the layout of WebDataset"


@dataclass(frozen=True)
class Settings:
    """Write labeled images as shards: tar files in the layout of WebDataset, which read faster from network disks.

    The image files keep their bytes, their order and their splits. Class names are in _info.json.

    Examples:
      gcnet shard photos --output shards
      gcnet train --data "shards/{train,val}-*.tar"
    """

    data: str = field(metadata=POSITIONAL)
    """Folder of class folders, CSV or shards, also at a URL."""
    output: Path = Path("shards")
    """New or empty folder."""
    images: str | None = None
    """Image folder of a CSV (default: next to it)."""
    shard_size: int = 256
    """Maximum size of a shard in MiB."""

    def __post_init__(self) -> None:
        """Check the size."""
        if self.shard_size < 1:
            raise UserError(f"`shard_size` must be 1 or more, found {self.shard_size}")


def run(settings: Settings) -> int:
    """Write the shards.

    Args:
        settings: of the command.

    Returns:
        The exit code: 0.
    """
    from gcnet.data.images.folders import check_output_outside_images
    from gcnet.data.images.labeled import open_splits
    from gcnet.data.images.write_shards import write_shards
    from gcnet.errors import printable
    from gcnet.progress_bar import progress_bar

    check_output_outside_images(Path(settings.data), settings.output)
    splits = open_splits(settings.data, settings.images, argument="DATA")
    for note in dict.fromkeys(note for images in splits.values() for note in images.notes):
        print(printable(note), file=sys.stderr)
    with progress_bar("images", sum(map(len, splits.values()))) as progress:
        written = write_shards(splits, settings.output, shard_size=settings.shard_size, progress=progress)
    for name in written.skipped:
        print(f"skipped {printable(name)}: no regular file", file=sys.stderr)
    counts = ", ".join(f"{count:,} images of {split}" for split, count in written.images.items())
    shards = sum(map(len, written.shards.values()))
    print(f"wrote {counts} to {shards:,} shard{'s' * (shards != 1)} in {printable(settings.output)}")
    return 0
