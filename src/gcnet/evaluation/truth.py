"""The annotated images that a detector, or a file of results, is evaluated on."""

from gcnet.data.coco.source import CocoPart, open_validation
from gcnet.data.settings import DataSettings


def open_truth(settings: DataSettings, seed: int = 0, *, needs_images: bool = True, repairs: bool = True) -> CocoPart:
    """The images of `open_validation`.

    Args:
        settings: which images.
        seed: of generated images, and of the choice of images with `val_fraction`.
        needs_images: whether the image files must be there.
        repairs: whether issues of the annotations are repaired or skipped; else they are as pycocotools loads them.

    Raises:
        UserError: there are no such data.
    """
    return open_validation(settings, seed, split_seed=seed, needs_images=needs_images, repairs=repairs)
