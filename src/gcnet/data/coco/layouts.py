"""Annotation files and image folders in the layouts of annotation tools, on this machine or at URLs."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcnet.data.coco.conversion.formats import describe_nested_labels, find_label_format
from gcnet.data.coco.paths import resolve_paths
from gcnet.data.decode import check_text_file, has_image_suffix
from gcnet.data.images.sources import evenly_spread
from gcnet.data.places import first_bytes, folders_in, is_folder, names_in, shown_place
from gcnet.data.settings import DataSettings
from gcnet.data.splits import split_in_name, split_of_folder
from gcnet.errors import UserError, is_url, nearest_path, no_folder, printable
from gcnet.remote_files import restored_url

_OTHER_TASKS = ("captions", "panoptic", "stuff", "image_info", "person_keypoints")  # of COCO's own annotations
_ANNOTATION_FOLDERS = ("annotations", "annotation", "labels")
_IMAGE_FOLDERS = ("images", "data", "imgs", "img", "jpegimages")
_PACKED = (".zip", ".json.gz", ".tar.gz", ".tgz", ".json.bz2")  # annotations as they are downloaded
_HEAD = 65_536  # bytes of a JSON file that are looked at
_COCO_KEY = re.compile(rb'"(images|annotations|categories|licenses|info)"\s*:\s*[\[{]')
_SAMPLE = 20  # images whose files decide which folder holds them
_DEPTH, _PLACES = 4, 100  # levels of folders, and folders of a level, that are looked through for misplaced files
_OTHERS = 20  # folders of any name that are searched for them


@dataclass(frozen=True)
class AnnotationFiles:
    """Annotation files of a folder, by split.

    Attributes:
        folder: The folder.
        train: Files of the training split.
        val: Files of the validation split.
        test: Files of the test split.
        unsplit: Files whose names mention no split.
    """

    folder: Path
    train: tuple[Path, ...] = ()
    val: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    unsplit: tuple[Path, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """Return all annotation files."""
        return (*self.train, *self.val, *self.test, *self.unsplit)


def find_annotation_files(folder: Path) -> AnnotationFiles:
    """Return the annotation files in `folder`, its annotation folders and its folders of splits."""
    files: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "unsplit": []}
    for place in _annotation_places(folder):
        for path in _annotation_files(place):
            named = map(split_in_name, (path.stem, *reversed(path.relative_to(folder).parts[:-1])))
            files[next((split for split in named if split), "unsplit")].append(path)
    return AnnotationFiles(folder, *(_preferred(files[name]) for name in ("train", "val", "test", "unsplit")))


def image_folder(file: Path, names: Sequence[str], *, images: Path | None = None, split: str | None = None) -> Path:
    """Find the image folder of an annotation file: the folder with most images of a sample.

    Args:
        file: The annotation file.
        names: File names of its images.
        images: Image folder given by the user; may have a folder per split.
        split: Split of the file if its name does not mention one.

    Returns:
        The image folder.

    Raises:
        UserError: No folder has an image of the sample.
    """
    if images is not None and not is_folder(images):
        raise UserError(f"`images` takes a folder, but {no_folder(restored_url(images))}")
    sample = evenly_spread(names, _SAMPLE)
    places = _image_places(file, images, split_in_name(file.stem) or split_of_folder(file.parent.name) or split)
    best, most = places[0], (0, 0)
    for place in places:
        score = _score(place, sample)
        if score > most:
            best, most = place, score
        if most[0] == len(sample):
            break
    if sample and most == (0, 0):
        looked = ", ".join(map(shown_place, places[:4])) + (", ..." if len(places) > 4 else "")
        tried = f"the first {len(sample)}" if len(sample) < len(names) else "the"
        raise UserError(
            f"{shown_place(file)}: none of {tried} images is found in {looked}; the first is "
            f'"{printable(sample[0])}"{"" if images else "; `images` names their folder"}'
        )
    return best


def missing_annotations_error(layout: AnnotationFiles, split: str) -> UserError:
    """Return the error for a folder without annotations of a split.

    Args:
        layout: Annotation files of the folder.
        split: The missing split.
    """
    folder = layout.folder
    if not is_folder(folder):
        return UserError(
            f'nothing at "{shown_place(folder)}" (`data`){nearest_path(folder) or ";"} a detector takes scenes, '
            f"scenes-control, a folder of images with COCO annotations, or an annotation file (JSON)"
        )
    if not layout.files() and (deeper := find_nested_annotations(folder)):
        return UserError(f"{shown_place(folder)} has COCO annotations in subfolders, such as {deeper}: use `data=FILE`")
    names = [os.fspath(path.relative_to(folder)) for path in layout.files()] or names_in(folder)
    listed = ", ".join(map(printable, names[:6])) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
    packed = [place / name for place in _annotation_places(folder) for name in names_in(place)]
    packed = [path for path in packed if path.name.lower().endswith(_PACKED)]
    advice = f"; unpack {shown_place(packed[0])}" if packed else ""
    if _has_classes(folder):
        advice += "; folders of classes train classifiers, such as `model=gc_resnet18`"
    return UserError(
        f"{shown_place(folder)} has no COCO annotation file for {split}: looked for "
        f"annotations/instances_{split}*.json, annotations/{split}.json, {split}.json and {split}/*.json; "
        f"found {listed or 'nothing'}{advice}"
    )


def find_nested_annotations(folder: Path) -> str:
    """Return annotation files in deeper subfolders of `folder`, for messages, or ""."""
    files: list[Path] = []
    places = [folder]
    for _ in range(_DEPTH):
        places = [inner for place in places for inner in folders_in(place)][:_PLACES]
        files += [file for place in places for file in _annotation_files(place)]
    return " and ".join(shown_place(file) for file in files[:2])


def _has_classes(folder: Path) -> bool:
    """Return whether a folder, or a split in it, has class folders of images."""
    places = [folder, *(place for place in folders_in(folder) if split_of_folder(place.name))]
    classes = [folder for place in places for folder in folders_in(place) if not _is_usual(folder)]
    return any(has_image_suffix(name) for folder in classes[:_OTHERS] for name in names_in(folder)[:_SAMPLE])


def _is_usual(folder: Path) -> bool:
    """Return whether a folder has the name of a split or of an image folder, not of a class."""
    return split_of_folder(folder.name) is not None or folder.name.lower() in _IMAGE_FOLDERS


def _annotation_places(folder: Path) -> list[Path]:
    """Return the folders that may hold annotation files."""
    inner = [place for place in folders_in(folder) if _is_annotation_place(place)]
    return [folder, *inner, *(other for place in inner for other in folders_in(place) if _is_annotation_place(other))]


def _is_annotation_place(folder: Path) -> bool:
    return folder.name.lower() in _ANNOTATION_FOLDERS or split_in_name(folder.name) is not None


def _annotation_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder that are COCO annotations by their first bytes."""
    paths = [folder / name for name in names_in(folder) if name.lower().endswith(".json")]
    return [path for path in paths if not path.name.startswith(_OTHER_TASKS) and _is_annotation_file(path)]


def _is_annotation_file(path: Path) -> bool:
    """Return whether a file has the name or the first bytes of COCO annotations, unlike labelme's files per image.

    Files with the name of a split that are not JSON, such as a Git LFS pointer, count as well: reading them gives a
    useful error.
    """
    if path.name.lower().startswith("instances"):
        return True
    try:
        head = first_bytes(path, _HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # a folder at a URL, or a file that was just removed
            return False
        raise
    is_json = head.startswith((b"{", b"[")) and len(head) > 2
    if not is_json:
        return split_in_name(path.stem) is not None
    keys = {key.decode() for key in _COCO_KEY.findall(head)}
    is_whole = len(head) < _HEAD - 100  # of a longer file the other keys may come later
    return head.startswith(b"{") and bool(keys & {"images", "annotations"} if is_whole else keys)


def _preferred(files: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files with COCO's names if there are any, otherwise all."""
    return tuple(path for path in files if path.name.lower().startswith("instances")) or tuple(files)


def _image_places(file: Path, images: Path | None, split: str | None) -> list[Path]:
    """Return folders that may hold the images of an annotation file, most likely first."""
    beside = file.parent
    roots = [beside]
    if images is not None:
        roots = [images]
    elif beside.name.lower() in _ANNOTATION_FOLDERS:
        roots = [beside.parent, beside]
    elif split_of_folder(beside.name) and beside.parent.name.lower() in _ANNOTATION_FOLDERS:
        roots = [beside.parent.parent, beside]
    around = [place for root in roots for place in folders_in(root)]
    if images is None and split_of_folder(beside.name):
        roots.append(beside.parent)
        around += [place for place in folders_in(beside.parent) if _is_usual(place)]
    inner = [place for place in around if split is None or split_in_name(place.name) in (None, split)]
    usual = [place for place in inner if place.name.lower() in _IMAGE_FOLDERS]
    below = [*around, *(place for root in usual for place in folders_in(root))]
    named = [place for place in below if place.name == file.stem.removeprefix("instances_")]
    of_split = [place for place in below if split is not None and split_in_name(place.name) == split]
    first = [images] if images is not None else []
    return list(dict.fromkeys([*first, *named, *of_split, *usual, *roots, *inner[:_OTHERS]]))


def _score(folder: Path, names: Sequence[str]) -> tuple[int, int]:
    """Return how many names are files of a folder as written, and how many after repairs."""
    resolved = resolve_paths(folder, names)
    return len(resolved.files) - len(resolved.repaired()), len(resolved.files)


def split_files(settings: DataSettings) -> tuple[Path, Path | None]:
    """Return the annotation files of training and validation.

    Args:
        settings: `data`, `val` and `val_fraction`.

    Returns:
        Training and validation file; None for validation held out of training.

    Raises:
        UserError: A file is missing, or there is no validation data.
    """
    train = annotation_file(settings.data, "`data`", "train")
    check_text_file(train)
    if settings.val is not None:
        val = annotation_file(settings.val, "`val`", "val")
        if val == train or (val.exists() and train.exists() and os.path.samefile(val, train)):
            raise UserError(f"`val` and `data` must differ, found {shown_place(val)} for both")
        return train, val
    layout = find_annotation_files(Path(settings.data))
    own = layout.val or layout.test
    if settings.val_fraction is not None:
        if layout.val:
            raise UserError(
                f"{printable(settings.data)} has validation data, {shown_place(layout.val[0])}: omit "
                f"`val_fraction`, or set `data` to the training file"
            )
        return train, None
    if not own:
        raise UserError(
            f"{shown_place(train)} has training images only: use `val=FILE` for validation images, or hold "
            f"out images with `val_fraction=0.2`"
        )
    return train, _single(own, "`val`")


def annotation_file(data: str, flag: str, split: str) -> Path:
    """Find the annotation file of a split.

    Args:
        data: Path or URL of an annotation file, or of a folder that has one.
        flag: Option that named `data`, for messages.
        split: "train" or "val".

    Returns:
        The annotation file.

    Raises:
        UserError: The folder has no such file, or several.
    """
    path = Path(data)
    is_json = path.suffix.lower() == ".json"
    if is_json and (is_url(path) or not path.is_dir()):
        return path
    if path.is_file() and find_label_format(path) is None:
        return path
    layout = find_annotation_files(path)
    files = {"train": layout.train, "val": layout.val or layout.test}[split] or layout.unsplit
    if not files and flag == "`val`":
        files = layout.files()
    if not files and (label_format := find_label_format(path)) is not None:
        place = shown_place(path)
        raise UserError(
            f"{place} holds {label_format.name}: convert them to COCO annotations with "
            f"`gcnet.check_data({place}, convert=FILE.json)`"
        )
    if not files and path.is_dir() and (nested := describe_nested_labels(path)):
        raise UserError(
            f"{shown_place(path)} holds {nested}: convert that folder with "
            "`gcnet.check_data(FOLDER, convert=FILE.json)`"
        )
    if not files:
        raise missing_annotations_error(layout, split)
    return _single(files, flag)


def validates_on_test(settings: DataSettings) -> bool:
    """Return whether the data of `settings` have a test split and no validation split."""
    layout = find_annotation_files(Path(settings.data))
    return settings.val is None and not layout.val and bool(layout.test)


def _single(files: Sequence[Path], flag: str) -> Path:
    if len(files) > 1:
        listed = ", ".join(shown_place(path) for path in files[:4]) + (", ..." if len(files) > 4 else "")
        raise UserError(f"{flag} needs one annotation file, found {len(files)}: {listed}; use {flag} FILE")
    return files[0]
