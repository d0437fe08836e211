"""Finds the images to predict: files, folders, shards, and folders and files at URLs."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from gcnet.data.decode import EncodedImage, has_image_suffix
from gcnet.data.images.image_input import ImageInput, StoredFile
from gcnet.data.images.listing import describe_skipped, find_images, is_tool_file, loose_files
from gcnet.data.images.shard_files import find_shards, is_shard_name, is_shards, split_of_shard
from gcnet.data.images.shard_index import INDEX, ShardIndex, open_index
from gcnet.data.images.sources import StoredImages
from gcnet.errors import UserError, printable
from gcnet.remote_files import FileEntry, check_without_secret, is_remote, list_remote, remote_file, restored_url

Note = Callable[[str], None]


def find_inputs(paths: Iterable[Path | str], *, note: Note = lambda _: None) -> list[ImageInput]:
    """Find images: files by name, all image files below folders, and the samples of shards with an image.

    Folders and files may be at URLs. A label is not needed in shards.

    Args:
        paths: files, folders and shards; shards also by a pattern such as "shards/{train,val}-*.tar", or as their
            folder.
        note: called with a sentence on skipped files of other formats.

    Returns:
        The images, in the order of the paths and sorted within each folder.

    Raises:
        UserError: a path does not exist, there are no images, or a shard is damaged.
    """
    inputs: list[ImageInput] = []
    for find, group in groupby(map(_text, paths), _finder):
        inputs += find(list(group), note)
    return inputs


def _text(path: Path | str) -> str:
    check_without_secret(path)
    return restored_url(path)


def _finder(path: str) -> Callable[[Sequence[str], Note], list[ImageInput]]:
    """Return the function that finds images at a path of this kind."""
    if Path(path).is_dir():
        has_images = any(map(has_image_suffix, loose_files(path)))
        return _in_shards if is_shards(path) and not has_images else _in_files
    if is_shard_name(path):
        return _in_shards
    return _at_urls if is_remote(path) and not path.lower().startswith(("http://", "https://")) else _in_files


def _in_files(paths: Sequence[str], note: Note) -> list[ImageInput]:
    return [ImageInput(str(path), path) for path in find_images(paths, note=note)]


def _in_shards(paths: Sequence[str], note: Note) -> list[ImageInput]:
    files: dict[str | None, dict[str, FileEntry]] = {}
    for path in paths:
        for file in find_shards(path):
            files.setdefault(split_of_shard(file.url), {})[file.url] = file
    inputs: list[ImageInput] = []
    for split, shards in files.items():
        index = open_index(list(shards.values()), INDEX.format(split or "all"), needs_labels=False)
        for sentence in index.notes:
            note(sentence)
        inputs += [_sample(index, number) for number in range(len(index.names))]
    return inputs


def _sample(index: ShardIndex, number: int) -> ImageInput:
    shard = index.shard(number)
    place = StoredFile(shard, int(index.offsets[number]), int(index.sizes[number]))
    return ImageInput(f"{shard}/{index.names[number]}", place)


def _at_urls(paths: Sequence[str], note: Note) -> list[ImageInput]:
    files: dict[str, ImageInput] = {}
    skipped: Counter[str] = Counter()
    shards: list[str] = []
    for path in paths:
        found = _listed(path.rstrip("/"))
        images = [file for file in found if has_image_suffix(PurePosixPath(file.url).name)]
        if not images and any(file.url.endswith(".tar") for file in found):
            shards.append(path)
            continue
        skipped.update(PurePosixPath(file.url).suffix.lower() or "without a suffix" for file in found)
        skipped.subtract(PurePosixPath(file.url).suffix.lower() for file in images)
        files |= {file.url: ImageInput(file.url, StoredFile(file.url, 0, file.size)) for file in images}
    others = f"{skipped.total():,} files of unsupported formats ({describe_skipped(+skipped)})"
    if files and skipped.total():
        note(f"skipped {others}")
    if not files and not shards:
        only = f", only {others}" if skipped.total() else ""
        raise UserError(f"no image files in {', '.join(map(printable, paths))}{only}")
    return [*files.values(), *(_in_shards(shards, note) if shards else ())]


def _listed(url: str) -> list[FileEntry]:
    """Return the file at a URL, or all files below it without those of tools."""
    if has_image_suffix(PurePosixPath(url).name):
        return [remote_file(url)]
    found = list_remote(url)
    if not found:
        return [remote_file(url)]  # which names a missing bucket, or what is similar
    parts = ((file, file.url.removeprefix(f"{url}/").split("/")) for file in found)
    return [file for file, names in parts if not any(map(is_tool_file, names))]


class InputImages(StoredImages):
    """Images to predict as a source without labels.

    Args:
        inputs: images in files, at URLs or in shards.
    """

    def __init__(self, inputs: Sequence[ImageInput]) -> None:
        self.inputs, self.classes = inputs, ("unknown",)
        self._labels = np.zeros(len(inputs), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.inputs)

    def name(self, index: int) -> str:
        return self.inputs[index].name

    def file(self, index: int) -> Path | None:
        return self.inputs[index].path

    def encoded(self, index: int) -> Path | EncodedImage:
        content = self.inputs[index].content
        assert isinstance(content, Path | StoredFile)
        return content if isinstance(content, Path) else content.read(self.inputs[index].name)
