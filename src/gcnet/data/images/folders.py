"""Labeled images in class folders, with or without folders of splits."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np

from gcnet.data.decode import has_image_suffix
from gcnet.data.images.folder_index import list_class_files
from gcnet.data.images.listing import Listing, describe_skipped, kind_of, list_images, loose_files, subfolders
from gcnet.data.images.shard_files import COMPRESSED_TAR
from gcnet.data.images.sources import FileImages
from gcnet.data.splits import SPLIT_NAMES, split_named
from gcnet.errors import UserError, nearest, printable

_LISTED = 5
_IMAGENET_VAL = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG", re.IGNORECASE)
_DEPTH, _MOST_FOLDERS = 3, 20  # levels of folders, and folders of a level, in which splits are looked for


def label_classes(
    names: Sequence[str], classes: Sequence[str] | None, place: object
) -> tuple[dict[str, int], list[str]]:
    """Assign labels to the class names of a data set.

    Names that differ from a known name only in their Unicode composition are the same class: operating systems compose
    accented letters differently.

    Args:
        names: Class names in the data.
        classes: Known names in the order of the labels (default: `names`).
        place: Folder or table, for messages.

    Returns:
        Label of each name, and notes on repaired or similar names, a sentence each.

    Raises:
        UserError: A name is not a known class.
    """
    known = {name: label for label, name in enumerate(names if classes is None else classes)}
    by_composed = {normalize_unicode(name): label for name, label in known.items()}
    labels: dict[str, int] = {}
    for name in names:
        label = known.get(name, by_composed.get(normalize_unicode(name)))
        if label is None:
            raise _unknown(name, list(known), names, place)
        labels[name] = label
    recomposed = [name for name in names if name not in known]
    notes = [_repaired(recomposed, place)] if recomposed else []
    return labels, [*notes, *(describe_similar_classes(names, place) if classes is None else [])]


def normalize_unicode(name: str) -> str:
    """Return `name` in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)


def describe_similar_classes(names: Sequence[str], place: object) -> list[str]:
    """Describe classes with almost the same name.

    Args:
        names: Class names.
        place: Folder or table, for messages.

    Returns:
        A sentence, or nothing if there are none.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_essence(name), []).append(name)
    several = [similar for similar in groups.values() if len(similar) > 1]
    if not several:
        return []
    shown = "; ".join(" and ".join(f'"{name}"' for name in similar) for similar in several[:_LISTED])
    return [f"{place}: classes with almost the same name are treated as different classes: {shown}"]


def _essence(name: str) -> str:
    """Return a name without common typing differences: case, spaces, Unicode composition, and 2.0 for 2."""
    text = "".join(normalize_unicode(name).casefold().split())
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _repaired(names: Sequence[str], place: object) -> str:
    which = f'class "{names[0]}" is' if len(names) == 1 else f'{len(names)} classes, such as "{names[0]}", are'
    return f"{place}: {which} the known class in another Unicode form"


def _unknown(name: str, known: Sequence[str], classes: Sequence[str], place: object) -> UserError:
    proposal = nearest(name, known)
    lists = "" if proposal else f"; known: {_some(known)}; found: {_some(classes)}"
    return UserError(f'{place}: class "{name}" is not one of the {len(known)} known classes{proposal}{lists}')


def _some(classes: Sequence[str]) -> str:
    return printable(", ".join(classes[:_LISTED])) + (", ..." if len(classes) > _LISTED else "")


def expected_tree(root: str | os.PathLike[str]) -> str:
    """Return the expected class folders below `root`, for messages."""
    top = str(root).rstrip("/")
    return f"{top}/train/CLASS/*.jpg and {top}/val/CLASS/*.jpg (one folder per class, the same in both)"


class FolderImages(FileImages):
    """Images in class folders: `root/CLASS/**/*.png`.

    Args:
        root: Folder of the class folders.
        classes: Class names in the order of the labels (default: the sorted names of the folders).

    Raises:
        UserError: The folder is missing or empty, has no class folders, or has a class that `classes` lacks.
    """

    def __init__(self, root: str | os.PathLike[str], *, classes: Sequence[str] | None = None) -> None:
        root = Path(root)
        folders = class_folders(root)
        label_of, repaired = label_classes(folders, classes, root)
        files = list_class_files(root, folders)
        if classes is None and not files.counts.all():
            empty = root / folders[int(files.counts.argmin())]
            raise UserError(_without_images(empty, list_images(empty)))
        if not len(files.names):
            raise UserError(f"no images in the class folders of {root}{_beside(files.skipped)}")
        labels = np.repeat(np.array([label_of[folder] for folder in folders], dtype=np.int32), files.counts)
        notes = repaired + _skipped_notes(root, files.skipped, loose_files(root))
        super().__init__(root, files.names, labels, folders if classes is None else classes, notes=notes)
        self.folders = None if files.links else files.folders


def class_folders(root: Path) -> list[str]:
    """Return the sorted names of the class folders in `root`.

    Raises:
        UserError: The folder does not exist or has no subfolders.
    """
    if not root.is_dir():
        beside = subfolders(root.parent) if root.parent.is_dir() else []
        raise UserError(
            f'no folder of images at "{root}"{nearest(root.name, beside)}; expected {expected_tree(root.parent)}'
        )
    names = subfolders(root)
    if not names:
        raise UserError(_without_classes(root))
    return names


def find_splits(root: Path) -> dict[str, Path]:
    """Find the folders of splits.

    A folder named train that has no subfolders, beside other folders, is a class.

    Args:
        root: Folder to search.

    Returns:
        Folder of each split, a key of `SPLIT_NAMES`.

    Raises:
        UserError: Two folders have names of the same split.
    """
    folders = subfolders(root)
    splits: dict[str, list[str]] = {}
    for name in folders:
        if (split := split_named(name)) is not None:
            splits.setdefault(split, []).append(name)
    has_others = sum(map(len, splits.values())) < len(folders)
    for split, names in splits.items():
        if has_others or split == "test":  # test images often come without labels
            splits[split] = [name for name in names if subfolders(root / name)]
    for split, names in splits.items():
        if len(names) > 1:
            raise UserError(
                f"{root} has several folders of {'training' if split == 'train' else 'validation'} images, "
                f"{' and '.join(names)}: rename one of them, or pass the folders as `data` and `val`"
            )
    return {split: root / splits[split][0] for split in SPLIT_NAMES if splits.get(split)}


def check_output_outside_images(root: Path, output: Path) -> None:
    """Check that an output folder will not be taken for a folder of images.

    Args:
        root: Folder of the images, with or without splits.
        output: Output folder.

    Raises:
        UserError: The output is inside a split, or inside `root` if it has no splits.
    """
    parents = Path(os.path.realpath(output)).parents
    if root.is_dir() and Path(os.path.realpath(root)) in parents:
        inside = [
            folder for folder in find_splits(root).values() or [root] if Path(os.path.realpath(folder)) in parents
        ]
        if inside:
            raise UserError(
                f"`output` must not be in a folder of images, since it would be read as a class; found "
                f"{printable(output)} in {printable(inside[0])}"
            )


def check_no_splits(root: Path) -> None:
    """Check that the folders in `root` are classes and not splits in an unsupported arrangement.

    Raises:
        UserError: They are folders such as images_train and images_val, a single folder with splits, as some archives
            unpack, splits further below, or class folders that contain splits.
    """
    folders = subfolders(root)
    if len(folders) == 1 and (inner := find_splits(root / folders[0])):
        held = " and ".join(path.name for path in inner.values())
        raise UserError(f"{root} holds only the folder {folders[0]}, with {held} in it: `data={root / folders[0]}`")
    inner_names = (subfolders(root / name) for name in folders)  # read up to the first class folder without splits
    if len(folders) > 1 and all(names and all(map(split_named, names)) for names in inner_names):
        name, split = folders[0], subfolders(root / folders[0])[0]
        raise UserError(
            f"the class folders of {root} hold folders of splits, such as {name}/{split}: put the splits first, as "
            f"{split}/{name}, or list the images in a CSV with a column split"
        )
    if (nested := _nested_splits(root)) is not None:
        raise UserError(f"{root} has no class folders, but folders of splits in {nested}: `data={nested}`")
    train = [name for name in folders if _has_word(name, SPLIT_NAMES["train"])]
    others = [name for name in folders if _has_word(name, SPLIT_NAMES["val"] + SPLIT_NAMES["test"])]
    for name in train:
        for other in others:
            if set(subfolders(root / name)) & set(subfolders(root / other)):
                raise UserError(
                    f"{root} holds {name} and {other} with the same class folders in both: "
                    f"`data={root / name}` `val={root / other}`"
                )


def _nested_splits(root: Path) -> Path | None:
    """Return a folder with train/CLASS and another split, a few levels below `root`, as in the archive of ImageNet."""
    level = [root]
    for _ in range(_DEPTH):
        level = [folder / name for folder in level for name in subfolders(folder)]
        if len(level) > _MOST_FOLDERS:
            return None
        for folder in level:
            with suppress(UserError):  # several folders of one split
                splits = find_splits(folder)
                classes = subfolders(splits["train"]) if "train" in splits and len(splits) > 1 else []
                if classes and any(map(has_image_suffix, loose_files(splits["train"] / classes[0]))):
                    return folder
    return None


def possible_splits(root: Path) -> list[str]:
    """Return the folders in `root` that have subfolders, as splits do, but not the name of a split."""
    return [name for name in subfolders(root) if split_named(name) is None and subfolders(root / name)]


def _has_word(name: str, words: Sequence[str]) -> bool:
    return any(word in words for word in re.findall("[a-z]+", name.lower()))


def _without_images(folder: Path, listing: Listing) -> str:
    return f"every class folder needs images, found none in {folder}{_beside(listing.skipped)}"


def _beside(skipped: Counter[str]) -> str:
    return f"; its files are not of a supported format: {describe_skipped(skipped)}" if skipped else ""


def _without_classes(root: Path) -> str:
    if (loose := describe_loose_images(root, loose_files(root))) is not None:
        return loose
    top = root.parent if split_named(root.name) else root
    if _has_shards(root):
        beside = [name for name in subfolders(top) if split_named(name) and _has_shards(top / name)]
        folders = f"{top}/{{{','.join(beside)}}}" if len(beside) > 1 else str(root)
        return f'{root} holds shards: give them as `data="{folders}/*.tar"`'
    if compressed := next((name for name in loose_files(root) if name.lower().endswith(COMPRESSED_TAR)), None):
        return f"{root} holds compressed tar files, such as {compressed}: decompress shards, and unpack other tar files"
    return f'no class folders in "{root}"; expected {expected_tree(top)}'


def describe_loose_images(root: object, names: Sequence[str]) -> str | None:
    """Describe a folder that holds images instead of class folders, and what to do.

    Args:
        root: The folder, a path or URL.
        names: Names of the files in it.

    Returns:
        A sentence, or None if none of them is an image.
    """
    images = list(filter(has_image_suffix, names))
    if not images:
        return None
    holds = f"{root} holds {_count(len(images), 'image')} but no class folders"
    if all(map(_IMAGENET_VAL.fullmatch, images)):
        return (
            f"{holds}, as the archive of ImageNet's validation images: valprep.sh moves them to class folders, as does "
            "`torchvision.datasets.ImageNet` when it unpacks the archive; `val` takes a CSV with the columns path and "
            "label instead"
        )
    return (
        f"{holds}: put the images of each class into a separate folder, or list them in a CSV with the columns path "
        "and label"
    )


def _has_shards(folder: Path) -> bool:
    return any(name.endswith(".tar") for name in loose_files(folder))


def _skipped_notes(root: Path, skipped: Counter[str], loose: Sequence[str]) -> list[str]:
    images = sum(map(has_image_suffix, loose))
    others = [name for name in loose if not has_image_suffix(name)]
    parts = [f"{_count(images, 'image')} outside of the class folders"] if images else []
    if skipped:
        parts.append(f"{_count(skipped.total(), 'file')} of unsupported formats ({describe_skipped(skipped)})")
    if others:
        kinds = describe_skipped(Counter(kind_of(root / name) for name in others))
        parts.append(f"{_count(len(others), 'other file')} beside the class folders ({kinds})")
    return [f"{root}: skipped {' and '.join(parts)}"] if parts else []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


class FolderLayout:
    """Layout of class folders: `CLASS/*.jpg`, or `SPLIT/CLASS/*.jpg`.

    Args:
        data: The folder.
        images: Not used: the images are in the class folders.
    """

    expected: ClassVar[str] = "a folder"
    takes_images: ClassVar[bool] = False

    def __init__(self, data: str, images: str | None = None) -> None:  # noqa: ARG002
        self.path = Path(data)

    @staticmethod
    def matches(data: str) -> bool:
        """Return whether `data` is a folder."""
        return os.path.isdir(data)

    def splits(self) -> tuple[str, ...]:
        """Return the splits with a folder, keys of `SPLIT_NAMES`."""
        return tuple(find_splits(self.path))

    def class_names(self, split: str | None) -> list[str]:
        """Return the sorted class names of `split`; None stands for class folders without splits."""
        return class_folders(self._folder(split))

    def open(self, split: str | None, classes: Sequence[str] | None = None) -> FolderImages:
        """Return the labeled images of a split.

        Args:
            split: A split of `splits`; None takes class folders without splits.
            classes: Known class names, in the order of the labels (default: those of the split, sorted).
        """
        return FolderImages(self._folder(split), classes=classes)

    def check_unsplit(self) -> None:
        """Check that the folder holds class folders, as `check_no_splits` does."""
        check_no_splits(self.path)

    def unused_notes(self) -> list[str]:
        """Return a note on folders without a split."""
        names = possible_splits(self.path)
        shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        return [f"{self.path}: folders without the name of a split are not used: {shown}"] if names else []

    def unused_hint(self) -> str:
        """Return folders without a split, to end an error message."""
        names = possible_splits(self.path)
        return f"; other folders: {', '.join(names[:_LISTED])}" if names else ""

    def split_hint(self) -> str:
        """Return the expected folders, for the end of an error message."""
        return f"; or use the layout {expected_tree(self.path)}"

    def _folder(self, split: str | None) -> Path:
        return self.path if split is None else find_splits(self.path)[split]
