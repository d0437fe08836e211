"""CIFAR-10 and CIFAR-100 in torchvision's files; downloads only when asked."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gcnet.data.images.sources import ImageSource
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, unknown

if TYPE_CHECKING:
    import gcnet.data.scenes

CIFAR_NAMES = ("cifar10", "cifar100")
SCENE_SIZE = 64
SCENES_TRAIN, SCENES_VAL = 20_000, 2_000


class CifarImages(ImageSource):
    """CIFAR-10 or -100 (A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009).

    Args:
        root: folder that holds, or will hold, the unpacked archive; its checksums are verified.
        name: cifar10 or cifar100.
        train: the 50,000 training images rather than the 10,000 test images.
        download: fetch the archive where it is missing.

    Raises:
        UserError: for an unknown name, missing or damaged files, or a download that fails.
    """

    def __init__(self, root: str | Path, name: str, *, train: bool, download: bool = False) -> None:
        if name not in CIFAR_NAMES:
            raise unknown("CIFAR data set", name, CIFAR_NAMES)
        stored = _open_cifar(Path(root), name, train, download)
        self.classes = tuple(stored.classes)
        self._pixels: np.ndarray = stored.data
        self._labels: list[int] = [int(label) for label in stored.targets]
        self._split = "train" if train else "val"

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """Split and number, such as val/00017."""
        return f"{self._split}/{index:05d}"

    def label(self, index: int) -> int:
        """Index into `classes`."""
        return self._labels[index]

    def file(self, index: int) -> None:
        """None: the archive holds many images in one file."""

    def read(self, index: int) -> Image.Image:
        """The image, 32 x 32."""
        return Image.fromarray(self._pixels[index])


def _open_cifar(root: Path, name: str, train: bool, download: bool) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        return kind(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise UserError(f"{name} could not be downloaded to {os.path.realpath(root)} ({error})") from error
        raise UserError(
            f"{name} is not complete in {os.path.join(os.path.realpath(root), kind.base_folder)}; "
            "put it there, or give --download to fetch it"
        ) from error


def open_scenes(settings: DataSettings, seed: int, split: str) -> "gcnet.data.scenes.Scenes":
    """Generated scenes of one part, "train" or "val"."""
    from gcnet.data.scenes import Scenes

    size = settings.image_size or SCENE_SIZE
    limit = settings.limit_train if split == "train" else settings.limit_val
    return Scenes(
        limit or (SCENES_TRAIN if split == "train" else SCENES_VAL),
        size=size,
        distance=size // 2 if settings.scene_distance is None else settings.scene_distance,
        context=settings.data == "scenes",
        split=split,
        seed=seed,
    )
