"""The same image in several places: by its resolved path, which is cheap, or by the bytes of its file."""

import os

from gcnet.data.images import ImageSource


def shared_notes(train: ImageSource, val: ImageSource) -> list[str]:
    """Files that are both in training and in validation, or in training with several labels, a sentence each.

    Files are the same where their paths are, after symbolic links are followed.
    """
    paths = _resolved(train)
    labels: dict[str, set[int]] = {}
    for index, path in enumerate(paths):
        labels.setdefault(path, set()).add(train.label(index))
    shared = [val.name(index) for index, path in enumerate(_resolved(val)) if path in labels]
    several = [train.name(index) for index, path in enumerate(paths) if len(labels[path]) > 1]
    notes = []
    if shared:
        notes.append(
            f"{len(shared):,} of {len(val):,} validation images are training images too, such as {shared[0]}: "
            "the accuracy will be too high"
        )
    if several:
        notes.append(
            f"{len(several):,} training images are the same files under different labels, such as {several[0]}"
        )
    return notes


def _resolved(source: ImageSource) -> list[str]:
    """The path of each image's file with symbolic links resolved; of images without files, none."""
    files = [source.file(index) for index in range(len(source))]
    folders: dict[str, str] = {}
    return [_resolve(str(file), folders) for file in files if file is not None]


def _resolve(file: str, folders: dict[str, str]) -> str:
    """As `os.path.realpath`, which would look at every folder of every path again."""
    folder, name = os.path.split(file)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    path = os.path.join(folders[folder], name)
    return os.path.realpath(path) if os.path.islink(path) else path
