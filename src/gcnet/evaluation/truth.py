"""The annotated images that a detector, or a file of results, is judged against."""

from pathlib import Path

from gcnet.data.coco.images import CocoImages
from gcnet.data.coco.inspection import read_annotations
from gcnet.data.coco.source import CocoPart, clean_part, find_part, open_coco_part
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, nearest_path


def open_truth(
    settings: DataSettings, seed: int = 0, *, folder: Path | None = None, needs_images: bool = True
) -> CocoPart:
    """The validation part of a set as `open_coco_part` opens it; or all of an annotation file (JSON).

    Args:
        settings: `data` and `limit_val` say which images.
        seed: of generated images.
        folder: of the images of an annotation file, where it is not beside the file.
        needs_images: whether the images must be there; else those of an annotation file may be missing.

    Raises:
        UserError: nothing of that shape is there, or an object has no mask.
    """
    file = Path(settings.data)
    if file.suffix.lower() != ".json":
        return open_coco_part(settings, "val", seed)
    content = read_annotations(file)
    part = clean_part(content, file, _image_folder(file, folder, needs_images), settings.limit_val)
    _check_masks(part.images, file)
    return part


def _image_folder(file: Path, folder: Path | None, needs_images: bool) -> Path:
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"--images takes a folder, and there is none at {folder}{nearest_path(folder)}")
        return folder
    try:
        return find_part(file, "val")[1]
    except UserError as error:
        if needs_images:
            raise UserError(f"{error}; --images names another") from error
        return file.parent


def _check_masks(images: CocoImages, file: Path) -> None:
    for annotation in images.content["annotations"]:
        if not annotation.get("segmentation"):
            raise UserError(
                f"{file}: masks are judged against masks, and annotation {annotation['id']} has no segmentation"
            )
