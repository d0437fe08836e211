"""Opens detection data: COCO annotations, or generated scenes."""

import os
import random
from dataclasses import replace
from pathlib import Path

from PIL import Image

from gcnet.data.coco.annotated_images import CocoImages, CocoSplit, FolderReader
from gcnet.data.coco.annotation_file import AnnotationFile, ReadOptions, open_annotation_file
from gcnet.data.coco.issues import issue_summary
from gcnet.data.coco.layouts import annotation_file, find_annotation_files, image_folder, split_files, validates_on_test
from gcnet.data.coco.values import Entry
from gcnet.data.decode import FULL_DEPTH
from gcnet.data.images.built_in import open_scenes
from gcnet.data.images.probe import estimate_bit_depth
from gcnet.data.places import is_folder, kept_listings, local_file
from gcnet.data.scenes import Scenes
from gcnet.data.settings import DataSettings
from gcnet.errors import Failure, UserError, printable
from gcnet.remote_files import restored_url


@kept_listings()
def open_coco(settings: DataSettings, seed: int = 0, *, split_seed: int = 0) -> tuple[CocoSplit, CocoSplit]:
    """Open training and validation images of the same categories.

    Args:
        settings: `data` is a folder in a layout of `gcnet.data.coco.layouts`, an annotation file (with `val` or
            `val_fraction`), or generated scenes; folders and files may be URLs. `limit_train` and `limit_val` take a
            part of the images.
        seed: Seed of generated images.
        split_seed: Seed of held-out validation images.

    Returns:
        Training and validation split.

    Raises:
        UserError: The data do not exist, there are no validation images, or the categories differ.
    """
    if settings.is_generated:
        return _open_scenes(settings, "train", seed), _open_scenes(settings, "val", seed)
    train_file, val_file = split_files(settings)
    train = _open_file(train_file, settings, "train")
    if val_file is None:
        train, val = hold_out_images(train, settings.val_fraction or 0.0, split_seed)
    else:
        val = _noted(_open_file(val_file, settings, "val"), settings)
    train, val = train.limited(settings.limit_train), val.limited(settings.limit_val)
    _check_same(train, val)
    return train, _with_shared(train, val)


@kept_listings()
def open_validation(
    settings: DataSettings,
    seed: int = 0,
    *,
    split_seed: int = 0,
    needs_images: bool = True,
    repairs: bool = True,
) -> CocoSplit:
    """Open the validation images, the same as `open_coco`, or all images of an annotation file.

    Args:
        settings: As for `open_coco`.
        seed: Seed of generated images.
        split_seed: As for `open_coco`.
        needs_images: Whether the image files are required.
        repairs: Whether to repair or skip issues; otherwise annotations are loaded as by pycocotools.

    Returns:
        The validation split.

    Raises:
        UserError: The data do not exist.
    """
    if settings.is_generated:
        return _open_scenes(settings, "val", seed)
    if settings.val is None and settings.val_fraction is not None:
        part = _open_file(split_files(settings)[0], settings, "train", needs_images=needs_images, repairs=repairs)
        part = hold_out_images(part, settings.val_fraction, split_seed)[1]
    else:
        file = (
            annotation_file(settings.val, "`val`", "val")
            if settings.val
            else annotation_file(settings.data, "`data`", "val")
        )
        part = _noted(_open_file(file, settings, "val", needs_images=needs_images, repairs=repairs), settings)
    return part.limited(settings.limit_val)


def _noted(part: CocoSplit, settings: DataSettings) -> CocoSplit:
    """Add a note if the validation data are the test split."""
    if not validates_on_test(settings):
        return part
    note = f"{printable(settings.data)} has no validation split: {printable(part.place)} is used for validation"
    return replace(part, notes=(*part.notes, note))


def hold_out_images(part: CocoSplit, fraction: float, seed: int) -> tuple[CocoSplit, CocoSplit]:
    """Split images at random into training and validation images.

    Args:
        part: All images.
        fraction: Fraction to hold out, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        Training and validation images, in their order.

    Raises:
        UserError: There are fewer than two images.
    """
    count = len(part.images)
    if count < 2:
        raise UserError(f"`val_fraction` needs two images or more to split, found {count} in {part.place}")
    taken = min(max(1, round(fraction * count)), count - 1)
    chosen = set(random.Random(seed).sample(range(count), taken))
    note = f"{taken:,} of {count:,} images of {part.place} are held out for validation (`val_fraction={fraction:g}`)"
    rest = part.subset([index for index in range(count) if index not in chosen], note)
    return rest, CocoSplit(part.images.subset(sorted(chosen)), (), part.place)


def _open_scenes(settings: DataSettings, split: str, seed: int) -> CocoSplit:
    scenes = open_scenes(settings, seed, split)
    images = CocoImages(scenes.coco_annotations(), SceneReader(scenes))
    return CocoSplit(images, (), settings.data, notes=settings.built_in_notes())


def _open_file(
    file: Path, settings: DataSettings, split: str, *, needs_images: bool = True, repairs: bool = True
) -> CocoSplit:
    """Open all images of an annotation file."""
    images = None if settings.images is None else Path(settings.images)
    local, place = local_file(file), restored_url(file)
    opened = open_annotation_file(local, ReadOptions(repairs, images, split, None if local == file else file))
    try:
        folder = image_folder(file, opened.listed_names(), images=images, split=split)
    except Failure:
        raise
    except UserError:
        if needs_images or images is not None:
            raise
        folder = file.parent
    entries = opened.index.entries()
    if not repairs:
        return CocoSplit(CocoImages(opened.index, FolderReader(folder, entries)), (), place)
    _check_usable(opened, place)
    reader = FolderReader(folder, entries)
    _check_sizes(reader, place)
    notes = (*reader.notes(), *_depth_notes(reader), *_box_notes(opened, place))
    return CocoSplit(CocoImages(opened.index, reader), opened.issues, place, notes)


def _check_sizes(reader: FolderReader, place: str) -> None:
    try:
        reader.check_sizes()
    except Failure:
        raise
    except UserError as error:
        raise UserError(f"{printable(place)}: {error}; check `images`") from error


def _depth_notes(reader: FolderReader) -> list[str]:
    """Describe 16-bit images that use fewer bits."""
    depth = estimate_bit_depth(reader.image_files())
    if depth is None or depth == FULL_DEPTH:
        return []
    return [
        f"16-bit images use {depth} bits (by the largest value of a sample), but detectors read the upper 8 of 16, so "
        "they appear dark: convert them to 8 bits"
    ]


def _box_notes(opened: AnnotationFile, place: str) -> list[str]:
    """Describe boxes that do not match their masks."""
    if not opened.unlike:
        return []
    place, objects = printable(place), f"{opened.unlike:,} of {opened.index.count:,} objects"
    return [
        f"{objects} in {place} have a box that does not match the mask (IoU below 0.5); both are kept; "
        f"gcnet check-data {place} lists them"
    ]


def _check_usable(opened: AnnotationFile, place: str) -> None:
    """Check that images and annotations are left, and that boxes have COCO's format."""
    place = printable(place)
    if not opened.box_format.is_coco:
        raise UserError(
            f"{place}: the boxes are {opened.box_format} instead of left, top, width, height in pixels: "
            f"`gcnet.check_data({place}, fix=FIXED.json)` converts them"
            if opened.box_format.is_certain
            else f"{place}: the boxes are {opened.box_format} instead of left, top, width, height in pixels: "
            f"convert them"
        )
    for part, usable in (("images", len(opened.index)), ("annotations", opened.index.count)):
        count = opened.counts[part]
        if count and not usable:
            example = next((f", such as {issue}" for issue in opened.issues if issue.action == "skipped"), "")
            raise UserError(
                f"{place}: none of the {count:,} {part} can be used ({issue_summary(opened.issues)}){example}"
            )


class SceneReader:
    """Reads the image of an entry of `Scenes.coco_annotations`.

    Args:
        scenes: The scenes.
    """

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __call__(self, entry: Entry) -> Image.Image:
        return self.scenes.read(entry["id"] - 1)


def is_coco(data: str | os.PathLike[str]) -> bool:
    """Return whether `data` is the path or URL of a folder with COCO annotations, or of a JSON file."""
    path = Path(data)
    if path.suffix.lower() == ".json" and not path.is_dir():
        return True
    return is_folder(path) and bool(find_annotation_files(path).files())


def _check_same(train: CocoSplit, val: CocoSplit) -> None:
    if train.images.classes != val.images.classes or train.images.category_ids != val.images.category_ids:
        others = sorted(set(train.images.classes) ^ set(val.images.classes))
        raise UserError(
            f"{train.place} and {val.place} must have the same categories, in names and ids; "
            f"{'they differ in ' + ', '.join(others[:5]) if others else 'their ids differ'}"
        )


def _with_shared(train: CocoSplit, val: CocoSplit) -> CocoSplit:
    """Add a note on image files that are in both splits."""
    own = set(val.images.files())
    both = {path for path in train.images.files() if path in own}
    if not both:
        return val
    note = f"{len(both):,} of {len(val.images):,} validation images are also training images, such as {min(both)}"
    return replace(val, notes=(*val.notes, printable(note)))
