"""From settings to detection data: a folder laid out as COCO publishes its own, or generated scenes."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gcnet.data.coco.faults import Fault
from gcnet.data.coco.images import CocoImages, Entry, folder_reader
from gcnet.data.coco.inspection import inspect, read_annotations
from gcnet.data.images import size_on_disk
from gcnet.data.scenes import Scenes
from gcnet.data.settings import DataSettings
from gcnet.data.source import open_scenes
from gcnet.errors import UserError, nearest_path

_NAMED = re.compile(r"instances_(?P<suffix>(?P<split>train|val).*)\.json")
_LISTED_FAULTS = 3


@dataclass(frozen=True)
class CocoPart:
    """The images of one part of a set, and what was amiss in its annotations.

    Attributes:
        images: what is left without the faults, all images, with and without objects.
        faults: what was mended or left out.
        place: the annotation file, or what the images were generated from.
        folder: of the images; None where they are generated.
    """

    images: CocoImages
    faults: tuple[Fault, ...]
    place: str
    folder: Path | None = None

    def files(self) -> Iterator[tuple[str, str]]:
        """Name and content of the annotation file and of every image: a digest of the one, the bytes of the other."""
        if self.folder is None:
            return
        with open(self.place, "rb") as file:
            yield "annotations", hashlib.file_digest(file, "sha256").hexdigest()
        for index in range(len(self.images)):
            name = self.images.name(index)
            yield name, str(size_on_disk(f"{self.folder}/{name}"))

    def complaint(self) -> str | None:
        """The faults in one sentence; None where there are none."""
        if not self.faults:
            return None
        kinds = ", ".join(f"{count} x {kind}" for kind, count in Counter(fault.kind for fault in self.faults).items())
        first = "; ".join(str(fault) for fault in self.faults[:_LISTED_FAULTS])
        return (
            f"{self.place} has faults, which are left out or mended: {kinds}; such as {first}; "
            f"gcnet check-data {self.place} lists them"
        )


def open_coco(settings: DataSettings, seed: int = 0) -> tuple[CocoPart, CocoPart]:
    """Training and validation images, of the same categories.

    Arguments:
        settings: `data` is a folder with annotations/instances_{train,val}*.json and a folder of images named as what
            stands behind instances_ (such as train2017), or scenes or scenes-control; `limit_train` and `limit_val`
            take some images only.
        seed: of generated images.

    Raises:
        UserError: nothing of that shape is there, an object has no mask, or the parts have other categories.
    """
    train, val = (open_coco_part(settings, split, seed) for split in ("train", "val"))
    _check_same(train, val)
    return train, val


def open_coco_part(settings: DataSettings, split: str, seed: int = 0) -> CocoPart:
    """One part of a set, "train" or "val", as `open_coco`; or of an annotation file (JSON) all of it.

    Raises:
        UserError: as `open_coco`.
    """
    limit = settings.limit_train if split == "train" else settings.limit_val
    if settings.is_generated:
        scenes = open_scenes(settings, seed, split)
        return CocoPart(CocoImages(scenes.coco_annotations(), SceneReader(scenes)), (), settings.data)
    file, folder = find_part(settings.data, split)
    part = clean_part(read_annotations(file), file, folder, limit)
    _check_masks(part.images, file)
    return part


def clean_part(content: dict[str, Any], file: Path, folder: Path, limit: int | None) -> CocoPart:
    """The content of an annotation file without its faults, and its images in a folder, at most `limit` of them."""
    inspection = inspect(content)
    images = CocoImages(inspection.clean, folder_reader(folder)).limited(limit)
    return CocoPart(images, inspection.faults, str(file), folder)


class SceneReader:
    """Reads the image of an entry of `Scenes.coco_annotations`."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __call__(self, entry: Entry) -> Image.Image:
        return self.scenes.read(entry["id"] - 1)


def is_coco(data: str | os.PathLike[str]) -> bool:
    """Whether a folder is laid out as COCO publishes its own, or a file is one of annotations."""
    path = Path(data)
    return path.suffix.lower() == ".json" or any(map(_NAMED.fullmatch, _annotation_names(path)))


def find_part(data: str | os.PathLike[str], split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of one part of a set.

    Raises:
        UserError: where the one or the other is missing, or there are several.
    """
    path = Path(data)
    if path.is_file():
        return path, _folder_of(path.parent, path.stem.removeprefix("instances_"))
    names = [name for name in _annotation_names(path) if (found := _NAMED.fullmatch(name)) and found["split"] == split]
    if len(names) != 1:
        found = f"found {', '.join(names)}" if names else f"found none{nearest_path(path) if not path.exists() else ''}"
        raise UserError(
            f"detection data is a folder with annotations/instances_train*.json and instances_val*.json beside folders "
            f"of images of the same name; expected one for {split} in {path / 'annotations'}, {found}"
        )
    return path / "annotations" / names[0], _folder_of(
        path / "annotations", names[0][len("instances_") : -len(".json")]
    )


def _annotation_names(path: Path) -> list[str]:
    folder = path / "annotations"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _folder_of(annotations: Path, name: str) -> Path:
    """The folder of the images whose annotations `name` are in the folder `annotations`."""
    beside = annotations.parent
    places = (beside / name, beside / "images" / name, annotations / name, annotations / "images")
    for place in places:
        if place.is_dir():
            return place
    raise UserError(f"the images of {annotations / name} should lie in {places[0]}, and there is no such folder")


def _check_masks(images: CocoImages, file: Path) -> None:
    for index in range(len(images)):
        for annotation in images.annotations(index):
            if not annotation.get("segmentation"):
                raise UserError(
                    f"{file}: a detector of masks learns from masks, and annotation {annotation['id']} of image "
                    f"{annotation['image_id']} has no segmentation"
                )


def _check_same(train: CocoPart, val: CocoPart) -> None:
    if train.images.classes != val.images.classes or train.images.category_ids != val.images.category_ids:
        others = sorted(set(train.images.classes) ^ set(val.images.classes))
        raise UserError(
            f"{train.place} and {val.place} must have the same categories, in names and ids; "
            f"{'they differ in ' + ', '.join(others[:5]) if others else 'their ids differ'}"
        )
