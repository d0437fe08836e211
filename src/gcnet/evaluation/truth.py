"""The annotated images that a detector, or a file of results, is evaluated on."""

from gcnet.data.coco.source import CocoPart, open_validation
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError


def open_truth(settings: DataSettings, seed: int = 0, *, needs_images: bool = True) -> CocoPart:
    """The images of `open_validation`, all of whose objects have masks.

    Args:
        settings: which images.
        seed: of generated images, and of the choice of images with `val_fraction`.
        needs_images: whether the image files must be there.

    Raises:
        UserError: there are no such data, or an object has no mask.
    """
    part = open_validation(settings, seed, split_seed=seed, needs_images=needs_images)
    _check_masks(part)
    return part


def _check_masks(part: CocoPart) -> None:
    for annotation in part.images.content["annotations"]:
        if not annotation.get("segmentation"):
            raise UserError(
                f"{part.place}: masks are judged against masks, and annotation {annotation['id']} has no segmentation"
            )
