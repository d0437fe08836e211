"""Built-in data sets: CIFAR-10, CIFAR-100 and generated scenes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gcnet.data.images.sources import ImageSource
from gcnet.data.settings import DataSettings
from gcnet.errors import UserError, raise_if_out_of_memory, unknown

if TYPE_CHECKING:
    import gcnet.data.scenes

CIFAR_NAMES = ("cifar10", "cifar100")
SCENE_SIZE = 64
SCENES_TRAIN, SCENES_VAL = 20_000, 2_000


class CifarImages(ImageSource):
    """CIFAR-10 or CIFAR-100.

    Reference: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Args:
        root: Folder of the unpacked archive; its checksums are verified.
        name: cifar10 or cifar100.
        train: Whether to take the 50,000 training images instead of the 10,000 test images.
        download: Whether to download a missing archive.

    Raises:
        UserError: The name is unknown, files are missing or damaged, or the download fails.
    """

    in_memory = True

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
        return f"{self._split}/{index:05d}"

    def label(self, index: int) -> int:
        return self._labels[index]

    def file(self, index: int) -> None:
        """Return None for any `index`: the archive holds many images in one file."""

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])


def _open_cifar(root: Path, name: str, train: bool, download: bool) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        return kind(str(root), train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise_if_out_of_memory(error)
        if download:
            raise UserError(f"{name} could not be downloaded to {os.path.realpath(root)} ({error})") from error
        raise UserError(
            f"{name} is not complete in {os.path.join(os.path.realpath(root), kind.base_folder)}; "
            "copy it there, or pass `download` to download it"
        ) from error


def open_scenes(settings: DataSettings, seed: int, split: str) -> "gcnet.data.scenes.Scenes":
    """Open generated scenes.

    Args:
        settings: Image size, distance and number of scenes; `data` selects the control setting.
        seed: Seed of the scenes.
        split: "train" or "val".

    Returns:
        The scenes.
    """
    from gcnet.data.scenes import Scenes

    size = settings.image_size or SCENE_SIZE
    limit = settings.limit_train if split == "train" else settings.limit_val
    scenes = Scenes(
        limit or (SCENES_TRAIN if split == "train" else SCENES_VAL),
        size=size,
        distance=size // 2 if settings.scene_distance is None else settings.scene_distance,
        context=settings.data == "scenes",
        split=split,
        seed=seed,
    )
    scenes.notes = settings.built_in_notes()
    return scenes
